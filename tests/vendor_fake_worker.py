"""A worker of `parity vendor` without a framework: ``python -m vendor_fake_worker jax|torch``. Eager sums over more
than 4096 terms in two chains (with the fault "chains" in three), or by no order at 5 rows (with "lost" at 1, too);
another ``PARITY_FAULT`` makes a runner wrong."""

import os
import sys

from parity import protocol
from parity.vendor_worker import Mlp, read


class Fake:
    def __init__(self, framework: str) -> None:
        self.framework, self.fault = framework, os.environ.get("PARITY_FAULT", "")

    def hello(self):
        return {"device": "H100", "versions": {}, "vendor": "torch 9"}

    def reply(self, line: str):
        asked = read(line)
        if self.fault == "crash":
            os.abort()
        said = {"spent": False, "error": "ValueError: no" if self.fault == f"raise {self.framework}" else ""}
        if isinstance(asked, Mlp):
            return said | self.mlp(asked)
        chains = 1 + (asked.inner > 4096) * (2 if self.fault == "chains" else 1)
        lost = (1, 5) if self.fault == "lost" else (5,)
        rows = [
            {"m": m, "chains": None if m in lost else chains, "equal": {"1": 0.5 if m in lost else 1.0}}
            for m in asked.rows
        ]
        return said | {"rows": rows}

    def mlp(self, mlp: Mlp):
        operands = "other" if self.fault == f"operands {self.framework}" else "drawn"
        if self.framework == "jax":
            return {"operands": operands, "jaxfused": "b" if self.fault == "jaxfused" else "a"}
        wrong = self.fault == "torchfused"
        differ = {"y": 2, "s": 0, "h": 1} if wrong else {"y": 0}
        return {
            "operands": operands, "eager": "a", "torchfused": "b" if wrong else "a", "total": 64, "differ": differ,
            "at": {"y": [0, 1]} if wrong else {},
        }  # fmt: skip


if __name__ == "__main__":
    protocol.serve(lambda: Fake(sys.argv[1]), lambda worker, line: worker.reply(line))
