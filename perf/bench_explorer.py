"""What a user of the explorer waits for, by the clock and by the processor: on the miniature and at ViT-B/32 size.

python perf/bench_explorer.py
"""

from __future__ import annotations

from measuring import Timing, random_clip, write_section

# isort: split
import os
import statistics
import time
from pathlib import Path

import tracescribe as ts
from tracescribe.viz.explorer import make_session
from tracescribe.viz.explorer.frame import make_frame
from tracescribe.viz.explorer.session import TYPING

CORRECT = "There is no {} in the lung."  # 10 tokens of CLIP's vocabulary
FOIL = CORRECT.replace("no", "some")
CONDITIONS = ("mass", "pain", "gas", "air", "fluid", "blood")
MINIATURE = ("edema", "effusion", "opacity")
LONG = 120.0
NAMES = ("a keystroke: its tokens on the page", "another pair on the miniature", "ViT-B/32 size: the first layers")
LAST = "ViT-B/32 size: the whole map"


def keystrokes(model: ts.DualEncoder, repeats: int) -> Timing:
    """From a change of the foil to the frame that shows its tokens; the trace that it starts is stopped."""
    session = make_session(model, correct="There is no edema.", foil="There is mild edema.")
    session.wait(LONG)
    times = Timing()

    def key(i: int) -> None:
        session.choose(foil="There is severe edema."[: 12 + i % 9])
        make_frame(session)

    for i in range(repeats):
        times.run(lambda i=i: key(i))  # type: ignore[misc]
        session.stop()
        session.wait(LONG)
    session.close()
    return times


def retraces(model: ts.DualEncoder, texts: list[tuple[str, str]], repeats: int) -> tuple[Timing, Timing]:
    """From new captions to the first cells, and to the whole map, each in the frame that the page draws."""
    session = make_session(model, correct=texts[0][0], foil=texts[0][1], target=ts.Text("The lungs are clear."))
    session.wait(LONG)
    first, whole = Timing(), Timing()
    marks: list[tuple[float, float]] = []

    def seen() -> None:
        known = session.partial is not None or session.result is not None
        if make_frame(session) and known:
            marks.append((time.process_time(), time.perf_counter()))

    session.changed = seen
    for i in range(1, repeats + 1):
        correct, foil = texts[i % len(texts)]
        marks.clear()
        begun = time.process_time(), time.perf_counter()
        session.choose(correct=correct, foil=foil)
        session.wait(LONG)
        for times, mark in ((first, marks[0]), (whole, marks[-1])):
            times.cpu.append(mark[0] - begun[0])
            times.wall.append(mark[1] - begun[1] - TYPING)
    session.close()
    return first, whole


def section(quick: bool, out: Path | None, *, repeats: int) -> str:
    repeats = 2 if quick else repeats
    miniature, (_, large) = ts.load("phantom"), random_clip(quick)
    small = [(f"There is no {name}.", f"There is severe {name}.") for name in MINIATURE]
    texts = [(CORRECT.format(name), FOIL.format(name)) for name in CONDITIONS]
    tokens = len(large.text.token_ids(texts[0][0]))
    before = os.getloadavg()[0]
    arms: dict[str, Timing] = {NAMES[0]: keystrokes(miniature, 5 * repeats)}
    arms[NAMES[1]] = retraces(miniature, small, repeats)[1]
    arms[NAMES[2]], arms[LAST] = retraces(large, texts, repeats)
    load = f"{before:.1f} to {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors"

    def row(name: str) -> str:
        times = arms[name]
        middle = statistics.median(times.wall)
        return f"| {name} | {min(times.wall):.3f} | {middle:.3f} | {min(times.cpu):.3f} |"

    return "\n".join(
        [
            "## The explorer",
            "",
            f"From a change to the frame that shows it, without the {TYPING} s that a trace waits for a further key, "
            f"and without the page's drawing. One thread; a pair of {tokens} tokens at ViT-B/32 size. "
            f"Load of the machine: {load}.",
            "",
            "| | s by the clock, least | median | CPU s, least |",
            "|---|---|---|---|",
            *map(row, arms),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=25)


if __name__ == "__main__":
    main()
