"""How a GEMM is cut: Tiles, what they cost, the ones that suit a product on a device, and how long a chain is."""

from dataclasses import dataclass

from .dtypes import DTYPES
from .problem import Device

# A chain starts at a multiple of this, whatever the tiles are: they change no bit of a product. The vendor's GEMM
# splits its sums at the same places.
CHAIN_STEP = 64
# The least depth of a tile that is worth having for the masks it saves.
LEAST_DEPTH = 32
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


def chain_length(inner: int, chains: int) -> int:
    """The terms of each of so many ``chains`` over ``inner`` of them; the last may be shorter, or empty."""
    return -(-(inner // -CHAIN_STEP) // -chains) * CHAIN_STEP


def tiles_for(
    device: Device,
    dtype: str,
    precision: str,
    rows: int,
    inner: int,
    outer: int,
    *,
    accumulators: int = 1,
) -> Tiles:
    """Tiles of a product ``[rows, inner] @ [inner, outer]`` that needs so many ``accumulators``: one for each right
    operand, twice as many for several chains.

    Few rows: narrow and deep tiles, so that many programs read the weights with many bytes in flight. Many rows: wide
    ones, so that each byte read is used often, but not so wide that processors stay without a tile. Always small
    enough that no accumulator spills.
    """
    m = min(padded(rows), 128)
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
    k = min(padded(inner), k)
    return Tiles(m=m, n=min(padded(outer), n), k=min(k, even) if even >= LEAST_DEPTH else k)


def decode_tiles_for(
    device: Device,
    dtype: str,
    precision: str,
    rows: int,
    inner: int,
    outer: int,
    *,
    weights: int,
    chains: int,
) -> Tiles:
    """Tiles of a product that one program a processor computes for all of its ``rows``, with so many ``weights`` read
    side by side and so many ``chains`` summed at once, ``k`` terms of each a step.

    Reading the weights is all that takes time: columns enough that few rows of x are read again for them, but no fewer
    programs than there are processors; and a step's depth, over all chains, such that several fit shared memory.
    """
    m = padded(rows)
    n = 32 if -(outer // -32) >= BUSY * device.sm_count else 16
    if dtype == "float32" and precision == "ieee":
        # No tensor cores: a chain's operands and accumulators are held in registers.
        depth = 64
    else:
        depth = (256 if m <= 16 else 128) // (DTYPES[dtype].bytes // 2)
    length = chain_length(inner, chains)
    k = max(16, min(depth // chains, length & -length))
    return Tiles(m=m, n=min(padded(outer), n), k=min(padded(inner), k))


def padded(size: int) -> int:
    """The tile size that holds so many: the next power of two, 16 at least."""
    return max(16, 1 << (size - 1).bit_length())
