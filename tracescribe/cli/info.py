"""`info`: what a model's text tower is."""

from __future__ import annotations

from .common import Device, Json, ModelName, Pretrained, RemoteCode, announce, load_model, show, table, working


def info(
    model: ModelName,
    pretrained: Pretrained = None,
    trust_remote_code: RemoteCode = False,
    device: Device = "cpu",
    json: Json = False,
) -> None:
    """Say what a model's text tower is, after checking that it computes what its source computes.

    Example:  tracescribe info phantom
    """
    announce(json)
    with working(json, f"loading {model}"):
        encoder = load_model(model, pretrained, device, trust_remote_code)
        tower = encoder.text
        shape = {
            "model": encoder.name,
            "source": type(encoder.source).__name__,
            "layers": tower.n_layers,
            "heads": tower.n_heads,
            "width": tower.d_model,
            "embedding": encoder.embed_dim,
            "context_length": tower.context_length,
            "causal": tower.causal,
            "pooling": tower.pooling,
            "readout_layers": list(tower.readout_layers),
            "padding": tower.spec.padding,
            "sites": "residual stream" if tower.opaque else "all",
            "path": "resume" if tower.resumable else "generic",
            "text_parameters": sum(parameter.numel() for parameter in tower.parameters()),
            "logit_scale": encoder.stated_logit_scale,
        }
    read = ", ".join(map(str, tower.readout_layers))
    shown = {
        **shape,
        "readout_layers": read,
        "text_parameters": f"{shape['text_parameters']:,}",
        "logit_scale": "none" if shape["logit_scale"] is None else f"{shape['logit_scale']:.2f}",
    }
    show(
        json,
        shape,
        table(["", ""], [[key.replace("_", " "), str(entry)] for key, entry in shown.items()], left=2, header=False),
    )
