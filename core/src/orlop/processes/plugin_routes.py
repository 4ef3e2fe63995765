"""Which routes of plugins can be served beside each other and the API.

A plugin whose routes cannot be has failed, or has wrong settings, and is off as a whole; the server and all others go
on. What is this machine's or the operator's matter, such as an address that another program has, is no plugin's fault
(`CannotStart`).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any, Final, NoReturn

from aiohttp import web

import orlop
from orlop.agent.agent import read_clock
from orlop.api.listening import path_of
from orlop.api.mounting import prefix_of
from orlop.configuration import ConfigurationError, Settings, plugin_problem
from orlop.framework import NotAvailable
from orlop.hookspecs import Routes
from orlop.processes.exposure import check_form, check_listener, host_of
from orlop.server.plugin_host import PluginHost
from orlop.server.routing import Host

_LOCALHOST: Final = frozenset({"127.0.0.1", "::1"})


def usable_routes(settings: Settings, plugins: PluginHost, host: Host) -> list[tuple[str, Routes]]:
    """(plugin, routes) of all that can be mounted and listen. Raises CannotStart."""
    answers = []
    for plugin in plugins.names():
        own = plugins.settings_of(plugin)
        routes: Sequence[Routes] = plugins.call(plugin, "routes", host=host, settings=own) or ()
        answers.append((plugin, routes, _precedence(plugin, routes, own)))
    usable: list[tuple[str, Routes]] = []
    prefixes: dict[str, str] = {}
    addresses = {settings.server.listen: "[server] listen"}
    for plugin, routes, _ in sorted(answers, key=lambda answer: answer[2]):
        try:
            own_prefixes = _prefixes(plugin, routes, prefixes)
            _check_addresses(settings, plugin, routes, plugins.settings_of(plugin))
            own_addresses = _addresses(plugin, routes, addresses)
        except ConfigurationError as error:
            plugins.misconfigured(plugin, error)
            continue
        except ValueError as error:
            plugins.refuse(plugin, f"its routes cannot be served: {error}")
            continue
        prefixes |= own_prefixes
        addresses |= own_addresses
        usable += [(plugin, one) for one in routes]
    return sorted(usable, key=lambda found: plugins.names().index(found[0]))


def idle_host(settings: Settings) -> Host:
    """As that of a server that knows nothing yet: what is asked of it raises NotAvailable. For looking at routes."""

    async def no_engine(node: str) -> NoReturn:
        raise NotAvailable(f"no server runs, so there is no engine of {node}")

    def no_state() -> NoReturn:
        raise NotAvailable("no server runs, so there is no state")

    return Host(
        cluster_name=settings.cluster.name,
        address=settings.server.listen,
        version=orlop.__version__,
        state=no_state,
        explainer=lambda *_: no_state(),
        clock=read_clock,
        open_engine=no_engine,
    )


def _precedence(plugin: str, routes: Sequence[Routes], own: Any) -> tuple[bool, bool]:
    """Lower goes first: who has its own name as a prefix, and who listens where its settings say."""
    configured = _configured(own)
    return (
        plugin not in [str(one.prefix).strip("/") for one in routes],
        not all(address in configured for one in routes for address in one.listen),
    )


def _configured(own: Any) -> Sequence[Any]:
    """Where the plugin's settings let it listen."""
    listen = getattr(own, "listen", ())
    return listen if isinstance(listen, Sequence) and not isinstance(listen, str) else (listen,)


def _check_addresses(settings: Settings, plugin: str, routes: Sequence[Routes], own: Any) -> None:
    """Raises ConfigurationError for a malformed address of the settings, ValueError for one that the plugin has made
    up, CannotStart for one that must not be listened on like this."""
    for one in routes:
        for address in one.listen:
            try:
                check_form(address)
            except ValueError as error:
                if address not in _configured(own):
                    raise
                raise ConfigurationError([plugin_problem(settings, plugin, "listen", str(error))]) from error
            check_listener(settings, address, f"[plugins.{plugin}] listen", certificates=one.tls is not None)


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
