"""The torch worker: prepares a case's contenders, checks them, times them. Started by the controller."""

import argparse
import importlib.metadata
import math
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import correctness, roofs_torch, share_torch, steps_torch, stimulus, timer_torch
from .contenders_torch import Contender, Layer
from .gpu import Watch, find
from .protocol import describe, is_sticky, serve
from .roster_torch import CONTENDERS
from .workloads import Case, workload

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


class TorchWorker:
    """protocol.Handler over torch."""

    def __init__(self, device: str) -> None:
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch sees no GPU")
        self._device = torch.device(device)
        self._gpu = find() if device == "cuda" else None
        self._programs: list[timer_torch.Program] = []
        self._absent = {c.name: c.absent() for c in CONTENDERS}
        torch.backends.cuda.matmul.allow_tf32 = False
        if device == "cuda":
            torch.cuda.set_device(0)

    def hello(self) -> dict:
        props = torch.cuda.get_device_properties(0) if self._device.type == "cuda" else None
        versions = {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
        }
        try:
            versions["triton"] = importlib.metadata.version("triton")
        except importlib.metadata.PackageNotFoundError:
            versions["triton"] = None
        return {
            "framework": "torch",
            "versions": versions,
            "l2_bytes": getattr(props, "L2_cache_size", 0) or 1024,  # a CPU: chains as short as can be
            "sm_count": getattr(props, "multi_processor_count", 0),
            "contenders": [{"name": c.name, "heavy": c.heavy, "absent": self._absent[c.name]} for c in CONTENDERS],
        }

    def warm(self) -> dict:
        return {"seconds": timer_torch.settle(self._device, self._gpu)}

    def prepare(
        self,
        *,
        case: dict,
        contenders: list[str],
        skip: list[str],
        reference: str,
        emit: Callable[[str], None],
    ) -> dict:
        """Draws the data, computes the reference, builds and checks every contender. ``skip``: keys that broke a
        worker before."""
        self.release()
        c = Case(**case)
        torch._dynamo.reset()
        emit("data")
        l2 = self.hello()["l2_bytes"]
        layers = [self.draw(c, i) for i in range(c.layers(l2))]
        want = self._reference(c, layers[0], Path(reference))
        ready, problems = [], []
        for contender in CONTENDERS:
            if contender.name not in contenders or self._absent[contender.name] or (contender.heavy and not c.heavy):
                continue
            refusal = contender.refuses(c)
            if refusal:
                problems.append({"contender": contender.name, "plan": "", "reason": refusal, "kind": "refused"})
                continue
            for label, plan in contender.variants(c):
                key = f"{contender.name}|{label}"
                if key in skip:
                    continue
                emit(key)
                try:
                    entry, problem = self._build(c, contender, label, plan, layers, want)
                except NotImplementedError as error:
                    problem = {"reason": describe(error), "kind": "refused"}
                    entry = None
                except Exception as error:
                    if is_sticky(error):
                        raise
                    problem, entry = {"reason": describe(error), "kind": "failed"}, None
                if entry:
                    ready.append(entry)
                if problem:
                    problems.append({"contender": contender.name, "plan": label, **problem})
        emit("roofs")
        roofs = self._roofs(c, layers)
        return {"ready": ready, "problems": problems, "roofs": roofs, "layers": len(layers)}

    def block(self, *, seed: int) -> dict:
        with Watch(self._gpu) as watch:
            samples = timer_torch.block(self._programs, seed)
        return {"samples": samples, "clock": watch.summary()}

    def trace(self, *, emit: Callable[[str], None]) -> dict:
        if self._device.type != "cuda":
            return {}
        emit("trace")
        return timer_torch.trace(self._programs)

    def power(self, *, seconds: float) -> dict:
        found = {}
        for p in self._programs:
            if p.wanted and p.seconds:
                count = max(1, math.ceil(seconds / p.seconds))
                with Watch(self._gpu, interval=0.02) as watch:
                    # A queue of bounded depth: an interrupt must not wait for all of it.
                    for i in range(count):
                        p.run()
                        if i % 100 == 99 and self._device.type == "cuda":
                            torch.cuda.synchronize()
                    if self._device.type == "cuda":
                        torch.cuda.synchronize()
                if watch.power_w is not None:
                    joules = watch.power_w * watch.seconds / (count * p.layers)
                    found[p.key] = {"power_w": round(watch.power_w, 1), "joules": joules}
        return found

    def release(self) -> dict:
        self._programs = []
        if self._device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.empty_cache()
        return {}

    def share(self) -> dict:
        self.release()
        return {"shares": share_torch.measure(self._device)}

    def draw(self, case: Case, layer: int) -> Layer:
        """One layer's tensors. In a chain only the first has x and g."""
        tensors: Layer = {}
        for name, draw in stimulus.draws(workload(case.workload), case.m, layer).items():
            if name in ("x", "g") and layer and not case.fresh_inputs:
                continue
            index = torch.arange(math.prod(draw.shape), dtype=torch.int32, device=self._device).view(draw.shape)
            value = stimulus.byte_sum(index, stimulus.salts(draw)).float() * stimulus.scale_of(draw)
            tensors[name] = value.to(DTYPES[case.dtype])
            if case.mode != "forward" and name != "g":
                tensors[name].requires_grad_()
        return tensors

    def _reference(self, case: Case, layer: Layer, path: Path) -> dict[str, np.ndarray]:
        if not path.exists():
            exact = {k: v.detach().double() for k, v in layer.items()}
            with torch.no_grad():
                found = correctness.reference(case, exact, torch, torch.erf)
            np.savez(path, **{k: v.cpu().numpy() for k, v in found.items()})
        with np.load(path) as file:
            return dict(file)

    def _build(
        self,
        case: Case,
        contender: Contender,
        label: str,
        plan: Any,
        layers: list[Layer],
        want: dict[str, np.ndarray],
    ) -> tuple[dict | None, dict | None]:
        """The (ready, problem) entries of one contender, one of them None; a ready one is a program too."""
        f = contender.build(case, plan)
        # A module kept by pack() cannot be told the activation otherwise.
        packed = [contender.pack({**w, "activation": case.problem.activation}) for w in layers]
        for w in packed:
            w.pop("activation", None)
            for name, value in w.items():
                if case.mode != "forward" and name.startswith(("w_", "b_")):
                    value.requires_grad_()
        verdict = correctness.check(case, self._values(case, contender, f, packed[0]), want)
        if not verdict.correct:
            reason = f"wrong: {verdict.worst} is off by {verdict.error:.2e}, {verdict.tolerance:.2e} is allowed"
            return None, {
                "reason": reason,
                "kind": "wrong",
                "error": verdict.error,
                "tolerance": verdict.tolerance,
            }
        key = f"{contender.name}|{label}"
        on_gpu = self._device.type == "cuda"
        program = timer_torch.Program(
            key=key,
            step=steps_torch.forward(f, packed, case) if case.mode == "forward" else steps_torch.both(f, packed),
            layers=len(packed) if case.cache == "cold" else steps_torch.HOT_REPEATS,
            device=self._device,
            wall_of_graph=contender.name.endswith("_graph"),
        )
        if contender.graphed and on_gpu:
            program.capture()
            steps_torch.same_as_step(program, verdict.tolerance)
        program.calibrate()
        self._programs.append(program)
        entry = {
            "key": key,
            "contender": contender.name,
            "plan": label,
            "detail": contender.detail(case, plan, layers[0]["x"], layers[0]) if label else "",
            "graphed": program.graph is not None,
            "fusion": contender.fusion,
            "peak_bytes": steps_torch.peak(f, packed[0]) if case.mode != "forward" and on_gpu else None,
            "error": verdict.error,
            "tolerance": verdict.tolerance,
        }
        return entry, None

    def _values(self, case: Case, contender: Contender, f: Any, w: Layer) -> dict[str, np.ndarray]:
        """What is checked of one call on the first layer, in float64."""
        if case.mode == "forward":
            with torch.no_grad():
                full = {"y": f(w["x"], w)}
        else:
            names = [n for n in w if n.startswith(("x", "w_", "b_"))]
            y = f(w["x"], w)
            grads = torch.autograd.grad(y, [w[n] for n in names], w["g"])
            full = contender.unpack({f"d{n}": g for n, g in zip(names, grads, strict=True)})
            full["y"] = y.detach()
        return {n: correctness.pick(case, n, v).double().cpu().numpy() for n, v in full.items()}

    def _roofs(self, case: Case, layers: list[Layer]) -> list[str]:
        """Programs for the roofs; their names."""
        count = len(layers) if case.cache == "cold" else steps_torch.HOT_REPEATS
        work = workload(case.workload)
        h = self._draw_like(case, (case.m, work.hidden_features))
        chain = layers if case.cache == "cold" else layers * steps_torch.HOT_REPEATS
        source = roofs_torch.weight_sized(case, len(layers), self._device)
        makers: dict[str, list[Callable[[], Any]]] = {
            "roof.stream": [
                roofs_torch.stream(source, config)
                for config in roofs_torch.STREAM_CONFIGS[: None if self._device.type == "cuda" else 1]
            ],
            "roof.gemm": [roofs_torch.gemm(case, chain, h)],
        }
        if case.roof == "copy":
            makers["roof.copy"] = [roofs_torch.copy(case, layers)]
        for name, steps in makers.items():
            timed = []
            for step in steps:
                repeat = count if name == "roof.stream" and case.cache == "hot" else 1
                run = step if repeat == 1 else steps_torch.repeat(step, repeat)
                p = timer_torch.Program(key=name, step=run, layers=count, device=self._device, wanted=False)
                if self._device.type == "cuda":
                    p.capture()
                p.calibrate()
                timed.append(p)
            self._programs.append(min(timed, key=lambda p: p.seconds))
        return list(makers)

    def _draw_like(self, case: Case, shape: tuple[int, ...]) -> torch.Tensor:
        return torch.randn(shape, device=self._device, dtype=DTYPES[case.dtype])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    device = parser.parse_args().device
    serve(lambda: TorchWorker(device))


if __name__ == "__main__":
    main()
