"""What explain() answers: the plan, why, and what it costs against the least any plan could cost."""

from dataclasses import dataclass

from .choice import choose
from .plan import Plan, Strategy
from .problem import Device, Problem
from .roofs import ROOFS


@dataclass(frozen=True, kw_only=True, slots=True)
class Explanation:
    """``launches``: kernel launches of one forward pass, None where the framework decides. ``bytes_moved``: what the
    plan reads and writes in device memory, each operand once a GEMM. ``floor_bytes``: x, weights and biases read once
    and y written once. ``floor_us``: the larger of floor_bytes over the device's measured read stream and the
    operations over its measured 16-bit GEMM rate; None on a device that was never measured, or for float32.
    """

    problem: Problem
    device: Device
    plan: Plan
    why: str
    launches: int | None
    bytes_moved: int
    floor_bytes: int
    floor_us: float | None

    def __str__(self) -> str:
        p = self.problem
        shape = f"[{p.m}, {p.in_features}] -> {p.hidden_features} -> {p.out_features}"
        kind = f"{'gated ' if p.gated else ''}{p.activation}, {p.dtype}"
        if p.dtype == "float32":
            kind += f" ({p.precision})"
        launches = "as many as the framework takes" if self.launches is None else str(self.launches)
        floor = f"{self.floor_bytes:,} bytes, {p.flops:,} operations"
        if self.floor_us is not None:
            floor += f": {self.floor_us:.1f} us at this device's measured rates"
        return (
            f"fused MLP {shape}, {kind}, on {self.device.name}\n"
            f"  plan      {self.plan}\n"
            f"  why       {self.why}\n"
            f"  launches  {launches}\n"
            f"  moves     {self.bytes_moved:,} bytes\n"
            f"  floor     {floor}"
        )


def explain(
    problem: Problem, device: Device, forced: Plan | None = None, why: str | None = None, *, training: bool = False
) -> Explanation:
    """The Explanation of what ``choose`` decides; ``why`` replaces its reason. Raises what ``choose`` raises."""
    choice = choose(problem, device, forced, training=training)
    moved = problem.io_bytes + problem.weight_bytes + 2 * problem.hidden_bytes
    if choice.plan.strategy is Strategy.LIBRARY:
        # Unfused: each pre-activation is written by its GEMM and read by the activation.
        moved += 2 * (1 + problem.gated) * problem.hidden_bytes
    floor_bytes = problem.io_bytes + problem.weight_bytes
    launches = choice.plan.launches
    if problem.m == 0:
        launches = moved = floor_bytes = 0
    roof = ROOFS.get(device.name)
    floor_us = None
    if roof and problem.dtype != "float32":
        floor_us = 1e6 * max(floor_bytes / roof.stream, problem.flops / roof.matmul)
    return Explanation(
        problem=problem,
        device=device,
        plan=choice.plan,
        why=why or choice.why,
        launches=launches,
        bytes_moved=moved,
        floor_bytes=floor_bytes,
        floor_us=floor_us,
    )
