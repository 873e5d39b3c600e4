"""The losses by name, with their options: what configurations hold. Imports no torch."""

from __future__ import annotations

import difflib
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from ...checked import Checked
from ...io.quoting import shown


class _Options(Checked):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    needs: ClassVar[frozenset[str]] = frozenset()
    """What the loss cannot do without, besides images and captions: "claims", "negatives", "hard_images", "negated",
    "originals", "negations", "noise", "teacher"."""
    reads: ClassVar[frozenset[str]] = frozenset()
    """What else enters where it is there."""
    source: ClassVar[str]
    """Formula and paper, in a few words."""

    @model_validator(mode="before")
    @classmethod
    def _booleans_are_no_numbers(cls, given: Any) -> Any:
        for name, value in given.items() if isinstance(given, dict) else ():
            if isinstance(value, bool):
                raise ValueError(f"{name} is {value}, and no number")
        return given

    def arguments(self) -> dict[str, Any]:
        """The options that the loss takes as arguments."""
        return self.model_dump(exclude={"name", "ema"})


class Nast(_Options):
    """lambda L_CLIP + (1 - lambda) L_claim; lambda is an option of the run."""

    needs = frozenset({"claims"})
    source = "lambda L_CLIP + (1 - lambda) L_claim (NAST, arXiv 2602.12498)"
    name: Literal["nast"] = "nast"


class Clip(_Options):
    """L_CLIP alone."""

    source = "L_CLIP (arXiv 2103.00020)"
    name: Literal["clip"] = "clip"


class NegClip(_Options):
    """See :func:`.negclip.negclip_loss`."""

    needs = frozenset({"negatives"})
    reads = frozenset({"hard_images"})
    source = "NegCLIP (arXiv 2210.01936)"
    name: Literal["negclip"] = "negclip"


class ConClip(_Options):
    """See :func:`.conclip.conclip_loss`."""

    needs = frozenset({"hard_images"})
    source = "CoN-CLIP (arXiv 2403.20312)"
    name: Literal["conclip"] = "conclip"


class NegBench(_Options):
    """See :func:`.negbench.negbench_loss`. a: the weight of L_CLIP."""

    needs = frozenset({"claims"})
    source = "a L_CLIP + (1 - a) L_MCQ (NegBench, arXiv 2501.09425)"
    name: Literal["negbench"] = "negbench"
    a: float = Field(default=0.99, ge=0, le=1)


class SigLip(_Options):
    """See :func:`.siglip.siglip_loss`. bias: b."""

    source = "SigLIP (arXiv 2303.15343)"
    name: Literal["siglip"] = "siglip"
    bias: float = -10.0


class NegationClip(_Options):
    """See :func:`.negationclip.negationclip_loss`."""

    needs = frozenset({"negated"})
    source = "NegationCLIP (arXiv 2501.10913)"
    name: Literal["negationclip"] = "negationclip"


class TngClip(_Options):
    """See :func:`.tngclip.tngclip_loss`. temperature: tau."""

    needs = frozenset({"originals", "negations", "noise"})
    source = "TNG-CLIP (arXiv 2505.18434)"
    name: Literal["tngclip"] = "tngclip"
    temperature: float = Field(default=0.07, gt=0)


class DeGla(_Options):
    """See :func:`.degla.degla_loss`. igc, tgc, distill: weights of its parts.

    ema: how much of the teacher stays in a step; it is the moving average of the adapters that are trained.
    """

    needs = frozenset({"negatives", "teacher"})
    source = "DeGLA (arXiv 2504.16801)"
    name: Literal["degla"] = "degla"
    igc: float = Field(default=0.1, ge=0)
    tgc: float = Field(default=0.1, ge=0)
    distill: float = Field(default=0.005, ge=0)
    ema: float = Field(default=0.9996, ge=0, le=1)


class OmniNegClip(_Options):
    """See :func:`.omninegclip.omninegclip_loss`."""

    needs = frozenset({"negatives", "originals"})
    source = "Omni-NegCLIP (arXiv 2603.29258)"
    name: Literal["omninegclip"] = "omninegclip"


Known = Nast | Clip | SigLip | NegClip | ConClip | NegBench | NegationClip | TngClip | DeGla | OmniNegClip
KINDS: dict[str, type[Known]] = {kind.model_fields["name"].default: kind for kind in get_args(Known)}


def _named(given: Any) -> Any:
    if isinstance(given, _Options):
        return given
    if isinstance(given, dict) and "name" not in given:
        raise ValueError("a loss has a name: write its name, or name: and its options")
    name = given["name"] if isinstance(given, dict) else given
    if not isinstance(name, str) or name not in KINDS:
        near = difflib.get_close_matches(str(name), KINDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(KINDS)}"
        raise ValueError(f"there is no loss {shown(name)}; {hint}")
    return given if isinstance(given, dict) else {"name": name}


def _short(options: _Options) -> Any:
    """The name alone where every option is as it is by default."""
    values = options.model_dump()
    return values["name"] if options == type(options)() else values


LossOptions = Annotated[
    Known, Field(discriminator="name"), BeforeValidator(_named), PlainSerializer(_short, when_used="always")
]
"""A loss as a configuration has it: its name, or ``{name: ..., option: ...}``."""
