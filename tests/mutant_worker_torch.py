"""The real torch worker with a bug: its fused runner is not given b_up. ``python -m mutant_worker_torch gpu|cpu``."""

import sys

from parity import protocol
from parity.worker_torch import Torch


class Mutant(Torch):
    def _run_fused(self, request, arrays):
        return super()._run_fused(request, {name: array for name, array in arrays.items() if name != "b_up"})


if __name__ == "__main__":
    protocol.serve(lambda: Mutant(sys.argv[1]))
