"""One server's word to another on who asks, for clients that are known by their connection and carry no token.

Servers share the cluster's key. What one says is sealed with it, for one request and for a short while.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from typing import Final

from orlop.security.sealing import NONCE_BYTES, CannotUnseal, seal, unseal

HEADER: Final = "Orlop-Principal"
CHARACTERS_MAX: Final = 2_048
#: Clocks of servers may differ by this, the way between them included.
GOOD_FOR_MS: Final = 60_000


def _utc_ms() -> int:
    return time.time_ns() // 1_000_000


class Vouching:
    """key: the cluster's. utc_ms: the clock."""

    def __init__(self, key: bytes, utc_ms: Callable[[], int] = _utc_ms) -> None:
        self._key = key
        self._utc_ms = utc_ms

    def vouch(self, principal: str, method: str, path: str) -> str:
        """The header's value for a request. path: with its query, as it is sent."""
        said = f"{self._utc_ms()} {principal[:200]}".encode()
        return seal(self._key, _purpose(method, path), said, secrets.token_bytes(NONCE_BYTES))

    def principal(self, header: str, method: str, path: str) -> str:
        """Who asks. Raises CannotUnseal."""
        if len(header) > CHARACTERS_MAX:
            raise CannotUnseal("it is too long")
        said_at, _, principal = unseal(self._key, _purpose(method, path), header).decode().partition(" ")
        if abs(self._utc_ms() - int(said_at)) > GOOD_FOR_MS:
            raise CannotUnseal("it is too old, or the servers' clocks differ")
        return principal


def _purpose(method: str, path: str) -> str:
    return f"principal of {method} {path}"
