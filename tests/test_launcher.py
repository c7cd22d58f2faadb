"""A settled launch: compiled once for what its binary hangs on, and then handed addresses."""

from types import SimpleNamespace

import pytest
import torch

from torchfused.launcher import Launcher


class Kernel:
    """A Triton kernel of two pointers, one size and two constants, as far as a launcher asks."""

    def __init__(self, interpreted=False):
        self.asked, self.launched, self.interpreted = [], [], interpreted

    def __getitem__(self, grid):
        def launch(*args, **options):
            self.asked.append((grid, args, options))
            return None if self.interpreted else self

        def relaunch(*args, **options):
            self.launched.append((grid, args))

        return relaunch if len(self.asked) and not self.interpreted and self.compiled_now else launch

    compiled_now = False
    src = SimpleNamespace(fn=SimpleNamespace(arg_names=["x_ptr", "y_ptr", "N", "BN", "BK"]))


@pytest.fixture
def tensors():
    base = torch.zeros(64, dtype=torch.float16)
    return base[:16], base[16:32], base[1:17]


def test_the_second_launch_hands_over_addresses_and_constants_in_the_kernels_order(tensors):
    x, y, _ = tensors
    kernel = Kernel()
    launch = Launcher(kernel, 7, (16,), {"BK": 32, "BN": 8}, {"num_warps": 4})
    launch((x, y))
    assert kernel.asked == [((7, 1, 1), (x, y, 16), {"BK": 32, "BN": 8, "num_warps": 4})]
    kernel.compiled_now = True
    launch((x, y))
    assert kernel.launched == [((7, 1, 1), (x.data_ptr(), y.data_ptr(), 16, 8, 32))]


def test_another_alignment_is_another_binary(tensors):
    x, y, shifted = tensors
    kernel = Kernel()
    launch = Launcher(kernel, 1, (16,), {"BK": 32, "BN": 8}, {})
    launch((x, y))
    launch((shifted, y))
    assert len(kernel.asked) == 2


def test_another_type_is_another_binary(tensors):
    x, y, _ = tensors
    kernel = Kernel()
    launch = Launcher(kernel, 1, (16,), {"BK": 32, "BN": 8}, {})
    launch((x, y))
    launch((x, y.view(torch.bfloat16)))
    assert len(kernel.asked) == 2


def test_an_interpreter_is_asked_each_time(tensors):
    x, y, _ = tensors
    kernel = Kernel(interpreted=True)
    launch = Launcher(kernel, 1, (16,), {"BK": 32, "BN": 8}, {})
    launch((x, y))
    launch((x, y))
    assert len(kernel.asked) == 2
