"""What a server may listen on: everything with authentication, this machine's own addresses without."""

from __future__ import annotations

from orlop.api.guard import is_loopback
from orlop.api.listening import path_of
from orlop.configuration import Settings, is_host_and_port
from orlop.hookspecs import UNIX


class CannotStart(Exception):
    """The environment's fault; the text says what is in the way."""


def host_of(address: str) -> str:
    """The host of "host:port", without brackets; empty for all addresses."""
    return address.rpartition(":")[0].strip("[]")


def check_form(address: str) -> None:
    """Is it an address that a plugin can listen on? Raises ValueError with what was expected."""
    path = path_of(address)
    if path is not None:
        if not path.is_absolute():
            raise ValueError(f'expected an absolute path, such as "{UNIX}/run/orlop.sock", got "{address}"')
    elif not is_host_and_port(address):
        raise ValueError(f'expected "host:port" or "{UNIX}/path", got "{address}"')


def check_listener(settings: Settings, address: str, key: str, *, certificates: bool) -> None:
    """`check_exposure` for an address of a plugin. certificates: clients need one. Raises CannotStart."""
    if path_of(address) is None and not certificates:
        check_exposure(settings, address, key)


def check_exposure(settings: Settings, address: str, key: str) -> None:
    """May this address be listened on? key: where it was configured. Raises CannotStart."""
    if settings.server.auth == "off" and not is_loopback(host_of(address)):
        raise CannotStart(
            f"{key} is {address}: without authentication only loopback addresses such as 127.0.0.1 do; "
            'for others set [server] auth = "on"'
        )
