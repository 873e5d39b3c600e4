"""How results look: heatmaps, layer profiles, paper figures, the report page."""

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe")
