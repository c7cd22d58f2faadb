"""How a Problem is computed on a Device: choose(problem, device) -> Choice. Pure; testable without a GPU."""

from dataclasses import dataclass, replace
from functools import lru_cache, partial

from .errors import UnsupportedError
from .hopper_table import tiling_for
from .hopper_tiles import forward_of, unfit
from .measured import FASTER
from .plan import (
    DECODE_CHAINS,
    DECODE_ROWS,
    HOPPER_COLUMNS,
    HOPPER_DEPTH,
    HOPPER_ROW,
    LIBRARY,
    Backend,
    Plan,
    Strategy,
    check_plan,
)
from .problem import Device, Problem
from .tiles import decode_tiles_for, padded, stage_bytes, tiles_for
from .vendor import Order, recorded, records, unreplayed

_FLOAT32 = (
    "float32 runs without tensor cores, or needs its inputs rounded to tf32 first, and the vendor's GEMM is faster "
    "there (measured 1.4 to 8.3 times at one row in IEEE float32)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Choice:
    """A complete plan and, in one sentence, why it is the one."""

    plan: Plan
    why: str


def choose(problem: Problem, device: Device, forced: Plan | None = None, *, training: bool = False) -> Choice:
    """The plan that will run: ``forced``, completed with tiles, or the automatic one. ``training``: gradients will be
    asked for, so that forward and backward are weighed together.

    Raises UnsupportedError, naming the limit and the way out, if the forced plan cannot run on ``device``.
    """
    return _choose(problem, device, check_plan(forced), training)


@lru_cache(maxsize=4096)
def _choose(problem: Problem, device: Device, forced: Plan | None, training: bool) -> Choice:
    if forced is not None:
        limit = limitation(problem, device, forced)
        if limit:
            raise UnsupportedError(f"plan {forced.strategy}/{forced.backend} cannot run here: {limit}")
        if training and forced.strategy is Strategy.DECODE and forced.backend is Backend.HOPPER:
            why = "forced by the caller; decode/hopper has no backward, tiled/hopper of the same bits has one"
            return Choice(plan=complete(replace(forced, strategy=Strategy.TILED), problem, device), why=why)
        # (No rows need no record.)
        given = forced.split_k or not problem.m
        of = "" if given else f"; split_k is that of {records()[device.name].vendor} on {device.name}"
        return Choice(plan=complete(forced, problem, device), why=f"forced by the caller{of}")
    limit = limitation(problem, device, Plan())
    if limit and device.kind == "interpreter":
        # An interpreter is asked for to see the kernels run: running something else would hide what was asked.
        raise UnsupportedError(limit)
    if limit:
        return Choice(plan=LIBRARY, why=limit)
    if device.kind != "gpu":
        return Choice(plan=complete(Plan(), problem, device), why="an interpreter is there to see the kernels run")
    return _fastest(problem, device, training)


def _fastest(problem: Problem, device: Device, training: bool) -> Choice:
    """What was measured to be the fastest: our kernels within the regions, the library elsewhere."""
    if problem.dtype == "float32":
        return Choice(plan=LIBRARY, why=_FLOAT32)
    regions, missed = [region for region in FASTER[device.library] if region.training == training], ""
    for region in filter(lambda region: region.holds(problem), regions):
        strategy, backend = region.plan.split("/")
        plan = Plan(strategy=Strategy(strategy), backend=Backend(backend))
        limit = limitation(problem, device, plan)
        if not limit:
            why = f"measured to be faster than the library: {region}{missed}"
            return Choice(plan=complete(plan, problem, device), why=why)
        missed += f"; not {region.plan}: {limit}"
    asked = "gradients are wanted, and training steps" if training else "16-bit problems"
    where = "; ".join(map(str, regions)) or "nowhere yet"
    why = (
        f"{asked} run on the library, except where our kernels were measured to be faster: {where}; this one has "
        f"{problem.m} rows and {problem.weight_bytes / 1e6:.1f} MB of weights{missed}"
    )
    return Choice(plan=LIBRARY, why=why)


def limitation(problem: Problem, device: Device, plan: Plan) -> str | None:
    """Why ``plan`` cannot run ``problem`` on ``device``, with the way out; None if it can. The one such predicate."""
    if plan.strategy is Strategy.LIBRARY:
        return None
    if plan.order is Order.VENDOR:
        if plan.backend is Backend.HOPPER:
            return "the hopper backend rounds in an order of its own, not in the vendor's; use portable"
        reason = unreplayed(problem, device, plan.split_k)
        if reason:
            return reason
        plan = replace(plan, split_k=plan.split_k or recorded(problem, device))
    if plan.strategy is Strategy.DECODE:
        if problem.m > DECODE_ROWS:
            return f"decode serves at most {DECODE_ROWS} rows, these are {problem.m}; use tiled or the library plan"
        tall = padded(problem.m)
        for tiles in (plan.up, plan.down):
            if tiles and tiles.m != tall:
                return (
                    f"decode takes all rows in one tile, {tall} for these {problem.m}, a tile is {tiles}; change its m "
                    "or leave it out"
                )
        if any(chains > DECODE_CHAINS or chains & (chains - 1) for chains in plan.splits):
            return (
                f"decode sums 1, 2, 4 or 8 chains at once, split_k is {plan.split_k}; use one of these, or tiled, "
                "which sums any number"
            )
    if plan.backend is Backend.HOPPER:
        return _not_for_hopper(problem, device, plan)
    if device.kind == "cpu":
        return (
            "the kernels need an NVIDIA GPU or the interpreter, this is a CPU without one; "
            "set TRITON_INTERPRET=1 (torchfused) or JAXFUSED_INTERPRET=1 (jaxfused) before the import, "
            "or use the library plan"
        )
    if device.kind == "interpreter":
        if problem.dtype == "bfloat16":
            return (
                "bfloat16 is silently wrong in Triton's interpreter, so both twins refuse it there; "
                "use float32 or float16, or the library plan"
            )
        return None
    if device.capability < (8, 0):
        major, minor = device.capability
        return f"the kernels need compute capability 8.0, {device.name} has {major}.{minor}; use the library plan"
    up, down = complete(plan, problem, device).gemms()
    for gemm, weights in ((up, 1 + problem.gated), (down, 1)):
        need = stage_bytes(gemm.tiles, problem.dtype, weights)
        need *= gemm.split_k if plan.strategy is Strategy.DECODE else 1
        if need > device.smem_bytes:
            return (
                f"tiles {gemm.tiles} need {need} bytes of shared memory a pipeline stage, {device.name} has "
                f"{device.smem_bytes}; use smaller tiles or leave them out"
            )
    return None


def _not_for_hopper(problem: Problem, device: Device, plan: Plan) -> str | None:
    if device.kind != "gpu" or device.capability != (9, 0):
        major, minor = device.capability
        return f"the hopper backend needs compute capability 9.0, {device.name} has {major}.{minor}; use portable"
    if problem.dtype == "float32":
        return "the hopper backend serves float16 and bfloat16, these are float32; use portable"
    if not problem.packed:
        return (
            "the hopper backend reads packed row-major operands from a multiple of 16 bytes on, one of these is "
            "strided or starts elsewhere; use portable"
        )
    if plan.splits != (1, 1):
        return f"the hopper backend sums one chain, split_k is {plan.split_k}; use portable"
    if plan.strategy is Strategy.TILED:
        return _not_for_hopper_tiles(problem, device, plan)
    sums = problem.in_features, problem.hidden_features
    if any(size % HOPPER_DEPTH for size in sums) or problem.out_features % HOPPER_COLUMNS:
        return (
            f"decode/hopper serves sums of multiples of {HOPPER_DEPTH} terms and multiples of {HOPPER_COLUMNS} out "
            f"features, these are {sums[0]}, {sums[1]} and {problem.out_features}; use portable"
        )
    return None


def _not_for_hopper_tiles(problem: Problem, device: Device, plan: Plan) -> str | None:
    sizes = problem.in_features, problem.hidden_features, problem.out_features
    if any(size % HOPPER_ROW for size in sizes):
        return (
            f"tiled/hopper reads and writes rows of multiples of 16 bytes, {HOPPER_ROW} features, these are "
            f"{sizes[0]}, {sizes[1]} and {sizes[2]}; use portable"
        )
    for tiles, work in zip((plan.up, plan.down), forward_of(problem), strict=True):
        reason = unfit(tiles, work, device) if tiles else None
        if reason:
            return f"{reason}; use one that is, or leave them out"
    return None


def complete(plan: Plan, problem: Problem, device: Device) -> Plan:
    """``plan`` with the tiles and splits it left open."""
    if plan.strategy is Strategy.LIBRARY or (plan.strategy, plan.backend) == (Strategy.DECODE, Backend.HOPPER):
        return plan
    plan = replace(plan, split_k=plan.split_k or recorded(problem, device))
    k, h, n = problem.in_features, problem.hidden_features, problem.out_features
    weights, (up, down) = 1 + problem.gated, plan.splits
    if plan.backend is Backend.HOPPER:
        first, second = (tiling_for(device, work).tiles for work in forward_of(problem))
        return replace(plan, up=plan.up or first, down=plan.down or second)
    if plan.strategy is Strategy.DECODE:
        of = partial(decode_tiles_for, device, problem.dtype, problem.precision, problem.m)
        return replace(
            plan,
            up=plan.up or of(k, h, weights=weights, chains=up),
            down=plan.down or of(h, n, weights=1, chains=down),
        )
    of = partial(tiles_for, device, problem.dtype, problem.precision, problem.m)
    return replace(
        plan,
        up=plan.up or of(k, h, accumulators=min(up, 2) * weights),
        down=plan.down or of(h, n, accumulators=min(down, 2)),
    )
