"""Ports for tests that listen: each is handed out once, whatever else runs on the machine."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator
from typing import Final

#: Below the ports that the kernel takes for outgoing connections, and below those that agents give to tasks.
_FIRST: Final = 10_000
_BLOCK: Final = 100
_BLOCKS: Final = 100

#: Open as long as the process lives: this is what keeps other processes away from its blocks.
_claims: list[socket.socket] = []


def free_port() -> int:
    """A port on 127.0.0.1 that nobody listens on, and that no other caller is given, in this process or another.

    Raises RuntimeError when there is none.
    """
    for port in _ports:
        if _is_free(port):
            return port
    raise RuntimeError("no free ports for tests")


def _candidates() -> Iterator[int]:
    for block in random.sample(range(_BLOCKS), _BLOCKS):
        if _claim(block):
            yield from range(_FIRST + block * _BLOCK, _FIRST + (block + 1) * _BLOCK)


def _claim(block: int) -> bool:
    claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        claim.bind(f"\0orlop-test-ports-{block}")
    except OSError:
        claim.close()
        return False
    _claims.append(claim)
    return True


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


_ports: Final = _candidates()
