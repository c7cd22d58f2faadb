"""Words in which the programs of a decode launch count each other: zeroed once, left as they were by every launch."""

import torch

# A word for each call of a page's captures and for each stream; 128 bytes apart, a cache line each.
_WORDS, _APART = 512, 32


class _Pages:
    """A device's words. ``take`` gives one that nobody else has, None where that would need a new page during a
    capture, which could not be zeroed ahead."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.streams: dict[int, torch.Tensor] = {}
        self.free: list[torch.Tensor] = []
        # A graph holds a word's address and no reference to it.
        self.kept: list[torch.Tensor] = []

    def of_stream(self) -> torch.Tensor:
        stream = torch.cuda.current_stream(self.device).cuda_stream
        if stream not in self.streams:
            self.streams[stream] = self.take()
        return self.streams[stream]

    def take(self) -> torch.Tensor:
        if not self.free:
            page = torch.zeros(_WORDS * _APART, dtype=torch.int32, device=self.device)
            # Another stream may be the first to use a word.
            torch.cuda.current_stream(self.device).synchronize()
            self.kept.append(page)
            self.free = list(page[::_APART])
        return self.free.pop()


_PAGES: dict[int, _Pages] = {}


def arrivals_of(device: torch.device) -> torch.Tensor:
    """The int32 word that a launch on the current stream of ``device`` may use.

    Launches on one stream follow each other and share one word. A launch that is being captured keeps a word to
    itself: its graph may be replayed beside any stream, though never beside itself. The first page is made by the
    first call outside a capture; where a capture finds no word left, the graph zeroes one of its own at each replay.
    """
    pages = _PAGES.setdefault(device.index, _Pages(device))
    if not torch.cuda.is_current_stream_capturing():
        return pages.of_stream()
    return pages.free.pop() if pages.free else torch.zeros(1, dtype=torch.int32, device=device)
