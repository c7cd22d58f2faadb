"""The torch side of `parity tokens`, a process: ``python -m parity.tokens_torch DEVICE CONFIGS FOLDER FAULT``."""

import sys
from typing import Any

import numpy as np

from .cases import TILED
from .tokens_model import ATTENTION, MLP, RMS_EPSILON, Config, parameters
from .tokens_worker import Step, serve


def model(device: str, c: Config, fused: bool, wrong: bool) -> Step:
    """The model with its MLPs fused or not; ``wrong``: with another activation."""
    import torch

    from torchfused import fused_mlp, reference

    torch.use_deterministic_algorithms(True)
    torch.backends.cuda.matmul.allow_tf32 = False
    where = torch.device("cuda" if device == "gpu" else "cpu")
    p = {}
    for name, a in parameters(c).items():
        host = torch.from_numpy(a.astype(np.float32)).to(where)
        p[name] = host.t().contiguous().to(getattr(torch, c.dtype)) if name.split(".")[-1] in MLP else host
    shape = (c.depth, c.batch, c.heads, c.length, c.width // c.heads)
    keys, values = torch.zeros(shape, device=where), torch.zeros(shape, device=where)
    activation = "relu" if wrong else "silu"

    def normed(x: Any) -> Any:
        return x / torch.sqrt((x * x).mean(dim=1, keepdim=True) + RMS_EPSILON)

    def mlp(x: Any, layer: int) -> Any:
        operands: dict[str, Any] = {name: p[f"{layer}.{name}"] for name in MLP}
        x = x.to(operands["w_up"].dtype)
        if fused:
            return fused_mlp(x, **operands, activation=activation, plan=TILED).float()
        return reference.mlp(x, **operands, activation=activation).float()

    def attention(x: Any, layer: int, position: int) -> Any:
        q, k, v, out = (p[f"{layer}.{name}"] for name in ATTENTION)
        heads = (c.batch, c.heads, c.width // c.heads)
        keys[layer, :, :, position] = (x @ k).view(heads)
        values[layer, :, :, position] = (x @ v).view(heads)
        scores = (keys[layer] * (x @ q).view(heads)[:, :, None]).sum(dim=3) / heads[2] ** 0.5
        scores = scores.masked_fill(torch.arange(c.length, device=where) > position, -torch.inf)
        weights = torch.exp(scores - scores.amax(dim=2, keepdim=True))
        weights = weights / weights.sum(dim=2, keepdim=True)
        return (weights[..., None] * values[layer]).sum(dim=2).reshape(c.batch, c.width) @ out

    @torch.no_grad()
    def step(characters: np.ndarray, position: int) -> np.ndarray:
        x = p["embedding"][torch.from_numpy(characters.astype(np.int64)).to(where)] + p["position"][position]
        for layer in range(c.depth):
            x = x + attention(normed(x), layer, position)
            x = x + mlp(normed(x), layer)
        return (normed(x) @ p["head"]).cpu().numpy()

    return step


RUNNERS = {
    "torchfused": lambda device, c, wrong: model(device, c, True, wrong),
    "eager": lambda device, c, wrong: model(device, c, False, wrong),
}

if __name__ == "__main__":
    serve(RUNNERS, sys.argv[1:])
