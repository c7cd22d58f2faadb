"""Who shares a word to count arrivals in, and who must not: streams, captures, pages."""

import threading
from types import SimpleNamespace

import pytest
import torch

from torchfused import arrivals
from torchfused.arrivals import arrivals_of

DEVICE = torch.device("cpu", 0)


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as arrivals.py asks: its current stream, whether that is being captured, synchronisations."""
    state = SimpleNamespace(stream=1, capturing=False, synchronised=0, threads=set())

    def synchronize():
        state.synchronised += 1
        state.threads.add(threading.get_ident())

    monkeypatch.setattr(arrivals, "_HELD", type(arrivals._HELD)(arrivals._Words))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: state.capturing)
    monkeypatch.setattr(
        torch.cuda,
        "current_stream",
        lambda device: SimpleNamespace(cuda_stream=state.stream, synchronize=synchronize),
    )
    return state


def test_a_stream_keeps_its_word_and_another_has_its_own(gpu):
    first = arrivals_of(DEVICE)
    gpu.stream = 2
    second = arrivals_of(DEVICE)
    gpu.stream = 1
    assert arrivals_of(DEVICE).data_ptr() == first.data_ptr()
    # A cache line each, of one page that was zero before any other stream could see it.
    assert abs(first.data_ptr() - second.data_ptr()) >= 128
    assert gpu.synchronised == 1
    # torch.compile has all that the calling thread allocates in a graph's pool.
    assert threading.get_ident() not in gpu.threads
    assert first.dtype == torch.int32
    assert first.item() == second.item() == 0


def test_every_captured_launch_has_a_word_of_its_own(gpu):
    words = [arrivals_of(DEVICE).data_ptr()]
    gpu.capturing = True
    words += [arrivals_of(DEVICE).data_ptr() for _ in range(100)]
    assert len(set(words)) == 101
    # They stay, whoever drops them.
    held = arrivals._HELD[0]
    (page,) = held.pages
    assert all(page.data_ptr() <= word < page.data_ptr() + page.nbytes for word in words)


def test_a_capture_makes_no_page(gpu):
    gpu.capturing = True
    assert arrivals_of(DEVICE).item() == 0
    assert arrivals._HELD[0].pages == []
    assert gpu.synchronised == 0


def test_a_page_that_is_used_up_is_followed_by_another(gpu):
    for stream in range(arrivals._WORDS + 1):
        gpu.stream = stream
        arrivals_of(DEVICE)
    assert len(arrivals._HELD[0].pages) == 2
    assert len({word.data_ptr() for word in arrivals._HELD[0].of_stream.values()}) == arrivals._WORDS + 1
