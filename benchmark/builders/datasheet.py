"""The datasheet of a built set: what it holds, how it was made, what was left out, and what it cannot show."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["datasheet"]


def datasheet(title: str, facts: Mapping[str, Any]) -> str:
    """What a user of the data set has to know (after Gebru et al. 2021, arXiv 1803.09010)."""
    lines = [
        f"# {title}",
        "",
        f"Made by tracescribe {facts['version']} from the labels in `{facts['source']}` (format "
        f"{facts['labels_format']}, SHA-256 {facts['labels_sha256']}) with seed {facts['seed']}. It holds no report "
        "text and no image: images are named by their path in the source's folder (`--images` says where that is), "
        "and each user needs the source's own licence for them.",
        "",
        "## Contents",
        "",
        "| file | what | records |",
        "|---|---|---:|",
    ]
    for file, counts in facts["counts"].items():
        lines += [f"| {file} | {kind} | {count} |" for kind, count in counts.items()]
    lines += ["", "## Left out, and why", ""]
    lines += [f"- {why}: {count}" for why, count in facts["left_out"].items()] or ["- nothing"]
    lines += [
        "",
        "## How it was made, and what follows",
        "",
        "- Only conditions labelled as certainly present or certainly absent are mentioned. A condition is not called "
        'absent where the labels deny a part of it only ("no large effusion"), nor beside a finding that is a case of '
        "it (no lung opacity beside a consolidation), nor is its absence told without negation where another finding "
        'belies that ("clear lung fields" beside atelectasis). Labels that were extracted from reports by rules or '
        "models have errors, and so have these statements.",
        "- `Pleural Other` of CheXpert's labels is worded as pleural thickening.",
        "- Each set of options is asked of as many images as it has options, each with another right one, in the same "
        "words: text without the image scores at chance. The images of a set may differ in more than what is asked.",
        "- A finding that the labels place on one side is taken to be on that side only.",
        *_captions(facts),
        *_open_i(facts),
        "- A sentence names no finding beside a case of it. One that is worded without negation, too, names no two "
        "findings of which one belies the other's affirmative wording.",
        "- All images of a patient are in one split: the source's own, where it has one.",
        f"- Sentences come from templates{_reworded(facts)}. They test negation, severity and side, not the language "
        "of real reports.",
        "- It is made for research on models. It is no means of diagnosis.",
        "",
    ]
    return "\n".join(lines)


def _captions(facts: Mapping[str, Any]) -> list[str]:
    if "captions.jsonl" not in facts["counts"]:
        return []
    return ["- Captions are not balanced: they keep the proportions of the labels, and each holds a negation."]


def _open_i(facts: Mapping[str, Any]) -> list[str]:
    if facts["labels_format"] != "open-i":
        return []
    return [
        "- What is absent is inferred: a report that its coders called normal is taken to say of ten findings that "
        "they are absent. Nothing is absent in other reports, so that no claim is about two conditions, and no "
        "patient is named, so that two reports of one patient may be in different splits."
    ]


def _reworded(facts: Mapping[str, Any]) -> str:
    if "rewriter" not in facts:
        return ""
    counts = dict(facts["rewriter"])
    model = counts.pop("model")
    return (
        f", reworded by the model {model} where a parser found the same facts ("
        + ", ".join(f"{what}: {count}" for what, count in counts.items())
        + ")"
    )
