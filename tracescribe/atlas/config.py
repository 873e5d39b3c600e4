"""What an atlas is made of: models, sets of pairs, and how they are traced; read from YAML or given as an object."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, ConfigDict, Field, field_validator, model_validator

from ..arguments import explains_arguments
from ..checked import Checked
from ..errors import DataFormatError, TracescribeError
from ..io.quoting import shown
from ..io.yaml_files import read_yaml_as
from ..tracer.run.options import TraceOptions

if TYPE_CHECKING:
    import torch

__all__ = [
    "CORRECT",
    "DIFFERENCE",
    "IMAGE",
    "PLACES",
    "VALSE_EXISTENCE",
    "AtlasConfig",
    "ModelSpec",
    "SetSpec",
    "check_target",
    "read_atlas_config",
]

IMAGE, CORRECT, DIFFERENCE = "image", "correct", "difference"
VALSE_EXISTENCE = "valse-existence"
# Options of a trace that an atlas sets itself, or that a file cannot hold.
SET_BY_THE_ATLAS = ("heads", "keep_embeddings", "cache", "seed", "pool", "directions", "candidates")

PLACES = re.compile(r"\{(\w*)\}")


def check_name(name: str) -> str:
    """A name of a model or set, which figures and tables show.

    Raises:
        ValueError: it is empty or longer than 60 characters, or holds what no line of text does.
    """
    if not 0 < len(name) <= 60 or not name.isprintable() or not name.strip():
        raise ValueError(f"a name has 1 to 60 printable characters, not {shown(name)}")
    return name


def check_target(target: str) -> str:
    """A target, once its places are those that a pair has.

    Raises:
        ValueError: there is another.

    >>> check_target("a photo of {caption}")
    Traceback (most recent call last):
    ValueError: target 'a photo of {caption}': {caption} is no caption; write {correct} or {foil}
    """
    unknown = [place for place in PLACES.findall(target) if place not in ("correct", "foil")]
    if unknown:
        raise ValueError(f"target {shown(target)}: {{{unknown[0]}}} is no caption; write {{correct}} or {{foil}}")
    return target


Name = Annotated[str, AfterValidator(check_name)]


class _Strict(Checked):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ModelSpec(_Strict):
    """A model, as :func:`tracescribe.load` takes it."""

    model: str = Field(min_length=1)
    pretrained: str | None = None
    device: str = "cpu"
    dtype: Literal["float16", "bfloat16", "float32", "float64"] | None = None
    trust_remote_code: bool = False

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The precision as torch has it."""
        import torch

        return None if self.dtype is None else getattr(torch, self.dtype)


class SetSpec(_Strict):
    """Pairs of a file, and what they are scored against.

    file: any that :func:`tracescribe.read` takes and that holds pairs. format: its format's name, where several readers
        take it; "valse-existence" is VALSE's existence.json with "are" rephrased to "are some", as
        :func:`tracescribe.tracer.read_valse` does, so that lengths match.
    images: folder that image paths are looked for in. attribute: only pairs of this attribute.
    n_pairs: at most so many, drawn by the atlas's seed, the same for every model.
    target: "image": what the file gives (an image, an embedding or a text); "difference": the direction from the
        model's own embedding of the foil to that of the correct caption, so that CTE is the share of this way;
        "correct": the correct caption as a text; any other text, in which {correct} and {foil} stand for the captions:
        that text.
    """

    file: Path
    format: str | None = None
    images: Path | None = None
    attribute: str | None = None
    n_pairs: int | None = Field(default=None, ge=1)
    target: Annotated[str, AfterValidator(check_target)] = Field(default=IMAGE, min_length=1)

    def beside(self, folder: Path) -> SetSpec:
        """With paths that are relative to a folder."""
        images = None if self.images is None else folder / self.images
        return self.model_copy(update={"file": folder / self.file, "images": images})


class AtlasConfig(Checked):
    """The models, the sets and the settings that all traces share.

    models: by name; each what ``ts.load`` takes, or the options of :class:`ModelSpec`.
    sets: by name; each a file, or the options of :class:`SetSpec`.
    n_pairs: of sets that do not say it; None: all.
    heads: trace every head (site z) as well.
    trace: options of :func:`tracescribe.trace`, such as site, direction, method or align.
    aggregate, reduce, segment, ci, n_boot: of the profiles; see :meth:`CausalTrace.per_layer`.
    seed: of the drawn pairs and of all intervals.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    models: dict[Name, ModelSpec] = Field(min_length=1)
    sets: dict[Name, SetSpec] = Field(min_length=1)
    n_pairs: int | None = Field(default=None, ge=1)
    heads: bool = False
    trace: dict[str, Any] = Field(default_factory=dict)
    aggregate: str = "sum"
    reduce: str = "ratio_of_means"
    segment: str | None = None
    ci: float = Field(default=0.95, gt=0, lt=1)
    n_boot: int = Field(default=1000, ge=100, le=100_000)
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("models", mode="before")
    @classmethod
    def _models_by_name(cls, given: Any) -> Any:
        return _spelled_out(given, "model", "models must be name: what ts.load takes")

    @field_validator("sets", mode="before")
    @classmethod
    def _sets_by_name(cls, given: Any) -> Any:
        return _spelled_out(given, "file", "sets must be name: file")

    @model_validator(mode="after")
    def _options_fit(self) -> AtlasConfig:
        from ..tracer.choices import SEGMENTS
        from ..tracer.results.sides import TOKEN_AGGREGATES
        from ..tracer.results.statistics import AGGREGATES, REDUCTIONS

        aggregates = (*AGGREGATES, *TOKEN_AGGREGATES)
        for name, allowed in (("aggregate", aggregates), ("reduce", REDUCTIONS), ("segment", (None, *SEGMENTS))):
            if getattr(self, name) not in allowed:
                words = ", ".join(word for word in allowed if word is not None)
                raise ValueError(f"{name} must be one of {words}, not {shown(getattr(self, name))}")
        taken = [name for name in self.trace if name in SET_BY_THE_ATLAS]
        if taken:
            raise ValueError(f"trace.{taken[0]} is set by the atlas itself, or cannot be written in a file")
        try:
            self.options()
        except TypeError:
            unknown = next((name for name in self.trace if name not in TraceOptions.__dataclass_fields__), "trace")
            raise ValueError(f"trace: ts.trace has no option {shown(unknown)}") from None
        except TracescribeError as problem:
            raise ValueError(f"trace: {problem}") from None
        return self

    def options(self, heads: bool = False) -> TraceOptions:
        """The options of each trace, of tokens or of heads."""
        given = {**self.trace, "seed": self.seed, "keep_embeddings": False}
        if heads:
            given = {name: value for name, value in given.items() if name not in ("positions", "window")}
            given |= {"site": "z", "heads": "each"}
        return TraceOptions(**given)


@explains_arguments
def read_atlas_config(
    path: str | Path,
    pairs: Sequence[Path] | None = None,
    *,
    target: str | None = None,
    n_pairs: int | None = None,
    heads: bool | None = None,
) -> AtlasConfig:
    """An atlas from a YAML file; the files of sets, and their folders of images, are relative to it.

    pairs: files of further sets, by their names. target: of these. n_pairs, heads: in place of the file's.

    Raises:
        DataFormatError: names the file, the field and what was expected.
    """
    path = Path(path)

    def with_further(content: dict[str, Any]) -> dict[str, Any]:
        sets = content.get("sets") or {}
        for file in pairs or ():
            if not isinstance(sets, dict) or file.stem in sets:
                raise DataFormatError(f"two sets are called {shown(file.stem)}: give their files different names")
            sets = {**sets, file.stem: {"file": str(file.absolute()), "target": IMAGE if target is None else target}}
        given = {"sets": sets or None, "n_pairs": n_pairs, "heads": heads}
        return content | {name: value for name, value in given.items() if value is not None}

    config = read_yaml_as(AtlasConfig, path, "models: and sets:", with_further)
    sets = {name: spec.beside(path.parent) for name, spec in config.sets.items()}
    return config.model_copy(update={"sets": sets})


def _spelled_out(given: Any, field: str, expected: str) -> Any:
    """``name: text`` as ``name: {field: text}``."""
    if not isinstance(given, dict) or not all(isinstance(name, str) for name in given):
        raise ValueError(expected)
    return {name: {field: str(spec)} if isinstance(spec, str | Path) else spec for name, spec in given.items()}
