"""What training does with a trace: prescribe, layer-wise scaling, LoRA, losses, the training loop."""

if not __name__.startswith("tracescribe."):
    raise ImportError(f"import tracescribe.{__name__}, not {__name__}: this folder is a part of the package tracescribe")
