"""The fused MLP for JAX and Flax, in Pallas. The twin of torchfused."""

from .functional import explain, fused_mlp
from .module import FusedMLP

__all__ = ["FusedMLP", "explain", "fused_mlp"]
