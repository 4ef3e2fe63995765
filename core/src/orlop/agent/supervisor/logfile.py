"""supervisor.log: what operators are told of the supervisor, and of nothing else."""

from __future__ import annotations

import os
import time

LOG_BYTES_MAX = 2**20


def log(text: str) -> None:
    """To stderr, which is supervisor.log; it starts anew when it is full."""
    if os.fstat(2).st_size > LOG_BYTES_MAX:
        os.ftruncate(2, 0)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    os.write(2, f"{stamp} {text}\n".encode(errors="replace"))
