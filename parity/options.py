"""What several commands of the command line ask of their options: a device that is there, files that can be written."""

from pathlib import Path

import typer

from . import report
from .gpu import Gpu, find_gpu

DEVICES = ("auto", "cpu", "gpu")


def check_writable(*paths: Path | None) -> None:
    for path in filter(None, paths):
        try:
            report.check_writable(path)
        except OSError as error:
            raise typer.BadParameter(f"cannot write {path}: {error}") from None


def gpu(device: str) -> Gpu | None:
    if device not in DEVICES:
        raise typer.BadParameter(f"device is {device!r}, must be one of {', '.join(DEVICES)}")
    gpu = None if device == "cpu" else find_gpu()
    if device == "gpu" and gpu is None:
        raise typer.BadParameter("device is 'gpu', but the NVIDIA driver shows none here; use 'cpu' or 'auto'")
    return gpu
