"""The settings of `[plugins.swarm]`."""

from __future__ import annotations

import ipaddress
from typing import Any, Final

import attrs

from orlop.hookspecs import UNIX, ClientCertificates
from orlop_swarm.placement import filters, strategies

CPU_UNITS: Final = ("engine", "shares")
REPEATED: Final = ("all", "last")
NAMES: Final = ("plain", "node")


def _strategy(_: object, field: attrs.Attribute[str], value: str) -> None:
    try:
        strategies.strategy(value)
    except ValueError as error:
        raise ValueError(f"{field.name}: {error}; known: {', '.join(strategies.STRATEGIES)}") from None


def _filters(_: object, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    try:
        filters.named(value)
    except ValueError as error:
        raise ValueError(f"{field.name}: {error}") from None


def _above_minus_one(_: object, field: attrs.Attribute[float], value: float) -> None:
    if not value > -1:
        raise ValueError(f"{field.name}: swarm.overcommit should be larger than -1, {value:f} is invalid")


def _let_in(config: Config, field: attrs.Attribute[tuple[str, ...]], value: tuple[str, ...]) -> None:
    """Whoever can use the Docker API is root on every node."""
    if config.client_certificates is not None:
        return
    for address in value:
        if not address.startswith(UNIX) and not _is_loopback(address.rpartition(":")[0].strip("[]")):
            raise ValueError(
                f"{field.name}: {address} can be reached from other machines: set tls_cert, tls_key and tls_ca, "
                'so that clients need a certificate, or listen on a loopback address, such as "127.0.0.1:3375"'
            )


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _all_or_none(config: Config, field: attrs.Attribute[str], value: str) -> None:
    files = (config.tls_cert, config.tls_key, config.tls_ca)
    if any(files) and not value:
        raise ValueError(f"{field.name}: tls_cert, tls_key and tls_ca go together")


def _one_of(*values: str) -> Any:
    return attrs.validators.in_(values)


@attrs.frozen(kw_only=True)
class Config:
    """How clients come in, and how containers find their places; classic Swarm's own flags where they have its names.

    listen: addresses of the Docker API: "host:port", "unix:///path". tls_cert, tls_key: files with the server's
    certificate and its key; tls_ca: with the authority of clients' certificates. Without them "host:port" is loopback.
    strategy: "spread", "binpack" or "random", for what says nothing itself. filters: those in use, in this order.
    overcommit: so much more than nodes have counts as theirs where fullness is reckoned; classic Swarm's is 0.05.
    cpu_units: "engine": cpus are what `--cpus` says; "shares": N `--cpu-shares` are N whole cpus (classic Swarm).
    repeated_constraints: of several `-e constraint:` with the same key "all" count, or the "last" one alone.
    role: whom the resources of containers are accounted to that have no label `com.docker.swarm.role`.
    names: containers are listed as one engine names them ("plain"), or as `/node/name`, as classic Swarm did ("node").
    """

    listen: tuple[str, ...] = attrs.field(default=("127.0.0.1:3375",), validator=_let_in)
    tls_cert: str = attrs.field(default="", validator=_all_or_none)
    tls_key: str = attrs.field(default="", validator=_all_or_none)
    tls_ca: str = attrs.field(default="", validator=_all_or_none)
    role: str = "*"
    names: str = attrs.field(default="plain", validator=_one_of(*NAMES))
    strategy: str = attrs.field(default="spread", validator=_strategy)
    filters: tuple[str, ...] = attrs.field(default=tuple(filters.FILTERS), validator=_filters)
    overcommit: float = attrs.field(default=0.0, validator=_above_minus_one)
    cpu_units: str = attrs.field(default="engine", validator=_one_of(*CPU_UNITS))
    repeated_constraints: str = attrs.field(default="all", validator=_one_of(*REPEATED))

    @property
    def client_certificates(self) -> ClientCertificates | None:
        """What clients on "host:port" have to show; None where it is what the API asks for."""
        if not (self.tls_cert and self.tls_key and self.tls_ca):
            return None
        return ClientCertificates(certificate=self.tls_cert, key=self.tls_key, authority=self.tls_ca)
