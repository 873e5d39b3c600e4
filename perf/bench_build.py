"""Builders of data sets from labels: records per second and peak memory, each builder in a process of its own.

python perf/bench_build.py
"""

from __future__ import annotations

from measuring import fresh_process, write_section

# isort: split
import tempfile
from pathlib import Path

import numpy as np

from tracescribe.benchmark.readers.chexpert import CONDITIONS

# Of each: CPU seconds and records written, and the process's peak memory before and after in KiB. It is read from
# Linux' VmHWM: getrusage's peak begins with that of the process that started this one.
BUILD = """
import time
from tracescribe.benchmark import builders
from pathlib import Path
labels, out, kind = {labels!r}, {out!r}, {kind!r}
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
before, start = peak(), time.process_time()
if kind == "pairs":
    builders.write_pairs(labels, out, lambda text: len(text.split()))
    files = [Path(out)]
else:
    files = list(getattr(builders, "build_" + kind)(labels, out).glob("*.jsonl"))
seconds = time.process_time() - start
written = sum(sum(1 for _ in file.open("rb")) for file in files)
print(seconds, written, before, peak())
"""


def write_labels(path: Path, n: int) -> None:
    """MIMIC-CXR-JPG's label table with three studies per patient, written in parts."""
    rng = np.random.default_rng(0)
    values = np.array(["", "1.0", "0.0", "-1.0"])
    with path.open("w", encoding="utf-8") as out:
        out.write("subject_id,study_id," + ",".join(CONDITIONS) + "\n")
        for start in range(0, n, 10_000):
            drawn = values[rng.choice(4, p=[0.4, 0.2, 0.35, 0.05], size=(min(10_000, n - start), len(CONDITIONS)))]
            for number, row in enumerate(drawn, start):
                out.write(f"{10_000_000 + number // 3},{50_000_000 + number},{','.join(row)}\n")


def section(quick: bool, out: Path | None, *, records: int, builders: str) -> str:
    """builders: which, separated by spaces; those not named are left out."""
    n = 2_000 if quick else records
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        labels = Path(scratch, "mimic-cxr-2.0.0-chexpert.csv")
        write_labels(labels, n)
        for kind in builders.split():
            target = str(Path(scratch, "pairs.jsonl" if kind == "pairs" else kind))
            seconds, written, before, peak = fresh_process(BUILD.format(labels=str(labels), out=target, kind=kind))
            rows.append(
                f"| {kind} | {n / seconds:,.0f} | {written / seconds:,.0f} | {written:,.0f} | {peak / 1024:,.0f} MiB | "
                f"{(peak - before) / 1024:,.0f} MiB |"
            )
    return "\n".join(
        [
            "## Building data sets from labels",
            "",
            f"{n:,} studies in the form of MIMIC-CXR-JPG's label table (13 conditions, three studies per patient, no "
            "images), streamed; CPU seconds of one process. Peak memory is the process's, with its imports; the last "
            "column is what the build adds to it.",
            "",
            "| builder | studies read per s | records written per s | records written | peak memory | of the build |",
            "|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def main(arguments: list[str] | None = None) -> None:
    write_section(section, __doc__, arguments, records=100_000, builders="mednega contextual pairs")


if __name__ == "__main__":
    main()
