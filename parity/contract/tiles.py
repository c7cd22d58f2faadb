"""How a GEMM is cut: Tiles, what they cost, and the ones that suit a product on a device."""

from dataclasses import dataclass

from .dtypes import DTYPES
from .problem import Device

# The tiles' depth along K where a plan has several chains and leaves its tiles open: the same for any number of rows.
CHAIN_TILE = 32
# The deepest tile: bytes in flight, where few rows leave shared memory free.
DEEPEST = 256
# The share of processors that must have a tile: at 0.97 of them, wide tiles were still the faster ones.
BUSY = 0.75


@dataclass(frozen=True, kw_only=True, slots=True)
class Tiles:
    """One program's share of a GEMM: an ``[m, n]`` tile of the result, summed over K in steps of ``k``.

    Raises ValueError unless each is a power of two and at least 16 (the matrix unit's smallest step).
    """

    m: int
    n: int
    k: int

    def __post_init__(self) -> None:
        for name in ("m", "n", "k"):
            size = getattr(self, name)
            if not isinstance(size, int) or size < 16 or size & (size - 1):
                raise ValueError(f"tile {name} is {size}, must be a power of two and at least 16")

    def __str__(self) -> str:
        return f"{self.m}x{self.n}x{self.k}"


def stage_bytes(tiles: Tiles, dtype: str, weights: int) -> int:
    """Shared memory of one pipeline stage: a tile of x and one of each of the weights."""
    return (tiles.m + weights * tiles.n) * tiles.k * DTYPES[dtype].bytes


def tiles_for(
    device: Device,
    dtype: str,
    precision: str,
    rows: int,
    inner: int,
    outer: int,
    *,
    accumulators: int = 1,
    deepest: int = DEEPEST,
) -> Tiles:
    """Tiles of a product ``[rows, inner] @ [inner, outer]`` that needs so many ``accumulators``: one for each right
    operand, twice as many for several chains. Nothing here changes a bit of a product that is summed in one chain.

    Few rows: narrow and deep tiles, so that many programs read the weights with many bytes in flight. Many rows: wide
    ones, so that each byte read is used often, but not so wide that processors stay without a tile. Always small
    enough that no accumulator spills.
    """
    m = min(_power_of_two(rows), 128)
    tf32 = precision == "tf32"
    if dtype == "float32" and not tf32:
        # No tensor cores: operands and accumulators share the registers.
        m, n, k = min(m, 64), 32 if accumulators > 1 else 64, 16
    elif m <= 16:
        n, k = 32, 128 if tf32 else 256
    elif m <= 64:
        n, k = 32 if tf32 else 64, 64 if tf32 else 128
    elif tf32:
        n, k = 64, 32
    elif device.capability != (9, 0):
        n, k = max(32, 128 // accumulators), 64
    else:
        n, k = 256 // accumulators, 64
        while n > 64 and -(rows // -m) * -(outer // -n) < BUSY * device.sm_count:
            n //= 2
    # A masked load is not pipelined: a tile that divides K, where one of fair depth does, needs no mask.
    even = inner & -inner
    k = min(_power_of_two(inner), k, deepest)
    return Tiles(m=m, n=min(_power_of_two(outer), n), k=min(k, even) if even >= CHAIN_TILE else k)


def _power_of_two(size: int) -> int:
    return max(16, 1 << (size - 1).bit_length())
