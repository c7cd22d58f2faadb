"""A kernel with all but its tensors settled, so that a call costs little more than the driver's launch."""

from collections.abc import Mapping
from typing import Any

import torch
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor


class Launcher:
    """Launches ``kernel`` over a grid of ``programs`` with these integers, constants and options.

    Triton works out anew at each launch which binary serves the arguments: some 100 us of the host for the 50 arguments
    of an MLP. What that hangs on is settled here but for the pointers' types and alignment and the device.
    """

    def __init__(
        self,
        kernel: Any,
        programs: int,
        integers: tuple[int, ...],
        constants: Mapping[str, Any],
        options: Mapping[str, Any],
    ) -> None:
        self.kernel, self.grid = kernel, (programs, 1, 1)
        self.integers, self.constants, self.options = integers, constants, options
        self._compiled: dict[tuple, Any] = {}
        self._rest: tuple = ()

    def __call__(self, tensors: tuple[torch.Tensor, ...], described: tuple[TensorDescriptor, ...] = ()) -> None:
        """``described`` and ``tensors``: the kernel's tensor maps and pointers, in its order, all on one device."""
        device = (described[0].base if described else tensors[0]).device
        if device.type == "cuda" and device.index != torch.cuda.current_device():
            # Triton launches on the current device.
            with torch.cuda.device(device):
                self(tensors, described)
            return
        addresses = [tensor.data_ptr() for tensor in tensors]
        key = (
            device.index,
            *(tensor.dtype for tensor in tensors),
            *(map.base.dtype for map in described),
            *(address % 16 for address in addresses),
        )
        compiled = self._compiled.get(key)
        if compiled is not None:
            compiled[self.grid](*described, *addresses, *self._rest)
            return
        compiled = self.kernel[self.grid](*described, *tensors, *self.integers, **self.constants, **self.options)
        # An interpreter compiles nothing.
        if compiled is not None:
            names = compiled.src.fn.arg_names[len(described) + len(tensors) + len(self.integers) :]
            self._rest = (*self.integers, *(self.constants[name] for name in names))
            self._compiled[key] = compiled
