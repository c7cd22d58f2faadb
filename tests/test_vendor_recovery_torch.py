"""How `parity vendor` recovers an order: from products that add in a known one, on interpreted kernels."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from parity.vendor_torch import VendorTorch
from parity.vendor_worker import Layer, cuts

LAYER = Layer(dtype="float16", inner=256, outer=40, bias=True, rows=(1, 3))


def whole(sums, bias, dtype):
    total = sum(sums[1:], sums[0])
    return total if bias is None else total + bias


def rounded(sums, bias, dtype):
    return whole(sums, None, dtype).to(dtype) + bias


def twice(sums, bias, dtype):
    return sum(part + bias for part in sums)


def left_out(sums, bias, dtype):
    return whole(sums, None, dtype)


@pytest.fixture
def recovered(monkeypatch):
    """What is recovered of a product whose ``chains`` and bias ``added`` puts together."""
    worker = VendorTorch("cpu")

    def recover(layer, chains, added):
        def stages(x, w, one, *, b_up, activation):
            ranges = cuts(layer.inner, chains)
            sums = [worker._sum(x, w, [each], layer.dtype) for each in ranges]
            return {"s": added(sums, b_up, x.dtype).to(x.dtype)}

        monkeypatch.setattr(worker, "reference", SimpleNamespace(stages=stages))
        return [row["chains"] for row in worker.layer(layer)["rows"]]

    return recover


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("chains", [1, 2, 4])
def test_an_order_is_recovered(recovered, chains, bias):
    assert recovered(replace(LAYER, bias=bias), chains, whole) == [chains, chains]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_a_chain_that_starts_from_the_bias_is_seen(dtype, monkeypatch):
    """Against one that ends with it: what a product rounds on the way hangs on what it starts from."""
    worker, layer = VendorTorch("cpu"), replace(LAYER, dtype=dtype, inner=1024)

    def chain(x, w, total):
        for k in range(0, layer.inner, 16):
            total = total + x[:, k : k + 16].float() @ w[:, k : k + 16].float().t()
        return total

    monkeypatch.setattr(worker, "_sum", lambda x, w, ranges, dtype: chain(x, w, torch.zeros(len(x), len(w))))
    for start, want in ((False, 1), (True, None)):

        def stages(x, w, one, *, b_up, activation, start=start):
            sums = chain(x, w, b_up.float().expand(len(x), -1)) if start else chain(x, w, 0.0) + b_up
            return {"s": sums.to(x.dtype)}

        monkeypatch.setattr(worker, "reference", SimpleNamespace(stages=stages))
        assert [row["chains"] for row in worker.layer(layer)["rows"]] == [want, want]


@pytest.mark.parametrize("added", [rounded, twice, left_out])
def test_where_the_bias_is_added_is_seen(recovered, added):
    assert recovered(LAYER, 2, added) == [None, None]
