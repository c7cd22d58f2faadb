"""Signals as a terminal leaves them."""

import signal


def hear_interrupts() -> None:
    """In a new process: SIGINT is heard, whatever this one was started to ignore (nohup, a shell's background job)."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
