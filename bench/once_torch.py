"""One call of one torch contender between cudaProfilerStart and Stop: what counters.py profiles."""

import json
import sys

import torch

from .roster_torch import CONTENDERS
from .worker_torch import TorchWorker
from .workloads import Case


def main() -> None:
    wanted = json.loads(sys.argv[1])
    case = Case(**wanted["case"])
    contender = next(c for c in CONTENDERS if c.name == wanted["contender"])
    plan = dict(contender.variants(case))[wanted["plan"]]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    worker = TorchWorker(device)
    f = contender.build(case, plan)
    layers = [contender.pack({**worker.draw(case, i), "activation": case.problem.activation}) for i in range(2)]
    with torch.no_grad():
        for w in layers:
            w.pop("activation", None)
            f(layers[0]["x"], w)
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.start()
        f(layers[0]["x"], layers[0])
        if device == "cuda":
            torch.cuda.synchronize()
            torch.cuda.profiler.stop()


if __name__ == "__main__":
    main()
