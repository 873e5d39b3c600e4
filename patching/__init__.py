"""WHERE and HOW hidden states are replaced: text towers, hook points, the patching engine."""

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe")
