"""Before any framework is imported: the interpreters where there is no GPU, and one GPU's memory for two frameworks."""

import os

import pytest

from parity.gpu import find_gpu

GPU = find_gpu()

if GPU is None:
    os.environ["TRITON_INTERPRET"] = "1"
    os.environ["JAXFUSED_INTERPRET"] = "1"
os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"


def pytest_configure(config: pytest.Config) -> None:
    # Known and met by the backend that replaces it: jax 0.11 says so at every lowering.
    config.addinivalue_line("filterwarnings", "ignore:The Pallas Triton backend is deprecated:DeprecationWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if GPU is None:
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="no NVIDIA GPU is visible"))


@pytest.fixture
def strict_jax():
    """No silent cast, no silent broadcast; on a machine with a GPU, no silent CPU either."""
    import jax

    if GPU is not None:
        assert jax.default_backend() == "gpu"
    # Interpreted kernels take longer to compile than to run: without optimisation, half as long.
    jax.config.update("jax_disable_most_optimizations", GPU is None)
    with jax.numpy_dtype_promotion("strict"), jax.numpy_rank_promotion("raise"):
        yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tensor that torch leaves uninitialised is NaN: an element no kernel wrote is seen."""
    import torch

    def poison(allocate):
        def filled(*args, **kwargs):
            tensor = allocate(*args, **kwargs)
            return tensor.fill_(float("nan")) if tensor.is_floating_point() else tensor

        return filled

    for owner, name in ((torch, "empty"), (torch, "empty_like"), (torch, "empty_strided"), (torch.Tensor, "new_empty")):
        monkeypatch.setattr(owner, name, poison(getattr(owner, name)))
