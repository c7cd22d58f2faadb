"""What is to be computed (Problem) and where (Device), in plain numbers: no framework is asked anything."""

from dataclasses import dataclass
from typing import Literal

from .activations import check_activation
from .dtypes import DTYPES, check_precision


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One fused MLP, ``y = act(x W_up + b_up) W_down + b_down``, or, when ``gated``,
    ``y = (act(x W_gate + b_gate) * (x W_up + b_up)) W_down + b_down``.

    ``x`` is ``[m, in_features]``, the hidden layer ``[m, hidden_features]``, ``y`` is ``[m, out_features]``.
    ``precision`` speaks of float32 inputs only: "ieee", or "tf32" (inputs of each GEMM rounded to 10 fraction bits).
    ``packed``: every operand is row-major, without gaps, and starts at a multiple of 16 bytes.

    Raises ValueError for sizes below 1 (``m`` below 0), unknown names, or a gate bias without a gate.
    """

    m: int
    in_features: int
    hidden_features: int
    out_features: int
    activation: str = "gelu_tanh"
    gated: bool = False
    bias_up: bool = False
    bias_gate: bool = False
    bias_down: bool = False
    dtype: str = "float32"
    precision: str = "ieee"
    packed: bool = True

    def __post_init__(self) -> None:
        check_activation(self.activation)
        if self.dtype not in DTYPES:
            raise ValueError(
                f"dtype is {self.dtype}, the kernels take {', '.join(DTYPES)}; cast x and the weights to one of these"
            )
        check_precision(self.precision)
        if self.precision == "tf32" and self.dtype != "float32":
            raise ValueError(f'precision="tf32" is for float32 inputs, these are {self.dtype}; drop the argument')
        if self.m < 0:
            raise ValueError(f"m is {self.m}, must be 0 or more")
        for name in ("in_features", "hidden_features", "out_features"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be 1 or more")
        if self.bias_gate and not self.gated:
            raise ValueError("bias_gate is set on a plain MLP; it belongs to a gated one")

    @property
    def flops(self) -> int:
        """Multiplications and additions of the GEMMs, two per product."""
        ups = 2 if self.gated else 1
        return 2 * self.m * self.hidden_features * (ups * self.in_features + self.out_features)

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights and biases, each read once."""
        ups = 2 if self.gated else 1
        elements = self.hidden_features * (ups * self.in_features + self.out_features)
        elements += self.hidden_features * (self.bias_up + self.bias_gate) + self.out_features * self.bias_down
        return elements * DTYPES[self.dtype].bytes

    @property
    def io_bytes(self) -> int:
        """Bytes of x read once and y written once."""
        return self.m * (self.in_features + self.out_features) * DTYPES[self.dtype].bytes

    @property
    def hidden_bytes(self) -> int:
        """Bytes of the hidden layer, once."""
        return self.m * self.hidden_features * DTYPES[self.dtype].bytes


# Whose GEMMs a framework takes.
LIBRARIES: dict[str, Literal["torch", "xla"]] = {"torch": "torch", "jax": "xla"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """Where the kernels run. ``kind`` "interpreter" is a CPU with the framework's kernel interpreter switched on,
    "cpu" one without. ``smem_bytes`` is the shared memory one program may use; ``capability`` the CUDA one; ``library``
    whose GEMMs a library plan runs here; ``vendor`` the build that a recorded order must be of (vendor.py), such as
    "torch 2.11.0+cu130"; empty where any will do.
    """

    kind: Literal["gpu", "interpreter", "cpu"]
    name: str = "cpu"
    sm_count: int = 1
    smem_bytes: int = 0
    capability: tuple[int, int] = (0, 0)
    library: Literal["torch", "xla"] = "torch"
    vendor: str = ""


def smem_of(capability: tuple[int, int]) -> int:
    """Shared memory one program may use on a GPU of this compute capability, for frameworks that do not tell.

    The smallest of the generation where its members differ (CUDA C++ Programming Guide, compute capabilities).
    """
    kib = {(8, 0): 163, (8, 7): 163, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
    return 1024 * kib.get(capability, 99)
