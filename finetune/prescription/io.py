"""Reads and writes plan files: JSON of format "tracescribe.plan/1" with a published schema."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import ConfigDict, Field, model_validator

from ...arguments import explains_arguments
from ...checked import Checked
from ...errors import DataFormatError, PrescriptionError
from ...io.json_lines import read_text, shown
from ...io.quoting import shown_path
from ...io.reading import is_file
from .plan import Prescription
from .rank_agreement import RankAgreement
from .stability import Stability

FORMAT = "tracescribe.plan/1"
MAX_BYTES = 1 << 26  # with the provenance of a trace of a million pairs


class PlanFile(Checked):
    """Per-layer training weights for the transformer blocks 1..L of a text encoder."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, strict=True)

    format: Literal["tracescribe.plan/1"] = "tracescribe.plan/1"
    alpha: list[float] = Field(min_length=2, description="alpha of blocks 1..L; the first value is block 1")
    beta: float = Field(ge=0)
    scale: float = Field(default=1.0, gt=0, description="common factor of all multipliers")
    multipliers: list[float] = Field(description="scale * alpha ** beta, for readers without arithmetic")
    ci: list[tuple[float, float]] | None = Field(default=None, description="bounds of alpha over bootstrap draws")
    stability: Stability | None = Field(default=None, description="agreement of bootstrap draws on the ranking")
    agreement: RankAgreement | None = Field(default=None, description="rank agreement between parts of the trace")
    warnings: list[str] = Field(default_factory=list)
    provenance: dict[str, Any] = Field(default_factory=dict)
    sha256: str | None = Field(
        default=None,
        description="of the other fields as JSON with sorted keys and no spaces; checked on load; optional",
    )

    @model_validator(mode="after")
    def _consistent(self) -> PlanFile:
        if len(self.multipliers) != len(self.alpha):
            raise ValueError(f"{len(self.multipliers)} multipliers for {len(self.alpha)} alphas")
        if self.ci is not None and len(self.ci) != len(self.alpha):
            raise ValueError(f"{len(self.ci)} intervals for {len(self.alpha)} alphas")
        if any(value < 0 for value in self.alpha):
            raise ValueError("alpha must not be negative")
        if not any(self.multipliers):
            raise ValueError("every multiplier is 0, so that nothing would be trained")
        for block, (low, high) in enumerate(self.ci or [], start=1):
            if low > high:
                raise ValueError(f"the interval of block {block} has its lower bound {low:g} above the upper {high:g}")
        if self.stability is not None:
            self.stability.check(len(self.alpha))
        if self.agreement is not None:
            self.agreement.check()
        with np.errstate(over="ignore", under="ignore"):
            expected = self.scale * np.asarray(self.alpha) ** self.beta
        if not np.allclose(self.multipliers, expected, rtol=1e-9, atol=1e-12):
            raise ValueError("multipliers are not scale * alpha ** beta")
        return self


def plan_schema() -> dict[str, Any]:
    """The JSON schema of a plan file.

    >>> plan_schema()["properties"]["format"]["const"]
    'tracescribe.plan/1'
    """
    return PlanFile.model_json_schema()


def save_plan(plan: Prescription, path: str | Path) -> None:
    """Write the plan atomically; raises OutputError when the path cannot be written."""
    from ...io.atomic import write_atomically

    try:
        content = json.loads(to_record(plan).model_dump_json(exclude={"sha256"}))
    except ValueError as problem:  # pydantic's serialisation errors are ValueErrors
        raise PrescriptionError(f"the plan's provenance cannot be written as JSON: {problem}") from problem
    with write_atomically(path) as handle:
        handle.write(json.dumps({**content, "sha256": _checksum(content)}, indent=2, ensure_ascii=False) + "\n")


def _checksum(content: dict[str, Any]) -> str:
    rest = {name: value for name, value in content.items() if name != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def to_record(plan: Prescription) -> PlanFile:
    """The plan as it stands in a file."""
    return PlanFile(
        alpha=plan.alpha.tolist(),
        beta=plan.beta,
        scale=plan.scale,
        multipliers=plan.multipliers.tolist(),
        ci=None if plan.ci is None else [(float(low), float(high)) for low, high in plan.ci],
        stability=plan.stability,
        agreement=plan.agreement,
        warnings=list(plan.warnings),
        provenance=plan.provenance,
    )


@explains_arguments
def load_plan(path: str | Path) -> Prescription:
    """Read a plan written by :meth:`Prescription.save`, or by hand.

    A plan that was written by hand may have no checksum; its provenance says so.

    Raises DataFormatError naming the file, the field and what was expected.
    """
    path = Path(path)
    if not is_file(path):
        raise DataFormatError(f"{shown_path(path)}: there is no such plan file")
    text = read_text(path, MAX_BYTES)
    try:
        content = json.loads(text, object_pairs_hook=_once, parse_constant=_refuse_constant)
    except json.JSONDecodeError as problem:
        raise DataFormatError(f"{path}:{problem.lineno}: not JSON ({problem.msg})") from problem
    except (ValueError, RecursionError) as problem:  # a number of thousands of digits, thousands of brackets
        raise DataFormatError(f"{path}: not JSON that can be read ({problem})") from problem
    found = content.get("format") if isinstance(content, dict) else None
    if found != FORMAT:
        raise DataFormatError(f"{path}: field 'format' is {shown(found)}, expected {FORMAT!r}; this is not a plan file")
    try:
        record = PlanFile.model_validate_json(text)
    except DataFormatError as problem:
        raise DataFormatError(f"{path}: {problem}") from problem
    if record.sha256 is not None and record.sha256 != _checksum(content):
        raise DataFormatError(
            f"{path}: was changed or damaged after it was saved (its sha256 does not fit); save it again, or remove "
            "the field 'sha256' from a plan that you changed on purpose"
        )
    if record.sha256 is None:
        record.provenance = {**record.provenance, "checksum": "none in the file, so that a change of it would not show"}
    return from_record(record)


def from_record(record: PlanFile) -> Prescription:
    """The plan that a file holds."""
    return Prescription(
        alpha=np.asarray(record.alpha),
        beta=record.beta,
        ci=None if record.ci is None else np.asarray(record.ci),
        stability=record.stability,
        agreement=record.agreement,
        warnings=tuple(record.warnings),
        provenance=record.provenance,
        scale=record.scale,
    )


def _once(items: list[tuple[str, Any]]) -> dict[str, Any]:
    names = [name for name, _ in items]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"field {shown(twice)} is given twice")
    return dict(items)


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number")
