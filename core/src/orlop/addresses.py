"""Addresses as clients are told them."""

from __future__ import annotations

from typing import Final

_ANY_ADDRESS: Final = frozenset({"", "*", "0.0.0.0", "::", "[::]"})  # noqa: S104  (nothing is bound here)


def reached_at(listen: str, hostname: str, server: str) -> str:
    """ "host:port" under which clients reach a plugin's listener.

    listen: the listener's address, empty where there is none. hostname: what the plugin's settings call this machine,
    or empty. server: the address of the server, which stands for what is not said.
    """
    if not listen:
        return server
    name, _, port = listen.rpartition(":")
    if hostname:
        name = hostname
    elif name in _ANY_ADDRESS:
        name = server.rpartition(":")[0]
    return f"{name}:{port}"
