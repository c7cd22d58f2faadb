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
# (rows, columns of all weights) -> the rate of the tensor cores in it, of the best tile's: smaller tiles bring more
# bytes from L2 for each product, which at 128x128 is already what limits them (0.78 on an H100).
_RATES = {(128, 256): 1.0, (128, 128): 0.78, (128, 64): 0.5}


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
def hopper_tiles_for(device: Device, rows: int, outer: int, *, weights: int = 1, turns: bool = False) -> Tiles:
    """The tiles that let the least time pass: rounds of all processors, times what a tile of that size takes. In
    ``turns``: only those of one warpgroup each, which hide an epilogue as long as the sums themselves."""

    def time(tiles: Tiles) -> float:
        count = -(rows // -tiles.m) * -(outer // -tiles.n)
        columns = weights * tiles.n
        return -(count // -device.sm_count) * tiles.m * columns / _RATES[tiles.m, columns]

    known = (Tiles(m=m, n=columns // weights, k=DEPTH) for m, columns in _RATES if columns // weights >= PART[1])
    return min((t for t in known if not (turns and shared(t, weights))), key=time)
