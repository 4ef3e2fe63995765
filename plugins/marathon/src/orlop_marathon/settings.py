"""The settings of `[plugins.marathon]`."""

from __future__ import annotations

from typing import Any, Final

import attrs

from orlop_marathon.model import Defaults

#: As sent by Marathon's command line: the version whose behaviour this is.
MARATHON_VERSION: Final = "1.11.24"
MEBIBYTE: Final = 1024 * 1024


def _at_least(least: int) -> Any:
    return attrs.validators.and_(attrs.validators.instance_of(int), attrs.validators.ge(least))


@attrs.frozen(kw_only=True)
class Config:
    """Where Marathon's clients look, and Marathon's own flags of the same names.

    listen: "host:port" of Marathon's API; empty: only under /marathon on the server's address.
    hostname: what `/v2/info` and `/v2/leader` call this server; empty: the server's address.
    local_port_min, local_port_max: the range of service ports.
    max_running_deployments: with so many, a change that needs another is answered with 403.
    env_vars_prefix: put before HOST, PORT... of tasks.
    default_network_name: of container networks without a name.
    default_role: of apps that say none.
    max_versions: definitions kept per app. max_body_bytes: of a request.
    """

    listen: str = "127.0.0.1:8080"
    hostname: str = ""
    local_port_min: int = attrs.field(default=10000, validator=_at_least(1))
    local_port_max: int = attrs.field(default=20000, validator=_at_least(1))
    max_running_deployments: int = attrs.field(default=100, validator=_at_least(1))
    env_vars_prefix: str = ""
    default_network_name: str = ""
    default_role: str = "*"
    max_versions: int = attrs.field(default=50, validator=_at_least(2))
    max_body_bytes: int = attrs.field(default=4 * MEBIBYTE, validator=_at_least(1024))

    def __attrs_post_init__(self) -> None:
        if not self.local_port_min <= self.local_port_max <= 65535:
            raise ValueError(
                "expected local_port_min <= local_port_max <= 65535, "
                f"got {self.local_port_min} and {self.local_port_max}"
            )

    @property
    def defaults(self) -> Defaults:
        """What fills gaps in definitions."""
        return Defaults(network_name=self.default_network_name)
