"""The fused MLP for PyTorch, in Triton. The twin of jaxfused."""

from .functional import explain, fused_mlp
from .module import FusedMLP

__all__ = ["FusedMLP", "explain", "fused_mlp"]
