"""What a training step keeps of the hidden layer for its backward pass.

- ``preact``: ``s``, and ``u`` when gated, rounded to the operands' type; the backward computes ``h`` from them again.
- ``hidden``: ``h`` as well.
- ``recompute``: nothing but the operands; the backward runs the first GEMM again. The gradients' bits are ``hidden``'s.
"""

SAVES = ("preact", "hidden", "recompute")


def check_save(name: str) -> None:
    """Raises ValueError, listing what there is, if ``name`` is not a way to save."""
    if name not in SAVES:
        raise ValueError(f"save is {name!r}, must be one of {', '.join(SAVES)}")


def saved_names(save: str, gated: bool) -> tuple[str, ...]:
    """What is kept besides the operands, in the order both twins keep it."""
    pre = ("s", "u") if gated else ("s",)
    return {"preact": pre, "hidden": (*pre, "h"), "recompute": ()}[save]
