"""Optimisers that stand for packages which are not installed."""

from __future__ import annotations

import torch


class AdamWScheduleFree(torch.optim.Optimizer):
    """The scheme of schedulefree.SGDScheduleFree: steps are taken by z, and the weights follow it."""

    def __init__(self, parameters, lr=0.1):
        super().__init__(parameters, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    z = self.state[p].setdefault("z", p.clone())
                    p.lerp_(z, 0.5).sub_(p.grad, alpha=group["lr"] / 2)
                    z.sub_(p.grad, alpha=group["lr"])
