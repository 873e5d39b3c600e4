"""What to know before the numbers of a model on a set are believed, in words."""

from __future__ import annotations

import numpy as np

from ..tracer import CausalTrace, LayerProfile, TokenKind
from ..tracer.results.agreement import Agreement
from ..tracer.results.profiles import PREFERRED, pairs_used
from ..tracer.results.tables import what_the_readout_reads
from .config import AtlasConfig
from .numbers import FEWEST, Peak, counted

__all__ = ["doubts", "unknown_share"]

_UNKNOWN = ("[UNK]", "<unk>", "<|unk|>")
_MUCH = 0.01  # share of unknown tokens, or of pairs, that is worth a sentence


def doubts(trace: CausalTrace, profile: LayerProfile, peak: Peak | None, config: AtlasConfig) -> list[str]:
    """One sentence per doubt, without a full stop."""
    told = trace.provenance.get("atlas", {})
    said = []
    for why, count in told.get("left_out", {}).items():
        said.append(f"{count} of {told['n_pairs']} pairs are left out: {why}")
    said += _pairs(trace, config)
    unknown = unknown_share(trace)
    if unknown >= _MUCH:
        said.append(f"{unknown:.0%} of the tokens are unknown to its tokenizer: it does not read these captions")
    if trace.provenance.get("aligned"):
        said.append("captions of different lengths are aligned: what tokens without counterpart carry is missing")
    measured = trace.provenance.get("agreement")
    if measured:
        said.append(f"gradients, not replacements: {Agreement(**measured)}")
    if profile.ci is None:
        said.append("no interval: all pairs are of one cluster")
    elif profile.caution:
        said.append(profile.caution)
    read = what_the_readout_reads(trace.provenance)
    if read is not None:
        said.append(read)
    layers = int(counted(trace).sum())
    if layers < FEWEST:
        said.append(f"only {layers} layers are compared")
    elif peak is not None and peak.alike:
        said.append(f"the peak at layer {peak.layer} is not told from layers {', '.join(map(str, peak.alike))}")
    return said


def unknown_share(trace: CausalTrace) -> float:
    """Share of both captions' tokens that the tokenizer does not know; special tokens are not counted."""
    words = np.isin(trace.kinds, (TokenKind.ORDINARY, TokenKind.PUNCTUATION, TokenKind.UNMATCHED))
    known = unknown = 0
    for pair in np.unique(trace.text_pair, return_index=True)[1].tolist():
        for strings in (trace.tokens[pair], trace.foil_tokens[pair]):
            inside = [word for word, is_word in zip(strings, words[pair], strict=False) if is_word]
            unknown += sum(word in _UNKNOWN for word in inside)
            known += sum(word not in _UNKNOWN for word in inside)
    return unknown / max(known + unknown, 1)


def _pairs(trace: CausalTrace, config: AtlasConfig) -> list[str]:
    said = []
    used, name = pairs_used(trace, config.segment, warn=False)
    invalid = int((~trace.valid).sum())
    if invalid:
        said.append(
            f"{invalid} of {trace.n_pairs} pairs are below the floor: the model does not tell their captions apart"
        )
    if config.segment is None and name != PREFERRED:
        said.append("it prefers the foil in every pair: these are its errors")
    elif config.segment is None and len(used) < trace.n_pairs - invalid:
        wrong = trace.n_pairs - invalid - len(used)
        said.append(f"{wrong} of {trace.n_pairs} pairs do not enter: it prefers the foil")
    return said
