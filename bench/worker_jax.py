"""A JAX worker: prepares a case's contenders, checks them, times them. One process a set of XLA flags."""

import argparse
import gc
import importlib.metadata
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from . import correctness, stimulus, timer_jax
from .contenders_jax import CONTENDERS, FLAGGED, Contender, Layer
from .contenders_plans import HEAVY_VARIANTS
from .gpu import Watch, find
from .protocol import describe, is_sticky, serve
from .workloads import Case, workload

# A hot chain is one layer this many times.
HOT_REPEATS = 8


class JaxWorker:
    """protocol.Handler over JAX. ``variant`` names the process's XLA flags and is appended to contenders' names."""

    def __init__(self, device: str, variant: str) -> None:
        if device == "cuda" and jax.default_backend() != "gpu":
            raise RuntimeError(f"JAX sees no GPU: its backend is {jax.default_backend()}")
        self._gpu = find() if device == "cuda" else None
        self._on_gpu = device == "cuda"
        self._suffix = f"_{variant}" if variant else ""
        self._contenders = FLAGGED[variant] if variant else CONTENDERS
        self._absent = {c.name: c.absent() for c in self._contenders}
        self._programs: list[timer_jax.Program] = []

    def hello(self) -> dict:
        versions = {"python": platform.python_version()}
        for package in ("jax", "jaxlib", "flax"):
            try:
                versions[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                continue
        heavy = self._suffix.removeprefix("_") in HEAVY_VARIANTS
        listed = [
            {"name": c.name + self._suffix, "heavy": heavy, "absent": self._absent[c.name]} for c in self._contenders
        ]
        return {"framework": "jax", "versions": versions, "l2_bytes": 0, "sm_count": 0, "contenders": listed}

    def warm(self) -> dict:
        return {"seconds": 0.0}

    def prepare(
        self,
        *,
        case: dict,
        contenders: list[str],
        skip: list[str],
        reference: str,
        emit: Callable[[str], None],
        layers: int = 2,
    ) -> dict:
        """As TorchWorker.prepare. ``layers``: the chain's length, the torch worker's where there is one."""
        self.release()
        c = Case(**case)
        emit("data")
        chain = [self.draw(c, i) for i in range(layers)]
        want = self._reference(c, chain[0], Path(reference))
        ready, problems = [], []
        for contender in self._contenders:
            name = contender.name + self._suffix
            if name not in contenders or self._absent[contender.name]:
                continue
            refusal = contender.refuses(c)
            if refusal:
                problems.append({"contender": name, "plan": "", "reason": refusal, "kind": "refused"})
                continue
            for label, plan in contender.variants(c):
                key = f"{name}|{label}"
                if key in skip:
                    continue
                emit(key)
                entry, problem = None, None
                try:
                    entry, problem = self._build(c, contender, key, plan, chain, want)
                except NotImplementedError as error:
                    problem = {"reason": describe(error), "kind": "refused"}
                except Exception as error:
                    if is_sticky(error):
                        raise
                    problem = {"reason": describe(error), "kind": "failed"}
                if entry:
                    ready.append({**entry, "key": key, "contender": name, "plan": label})
                if problem:
                    problems.append({"contender": name, "plan": label, **problem})
        return {"ready": ready, "problems": problems, "roofs": [], "layers": layers}

    def block(self, *, seed: int) -> dict:
        with Watch(self._gpu) as watch:
            samples = timer_jax.block(self._programs, seed)
        return {"samples": samples, "clock": watch.summary()}

    def trace(self, *, emit: Callable[[str], None]) -> dict:
        return timer_jax.trace(self._programs, emit) if self._on_gpu else {}

    def power(self, *, seconds: float) -> dict:
        found = {}
        for p in self._programs:
            count, done, out = 0, 0.0, None
            with Watch(self._gpu, interval=0.02) as watch:
                while done < seconds:
                    for _ in range(50):
                        out = p.run()
                    jax.block_until_ready(out)
                    count, done = count + 50, done + 50 * max(p.seconds, 1e-5)
            if watch.power_w is not None:
                joules = watch.power_w * watch.seconds / (count * p.layers)
                found[p.key] = {"power_w": round(watch.power_w, 1), "joules": joules}
        return found

    def release(self) -> dict:
        self._programs = []
        gc.collect()
        return {}

    def share(self) -> dict:
        return {"shares": []}

    def draw(self, case: Case, layer: int) -> Layer:
        """One layer's arrays: the torch worker's bits, weights transposed to [in, out]."""
        arrays: Layer = {}
        for name, draw in stimulus.draws(workload(case.workload), case.m, layer).items():
            if name in ("x", "g") and layer and not case.fresh_inputs:
                continue
            shape = draw.shape[::-1] if name.startswith("w_") else draw.shape
            salts = tuple(np.int32(s) for s in stimulus.salts(draw))
            scale = np.float32(stimulus.scale_of(draw))
            arrays[name] = _fill(salts, scale, shape=shape, turned=name.startswith("w_"), dtype=case.dtype)
        return arrays

    def _reference(self, case: Case, layer: Layer, path: Path) -> dict[str, np.ndarray]:
        if not path.exists():
            exact = {k: np.asarray(v.T if k.startswith("w_") else v).astype(np.float64) for k, v in layer.items()}
            np.savez(path, **correctness.reference(case, exact))
        with np.load(path) as file:
            return dict(file)

    def _build(
        self,
        case: Case,
        contender: Contender,
        key: str,
        plan: Any,
        layers: list[Layer],
        want: dict[str, np.ndarray],
    ) -> tuple[dict | None, dict | None]:
        f = contender.build(case, plan)
        packed = [contender.pack(w) for w in layers]
        function = jax.jit(partial(_forward if case.mode == "forward" else _both, f, case))
        values = contender.unpack(function(packed)[0])
        got = {n: _float64(correctness.pick(case, n, v.T if n.startswith("dw_") else v)) for n, v in values.items()}
        verdict = correctness.check(case, got, want)
        if not verdict.correct:
            reason = f"wrong: {verdict.worst} is off by {verdict.error:.2e}, {verdict.tolerance:.2e} is allowed"
            return None, {
                "reason": reason,
                "kind": "wrong",
                "error": verdict.error,
                "tolerance": verdict.tolerance,
            }
        count = len(packed) if case.cache == "cold" else HOT_REPEATS
        program = timer_jax.Program(key=key, function=function, arguments=(packed,), layers=count)
        program.calibrate()
        self._programs.append(program)
        entry = {
            "detail": contender.detail(case, plan, layers[0]["x"], layers[0]) if key.split("|")[1] else "",
            "graphed": False,
            "fusion": contender.fusion,
            "peak_bytes": _peak(f, case, packed[0]) if case.mode != "forward" and self._on_gpu else None,
            "error": verdict.error,
            "tolerance": verdict.tolerance,
        }
        return entry, None


def _forward(f: Any, case: Case, layers: list[Layer]) -> tuple[dict[str, jax.Array], Any]:
    """(what is checked of the first layer, all the rest that must not be optimised away)."""
    y, outputs = layers[0]["x"], []
    for w in layers if case.cache == "cold" else layers * HOT_REPEATS:
        x = y
        if case.fresh_inputs:
            # One layer after the other, as in the torch worker: without the barrier XLA may overlap them.
            x, _ = jax.lax.optimization_barrier((w["x"], y))
        y = f(x, w)
        outputs.append(y)
    return {"y": outputs[0]}, outputs if case.fresh_inputs else outputs[-1]


def _both(f: Any, case: Case, layers: list[Layer]) -> tuple[dict[str, jax.Array], Any]:
    first: dict[str, jax.Array] = {}
    rest = []
    token = layers[0]["x"]
    for w in layers:
        parameters = {n: v for n, v in w.items() if n.startswith(("w_", "b_"))}
        x, _ = jax.lax.optimization_barrier((w["x"], token))
        y, pull = jax.vjp(f, x, parameters)
        dx, gradients = pull(w["g"])
        token = dx
        full = {"dx": dx} | {f"d{n}": g for n, g in gradients.items()}
        if first:
            rest.append(full)
        else:
            first = full | {"y": y}
    return first, rest


def _peak(f: Any, case: Case, layer: Layer) -> int | None:
    """Bytes that one layer's forward and backward hold at most, beside its operands: XLA's own count of the temporary
    buffers, and the gradients."""
    memory = jax.jit(partial(_both, f, case)).lower([layer]).compile().memory_analysis()
    # y is an output here for the check alone.
    y = layer["g"].nbytes
    if memory is None:
        return None
    return memory.temp_size_in_bytes + memory.output_size_in_bytes - y


@partial(jax.jit, static_argnames=("shape", "turned", "dtype"))
def _fill(salts: Any, scale: Any, *, shape: tuple[int, ...], turned: bool, dtype: str) -> jax.Array:
    """stimulus.numpy_draw on the device; ``turned``: the array is the transpose of the numbered one."""
    if len(shape) == 1:
        index = jax.lax.iota(jnp.int32, shape[0])
    else:
        row, column = (jax.lax.broadcasted_iota(jnp.int32, shape, axis) for axis in (0, 1))
        index = column * shape[0] + row if turned else row * shape[1] + column
    return (stimulus.byte_sum(index, salts).astype(jnp.float32) * scale).astype(dtype)


def _float64(value: jax.Array) -> np.ndarray:
    return np.asarray(value.astype(jnp.float32)).astype(np.float64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--variant", default="")
    arguments = parser.parse_args()
    serve(lambda: JaxWorker(arguments.device, arguments.variant))


if __name__ == "__main__":
    main()
