"""The element types the kernels serve, and what their rounding costs."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class DType:
    """A binary floating-point format: ``bits`` wide, ``fraction`` stored significand bits."""

    name: str
    bits: int
    fraction: int
    min_exponent: int

    @property
    def bytes(self) -> int:
        return self.bits // 8

    @property
    def unit_roundoff(self) -> float:
        """u: the largest relative error of one rounding to nearest, 2^-(fraction + 1)."""
        return 2.0 ** -(self.fraction + 1)

    @property
    def smallest(self) -> float:
        """The spacing of the subnormals: the absolute error floor of one rounding is half of it."""
        return 2.0 ** (self.min_exponent - self.fraction)


DTYPES = {
    d.name: d
    for d in (
        DType(name="float32", bits=32, fraction=23, min_exponent=-126),
        DType(name="float16", bits=16, fraction=10, min_exponent=-14),
        DType(name="bfloat16", bits=16, fraction=7, min_exponent=-126),
    )
}

PRECISIONS = ("ieee", "tf32")


def check_precision(name: str) -> None:
    """Raises ValueError, listing what there is, if ``name`` is not a precision."""
    if name not in PRECISIONS:
        raise ValueError(f"precision is {name!r}, must be one of {', '.join(PRECISIONS)}")
