"""`make perf`: run every benchmark of this folder and put their sections into RESULTS.md.

    python perf/run.py                 # about a quarter of an hour
    python perf/run.py --quick         # seconds, on tiny towers: does everything run? prints, writes nothing

A benchmark is a file `bench_*.py` that takes `--out FILE` (and `--quick`), writes a section of Markdown (from `## ` on)
to FILE and pictures beside it. Each runs in a process of its own; results are written only when all have run.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

FOLDER = Path(__file__).parent
HEADLINE = "bench_trace"  # comes first; the others follow by name
PACKAGES = ("torch", "numpy", "nnsight", "transformer_lens", "pyvene", "open_clip_torch", "transformers", "peft")


def processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> str:
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return ", ".join(found)


def run(scripts: list[Path], scratch: Path, quick: bool) -> str:
    """The page of all sections; their pictures lie in ``scratch``."""
    load, start = os.getloadavg()[0], time.perf_counter()
    sections = []
    for script in scripts:
        print(f"--- {script.name}", file=sys.stderr, flush=True)
        out = scratch / f"{script.stem}.md"
        command = [sys.executable, str(script), "--out", str(out), *(["--quick"] if quick else [])]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        sections.append(out.read_text(encoding="utf-8").strip())
    minutes = (time.perf_counter() - start) / 60
    head = [
        "# Speed, measured",
        "",
        f"`make perf{' QUICK=1' if quick else ''}` on {datetime.now(UTC):%Y-%m-%d}, {minutes:.0f} minutes: "
        f"{processor()}, {os.cpu_count()} cores; {versions()}. "
        f"Load average {load:.1f} before and {os.getloadavg()[0]:.1f} after. "
        "Seconds are CPU seconds of one thread unless a table says wall; arms take turns; a number before a bracket is "
        "the median, and the bracket its range.",
    ]
    return "\n".join(head) + "\n\n" + "\n\n".join(sections) + "\n"


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="tiny towers: checks the benchmarks, times nothing real")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these benchmarks only, printed and not written")
    parser.add_argument("--out", type=Path, help="folder of RESULTS.md (default: beside this file)")
    options = parser.parse_args(arguments)
    scripts = sorted(FOLDER.glob("bench_*.py"), key=lambda path: (path.stem != HEADLINE, path.stem))
    if options.only:
        scripts = [path for path in scripts if path.stem.removeprefix("bench_") in options.only]
    out: Path | None = options.out or (None if options.quick or options.only else FOLDER)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        page = run(scripts, scratch, options.quick)
        print(page)
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
            for picture in (*scratch.glob("*.svg"), *scratch.glob("*.png")):
                shutil.copy(picture, out / picture.name)
            (out / "RESULTS.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
