"""Words in which the programs of a decode launch count each other: zeroed once, every launch leaves them ready."""

from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import torch

# Words of a page; 128 bytes apart, a cache line each.
_WORDS, _APART = 512, 32


@dataclass
class _Words:
    """A device's: by stream, those that nobody has, and the pages, since a graph holds an address and no reference."""

    of_stream: dict[int, torch.Tensor] = field(default_factory=dict)
    free: list[torch.Tensor] = field(default_factory=list)
    pages: list[torch.Tensor] = field(default_factory=list)


_HELD: defaultdict[int, _Words] = defaultdict(_Words)


def arrivals_of(device: torch.device) -> torch.Tensor:
    """The int32 word that a launch on the current stream of ``device`` may use.

    Launches on one stream follow each other and share one word. A launch that is being captured keeps a word to
    itself: its graph may be replayed beside any stream, though never beside itself. Where a capture finds no word left,
    the graph zeroes one of its own at each replay; the first call outside a capture makes a page of them.
    """
    if device.index != torch.cuda.current_device():
        with torch.cuda.device(device):
            return arrivals_of(device)
    return arrivals_on(device, torch.cuda.current_stream(device).cuda_stream)


def arrivals_on(device: torch.device, stream: int) -> torch.Tensor:
    """``arrivals_of`` the current device, whose current stream is ``stream``."""
    held = _HELD[device.index]
    if torch.cuda.is_current_stream_capturing():
        return held.free.pop() if held.free else torch.zeros(1, dtype=torch.int32, device=device)
    word = held.of_stream.get(stream)
    if word is None:
        if not held.free:
            # In a thread of its own: torch.compile warms up a graph with all that this thread allocates in the graph's
            # pool, where nothing may outlive it.
            with ThreadPoolExecutor(1) as aside:
                page = aside.submit(_page, device).result()
            held.pages.append(page)
            held.free.extend(page[::_APART])
        word = held.of_stream[stream] = held.free.pop()
    return word


def _page(device: torch.device) -> torch.Tensor:
    page = torch.zeros(_WORDS * _APART, dtype=torch.int32, device=device)
    # Another stream may be the first to use a word.
    torch.cuda.current_stream(device).synchronize()
    return page
