"""What differs between the versions of Triton that are served: 3.6 to 3.9."""

from copy import copy
from types import SimpleNamespace
from typing import Any

import torch
from triton.backends.nvidia.driver import make_tensordesc_arg
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import tma
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor
from triton.runtime import driver

# Renamed on the way: a barrier of the threads of one partition; a tile from global to shared memory, and back.
partition_barrier = getattr(gl, "barrier", None) or getattr(gl, "thread_barrier")  # noqa: B009 (unknown to the newer)
load_tile = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store_tile = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global

# From 3.8 on it asks for one argument more, which it does not look at.
_UNUSED = (None,) * (make_tensordesc_arg.__code__.co_argcount - 2)


def current_stream(index: int) -> int:
    """The driver's handle of the device's current stream. (A torch without CUDA has no such function.)"""
    return torch._C._cuda_getCurrentRawStream(index)


def encoded(described: TensorDescriptor, metadata: dict, address: int) -> tuple:
    """``described`` from ``address`` on, as the driver takes it: a tensor map, its shape and its strides."""
    moved = copy(described)
    moved.base = SimpleNamespace(data_ptr=lambda: address)
    return tuple(make_tensordesc_arg(moved, metadata, *_UNUSED))


def launcher_of_encoded(compiled: Any) -> Any:
    """``compiled.run``, for tensor maps that are ``encoded``: Triton's own encodes them at each launch."""
    signature = [
        part
        for kind in compiled.src.signature.values()
        for part in (("nvTmaDesc", "i32", "i32", "i64", "i64") if kind.startswith("tensordesc") else (kind,))
    ]
    source = SimpleNamespace(signature=dict(enumerate(signature)))
    launcher: Any = driver.active.launcher_cls  # pyright: ignore[reportAttributeAccessIssue]
    return launcher(source, compiled.metadata._replace(tensordesc_meta=None))
