"""What only changes speed, for both twins: warps, pipeline stages, an epilogue's columns, the order of tiles."""

from functools import lru_cache

from .plan import Gemm
from .problem import Device
from .tiles import chain_length, stage_bytes

# Rows of tiles that share their columns' operand in L2.
GROUP_M = 8
# The columns an epilogue works on at a time: more of a large tile's would spill.
COLUMNS = 32
# Shared memory that the compiler takes for itself.
_KEPT = 8192


@lru_cache(maxsize=4096)
def schedule(gemm: Gemm, device: Device, dtype: str, weights: int) -> tuple[int, int]:
    """Warps for the accumulators' registers; pipeline stages as shared memory holds them."""
    tiles = gemm.tiles
    large = tiles.m * tiles.n >= 128 * 64
    fit = (device.smem_bytes - _KEPT) // stage_bytes(tiles, dtype, weights)
    # Two programs a processor hide each other's epilogues: worth more than a fourth stage.
    stages = fit // 2 if large and fit >= 6 else fit
    return 8 if large else 4, max(1, min(4, stages))


@lru_cache(maxsize=4096)
def decode_stages(gemms: tuple[Gemm, Gemm], device: Device, dtype: str, weights: int) -> int:
    """Pipeline stages of a decode plan's loops: one program a processor may have all of its shared memory."""
    need = max(
        stage_bytes(gemm.tiles, dtype, right) * gemm.split_k for gemm, right in zip(gemms, (weights, 1), strict=True)
    )
    return max(1, min(5, (device.smem_bytes - _KEPT) // need))


def programs(blocks: int, device: Device) -> int:
    """Programs that are all on the device at once and share so many ``blocks``: as few as need no more rounds than all
    processors would, so that each has as much to do."""
    rounds = -(blocks // -device.sm_count)
    return -(blocks // -rounds)


def is_even(gemm: Gemm, inner: int, *, abreast: bool = False) -> bool:
    """Whether every step of every chain is a whole tile; ``abreast``: of chains that take as many steps each."""
    whole, length = inner % gemm.tiles.k == 0, chain_length(inner, gemm.split_k)
    if gemm.split_k == 1:
        return whole
    return whole and length % gemm.tiles.k == 0 and (not abreast or inner == gemm.split_k * length)
