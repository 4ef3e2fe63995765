"""Which routes of plugins can be served beside each other and the API.

A plugin whose routes cannot be has failed and is left without them; the server and all others go on. What is this
machine's or the operator's matter, such as an address that another program has, is no plugin's fault (`CannotStart`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final

from aiohttp import web

from orlop.api.listening import path_of
from orlop.api.mounting import prefix_of
from orlop.hookspecs import Routes
from orlop.processes.exposure import check_listener, host_of
from orlop.server.server import Server

_LOCALHOST: Final = frozenset({"127.0.0.1", "::1"})


def usable_routes(server: Server) -> list[tuple[str, Routes]]:
    """(plugin, routes) of all that can be mounted and listen. Raises CannotStart."""
    plugins = server.plugins
    answers = []
    for plugin in plugins.names():
        settings = plugins.settings_of(plugin)
        routes: Sequence[Routes] = plugins.call(plugin, "routes", host=server.host, settings=settings) or ()
        answers.append((plugin, routes, _precedence(plugin, routes, settings)))
    usable: list[tuple[str, Routes]] = []
    prefixes: dict[str, str] = {}
    addresses = {server.address: "[server] listen"}
    for plugin, routes, _ in sorted(answers, key=lambda answer: answer[2]):
        try:
            own_prefixes = _prefixes(plugin, routes, prefixes)
            for one in routes:
                for address in one.listen:
                    key = f"[plugins.{plugin}] listen"
                    check_listener(server.settings, address, key, certificates=one.tls is not None)
            own_addresses = _addresses(plugin, routes, addresses)
        except ValueError as error:
            plugins.refuse(plugin, f"its routes cannot be served: {error}")
            continue
        prefixes |= own_prefixes
        addresses |= own_addresses
        usable += [(plugin, one) for one in routes]
    return sorted(usable, key=lambda found: plugins.names().index(found[0]))


def _precedence(plugin: str, routes: Sequence[Routes], settings: Any) -> tuple[bool, bool]:
    """Lower goes first: who has its own name as a prefix, and who listens where its settings say."""
    configured = getattr(settings, "listen", ())
    said = (configured,) if isinstance(configured, str) else configured
    return (
        plugin not in [str(one.prefix).strip("/") for one in routes],
        not all(address in said for one in routes for address in one.listen),
    )


def _prefixes(plugin: str, routes: Sequence[Routes], taken: Mapping[str, str]) -> dict[str, str]:
    """Prefix → plugin. Raises ValueError for what cannot be mounted."""
    found: dict[str, str] = {}
    for one in routes:
        prefix = prefix_of(one)
        if prefix in taken or prefix in found:
            raise ValueError(
                f"the prefix {prefix!r} is one of {taken.get(prefix, 'its other routes')}: expected another"
            )
        if not isinstance(one.application, web.Application):
            raise ValueError(f"expected an aiohttp application under {prefix!r}, got {one.application!r}")
        if one.application.frozen:
            raise ValueError(f"the application under {prefix!r} was served before: expected a new one of each call")
        if not all(isinstance(address, str) for address in one.listen):
            raise ValueError(f'expected "host:port" or "unix:///path" to listen on, got {one.listen!r}')
        found[prefix] = plugin
    return found


def _addresses(plugin: str, routes: Sequence[Routes], taken: Mapping[str, str]) -> dict[str, str]:
    """Address → plugin. Raises ValueError for one that is another's."""
    found: dict[str, str] = {}
    for address in (address for one in routes for address in one.listen):
        for other, holder in {**taken, **found}.items():
            if _overlap(address, other):
                raise ValueError(f"it listens on {address}, which {holder} is to have: expected another address")
        found[address] = plugin
    return found


def _overlap(one: str, other: str) -> bool:
    """Can only one of these be listened on?"""
    if path_of(one) is not None or path_of(other) is not None:
        return one == other
    port, other_port = (int(address.rpartition(":")[2]) for address in (one, other))
    if port != other_port or port == 0:
        return False
    hosts = {host_of(one), host_of(other)}
    if len(hosts) == 1 or "" in hosts:
        return True
    first, second = (_numbers(host) for host in hosts)
    return any(
        a.version == b.version and (a == b or a.is_unspecified or b.is_unspecified) for a in first for b in second
    )


def _numbers(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Of a host; empty for a name, of which it is found out when it is listened on."""
    if host == "localhost":
        return [ipaddress.ip_address(number) for number in _LOCALHOST]
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        return []
