"""Measures a miniature: ``python -m tracescribe.benchmark.phantom.scorecard`` prints what its model card states."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from ...io.json_lines import read_jsonl
from ..evaluation import Evaluation, evaluate
from ..scoring import Encoder, as_array
from .dataset import build_phantom


@dataclass(frozen=True)
class PairScore:
    """How a model separates the two captions of one kind of pair.

    right: percent of pairs with S_corr > S_foil (the others are inverted); size: mean |S_corr - S_foil|;
    small: percent of pairs with |S_corr - S_foil| < 0.01, which a trace would do well to leave out.
    """

    n: int
    right: float
    size: float
    small: float


@dataclass(frozen=True)
class Scorecard:
    """An evaluation and, by kind of pair, how the denominators of a causal trace look."""

    evaluation: Evaluation
    pairs: Mapping[str, PairScore]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        return {"evaluation": self.evaluation.to_dict(), "pairs": {k: vars(v) for k, v in self.pairs.items()}}

    def summary(self) -> str:
        """The scores as lines for people."""
        lines = [self.evaluation.summary(), "pairs: kind, n, S_corr > S_foil (%), mean |d|, |d| < 0.01 (%)"]
        lines += [f"  {k}: {v.n}, {v.right:.1f}, {v.size:.3f}, {v.small:.1f}" for k, v in self.pairs.items()]
        return "\n".join(lines)


def score_miniature(model: Encoder, *, n: int = 1500, seed: int = 100, n_boot: int = 1000) -> Scorecard:
    """Score a model on a fresh phantom data set of n films, all splits (none of them was trained on).

    The scores of another ``seed`` are those of other patients; 1,500 films take about 15 seconds on one core.
    """
    with tempfile.TemporaryDirectory() as parent:
        folder = build_phantom(Path(parent) / "films", n, seed)
        return Scorecard(evaluate(model, folder, split=None, n_boot=n_boot), _pair_scores(model, folder))


def _pair_scores(model: Encoder, folder: Path) -> dict[str, PairScore]:
    pairs = [value for _, value in read_jsonl(folder / "pairs.jsonl")]
    texts = sorted({p[side] for p in pairs for side in ("correct", "foil")})
    paths = sorted({p["image"] for p in pairs})
    text = dict(zip(texts, as_array(model.encode_texts(texts), "text"), strict=True))
    image = dict(zip(paths, as_array(model.encode_images([str(folder / p) for p in paths]), "image"), strict=True))
    d = np.array([float(image[p["image"]] @ (text[p["correct"]] - text[p["foil"]])) for p in pairs])
    kind = np.array([p["attribute"] + (f", negated {p['negation']}" if p["negation"] else "") for p in pairs])
    return {str(k): _score(d[kind == k]) for k in np.unique(kind)}


def _score(d: Float[np.ndarray, "pair"]) -> PairScore:
    return PairScore(
        len(d), 100 * float(np.mean(d > 0)), float(np.mean(np.abs(d))), 100 * float(np.mean(np.abs(d) < 0.01))
    )


def main(argv: list[str] | None = None) -> int:
    """The shipped measuring command."""
    parser = argparse.ArgumentParser(prog="tracescribe.benchmark.phantom.scorecard", description=__doc__)
    parser.add_argument("--weights", help="a miniature.safetensors; the shipped one by default")
    parser.add_argument("--films", type=int, default=1500)
    parser.add_argument("--seed", type=int, default=100)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args(argv)
    from ...patching import wrap
    from .miniature import load_source

    source = load_source(weights=args.weights)
    model = wrap(source.module, tokenizer=source.tokenizer, preprocess=source.preprocess, name="phantom")
    card = score_miniature(model, n=args.films, seed=args.seed)
    sys.stdout.write((json.dumps(card.to_dict(), indent=1) if args.json else card.summary()) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
