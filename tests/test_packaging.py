"""What the wheel carries: the three packages and their py.typed, no bench and no tests."""

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("jaxfused", "torchfused", "parity")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    setuptools = pytest.importorskip("setuptools")
    if int(setuptools.__version__.split(".")[0]) < 77:
        pytest.skip(f"setuptools is {setuptools.__version__}, the build asks for 77")
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for path in ROOT.iterdir():
        if path.suffix in (".toml", ".md") or path.name in (*PACKAGES, "bench", "tests", "LICENSE"):
            subprocess.run(["cp", "-r", path, source], check=True)
    build = "import sys, setuptools.build_meta as b; folder = sys.argv.pop(); b.build_wheel(folder)"
    command = [sys.executable, "-W", "ignore", "-c", build, folder]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (found,) = folder.glob("*.whl")
    return set(zipfile.ZipFile(found).namelist())


def test_wheel_contents(wheel):
    carried = {name for name in wheel if ".dist-info/" not in name}
    assert {name.partition("/")[0] for name in carried} == set(PACKAGES)
    sources = {str(path.relative_to(ROOT)) for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    assert sources <= carried
    assert {f"{package}/py.typed" for package in PACKAGES} <= carried


def test_packages_that_are_found():
    setuptools = pytest.importorskip("setuptools")
    configured = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    found = setuptools.find_packages(str(ROOT), **configured["packages"]["find"])
    with_code = {
        ".".join(path.parent.relative_to(ROOT).parts) for name in PACKAGES for path in (ROOT / name).rglob("*.py")
    }
    assert set(found) == with_code
    assert configured["package-data"] == {"*": ["py.typed"], "parity": ["contract/*.json", "corpus.txt", "templates/*"]}
    assert all((ROOT / name / "py.typed").is_file() for name in PACKAGES)


def test_frameworks_are_extras():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    always = " ".join(project["dependencies"])
    assert not any(name in always for name in ("torch", "triton", "jaxlib", "jax>", "flax"))
    assert {"jax", "torch", "cuda", "dev"} <= project["optional-dependencies"].keys()


def test_make_parity_makes_the_folder_it_writes_to():
    recipe = subprocess.run(["make", "-n", "parity"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert recipe.index("mkdir -p out") < recipe.index("--json out/parity.json")
