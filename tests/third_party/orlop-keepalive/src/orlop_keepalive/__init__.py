"""Keeps N copies of one command running."""

from collections.abc import Iterator

import attrs

from orlop.framework import Action, Ask, Framework, Kill, Process, Resources, View
from orlop.hookspecs import hookimpl


@attrs.frozen
class Config:
    """`[plugins.keepalive]`. Without copies it does nothing."""

    command: str = "sleep infinity"
    copies: int = attrs.field(default=0, validator=attrs.validators.ge(0))


class KeepAlive(Framework):
    """Keeps N copies of one command running."""

    name = "keepalive"
    config = Config

    def reconcile(self, view: View) -> Iterator[Action]:
        wanted = {f"copy-{number}" for number in range(self.settings.copies)}
        for key in sorted(wanted - view.live.keys()):
            yield Ask(key, run=Process(self.settings.command), needs=Resources(cpus=0.1, mem="32MiB"))
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


@hookimpl
def frameworks() -> list[type[Framework]]:
    return [KeepAlive]
