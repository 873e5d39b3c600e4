"""WHAT is measured: caption pairs, causal traces, their statistics, saved results."""

if not __name__.startswith("tracescribe."):
    raise ImportError(
        f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe"
    )
