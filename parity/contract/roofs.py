"""Measured rates of GPUs the project was run on: what a floor in microseconds is counted with."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Roof:
    """``stream``: bytes a second of one launch that only reads. ``matmul``: operations a second of the vendor's
    16-bit GEMM at 8192 x 4096 x 14336, random normal data."""

    stream: float
    matmul: float


ROOFS = {"NVIDIA H200": Roof(stream=4.33e12, matmul=7.4e14)}
