"""The twins, held against each other: the same files, the same public names, the same parameters in the same order."""

import ast
import shutil
from pathlib import Path

import pytest

from parity.contract.plan import SERVED

ROOT = Path(__file__).parents[1]

# What each framework says in its own way, and nothing else. (file, name) -> why.
# Two modules for Flax; wgmma, which Gluon has itself.
ONLY_JAX_FILES = {"linen.py", "kernels/hopper_wgmma.py"}
# jax keeps no state between calls, launches through XLA, which fuses what is between its GEMMs, and has no version that
# differs in what is used.
ONLY_TORCH_FILES = {"_compat.py", "arrivals.py", "hopper.py", "launcher.py", "settled.py"}
ONLY_TORCH_FILES |= {"kernels/gate.py", "launch_gate.py"}
ONLY_HERE = {
    ("reference.py", "Gating"): "XLA fuses it",
    ("reference.py", "eager_gating"): "as Gating",
    ("device.py", "interpreted"): "Triton keeps this switch itself",
    ("module.py", "promote"): "Flax separates what is stored from what is computed in",
    ("vendor.py", "fma"): "Triton has it: tl.fma",
    ("vendor.py", "divide"): "Triton has it: tl.div_rn",
    ("kernels/gemm.py", "halves"): "Triton splits a tile in two at a time",
    ("kernels/gemm.py", "parts"): "Pallas cuts it into as many as there are",
    ("kernels/gemm.py", "Operand"): "a reference that knows how it is held; strides say it in Triton",
}
IDIOMS = {"use_bias": "bias", "__call__": "forward"}
# Framework arguments that the other has no use for.
OWN_PARAMETERS = {"rngs", "param_dtype", "device", "dtype"}
# jax learns that a call is differentiated after it was planned, and may fold a batch into its rows: it plans anew.
OWN_PARAMETERS |= {"problem", "trained"}
# Pallas has no transposed view: it is told.
OWN_PARAMETERS |= {"transposed"}
# XLA fuses the gate's product into what is next to it, and a jaxpr holds each launch as it is, without operators.
OWN_PARAMETERS |= {"gating", "rooms"}
METHODS_OF_ONE = {"extra_repr"}


def surface(package: Path, file: str) -> dict[str, list[str]]:
    """Public functions, classes and methods of a file, and kernels: name -> parameter names; constants: name -> []."""
    found: dict[str, list[str]] = {}

    def visit(body: list[ast.stmt], prefix: str = "") -> None:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name] = []
                visit(node.body, f"{node.name}.")
            elif isinstance(node, ast.FunctionDef) and (not node.name.startswith("_") or node.name[:2] == "__"):
                args = node.args
                names = [a.arg for a in args.posonlyargs + args.args + args.kwonlyargs]
                found[prefix + IDIOMS.get(node.name, node.name)] = [
                    IDIOMS.get(n, n) for n in names if n not in OWN_PARAMETERS
                ]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and not prefix:
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                found.update({t.id: [] for t in targets if isinstance(t, ast.Name) and not t.id.startswith("_")})

    visit(ast.parse((package / file).read_text()).body)
    return {name: names for name, names in found.items() if name.split(".")[-1] not in METHODS_OF_ONE}


def hopper(file: str) -> bool:
    """Whether a file's helpers are named as Gluon's partitions and Mosaic's warpgroups have them: only its kernels are
    the same."""
    return file.startswith("kernels/hopper_")


def files(package: Path) -> set[str]:
    return {str(path.relative_to(package)) for path in package.rglob("*.py")} - ONLY_JAX_FILES - ONLY_TORCH_FILES


def differences(root: Path) -> list[str]:
    """Each way in which the twins under ``root`` are not mirrors, in words."""
    jax, torch = root / "jaxfused", root / "torchfused"
    found = [f"{file} is in one twin only" for file in files(jax) ^ files(torch)]
    for file in sorted(files(jax) & files(torch)):
        here, there = surface(jax, file), surface(torch, file)
        if file.startswith("kernels/"):
            # References against pointers and strides, so the bodies' signatures differ; the functions are the same.
            kernels_only = hopper(file)
            here, there = (
                {name: [] for name in side if name.endswith("_kernel") or not kernels_only} for side in (here, there)
            )
        found += [f"{file}: {n} is in one twin only" for n in here.keys() ^ there.keys() if (file, n) not in ONLY_HERE]
        found += [
            f"{file}: {name}({', '.join(here[name])}) against ({', '.join(there[name])})"
            for name in here.keys() & there.keys()
            if here[name] != there[name]
        ]
    return found


def helpers(package: Path, file: str) -> dict[str, list[str]]:
    """Private functions: name -> parameter names."""
    nodes = ast.parse((package / file).read_text()).body
    functions = [node for node in nodes if isinstance(node, ast.FunctionDef) and node.name.startswith("_")]
    return {f.name: [a.arg for a in f.args.posonlyargs + f.args.args + f.args.kwonlyargs] for f in functions}


def test_the_twins_are_mirrors():
    assert differences(ROOT) == []


# (file, helper) -> why it is in one twin only, or takes other parameters.
HELPERS = {
    ("launch_tiled_portable.py", "_launch"): "strides are an argument in Triton, part of the reference in Pallas",
    (
        "launch_tiled_portable.py",
        "_launcher",
    ): "torch settles a launch once, jax when it traces",
    ("launch_tiled_portable.py", "_zeros"): "an output is described in Pallas, allocated in torch",
    ("launch_tiled_hopper.py", "_launch"): "as launch_tiled_portable.py's",
    ("launch_tiled_hopper.py", "_launcher"): "as launch_tiled_portable.py's",
    ("launch_tiled_hopper.py", "_lain"): "strides say in torch what Pallas is told",
    ("launch_tiled_hopper.py", "_split"): "Pallas brings a tile of a wide matrix in one copy of three axes",
    ("launch_tiled_hopper.py", "_whole"): "as _split",
    ("launch_decode_portable.py", "_launch"): "two launches hand outputs on where arrays are values",
    ("launch_decode_portable.py", "_launchers"): "as launch_tiled_portable.py's",
    ("launch_decode_hopper.py", "_launcher"): "as launch_tiled_portable.py's",
    ("launch_decode_hopper.py", "_cut"): "in Triton part of the launcher's constants",
    ("kernels/decode.py", "_block"): "Triton's loop over a program's blocks stands in the kernel",
    ("kernels/decode.py", "_blocks"): "Pallas' loop has a body of its own",
    ("kernels/tiled_backward.py", "_finish"): "Triton recurses over an epilogue's parts where Pallas loops",
    ("kernels/gemm.py", "_ascending"): "Triton takes chains apart that are one tensor there, a tuple here",
    ("kernels/gemm.py", "_step"): "the loads of a step, which Triton writes with its pointers",
    ("kernels/gemm.py", "_steps"): "Triton is told not to unroll a loop of one step",
    ("kernels/gemm.py", "_along"): "offsets are Pallas' own affair",
    ("kernels/gemm.py", "_load"): "Pallas folds masks away that nothing needs; Triton transposes by strides",
}


def test_launch_and_kernels_have_the_same_helpers():
    rooms = sorted(
        str(path.relative_to(ROOT / "torchfused"))
        for pattern in ("launch*.py", "kernels/*.py")
        for path in (ROOT / "torchfused").glob(pattern)
        if not hopper(str(path.relative_to(ROOT / "torchfused")))
    )
    rooms = [file for file in rooms if file not in ONLY_TORCH_FILES]
    assert {file for file, _ in HELPERS} <= set(rooms)
    for file in rooms:
        sides = (helpers(ROOT / twin, file) for twin in ("jaxfused", "torchfused"))
        here, there = ({n: a for n, a in side.items() if (file, n) not in HELPERS} for side in sides)
        assert here.keys() == there.keys()
        if file.startswith("launch"):
            assert here == there
    known = {
        (f, name) for f, name in HELPERS if name in helpers(ROOT / "jaxfused", f) | helpers(ROOT / "torchfused", f)
    }
    assert known == set(HELPERS)


def test_both_launch_what_the_contract_serves():
    keys = []
    for twin in ("jaxfused", "torchfused"):
        (forward,) = (
            node
            for node in ast.parse((ROOT / twin / "launch.py").read_text()).body
            if getattr(node, "name", "") == "forward"
        )
        (table,) = (node for node in ast.walk(forward) if isinstance(node, ast.Dict))
        keys.append([ast.unparse(key) for key in table.keys if key is not None])
    served = [f"(Strategy.{strategy.name}, Backend.{backend.name})" for strategy, backend in SERVED]
    assert keys == [served, served]


def test_modules_take_the_same_arguments():
    linen = ast.parse((ROOT / "jaxfused/linen.py").read_text()).body
    (module,) = [node for node in linen if isinstance(node, ast.ClassDef) and node.name == "FusedMLP"]
    fields = [node.target.id for node in module.body if isinstance(node, ast.AnnAssign)]
    taken = surface(ROOT / "torchfused", "module.py")["FusedMLP.__init__"]
    assert ["self"] + [IDIOMS.get(name, name) for name in fields if name not in OWN_PARAMETERS] == taken


CHANGES = {
    "renamed parameter": ("torchfused/functional.py", "w_gate", "gate_w", "functional.py: fused_mlp("),
    "renamed function": (
        "jaxfused/reference.py",
        "def mlp(",
        "def unfused(",
        "reference.py: unfused is in one twin only",
    ),
    "renamed kernel": (
        "jaxfused/kernels/tiled.py",
        "linear_fwd_kernel",
        "gemm_kernel",
        "tiled.py: gemm_kernel is in one",
    ),
    "dropped export": ("torchfused/__init__.py", "__all__ =", "exports =", "__init__.py: exports is in one twin only"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_difference_is_seen(change, tmp_path):
    for package in ("jaxfused", "torchfused"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    assert differences(tmp_path) == []
    file, old, new, seen = CHANGES[change]
    path = tmp_path / file
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    assert any(seen in difference for difference in differences(tmp_path)), differences(tmp_path)


def test_a_missing_file_is_seen(tmp_path):
    for package in ("jaxfused", "torchfused"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "torchfused/device.py").unlink()
    assert differences(tmp_path) == ["device.py is in one twin only"]
