"""Every command of the command line with valid arguments, in place of which and beside which odd ones are drawn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from fuzz.files import a_plan, a_trace
from fuzz.odd import words
from fuzz.options import prepare as prepare_files
from tracescribe.benchmark.phantom import build_phantom
from tracescribe.finetune.training.config_files import SECTIONS

VALID: dict[str, list[str]] = {
    "demo": ["--quick", "--out", "out"],
    "info": ["phantom"],
    "trace": ["phantom", "pairs.jsonl", "-o", "out.safetensors"],
    "faithfulness": ["phantom", "trace.safetensors", "pairs.jsonl", "-o", "out.safetensors"],
    "circuit": ["phantom", "trace.safetensors", "pairs.jsonl", "-o", "out.json"],
    "neurons": ["phantom", "pairs.jsonl", "-o", "out.safetensors", "--top", "2", "--others", "1"],
    "head-edges": ["phantom", "pairs.jsonl", "-o", "out.safetensors"],
    "knock-out": ["phantom", "pairs.jsonl", "-o", "out.safetensors"],
    "negator-attention": ["phantom", "pairs.jsonl", "-o", "out.safetensors"],
    "plot": ["trace.safetensors", "-o", "out.svg"],
    "prescribe": ["trace.safetensors", "-o", "out.json"],
    "finetune": ["phantom", "data", "-o", "out", "--steps", "1", "--batch-size", "2"],
    "study": ["study.yaml", "-o", "out"],
    "atlas": ["models.yaml", "pairs.jsonl", "-o", "out"],
    "export": ["data", "-o", "out"],
    "evaluate": ["phantom", "claims.jsonl", "--split", "all"],
    "report": ["trace.safetensors", "-o", "out.html"],
    "compare": ["before.csv", "after.csv"],
    "reproduce": ["valse-existence", "--file", "existence.json"],
    "build phantom": ["out", "-n", "1", "--size", "16"],
    "build mednega": ["labels.csv", "-o", "out"],
    "build contextual": ["labels.csv", "-o", "out"],
    "build pairs": ["phantom", "labels.csv", "-o", "out.jsonl"],
}
"""Arguments with which each command succeeds, or says that there is too little data."""

LONG = {"demo": "--out", "study": "-o", "atlas": "-o"}
"""Commands whose work takes longer than a refusal may, and the option of their output, which is one that is refused."""

CHANGES = [
    f"{section}.{key}".lstrip(".")
    for section, keys in SECTIONS.items()
    for key in keys
    if key not in ("steps", "accumulate", "rank", "image_cache")  # many steps take long, a cache may be anywhere
]
"""The keys of `finetune`'s changes, section.key=value."""

MISPLACED = ["file/out", "data", "notes", "nowhere/out", "dangling", "loop", "", ".", "..", "/", "/dev/null"]
"""Places where nothing can be written, or where something of somebody else is."""


def registered() -> Iterator[tuple[str, Any]]:
    """Name and click command of every command that the application knows."""
    import typer

    from tracescribe.cli.app import app

    def walk(command: Any, name: str) -> Iterator[tuple[str, Any]]:
        inside = getattr(command, "commands", None)
        if inside is None:
            yield name, command
            return
        for key, inner in inside.items():
            yield from walk(inner, f"{name} {key}".strip())

    yield from walk(typer.main.get_command(app), "")


def flags(command: Any) -> list[tuple[str, bool]]:
    """The names of a command's options, and whether each takes a value."""
    return [
        (name, not parameter.is_flag)
        for parameter in command.params
        if parameter.param_type_name == "option"
        for name in parameter.opts
        if name not in ("--help", "--rewriter", "-n")  # `-n 30000000` is no mistake, and takes long
    ]


def prepare(folder: Path) -> list[str]:
    """Files that commands read, in a folder; their names."""
    prepare_files(folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        a_trace().save(folder / "trace.safetensors")
        a_plan().save(folder / "plan.json")
    build_phantom(folder / "data", 12, 0)
    (folder / "pairs.jsonl").write_text(
        '{"correct": "There is no edema.", "foil": "There is severe edema.", "image": {"text": "Clear lungs."}, '
        '"negation": "correct"}\n'
    )
    (folder / "existence.json").write_text("{}")
    (folder / "study.yaml").write_text("data: data\narms: [uniform]\n")
    (folder / "models.yaml").write_text("models: {one: phantom}\ntrace: {positions: all}\n")
    (folder / "file").write_text("mine")
    (folder / "notes").mkdir()
    (folder / "notes" / "notes.txt").write_text("mine")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "loop").symlink_to("loop")
    return sorted(path.name for path in folder.iterdir())


@st.composite
def command_lines(draw: st.DrawFn, name: str, command: Any, files: list[str]) -> list[str]:
    """A valid command line in which some words are odd, and to which some options with odd values are added."""
    line = list(VALID[name])
    odd = st.one_of(words, words, st.sampled_from(files), st.sampled_from(MISPLACED))
    for _ in range(draw(st.integers(0, 2))):
        line[draw(st.integers(0, len(line) - 1))] = draw(odd)
    for _ in range(draw(st.integers(0, 2))):
        flag, takes_value = draw(st.sampled_from(flags(command)))
        line += [flag, draw(odd)] if takes_value else [flag]
    if name == "finetune":
        for _ in range(draw(st.integers(0, 2))):
            line.append(f"{draw(st.sampled_from(CHANGES))}={draw(odd)}")
    if name == "finetune" and any(word.isdecimal() and 1 < len(word) < 10 for word in line):
        line += ["--steps", "1", "--rank", "1"]  # a thousand steps are no mistake, and take long
    if name == "neurons":
        line += ["--top", "2", "--others", "1", "--steps", "1"]  # thousands of cells, each replaced, take long too
    if name == "build phantom" and any(word.isdecimal() and len(word) > 2 for word in line):
        line += ["-n", "1"]  # nor are millions of films
    if name in LONG:
        line += [LONG[name], draw(st.sampled_from([place for place in MISPLACED if place != "nowhere/out"]))]
    return line
