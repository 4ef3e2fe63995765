"""What a server may listen on: everything with authentication, this machine's own addresses without."""

from __future__ import annotations

import re
from typing import Final

from orlop.api.guard import is_loopback
from orlop.api.listening import path_of
from orlop.configuration import Settings
from orlop.hookspecs import UNIX
from orlop.model.ports import HIGHEST_PORT

_LISTEN: Final = re.compile(r".*:[0-9]{1,5}")


class CannotStart(Exception):
    """The environment's fault; the text says what is in the way."""


def host_of(address: str) -> str:
    """The host of "host:port", without brackets; empty for all addresses."""
    return address.rpartition(":")[0].strip("[]")


def check_listener(settings: Settings, address: str, key: str, *, certificates: bool) -> None:
    """The same for an address of a plugin. certificates: clients need one. Raises CannotStart."""
    path = path_of(address)
    if path is not None:
        if not path.is_absolute():
            raise CannotStart(f"{key} is {address}: expected an absolute path, such as {UNIX}/run/orlop.sock")
    elif not _LISTEN.fullmatch(address) or int(address.rpartition(":")[2]) > HIGHEST_PORT:
        raise CannotStart(f'{key} is {address}: expected "host:port" or "{UNIX}/path"')
    elif not certificates:
        check_exposure(settings, address, key)


def check_exposure(settings: Settings, address: str, key: str) -> None:
    """May this address be listened on? key: where it was configured. Raises CannotStart."""
    if settings.server.auth == "off" and not is_loopback(host_of(address)):
        raise CannotStart(
            f"{key} is {address}: without authentication only loopback addresses such as 127.0.0.1 do; "
            'for others set [server] auth = "on"'
        )
