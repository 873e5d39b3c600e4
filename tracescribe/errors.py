"""All error and warning classes of tracescribe; docs/errors.md says when each is raised and what to do."""

from __future__ import annotations

LONGEST_MESSAGE = 1000  # characters


class TracescribeError(Exception):
    """Base of all errors below; the command line prints its message and exits with code 2.

    A message has at most 1,000 characters, however long what it quotes is.

    >>> len(str(DataFormatError("x" * 5000)))
    1000
    """

    def __str__(self) -> str:
        said = super().__str__()
        if len(said) <= LONGEST_MESSAGE:
            return said
        return f"{said[: LONGEST_MESSAGE - 300]} ... {said[-295:]}"


class LengthMismatchError(TracescribeError, ValueError):
    """The two captions of a pair have different numbers of tokens."""


class ContextOverflowError(TracescribeError, ValueError):
    """A text has more tokens than the model's context; it is never truncated silently."""


class IdenticalPairError(TracescribeError, ValueError):
    """The two captions of a pair are the same sequence of tokens."""


class UnknownModelError(TracescribeError, ValueError):
    """A model name that is neither an alias nor ``open_clip:...`` nor ``hf:...``, or that cannot be loaded."""


class TowerMismatchError(TracescribeError, RuntimeError):
    """The text tower does not compute what its source model computes."""


class StaleTowerError(TracescribeError, RuntimeError):
    """A tower was built from a source model that has changed since, so that it would give the old model's numbers."""


class UnsupportedTowerError(TracescribeError, TypeError):
    """No adapter understands this model's text encoder."""


class SiteError(TracescribeError, ValueError):
    """A site, head, position or window that this tower does not have or that cannot be patched."""


class PatchDidNotFireError(TracescribeError, RuntimeError):
    """A hook point did not hold the patched state after a trace."""


class TorchStateError(TracescribeError, RuntimeError):
    """A process-wide state of torch that would change results and cannot be suspended."""


class NonFiniteError(TracescribeError, ValueError):
    """Weights, embeddings or scores hold NaN or infinity."""


class DegenerateTraceError(TracescribeError, ValueError):
    """No pair has |S_corr - S_foil| above the floor, so that its CTE is not defined."""


class DataFormatError(TracescribeError, ValueError):
    """A file or record is not what its format says: names the file, line and field, and what was expected."""


class StaleCacheError(TracescribeError, RuntimeError):
    """A cached result was made from other weights, pairs or settings."""


class PrescriptionError(TracescribeError, ValueError):
    """Layer weights cannot be derived from, or applied to, what was given."""


class RewriterError(TracescribeError, RuntimeError):
    """An endpoint that rewords statements refuses, or does not answer any more."""


class OutputError(TracescribeError, OSError):
    """A result cannot be written where it was asked for; nothing was written."""


class TraceError(TracescribeError, ValueError):
    """An option, shape or combination of traces that the tracer cannot use."""


class OptionError(TracescribeError, ValueError):
    """An option of a command or of the environment that means nothing here."""


class ArgumentError(TracescribeError, TypeError):
    """An argument of another type than the function declares."""


class FigureError(TracescribeError, ValueError):
    """Something that no figure can be made of, or an option that no figure has."""


class TraceInterrupted(KeyboardInterrupt):
    """Ctrl-C while tracing: says how much was finished, and how to go on. No error, and not caught as one."""


class TraceWarning(UserWarning):
    """A result was computed, but not quite as one would expect."""


class PrescriptionWarning(UserWarning):
    """Training runs, but not as the plan says."""
