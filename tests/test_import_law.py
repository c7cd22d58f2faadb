"""Who may import whom, probed in a fresh process, and proof that the probe can fire."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("parity", "jaxfused", "torchfused")
JAX, TORCH = {"jax", "jaxlib", "flax"}, {"torch", "triton"}
CONTRACT = sorted(f"parity.contract.{path.stem}" for path in (ROOT / "parity/contract").glob("[!_]*.py"))
HARNESS = {f"parity.{path.stem}" for path in (ROOT / "parity").glob("[!_]*.py")}

PROBE = """
import importlib, json, sys
before = set(sys.modules)
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def imported(*names: str, root: Path = ROOT) -> set[str]:
    """Every module that a fresh process has loaded after importing ``names`` from ``root``."""
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(root)!r}){PROBE}", *names]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout))


def tops(modules: set[str]) -> set[str]:
    return {module.partition(".")[0] for module in modules}


def modules_of(package: str) -> list[str]:
    paths = sorted((ROOT / package).rglob("*.py"))
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths]
    return [name.removesuffix(".__init__") for name in names]


def breaches(package: str, root: Path = ROOT) -> set[str]:
    """What importing every module of a twin loads that it must not."""
    loaded = imported(*modules_of(package), root=root)
    forbidden = TORCH | {"torchfused", "bench"} if package == "jaxfused" else JAX | {"jaxfused", "bench"}
    return (tops(loaded) & forbidden) | (loaded & HARNESS)


def test_parity_imports_nothing():
    assert imported("parity") == {"parity"}


def test_contract_imports_the_standard_library():
    loaded = imported(*CONTRACT)
    assert tops(loaded) <= set(sys.stdlib_module_names) | {"parity"}
    assert {name for name in loaded if name.startswith("parity.")} == {"parity.contract", *CONTRACT}


@pytest.mark.parametrize("package", ["jaxfused", "torchfused"])
def test_a_twin_imports_neither_the_other_nor_the_harness(package):
    assert breaches(package) == set()


def test_harness_starts_without_a_framework():
    workers = {"parity.worker_jax", "parity.worker_torch"}
    assert {"parity.oracle", "parity.bounds", *workers} <= HARNESS
    loaded = imported(*sorted(HARNESS))
    assert tops(loaded) & (JAX | TORCH | {"jaxfused", "torchfused"}) == set()


PLANTED = {
    "torchfused/device.py": ("import flax", {"flax", "jax", "jaxlib"}),
    "jaxfused/activations.py": ("import triton", {"triton"}),
    "torchfused/kernels/tiled.py": ("import parity.rounding", {"parity.rounding"}),
    "jaxfused/launch.py": ("from parity import cases", {"parity.cases"}),
}


@pytest.mark.parametrize("file", PLANTED)
def test_the_probe_fires(file, tmp_path):
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    statement, culprits = PLANTED[file]
    path = tmp_path / file
    path.write_text(path.read_text() + f"\n{statement}\n")
    assert culprits <= breaches(Path(file).parts[0], tmp_path)


def test_the_probe_fires_for_the_contract(tmp_path):
    shutil.copytree(ROOT / "parity", tmp_path / "parity", ignore=shutil.ignore_patterns("__pycache__"))
    path = tmp_path / "parity/contract/errors.py"
    path.write_text(path.read_text() + "\nimport numpy\n")
    assert "numpy" in tops(imported(*CONTRACT, root=tmp_path))
