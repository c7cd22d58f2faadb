"""torchfused under torch.compile and torch.export: what a trace holds. (With gradients: test_training_torch.py.)"""

import pytest
import torch
from adapter_torch import DEVICE

from parity.contract.plan import LIBRARY, Plan
from parity.contract.tiles import Tiles
from torchfused import FusedMLP, explain, fused_mlp

pytestmark = pytest.mark.usefixtures("poisoned")


def test_module_compiles_and_exports():
    module = FusedMLP(21, 34, 13, gated=True, activation="silu", device=DEVICE)
    x = torch.randn(5, 21, device=DEVICE)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), module(x))
    exported = torch.export.export(module, (x,))
    names = {str(node.target) for node in exported.graph.nodes}
    assert "torchfused.mlp_fwd.default" in names or explain(x, **module._arguments()).plan == LIBRARY
    assert torch.equal(exported.module()(x), module(x))


def test_a_plan_of_the_callers_is_a_constant_of_a_trace():
    x, w_up, w_down = torch.ones(2, 8), torch.ones(16, 8), torch.ones(4, 16)
    # (Dynamo takes a number for a dynamic one where a second trace of the same code has another.)
    for plan in (
        Plan(up=Tiles(m=16, n=16, k=16), split_k=(2, 1)),
        Plan(up=Tiles(m=32, n=16, k=32), split_k=(3, 2)),
        Plan(up=Tiles(m=64, n=32, k=16), split_k=(4, 3)),
    ):
        compiled = torch.compile(lambda x, p=plan: fused_mlp(x, w_up, w_down, plan=p), fullgraph=True, backend="eager")
        assert torch.equal(compiled(x), fused_mlp(x, w_up, w_down, plan=plan))
