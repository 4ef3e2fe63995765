"""What a server may listen on: everything with authentication, this machine's own addresses without."""

from __future__ import annotations

from orlop.api.guard import is_loopback
from orlop.configuration import Settings


class CannotStart(Exception):
    """The environment's fault; the text says what is in the way."""


def host_of(address: str) -> str:
    """The host of "host:port", without brackets; empty for all addresses."""
    return address.rpartition(":")[0].strip("[]")


def check_exposure(settings: Settings, address: str, key: str) -> None:
    """May this address be listened on? key: where it was configured. Raises CannotStart."""
    if settings.server.auth == "off" and not is_loopback(host_of(address)):
        raise CannotStart(
            f"{key} is {address}: without authentication only loopback addresses such as 127.0.0.1 do; "
            'for others set [server] auth = "on"'
        )
