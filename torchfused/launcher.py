"""A kernel with all but its tensors settled, so that a call costs little more than the driver's launch."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import chain
from typing import Any

import torch
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from ._compat import encoded, launcher_of_encoded

# The most addresses an operand's tensor maps are kept for.
_MAPS = 256


@dataclass(frozen=True, slots=True)
class Launch:
    """One that was made: of ``compiled`` over ``grid``, on tensor maps, tensors and what else the kernel takes."""

    compiled: Any
    grid: tuple[int, int, int]
    described: tuple[TensorDescriptor, ...]
    tensors: tuple[torch.Tensor, ...]
    rest: tuple

    @property
    def places(self) -> list[int]:
        """Where the maps and tensors start, in the kernel's order."""
        return [t.data_ptr() for t in (*(described.base for described in self.described), *self.tensors)]


_SEEN: ContextVar[list[Launch] | None] = ContextVar("seen", default=None)


@contextmanager
def launches_seen() -> Iterator[list[Launch]]:
    """The launches inside, but for an interpreter's."""
    seen: list[Launch] = []
    token = _SEEN.set(seen)
    try:
        yield seen
    finally:
        _SEEN.reset(token)


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
        else:
            compiled = self.kernel[self.grid](*described, *tensors, *self.integers, **self.constants, **self.options)
            # An interpreter compiles nothing.
            if compiled is None:
                return
            names = compiled.src.fn.arg_names[len(described) + len(tensors) + len(self.integers) :]
            self._rest = (*self.integers, *(self.constants[name] for name in names))
            self._compiled[key] = compiled
        seen = _SEEN.get()
        if seen is not None:
            seen.append(Launch(compiled, self.grid, described, tensors, self._rest))


class Relaunch:
    """``launch`` once more, on other addresses; ``places`` are those of which it was made."""

    def __init__(self, launch: Launch, places: Sequence[int | None]) -> None:
        # (Held, for Triton unloads what nobody holds.)
        self.compiled = compiled = launch.compiled
        maps = len(launch.described)
        slots = [places.index(place) for place in launch.places]
        self.grid, self.rest, self.pointers = launch.grid, launch.rest, slots[maps:]
        self.run = launcher_of_encoded(compiled) if maps else compiled.run
        # No hooks and no metadata for them.
        self.settled = compiled.function, compiled.packed_metadata, None, None, None
        # What is encoded hangs on the address alone: as good for whatever will lie there. (What lay there is not held.)
        self.maps = [
            (lru_cache(_MAPS)(partial(encoded, _bare(described), meta)), slot)
            for described, meta, slot in zip(
                launch.described, compiled.metadata.tensordesc_meta if maps else (), slots[:maps], strict=True
            )
        ]

    def __call__(self, stream: int, addresses: Sequence[int]) -> None:
        """``addresses`` take the places of ``places``, on the current device."""
        maps = chain.from_iterable([encode(addresses[slot]) for encode, slot in self.maps])
        self.run(*self.grid, stream, *self.settled, *maps, *(addresses[slot] for slot in self.pointers), *self.rest)


def _bare(described: TensorDescriptor) -> TensorDescriptor:
    bare = copy(described)
    bare.base = None
    return bare
