"""What both frameworks' workers enumerate: our own plans, and the sets of XLA flags. No framework is imported."""

from typing import Any

from parity.contract.plan import Backend, Plan, Strategy
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


def our_plans(mode: str) -> list[tuple[str, Any]]:
    """(label, the arguments of fused_mlp that ask for it): "auto", and one forced plan for each strategy and backend
    there is; for a training step also each way to save."""
    plans: list[tuple[str, Any]] = [("auto", {})]
    for strategy in Strategy:
        if strategy is Strategy.LIBRARY:
            plans.append(("library", {"plan": Plan(strategy=strategy)}))
            continue
        for backend in Backend:
            forced = {"plan": Plan(strategy=strategy, backend=backend)}
            plans.append((f"{strategy}/{backend}", forced))
            if mode != "forward":
                plans += [(f"{strategy}/{backend}, {save}", forced | {"save": save}) for save in SAVES[1:]]
    return plans
