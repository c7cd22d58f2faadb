"""The real workers on a CPU: the paths that need no GPU run as they are, with tiny layers."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench import counters, results
from bench.run import Settings, workers
from bench.workloads import suite

ROOT = Path(__file__).parents[1]


def has(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@pytest.fixture(scope="module")
def dry(tmp_path_factory: pytest.TempPathFactory) -> results.Results:
    frameworks = [f for f in ("torch", "jax") if has(f)]
    if not frameworks:
        pytest.skip("neither torch nor jax is installed")
    path = tmp_path_factory.mktemp("dry") / "dry.json"
    # Words that leave torch.compile out: it would take most of the time.
    words = [w for word in ("eager", "packed", "addmm", "fused", "xla") for w in ("--only", word)]
    command = [sys.executable, "-m", "bench", "run", "--device", "cpu", "--suite", "dry", "--json", str(path), *words]
    command += ["--frameworks", ",".join(frameworks)]
    answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, env=_cpu())
    assert answer.returncode == 0, answer.stdout + answer.stderr
    return results.load(path)


def test_every_case_of_the_dry_suite_is_measured(dry):
    assert dry.finished == {c.key for c in suite("dry")}


@pytest.mark.skipif(not has("torch"), reason="torch is not installed")
def test_torch_rows(dry):
    rows = [r for r in dry.rows if r["framework"] == "torch" and r["correct"]]
    assert {r["contender"] for r in rows} >= {"torch.eager", "torch.eager_graph", "torch.packed_graph"}
    assert {r["mode"] for r in rows} == {"forward", "forward_backward"}
    assert all(r["kernel_us"]["median"] > 0 and r["wall_us"]["median"] > 0 for r in rows)
    assert all(r["error"] <= r["tolerance"] for r in rows)


@pytest.mark.skipif(not has("torch"), reason="torch is not installed")
def test_the_gate_caught_exact_gelu_in_place_of_tanh_gelu(dry):
    """On a CPU _addmm_activation computes erf-GELU: a real wrong contender."""
    row = next(r for r in dry.rows if r["contender"] == "torch.addmm_activation" and r["dtype"] == "float32")
    assert row["correct"] is False
    assert row["kernel_us"] is None


@pytest.mark.skipif(not has("jax"), reason="jax is not installed")
def test_jax_rows_pass_the_gate_against_the_same_reference(dry):
    rows = [r for r in dry.rows if r["contender"] == "xla"]
    assert len(rows) == len(suite("dry"))
    assert all(r["correct"] for r in rows)


@pytest.mark.skipif(not (has("torch") and has("jax")), reason="needs both frameworks")
def test_both_frameworks_draw_the_same_bits():
    code = {
        "torch": "from bench.worker_torch import TorchWorker as W; w = W('cpu');"
        "f = lambda v: v.detach().float().numpy()",
        "jax": "from bench.worker_jax import JaxWorker as W; w = W('cpu', '');"
        "f = lambda v: numpy.asarray(v.astype('float32'))",
    }
    sums = {}
    for framework, start in code.items():
        script = f"""
import numpy, zlib, json
from bench.workloads import Case
{start}
t = w.draw(Case(workload="tiny_gated", m=4, dtype="bfloat16"), 0)
turn = {framework == "jax"}
print(json.dumps({{n: zlib.crc32(numpy.ascontiguousarray(f(v).T if turn and n.startswith("w_") else f(v)).tobytes())
                  for n, v in sorted(t.items())}}))
"""
        answer = subprocess.run(
            [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=120, env=_cpu()
        )
        assert answer.returncode == 0, answer.stderr
        sums[framework] = json.loads(answer.stdout.splitlines()[-1])
    assert sums["torch"] == sums["jax"]


def test_no_process_loads_both_frameworks():
    for module, other in (("worker_torch", "jax"), ("worker_jax", "torch"), ("cli", "torch"), ("cli", "jax")):
        if not has("torch" if module == "worker_torch" else "jax"):
            continue
        script = f"import sys, bench.{module}; assert {other!r} not in sys.modules"
        answer = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, env=_cpu())
        assert answer.returncode == 0, (module, other, answer.stderr[-300:])


def test_the_probe_above_can_fire():
    script = "import sys, jax, bench.cli; assert 'jax' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, env=_cpu()).returncode != 0


def test_each_set_of_xla_flags_is_a_process_of_its_own():
    settings = Settings(device="cuda", cases=(), path=Path("x"))
    flags = {w.name: w._environment.get("XLA_FLAGS", "") for w in workers(settings)}
    assert flags["jax_cublaslt"].endswith("--xla_gpu_enable_cublaslt=true")
    assert flags["jax_no_command_buffers"].endswith("--xla_gpu_enable_command_buffer=")
    assert len(flags) == 5


@pytest.mark.skipif(not has("torch"), reason="torch is not installed")
def test_the_mlps_share_of_a_block_is_a_share():
    import torch

    from bench.share_torch import measure

    (point,) = measure(torch.device("cpu"), points=((2, 16),), shrink=8)
    assert 0 < point["mlp_us"]
    assert point["share"] == pytest.approx(point["mlp_us"] / point["block_us"], abs=0.01)


@pytest.mark.skipif(not has("torch"), reason="torch is not installed")
def test_trace_is_split_at_its_markers():
    from bench.timer_torch import fold

    events = [(0, 5, "spin_kernel"), (1, 9, "gemm"), (2, 1, "gelu"), (3, 9, "gemm"), (4, 5, "spin_kernel(long)")]
    events += [(5, 20, "fused"), (6, 20, "fused")]
    found = fold(events, [("a|", 1), ("b|auto", 2)])
    assert (found["a|"]["launches"], found["a|"]["kernel"]) == (3, [19])
    assert (found["b|auto"]["launches"], found["b|auto"]["kernel"]) == (1, [20])
    with pytest.raises(RuntimeError, match="2 markers, 1 were launched"):
        fold(events, [("a|", 1)])


def test_ncu_csv_is_summed_in_bytes():
    text = """==PROF== Connected
"ID","Kernel Name","Metric Name","Metric Unit","Metric Value"
"0","gemm","dram__bytes_read.sum","Mbyte","33.5"
"0","gemm","dram__bytes_write.sum","Kbyte","8"
"1","gemm","dram__bytes_read.sum","byte","1,000"
"1","gemm","dram__bytes_write.sum","byte","0"
"""
    assert counters.parse(text) == (33_501_000, 8_000)
    assert counters.parse("==ERROR== no counters") is None


@pytest.mark.skipif(not has("triton"), reason="triton is not installed")
def test_the_stream_kernel_compiles_for_hopper_to_wide_loads(tmp_path):
    script = """
import triton
from triton.backends.compiler import GPUTarget
from bench.kernels.stream import stream_read_kernel
from bench.roofs_torch import STREAM_CONFIGS
for block, steps, warps in STREAM_CONFIGS:
    types = {"source": "*i32", "partials": "*i32", "words": "i32", "BLOCK": "constexpr", "STEPS": "constexpr"}
    even = {(i,): [["tt.divisibility", 16]] for i in range(3)}
    source = triton.compiler.ASTSource(stream_read_kernel, types, {"BLOCK": block, "STEPS": steps}, even)
    built = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert "ld.global.L1::evict_first.L2::cache_hint.v4.b32" in built.asm["ptx"], (block, steps, warps)
    assert built.metadata.shared <= 1024
print("fine")
"""
    path = tmp_path / "compile.py"
    path.write_text(script)
    answer = subprocess.run([sys.executable, str(path)], cwd=ROOT, capture_output=True, text=True, env=_cpu())
    assert "fine" in answer.stdout, answer.stderr[-500:]


def _cpu() -> dict[str, str]:
    """The environment of a user's CPU: no interpreter, which the suite may have switched on."""
    kept = {k: v for k, v in os.environ.items() if k not in ("TRITON_INTERPRET", "JAXFUSED_INTERPRET")}
    return {**kept, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
