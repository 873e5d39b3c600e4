"""The model card of a run: what it is, how it was trained, what it scores, how it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ...io.quoting import shown
from ...patching.loading.names import names_weights
from ..losses.options import Nast
from .config import TrainConfig

if TYPE_CHECKING:
    from .result import TrainResult

_LABELS = {
    "affirmative": "MCQ, affirmative (%)",
    "negated": "MCQ, negated (%)",
    "gap": "gap, affirmative − negated (pp)",
    "claims": "claims (%)",
    "r1": "affirmative image → text R@1 (%)",
}


def model_card(result: TrainResult) -> str:
    """README.md of a run, with the front matter that Hugging Face's hub reads. Equal runs have equal cards."""
    config, base = result.config, str(result.base["model"])
    parts = [
        _front_matter(base),
        f"# {_plain(base)}, fine-tuned with tracescribe",
        "",
        f"LoRA adapters (rank {config.rank}, alpha {config.lora_alpha:g}) of the text tower of `{_plain(base)}`; the "
        "image tower, the projections and the embeddings are those of the base model.",
        "",
        "## Training",
        "",
        *_training(config, result),
        "",
        "## Scores",
        "",
        *_scores(result),
        "",
        "## Use",
        "",
        "```python",
        "import tracescribe as ts",
        "",
        f"model = ts.finetune.load_run({_load(config, base)}, FOLDER)   # adapters merged",
        "```",
        "",
        "`adapter/` is in peft's format (`PeftModel.from_pretrained(clip, FOLDER + '/adapter')`); `tracescribe export "
        "FOLDER -o OUT` writes merged weights. Adapters on fused attention (open_clip) need a peft that counts those "
        "of `out_proj` as often as the one that saved them; `load_run` and `export` see to that.",
        "",
        "## Limits",
        "",
        "Scores hold for data like those above. A small gap is good only beside an affirmative accuracy and an R@1 "
        "that have not fallen. This is a research artefact and no medical device.",
        "",
        "`config.json` holds every option (`tracescribe finetune config.json -o NEW` trains again), `log.csv` losses "
        "and scores, `result.json` hashes of data, plan and base weights, `manifest.json` versions, time and files.",
    ]
    return "\n".join(parts) + "\n"


def _front_matter(base: str) -> str:
    hub = base.removeprefix("hf:") if base.startswith("hf:") and base.count("/") == 1 else None
    told = [f"base_model: {shown(hub)}"] if hub else []
    return "\n".join(["---", "library_name: peft", *told, "tags: [clip, lora, negation, tracescribe]", "---", ""])


def _training(config: TrainConfig, result: TrainResult) -> list[str]:
    weighting = config.weighting if config.lora_mode is None else f"{config.weighting}, LoRA {config.lora_mode}"
    told = {
        "captions": _files(config.captions),
        "contrast sets": _files(config.claims),
        "split": config.split or "all",
        "loss": _loss(config),
        "layer weights": weighting,
        "optimiser": f"{config.optimizer}, rate {config.lr:g} ({config.schedule}, warm-up {config.warmup}), "
        f"weight decay {config.weight_decay:g}",
        "batch": f"{config.batch_size} captions and as many contrast sets"
        + (f", {config.accumulate} batches a step" if config.accumulate > 1 else ""),
        "steps": f"{len(result.history.loss)}, weights of step {result.step}",
        "seed": str(config.seed),
    }
    lines = ["| | |", "| --- | --- |", *(f"| {name} | {_plain(value)} |" for name, value in told.items())]
    if result.plan is not None:
        multipliers = " ".join(f"{value:.2f}" for value in result.plan.multipliers)
        lines.append(f"| multipliers of blocks 1..{len(result.plan.multipliers)} | {multipliers} |")
    share = " ".join(f"{100 * value:.0f}" for value in result.update.share)
    return [*lines, f"| share of the update per block (%) | {share} |"]


def _loss(config: TrainConfig) -> str:
    if isinstance(config.loss, Nast):
        return f"{config.lambda_:g} L_CLIP + {1 - config.lambda_:g} L_claim (NAST, arXiv 2602.12498)"
    options = ", ".join(f"{name} {value:g}" for name, value in config.loss.model_dump(exclude={"name"}).items())
    return f"{config.loss.source}{': ' if options else ''}{options}"


def _scores(result: TrainResult) -> list[str]:
    config = result.config
    chosen = next((found for found in result.history.scores if found["step"] == result.step), None)
    if chosen is None:
        return ["These weights were not scored."]
    rows = [
        f"| {label} | {result.before[name]:.1f} | {chosen[name]:.1f} |"
        for name, label in _LABELS.items()
        if name in chosen and name in result.before
    ]
    source = "the captions' folder" if config.validation is None else f"`{_plain(str(config.validation))}`"
    told = "" if config.select == "last" else f" The weights were chosen on these very records ({config.select})."
    return [f"On the split val of {source}.{told}", "", "| | before | after |", "| --- | --- | --- |", *rows]


def _files(given: Any) -> str:
    if isinstance(given, dict):
        return ", ".join(f"{path} (weight {weight:g})" for path, weight in given.items())
    return "given in memory" if given is None else str(given)


def _load(config: TrainConfig, base: str) -> str:
    if base != config.model or not names_weights(base, config.pretrained):
        return "MODEL"
    return f"ts.load({base!r}{'' if config.pretrained is None else f', pretrained={config.pretrained!r}'})"


def _plain(text: str) -> str:
    """A text in one line of a Markdown table."""
    return " ".join(text.replace("|", "/").split())
