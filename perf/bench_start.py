"""Time from start to the first map: wall seconds on the miniature, with the machine's default threads.

python perf/bench_start.py
"""

from __future__ import annotations

from measuring import fresh_process, spread, write_section

# isort: split
from pathlib import Path

IMPORT = "import time; start = time.perf_counter(); import tracescribe; print(time.perf_counter() - start)"
# The second model and trace of the process find everything imported: what is left is the tracing itself.
FIRST = """
import time
start = time.perf_counter()
import tracescribe as ts
model = ts.load("phantom")
loaded = time.perf_counter()
def a_map(condition):
    began = time.perf_counter()
    pair = ts.Pair(correct=f"There is no {condition}.", foil=f"There is severe {condition}.", image=image)
    ts.trace(model, [pair], progress=False)
    return time.perf_counter() - began
image = ts.Text("The lungs are clear.")
a_map("opacity")
first = time.perf_counter() - start
later = sorted(a_map(condition) for condition in ("effusion", "fracture", "edema", "mass", "nodule"))[2]
print(loaded - start, first, later, time.process_time())
"""


def section(quick: bool, out: Path | None, *, repeats: int) -> str:
    runs = [fresh_process(FIRST, threads=None) for _ in range(1 if quick else repeats)]
    imports = [fresh_process(IMPORT, threads=None)[0] for _ in range(1 if quick else repeats)]
    load, first, later, cpu = (list(column) for column in zip(*runs, strict=True))
    return "\n".join(
        [
            "## Time to the first map",
            "",
            "Wall seconds in a fresh process on the miniature, with as many threads as the machine gives: one pair, "
            "its image given as a text. Median and range over fresh processes.",
            "",
            "| | s |",
            "|---|---|",
            f"| `import tracescribe` | {spread(imports)} |",
            f"| ... and load the miniature | {spread(load)} |",
            f"| ... and the first map | **{spread(first)}** |",
            f"| a later map, other captions | **{spread(later)}** |",
            f"| CPU seconds of the process, all six maps | {spread(cpu)} |",
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=3)


if __name__ == "__main__":
    main()
