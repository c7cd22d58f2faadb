"""What a tuner compiles before it measures: in threads, while there is time."""

import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

from .protocol import describe


def compiled(todo: Sequence[Callable[[], Any]], seconds: float) -> dict:
    """Does ``todo``. None is begun after ``seconds``, and all that were are done. ``launches`` there are, how many of
    them ``compiled``, the ``seconds`` it took; ``error``: the first one's, if any."""
    start = time.monotonic()
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        running = [pool.submit(each) for each in todo]
        wait(running, timeout=seconds)
        pool.shutdown(wait=True, cancel_futures=True)
    errors = [future.exception() for future in running if not future.cancelled()]
    failed = [error for error in errors if error is not None]
    return {
        "launches": len(todo),
        "compiled": len(errors) - len(failed),
        "seconds": round(time.monotonic() - start, 1),
        "error": describe(failed[0]) if failed else "",
    }
