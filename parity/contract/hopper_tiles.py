"""Tiles of strategy ``tiled`` on Hopper: which there are, what they need, and the ones that suit a product."""

from functools import lru_cache

from .problem import Device
from .tiles import Tiles

# A step along K: 128 bytes, what one swizzle spans.
DEPTH = 64
# The rows and columns of a tile that a warpgroup finishes at a time: what one wgmma has rows, and 128 bytes of each.
PART = 64, 64
# Rows of tiles that share their columns' operand in L2: so many that a round of all processors reads few columns.
GROUP_M = 16
# The steps by which the first warpgroup is ahead of the second, so that one multiplies while the other finishes a tile.
LAG = 2
# Float32 sums that one warpgroup holds in registers, with room for an epilogue.
_SUMS = 128 * 128
# Shared memory for barriers and what the compiler keeps.
_KEPT = 2048
# The most bytes an element that are staged: of y, s and u in float32; of s, u, h and both their gradients.
_STAGED = 10
# The fewest slots of a ring: with less, the tensor cores wait; and the most: more are of no use.
_FEWEST, _MOST = 3, 6
# (rows, columns of all weights) -> the rate of the tensor cores in it, of the best tile's.
_RATES = {(128, 256): 1.0, (128, 128): 0.85, (128, 64): 0.55}


def shared(tiles: Tiles, weights: int) -> bool:
    """Whether both warpgroups compute a tile, each half of its rows; else each computes its own."""
    return tiles.m * tiles.n * weights > _SUMS


def slots(tiles: Tiles, weights: int, staged: int, device: Device) -> int:
    """Slots of the ring of operands beside the staging of a part of the columns, so many bytes an element of it."""
    slot = (tiles.m + weights * tiles.n) * tiles.k * 2
    return min(_MOST, (device.smem_bytes - _KEPT - 2 * PART[0] * PART[1] * staged) // slot)


def unfit(tiles: Tiles, weights: int, device: Device) -> str | None:
    """Why these tiles cannot be, None if they can: the one such predicate."""
    known = [(m, columns // weights) for m, columns in _RATES if columns // weights >= PART[1]]
    if tiles.k != DEPTH or (tiles.m, tiles.n) not in known:
        return f"tiles {tiles} are none of {', '.join(f'{m}x{n}x{DEPTH}' for m, n in known)}"
    found = slots(tiles, weights, _STAGED, device)
    if found < _FEWEST:
        return f"tiles {tiles} leave room for {found} slots of a ring in {device.smem_bytes} bytes, not {_FEWEST}"
    return None


@lru_cache(maxsize=4096)
def hopper_tiles_for(device: Device, rows: int, outer: int, *, weights: int = 1) -> Tiles:
    """The tiles that let the least time pass: rounds of all processors, times what a tile of that size takes."""

    def time(shape: tuple[int, int]) -> float:
        m, columns = shape
        tiles = -(rows // -m) * -(outer * weights // -columns)
        return -(tiles // -device.sm_count) * m * columns / _RATES[shape]

    m, columns = min((s for s in _RATES if s[1] // weights >= PART[1]), key=time)
    return Tiles(m=m, n=columns // weights, k=DEPTH)
