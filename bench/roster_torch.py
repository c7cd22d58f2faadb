"""Who takes part on the torch side, in the order they run."""

from .contenders_torch import AddmmActivation, Compiled, Contender, Eager, EagerGraph, Ours, Packed
from .peers_torch import FlashAttention, Liger, Quack, TransformerEngine, Xformers

MAX_AUTOTUNE = {"max_autotune": True, "max_autotune_gemm_backends": "ATEN,TRITON"}

CONTENDERS: list[Contender] = [
    Eager(),
    EagerGraph(),
    Ours(),
    Compiled(name="torch.compile", options={}, heavy=False),
    AddmmActivation(),
    Packed(),
    Liger(),
    Compiled(name="torch.compile_max_autotune", options=MAX_AUTOTUNE, heavy=True),
    Compiled(
        name="torch.compile_coordinate_descent",
        options={**MAX_AUTOTUNE, "coordinate_descent_tuning": True},
        heavy=True,
    ),
    Quack(),
    Xformers(),
    FlashAttention(),
    TransformerEngine(),
]
