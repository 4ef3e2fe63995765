"""An app's checks, as values: of health, of readiness, and those whose result is only reported. See `model`."""

from __future__ import annotations

import enum

import attrs

from orlop_marathon.members import (
    HIGHEST_PORT,
    LONGEST_DURATION_S,
    MAX_LENGTH,
    MIN_LENGTH,
    PATTERN,
    PORT_NAME,
    count,
    omitted,
    port_number,
    seconds,
)


class HealthCheckProtocol(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"
    TCP = "TCP"
    COMMAND = "COMMAND"
    MESOS_HTTP = "MESOS_HTTP"
    MESOS_HTTPS = "MESOS_HTTPS"
    MESOS_TCP = "MESOS_TCP"


class HttpScheme(enum.StrEnum):
    HTTP = "HTTP"
    HTTPS = "HTTPS"


class IpProtocol(enum.StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"


@attrs.frozen(kw_only=True)
class Command:
    """A shell text."""

    value: str = attrs.field(metadata={MIN_LENGTH: 1})


@attrs.frozen(kw_only=True)
class HealthCheck:
    """ignore_http1xx: None where the protocol is none of Marathon's own HTTP ones."""

    protocol: HealthCheckProtocol = HealthCheckProtocol.HTTP
    path: str | None = None
    port: int | None = port_number(None)
    port_index: int | None = port_number(None)
    command: Command | None = None
    grace_period_seconds: int = seconds(300)
    interval_seconds: int = seconds(60)
    timeout_seconds: int = seconds(20)
    max_consecutive_failures: int = count(3)
    delay_seconds: int = seconds(15)
    ignore_http1xx: bool | None = None
    ip_protocol: IpProtocol = IpProtocol.IPV4


@attrs.frozen(kw_only=True)
class HttpCheck:
    port_index: int | None = count(None)
    port: int | None = count(None, minimum=1, maximum=HIGHEST_PORT)
    path: str | None = None
    scheme: HttpScheme = HttpScheme.HTTP


@attrs.frozen(kw_only=True)
class TcpCheck:
    port_index: int | None = count(None)
    port: int | None = count(None, minimum=1, maximum=HIGHEST_PORT)


@attrs.frozen(kw_only=True)
class CheckCommand:
    """Exactly one of a shell text and an argument vector."""

    shell: str | None = None
    argv: tuple[str, ...] = omitted(())


@attrs.frozen(kw_only=True)
class CommandCheck:
    command: CheckCommand


@attrs.frozen(kw_only=True)
class Check:
    """A check whose result is only reported. Exactly one of http, tcp and exec is set."""

    http: HttpCheck | None = None
    tcp: TcpCheck | None = None
    exec: CommandCheck | None = None
    interval_seconds: int = seconds(60)
    timeout_seconds: int = seconds(20)
    delay_seconds: int = seconds(15)


@attrs.frozen(kw_only=True)
class ReadinessCheck:
    name: str = attrs.field(default="readinessCheck", metadata={MIN_LENGTH: 1})
    protocol: HttpScheme = HttpScheme.HTTP
    path: str = attrs.field(default="/", metadata={MIN_LENGTH: 1, MAX_LENGTH: 1024})
    port_name: str = attrs.field(default="http-api", metadata={PATTERN: PORT_NAME})
    interval_seconds: int = seconds(30)
    timeout_seconds: int = count(10, minimum=1, maximum=LONGEST_DURATION_S)
    http_status_codes_for_ready: tuple[int, ...] = count((200,), minimum=100, maximum=999)
    preserve_last_response: bool = False
