"""Calls that have been made before: what one launched is launched again, on other addresses.

To find out what to launch takes several times the host's time of launching it. All that it hangs on is in a call's key:
calls of one key launch the same, whatever their operands hold and wherever those lie.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.cuda import current_device, is_current_stream_capturing
from triton import knobs

from parity.contract.plan import Plan, Strategy

from ._compat import current_stream
from .arrivals import arrivals_on
from .launcher import Launch, Relaunch

# The most calls that are remembered.
_MOST = 4096
_CALLS: dict[tuple, Callable[[Sequence[Any], list[int]], Tensor | None]] = {}

_transforms = torch._C._functorch.maybe_current_level  # pyright: ignore[reportAttributeAccessIssue]
_modes = torch._C._len_torch_dispatch_stack


def again(operands: Sequence[Tensor | None], *options: Any) -> Tensor | None:
    """``y`` of a call that is settled; None of one that has yet to find out what to launch."""
    told = _told(operands, options)
    if told is None:
        return None
    key, addresses = told
    call = _CALLS.get(key)
    return call and call(operands, addresses)


def key_of(operands: Sequence[Tensor | None], *options: Any) -> tuple | None:
    """What a call's launches hang on. None: they are the operator's affair, since a gradient is wanted, a mode or a
    transform of torch's watches, or an operand is more than the memory it lies in."""
    told = _told(operands, options)
    return told and told[0]


def settle(
    key: tuple, plan: Plan, operands: Sequence[Tensor | None], launches: Sequence[Launch], out: Mapping[str, Tensor]
) -> None:
    """Remembers that a call of this key made these outputs, "y" among them, and these launches.

    But not where these say less than all: a launch too few (an interpreter's), one on what is neither an operand nor an
    output (a copy), operands in the same place, an output that ``x.new_empty`` does not give, a device that is not the
    current one, and a capture, which shares nothing with other calls.
    """
    x, y = operands[0], list(out).index("y")
    assert x is not None
    if len(launches) != plan.launches or current_device() != x.device.index or is_current_stream_capturing():
        return
    if any(t.dtype is not x.dtype or not t.is_contiguous() or t.data_ptr() % 16 for t in out.values()):
        return
    places = [None if t is None else t.data_ptr() for t in (*operands, *out.values())]
    held = [place for place in places if place is not None]
    used = {place for launch in launches for place in launch.places}
    counts = used - set(held)
    if len(counts) > (plan.strategy is Strategy.DECODE):
        return
    if counts:
        places.append(arrivals_on(x.device, current_stream(x.device.index)).data_ptr())
    if len(set(held)) < len(held) or not counts <= {places[-1]}:
        return
    shapes = [tuple(t.shape) for t in out.values()]
    shapes[y] = (*x.shape[:-1], shapes[y][-1])
    _keep(key, _Call(x.device, shapes, y, bool(counts), [Relaunch(launch, places) for launch in launches]))


def settle_library(key: tuple, compute: Callable[..., Tensor], names: Sequence[str]) -> None:
    """Remembers that a call of this key is one of ``compute``, with the operands by name."""
    _keep(key, lambda operands, _: compute(**dict(zip(names, operands, strict=True))))


def forget() -> None:
    """For who changes what is launched."""
    _CALLS.clear()


def autocast_type(kind: str) -> torch.dtype | None:
    """What autocast casts to on this kind of device; None where it is off."""
    # (Whether there is an autocast for a kind of device, dynamo of torch 2.11 cannot ask.)
    if kind not in ("cpu", "cuda") or not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def _keep(key: tuple, call: Callable[[Sequence[Any], list[int]], Tensor | None]) -> None:
    if len(_CALLS) >= _MOST:
        _CALLS.clear()
    _CALLS[key] = call


class _Call:
    def __init__(
        self, device: torch.device, shapes: list[tuple[int, ...]], y: int, counts: bool, launches: list[Relaunch]
    ) -> None:
        self.device, self.index, self.shapes, self.y = device, device.index, shapes, y
        self.counts, self.launches = counts, launches

    def __call__(self, operands: Sequence[Any], addresses: list[int]) -> Tensor | None:
        """``addresses``: the operands'. None where another device is current, or somebody listens to what Triton
        launches: then it is Triton that must launch."""
        if current_device() != self.index or _listens(knobs.runtime.launch_enter_hook, knobs.runtime.launch_exit_hook):
            return None
        x = operands[0]
        out = [x.new_empty(*shape) for shape in self.shapes]
        for t in out:
            address = t.data_ptr()
            # From an allocator of the caller's own, perhaps.
            if address % 16:
                return None
            addresses.append(address)
        stream = current_stream(self.index)
        # Held until it is launched on.
        word = arrivals_on(self.device, stream) if self.counts else None
        if word is not None:
            addresses.append(word.data_ptr())
        for launch in self.launches:
            launch(stream, addresses)
        return out[self.y]


def _listens(enter: Any, leave: Any) -> bool:
    # A chain of hooks, or what somebody has put in its place.
    return bool(getattr(enter, "calls", enter) or getattr(leave, "calls", leave))


def _told(operands: Sequence[Any], options: tuple[Any, ...]) -> tuple[tuple, list[int]] | None:
    """A call's key and its operands' addresses."""
    if _modes() or _transforms() is not None or forward_ad._current_level >= 0 or torch._C._get_tracing_state():
        return None
    graded = torch.is_grad_enabled()
    key: list[Any] = [*options]
    addresses = []
    try:
        for t in operands:
            if t is None:
                key.append(None)
                addresses.append(0)
                continue
            address = t.data_ptr()
            # (One that is empty, or known to be zero, lies nowhere.)
            if type(t) not in (Tensor, nn.Parameter) or not address or (graded and t.requires_grad) or t.is_neg():
                return None
            key += t.shape, t.stride(), t.dtype, t.device, address % 16
            addresses.append(address)
        key.append(autocast_type(operands[0].device.type))
    except (AttributeError, RuntimeError):
        # No tensor, or one without strides or storage.
        return None
    return tuple(key), addresses
