"""Workloads, the stimulus and the gate: what every contender is given, and what it must give back."""

from dataclasses import replace

import numpy as np
import pytest

from bench import correctness, stimulus
from bench.contenders_plans import our_plans
from bench.workloads import Case, suite, workload, workloads
from parity.contract.plan import SERVED


def test_named_workloads_have_their_models_sizes():
    sizes = {n: (w.in_features, w.hidden_features, w.out_features) for n, w in workloads().items()}
    assert sizes["article"] == (4096, 4096, 4096)
    assert sizes["llama3_70b_tp8"] == (8192, 3584, 8192)
    assert sizes["gemma2_9b"] == (3584, 14336, 3584)
    assert workload("article").biases
    assert not workload("wide_16384").biases


def test_full_suite_covers_every_workload_and_size():
    forward = {(c.workload, c.m) for c in suite("full") if c.dtype == "bfloat16"}
    wide = [n for n in workloads() if not n.startswith(("narrow", "tiny")) and n != "article_gated"]
    assert forward >= {(n, m) for n in wide for m in (1, 4, 16, 64, 256, 1024, 4096, 8192, 16384)}
    assert forward >= {(f"narrow_{w}", 2**18) for w in (64, 128, 256)}
    assert {c.dtype for c in suite("full")} == {"bfloat16", "float16", "float32"}
    assert {c.mode for c in suite("full")} == {"forward", "forward_backward"}
    assert suite("full")[0].key == "article/1/bf16/forward/cold"


def test_unknown_names_list_what_there_is():
    with pytest.raises(ValueError, match="llama3_8b"):
        workload("llama4")
    with pytest.raises(ValueError, match="quick"):
        suite("slow")


def test_a_cold_chain_is_four_times_l2():
    l2 = 60 << 20
    for case in suite("full"):
        if case.cache == "cold":
            layers = case.layers(l2)
            assert layers >= 2
            traffic = case.weight_bytes + case.problem.io_bytes
            assert layers * traffic >= 4 * l2 or layers == 32


def test_every_strategy_and_backend_is_a_plan_of_ours():
    labels = [label for label, _ in our_plans("forward", 64)]
    many = [label for label, _ in our_plans("forward", 65)]
    training = [label for label, _ in our_plans("forward_backward", 64)]
    assert labels == ["auto", "library", *("/".join(pair) for pair in SERVED)]
    assert many == [label for label in labels if not label.startswith("decode")]
    assert set(many) <= set(training)
    for save in ("hidden", "recompute"):
        assert [label for label in training if label.endswith(f", {save}")]


def test_stimulus_is_normal_and_never_zero_everywhere():
    values = stimulus.numpy_draw(stimulus.Draw(shape=(512, 512), seed=3, scale=2.0))
    assert abs(values.mean()) < 0.02
    assert abs(values.std() - 2.0) < 0.02
    assert 2.7 < (values**4).mean() / 16 < 3.1
    assert (values == 0).mean() < 0.01


def test_layers_and_tensors_differ():
    draws = [stimulus.draws(workload("tiny"), 8, i) for i in range(2)]
    seeds = {d.seed for layer in draws for d in layer.values()}
    assert len(seeds) == 2 * len(draws[0])


# A gated layer squares its input's size, so an error in it doubles a layer: chains of gated layers are short.
@pytest.mark.parametrize(("name", "layers"), [("tiny", 12), ("tiny_gated", 3)])
def test_a_chain_neither_explodes_nor_fades(name, layers):
    case = Case(workload=name, m=64, dtype="float32")
    x = None
    for layer in range(layers):
        t = tensors(case, layer)
        t["x"] = t["x"] if x is None else x
        x = correctness.reference(case, t)["y"]
    assert x is not None
    assert 0.2 < x.std() < 5


@pytest.mark.parametrize("name", ["tiny", "tiny_gated"])
def test_reference_gradients_are_the_slopes_of_the_loss(name):
    case = Case(workload=name, m=3, dtype="float32", mode="forward_backward")
    t = tensors(case)
    got = correctness.reference(case, t)

    def loss() -> float:
        return float((correctness.reference(replace(case, mode="forward"), t)["y"] * t["g"]).sum())

    _, units = correctness.picks(case)
    for tensor, gradient, index in (("x", "dx", (1, 2)), ("w_up", "dw_up", (4, 5)), ("w_down", "dw_down", (6, 7))):
        at = (units[index[0]], index[1]) if tensor == "w_up" else (index[0], units[index[1]])
        at = index if tensor == "x" else at
        old, d = t[tensor][at], 1e-5
        t[tensor][at] = old + d
        above = loss()
        t[tensor][at] = old - d
        slope = (above - loss()) / (2 * d)
        t[tensor][at] = old
        assert got[gradient][index] == pytest.approx(slope, rel=1e-5, abs=1e-7)


def _bf16(values: np.ndarray) -> np.ndarray:
    bits = values.astype(np.float32).view(np.uint32)
    bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & 0xFFFF0000
    return bits.view(np.float32).astype(np.float64)


def mutants(case: Case, t: dict) -> dict[str, dict]:
    """Wrong MLPs the gate must not let pass."""
    half = {**t, "w_down": t["w_down"].copy()}
    half["w_down"][:, : case.problem.hidden_features // 8] = 0
    found = {"a dropped tile of the second GEMM": half}
    if "b_up" in t:
        found["a missing bias"] = {k: v for k, v in t.items() if k != "b_up"}
    if "w_gate" in t:
        found["gate and up swapped"] = {**t, "w_gate": t["w_up"], "w_up": t["w_gate"]}
    return found


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
@pytest.mark.parametrize("name", ["tiny", "tiny_gated"])
def test_gate_passes_rounded_results_and_rejects_mutants(name, dtype):
    case = Case(workload=name, m=64, dtype=dtype)
    t = tensors(case)
    want = correctness.reference(case, t)
    rounded = _bf16(want["y"]) if dtype == "bfloat16" else want["y"].astype(dtype).astype(float)
    assert correctness.check(case, {"y": rounded}, want).correct
    for what, wrong in mutants(case, t).items():
        got = correctness.reference(case, wrong)
        assert not correctness.check(case, got, want).correct, what


def test_gate_rejects_tf32_where_ieee_is_asked_and_nan_and_nothing():
    case = Case(workload="tiny", m=64, dtype="float32")
    t = tensors(case)
    want = correctness.reference(case, t)
    tf32 = correctness.reference(case, {k: v.astype(np.float16).astype(float) for k, v in t.items()})
    assert not correctness.check(case, tf32, want).correct
    assert not correctness.check(case, {"y": np.full_like(want["y"], np.nan)}, want).correct
    assert not correctness.check(case, {}, want).correct


def tensors(case: Case, layer: int = 0) -> dict[str, np.ndarray]:
    draws = stimulus.draws(workload(case.workload), case.m, layer)
    return {n: stimulus.numpy_draw(d).astype(np.float64) for n, d in draws.items()}
