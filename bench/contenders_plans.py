"""What both frameworks' workers enumerate: our own plans, and the sets of XLA flags. No framework is imported."""

from typing import Any

from parity.contract.plan import DECODE_ROWS, LIBRARY, SERVED, Plan, Strategy
from parity.contract.saved import SAVES

# Process-wide XLA flags: suffix of the contender's name -> XLA_FLAGS. Command buffers are XLA's CUDA graphs; on by
# default for sequences of five kernels or more.
VARIANTS = {
    "": "",
    "cublaslt": "--xla_gpu_enable_cublaslt=true",
    "no_command_buffers": "--xla_gpu_enable_command_buffer=",
    "all_command_buffers": "--xla_gpu_graph_min_graph_size=1",
}
# Measured on heavy cases only: little differs, and a case takes the longer for it.
HEAVY_VARIANTS = ("no_command_buffers", "all_command_buffers")


def our_plans(mode: str, m: int) -> list[tuple[str, Any]]:
    """(label, the arguments of fused_mlp that ask for it): "auto", "library", and each plan there are kernels for that
    serves so many rows; for a training step, which decode plans leave to tiled ones, also each way to save."""
    plans: list[tuple[str, Any]] = [("auto", {}), ("library", {"plan": LIBRARY})]
    for strategy, backend in SERVED:
        if strategy is Strategy.DECODE and (m > DECODE_ROWS or mode != "forward"):
            continue
        forced = {"plan": Plan(strategy=strategy, backend=backend)}
        plans.append((f"{strategy}/{backend}", forced))
        if mode != "forward":
            plans += [(f"{strategy}/{backend}, {save}", forced | {"save": save}) for save in SAVES[1:]]
    return plans
