"""Launches of torchfused's tiled/hopper, none of which is run."""

import pytest

from torchfused import launch_tiled_hopper


def launches(monkeypatch: pytest.MonkeyPatch) -> list:
    """(work, tiling) of every launch from now on."""
    found = []
    monkeypatch.setattr(
        launch_tiled_hopper, "_launch", lambda kernel, device, work, tiling, *_, **__: found.append((work, tiling))
    )
    return found
