"""The torch side of `parity train`, a process: ``python -m parity.train_torch DEVICE CONFIG FOLDER FAULT``."""

import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from .contract.plan import LIBRARY, Plan
from .train_model import ACTIVATIONS, BLOCKS, MOMENTUM, RMS_EPSILON, Config, batches, parameters
from .train_worker import Trained, serve


def train(device: str, c: Config, fused: bool, rate: float) -> Trained:
    """All steps by one plan."""
    import torch
    import torch.nn.functional as F

    from torchfused import fused_mlp

    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    where = torch.device("cuda" if device == "gpu" else "cpu")
    dtype = getattr(torch, c.dtype)
    inputs, targets = (torch.from_numpy(a).long().to(where) for a in batches(c))
    p = {
        name: torch.from_numpy(a.T.copy() if ".w_" in name else a).to(where).requires_grad_()
        for name, a in parameters(c).items()
    }
    momentum = {name: torch.zeros_like(value) for name, value in p.items()}
    plan = Plan() if fused else LIBRARY

    def block(x: Any, name: str) -> Any:
        normed = x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + RMS_EPSILON)
        operands: dict[str, Any] = {operand: p[f"{name}.{operand}"].to(dtype) for operand in BLOCKS[name]}
        return x + fused_mlp(normed.to(dtype), **operands, activation=ACTIVATIONS[name], plan=plan).float()

    def loss_of(characters: Any, following: Any) -> Any:
        # One-hot: a gather's gradient is a sum in no fixed order.
        x = (F.one_hot(characters, p["embedding"].shape[0]).float() @ p["embedding"]).flatten(1)
        for name in BLOCKS:
            x = block(x, name)
        logits = x @ p["head"]
        chosen = (F.one_hot(following, logits.shape[1]) * logits).sum(dim=1)
        return (torch.logsumexp(logits, dim=1) - chosen).mean()

    def step(i: int) -> Any:
        loss = loss_of(inputs[i], targets[i])
        gradients = torch.autograd.grad(loss, list(p.values()))
        with torch.no_grad():
            for (name, value), gradient in zip(p.items(), gradients, strict=True):
                momentum[name] = MOMENTUM * momentum[name] + gradient
                value.sub_(rate * momentum[name])
        return loss.detach()

    def fetch() -> dict[str, np.ndarray]:
        host = {name: value.detach().cpu().numpy().copy() for name, value in p.items()}
        return {name: np.ascontiguousarray(a.T if ".w_" in name else a) for name, a in host.items()}

    return Trained(step=step, value=lambda loss: float(loss), fetch=fetch)


RUNNERS: dict[str, Callable[..., Trained]] = {
    "torchfused": lambda device, c, rate: train(device, c, True, rate),
    "eager": lambda device, c, rate: train(device, c, False, rate),
}

if __name__ == "__main__":
    serve(RUNNERS, sys.argv[1:])
