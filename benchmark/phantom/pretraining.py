"""Trains the miniature from scratch: ``python -m tracescribe.benchmark.phantom.pretraining --out FOLDER --seed 0``."""

from __future__ import annotations

import argparse
import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32, Int64, UInt8

from ...contrastive import clip_loss
from ...errors import NonFiniteError, TracescribeError
from ...io.atomic import write_atomically
from ...io.places import refusing
from ...threads import threads as use_threads
from . import miniature
from .captions import BLINDING, Wording, blinding_report, corpus
from .drawing import draw, to_uint8
from .facts import Facts, sample_facts
from .tokenizer import PhantomTokenizer

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Training:
    """Everything that decides trained weights, besides torch's version and the number of threads.

    no_change, negation: how the reports use the word "no"; see :class:`.captions.Wording`.
    """

    seed: int = 0
    n_images: int = 12_000
    steps: int = 900
    batch: int = 96
    lr: float = 2e-3
    warmup: int = 100
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = 0.05
    clip_norm: float = 1.0
    pixel_noise: float = 0.05
    no_change: float = BLINDING.no_change
    negation: float = BLINDING.negation

    @property
    def wording(self) -> Wording:
        return Wording(self.no_change, self.negation)


@dataclass(frozen=True)
class Recipe(Training):
    """Of a miniature. layers: of its text tower."""

    layers: int = miniature.TEXT["layers"]


def films(n: int, seed: int) -> tuple[list[Facts], UInt8[np.ndarray, "n size size"]]:
    """Facts and 8-bit films number 0..n-1 of a seed; the first films of a longer list are the same films."""
    facts: list[Facts] = []
    images: list[np.ndarray] = []
    for i in range(n):
        facts.append(sample_facts(np.random.default_rng([seed, i, 0])))
        images.append(to_uint8(draw(facts[-1], (seed, i))))
    return facts, np.stack(images)


def encode_text(model: Any, tokens: Int64[torch.Tensor, "n context"]) -> Float[torch.Tensor, "n embed"]:
    """``model.encode_text(tokens)`` without the columns after the longest [EOT].

    Exact, since the tower is causal and is read at [EOT]; captions use about half of the context.
    """
    end = tokens.argmax(dim=-1)
    n = int(end.max()) + 1
    x = model.token_embedding(tokens[:, :n]) + model.positional_embedding[:n]
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:n, :n]))
    return x[torch.arange(len(x)), end] @ model.text_projection


def train_miniature(
    recipe: Recipe | None = None, *, threads: int = 1, on_step: Callable[[int, float], None] | None = None
) -> tuple[Any, PhantomTokenizer]:
    """Train the miniature on the CPU; returns (open_clip CLIP in eval mode, tokenizer).

    One thread is the default because sums are then taken in one order: the same recipe gives the same weights, bit for
    bit, on the same machine and torch version. Six to nine minutes on one core. The caller's random state and thread
    count are put back.

    Args:
        on_step: called after every step with (step, loss).
    """
    recipe = recipe or Recipe()
    tokenizer = PhantomTokenizer.from_texts(corpus())
    facts, images = films(recipe.n_images, recipe.seed)
    with use_threads(threads), torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = untrained(tokenizer.vocab_size, recipe.layers)
        rng = np.random.default_rng([recipe.seed, 10**6])
        optimizer = torch.optim.AdamW(
            model.parameters(), lr=recipe.lr, betas=recipe.betas, weight_decay=recipe.weight_decay
        )
        model.train()
        for step, chosen in enumerate(_batches(recipe, rng)):
            film = noisy(images[chosen], recipe, rng)
            tokens = tokenizer([blinding_report(facts[i], rng, recipe.wording) for i in chosen])
            image = F.normalize(model.encode_image(miniature.normalise(film)), dim=-1)
            text = F.normalize(encode_text(model, tokens), dim=-1)
            loss = clip_loss(image, text, model.logit_scale.exp())
            take_step(optimizer, loss, model.logit_scale, learning_rate(recipe, step), recipe.clip_norm)
            if on_step is not None:
                on_step(step, float(loss.detach()))
    return model.eval(), tokenizer


def untrained(vocab_size: int, layers: int = miniature.TEXT["layers"]) -> Any:
    """open_clip's ``CLIP`` in the miniature's sizes, with fresh weights from torch's current random state."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    return CLIP(
        embed_dim=miniature.EMBED_DIM,
        vision_cfg=CLIPVisionCfg(**miniature.VISION),
        text_cfg=CLIPTextCfg(**{**miniature.TEXT, "layers": layers}, vocab_size=vocab_size),
    )


def take_step(
    optimizer: torch.optim.Optimizer, loss: torch.Tensor, logit_scale: torch.nn.Parameter, rate: float, clip_norm: float
) -> None:
    """One step at ``rate`` on gradients of a total norm of at most ``clip_norm``; the logit scale stays below 100."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip_norm)
    optimizer.step()
    with torch.no_grad():
        logit_scale.clamp_(max=math.log(100.0))


def learning_rate(recipe: Training, step: int) -> float:
    """Linear warm-up, then half a cosine to 0.

    >>> recipe = Recipe(lr=1.0, warmup=10, steps=110)
    >>> learning_rate(recipe, 9), round(learning_rate(recipe, 59), 2)
    (1.0, 0.52)
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * done))


def save(model: Any, tokenizer: PhantomTokenizer, folder: str | Path, recipe: Recipe) -> Path:
    """Write miniature.safetensors (float16) and vocabulary.json into a folder, creating it; returns the weights' path.

    Raises:
        OutputError: the folder cannot be written.
        NonFiniteError: the weights hold NaN or infinity.
    """
    from safetensors.torch import save as to_bytes

    state = {name: value.detach().to(torch.float16).contiguous() for name, value in model.state_dict().items()}
    broken = [name for name, value in state.items() if not torch.isfinite(value.float()).all()]
    if broken:
        raise NonFiniteError(f"the trained weights are not finite in {', '.join(broken[:3])}; lower the learning rate")
    path = _made(folder)
    meta = {"format": miniature.FORMAT, "recipe": json.dumps(asdict(recipe)), "torch": torch.__version__}
    with write_atomically(path / "vocabulary.json") as handle:
        handle.write(tokenizer.to_json())
    with write_atomically(path / "miniature.safetensors", binary=True) as handle:
        handle.write(to_bytes(state, metadata=meta))
    return path / "miniature.safetensors"


def _made(folder: str | Path) -> Path:
    with refusing(folder, "the folder "):
        Path(folder).mkdir(parents=True, exist_ok=True)
    return Path(folder)


def _batches(recipe: Recipe, rng: np.random.Generator) -> Iterator[np.ndarray]:
    order = rng.permutation(recipe.n_images)
    at = 0
    for _ in range(recipe.steps):
        if at + recipe.batch > len(order):
            order, at = rng.permutation(recipe.n_images), 0
        yield order[at : at + recipe.batch]
        at += recipe.batch


def noisy(images: np.ndarray, recipe: Training, rng: np.random.Generator) -> Float32[np.ndarray, "n size size"]:
    film = images.astype(np.float32) / 255.0
    return film + recipe.pixel_noise * rng.standard_normal(film.shape, dtype=np.float32)


def main(argv: list[str] | None = None) -> int:
    """The shipped training command."""
    parser = argparse.ArgumentParser(prog="tracescribe.benchmark.phantom.pretraining", description=__doc__)
    parser.add_argument("--out", required=True, help="folder for miniature.safetensors and vocabulary.json")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--images", type=int, default=Recipe.n_images)
    parser.add_argument("--layers", type=int, default=Recipe.layers, help="of the text tower")
    parser.add_argument("--no-change", type=float, default=Recipe.no_change, help="of mentions: 'no change in X'")
    parser.add_argument("--negation", type=float, default=Recipe.negation, help="of absent findings: 'no X'")
    parser.add_argument("--threads", type=int, default=1, help="more is faster, and not bit for bit the same")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    recipe = Recipe(
        seed=args.seed,
        steps=args.steps,
        n_images=args.images,
        layers=args.layers,
        no_change=args.no_change,
        negation=args.negation,
    )

    def report(step: int, loss: float) -> None:
        if step % 25 == 0 or step == recipe.steps - 1:
            log.info("step %d/%d loss %.3f", step, recipe.steps, loss)

    try:
        _made(args.out)  # before the minutes of training
        model, tokenizer = train_miniature(recipe, threads=args.threads, on_step=report)
        log.info("wrote %s", save(model, tokenizer, args.out, recipe))
    except TracescribeError as problem:
        log.error("%s", problem)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
