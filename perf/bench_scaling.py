"""How cost grows: with images, with pairs, and in memory.

python perf/bench_scaling.py
"""

from __future__ import annotations

from measuring import CORRECT, fresh_process, random_clip, spread, turns, write_section

# isort: split
import gc
import re
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from itertools import islice, permutations
from pathlib import Path
from typing import Any

import torch

import tracescribe as ts
from tracescribe.patching import PatchingEngine, TextTower

N_TEXTS, N_IMAGES = 14, 10_000
PAIRS = (16, 32, 64, 128)
BUDGET = 2 * 2**30  # bytes above the model


def text_pairs(tower: TextTower, count: int, template: str = CORRECT) -> list[tuple[str, str]]:
    """Distinct caption pairs of one length, filled with words that are one token each."""
    words: list[str] = []
    for token in range(300, 40_000):  # past the byte tokens, in order of frequency in open_clip's vocabulary
        word = tower.token_strings([token])[0]
        if re.fullmatch("[a-z]{4,}", word) and len(tower.token_ids(word)) == 3:
            words.append(word)
        if len(words) * (len(words) - 1) >= count:
            break
    return [(template.format(a), template.format(b)) for a, b in islice(permutations(words, 2), count)]


def as_pairs(texts: list[tuple[str, str]], images: torch.Tensor) -> list[ts.Pair]:
    """Image i goes with text pair i, round and round."""
    return [
        ts.Pair(correct=texts[i % len(texts)][0], foil=texts[i % len(texts)][1], image=image)
        for i, image in enumerate(images)
    ]


def images_section(dual: ts.DualEncoder, repeats: int, count: int) -> list[str]:
    """Fourteen text pairs with one image each, with ``count`` image embeddings in all, and with as many each."""
    texts = text_pairs(dual.text, N_TEXTS)
    images = torch.randn(count, dual.embed_dim)
    few, many = as_pairs(texts, images[:N_TEXTS]), as_pairs(texts, images)
    rows = list(images)
    each = [ts.Pair(correct=correct, foil=foil, image=image) for correct, foil in texts for image in rows]
    once: Any = ts.trace(dual, few, progress=False, floor=0.0)
    arms: dict[str, Callable[[], Any]] = {
        "few": lambda: ts.trace(dual, few, progress=False, floor=0.0),
        "many": lambda: ts.trace(dual, many, progress=False, floor=0.0),
        "rescore": lambda: once.rescore(images, text_pair=[i % N_TEXTS for i in range(count)]),
        "each": lambda: ts.trace(dual, each, progress=False, floor=0.0),
        "each, rescored": lambda: once.rescore(images, text_pair="each"),
    }
    gc.collect()
    gc.freeze()  # a full collection of all these pairs takes 0.3 s, in whichever arm it falls
    times = turns(arms, repeats)
    gc.unfreeze()
    whole = f"every text pair with every image ({len(each):,} score maps)"
    labels = {
        "few": f"{N_TEXTS} text pairs, one image each",
        "many": f"{N_TEXTS} text pairs, {count:,} image embeddings in all, `ts.trace`",
        "rescore": "... one image each traced, the others by `rescore(images, text_pair=...)`",
        "each": f"{whole}, `ts.trace`",
        "each, rescored": "... one image each traced, all by `rescore(images, text_pair='each')`",
    }
    lines = ["| arm | CPU s | over one image each |", "|---|---|---|"]
    for arm, label in labels.items():
        before = [0.0] * repeats if "rescore" not in arm else times["few"].cpu
        ratio = [(a + b) / c for a, b, c in zip(before, times[arm].cpu, times["few"].cpu, strict=True)]
        added = " + the trace" if "rescore" in arm else ""
        over = "1" if arm == "few" else f"**{spread(ratio)}**"
        lines.append(f"| {label} | {spread(times[arm].cpu)}{added} | {over} |")
    return lines


def pairs_section(dual: ts.DualEncoder, repeats: int, counts: tuple[int, ...]) -> list[str]:
    """The engine on more and more distinct pairs."""
    engine = PatchingEngine(dual.text)
    texts = text_pairs(dual.text, max(counts))
    rows = dual.text.rows([a for a, _ in texts]), dual.text.rows([b for _, b in texts])
    times = turns({str(n): lambda n=n: engine.patch(rows[0][:n], rows[1][:n]) for n in counts}, repeats)
    first = statistics.median(times[str(counts[0])].cpu) / counts[0]
    return [
        "| text pairs | CPU s a pair | over that of the first row |",
        "|---|---|---|",
        *(
            f"| {n} | {spread([s / n for s in times[str(n)].cpu])} | "
            f"{statistics.median(times[str(n)].cpu) / n / first:.2f} |"
            for n in counts
        ),
    ]


# memory ---------------------------------------------------------------------------------------------------------------


def resident(peak: bool = False) -> int:
    """Bytes of this process in memory now, or at most so far (since :func:`forget_peak`, where the system has it)."""
    status = Path("/proc/self/status")
    if status.exists():
        found = re.search(rf"{'VmHWM' if peak else 'VmRSS'}:\s+(\d+) kB", status.read_text())
        return int(found[1]) * 1024 if found else 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Loading a model has a peak of its own, which Linux can be told to forget."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5")


def measure_memory(count: int, quick: bool, cached: bool) -> None:
    """Print one trace of ``count`` text pairs: its peak above the model, the model, whether E was kept, the seconds.

    The captions have ten tokens (ViT-B/32) and differ in the last word, so that the run is short: what is held does not
    depend on where they differ. The trace is saved as well. cached: with a cache folder, so that embeddings that do not
    fit go to disk.
    """
    _, dual = random_clip(quick)
    image = torch.randn(dual.embed_dim)
    texts = text_pairs(dual.text, count, "There is no sign of any old {}")
    pairs = [ts.Pair(correct=a, foil=b, image=image) for a, b in texts]
    ts.trace(dual, pairs[:2], progress=False, floor=0.0)  # what is imported and allocated once
    forget_peak()
    before, start = resident(), time.process_time()
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", ts.tracer.TraceWarning)  # embeddings that do not fit are dropped, as documented
        cache = Path(folder, "cache") if cached else None
        trace = ts.trace(dual, pairs, progress=False, floor=0.0, cache=cache)
        trace.save(Path(folder, "trace.safetensors"))
    seconds = time.process_time() - start
    weights = sum(t.numel() * t.element_size() for t in dual.text.state_dict().values())
    print(resident(peak=True) - before, weights, int(trace.embeddings is not None), seconds)


def memory_of(count: int, quick: bool, cached: bool) -> list[float]:
    """:func:`measure_memory` in a process of its own."""
    return fresh_process(f"import bench_scaling; bench_scaling.measure_memory({count}, {quick}, {cached})")


def memory_section(quick: bool, counts: tuple[int, ...]) -> list[str]:
    rows = []
    for count in counts:
        for cached in (False, True):
            peak, weights, kept, seconds = memory_of(count, quick, cached)
            rows.append(
                f"| {count:,} | {'yes' if cached else 'no'} | {'kept' if kept else 'dropped'} | {peak / 2**30:.2f} | "
                f"{'yes' if peak < BUDGET else '**no**'} | {weights / 2**30:.2f} | {seconds:.0f} |"
            )
    return [
        "| text pairs | cache folder | embeddings | peak above model, GiB | below 2 GiB | text tower, GiB | CPU s |",
        "|---|---|---|---|---|---|---|",
        *rows,
    ]


# the section ----------------------------------------------------------------------------------------------------------


def section(quick: bool, out: Path | None, *, repeats: int, pairs: int) -> str:
    _, dual = random_clip(quick)
    repeats = 1 if quick else repeats
    return "\n".join(
        [
            "## Scaling",
            "",
            "ViT-B/32, random weights, one thread. Patched texts do not depend on the image, so images cost one matrix "
            "product (image encoding aside: their embeddings are given). Whole `ts.trace` calls:",
            "",
            *images_section(dual, repeats, 500 if quick else N_IMAGES),
            "",
            "Distinct pairs of 7 tokens, the engine with its self-checks:",
            "",
            *pairs_section(dual, repeats, (2, 4) if quick else PAIRS),
            "",
            "Memory of one `ts.trace` call and of saving its result, in a fresh process, from the resident memory just "
            "before it to its peak (mapped pages of files count while they are read); captions of ten tokens that "
            "differ in the last word:",
            "",
            *memory_section(quick, (10, 20) if quick else (pairs // 10, pairs)),
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, repeats=3, pairs=5000)


if __name__ == "__main__":
    main()
