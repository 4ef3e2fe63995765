"""A plugin for the server that is measured: `POST /asking` asks for tasks, and is answered after the commit.

`install` makes a distribution of this very file in a folder; with that folder on its PYTHONPATH a server finds it.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import attrs
from aiohttp import web

from orlop.framework import Action, Ask, Changed, Framework, Process, Reply, Resources, View
from orlop.hookspecs import Routes, hookimpl

NAME: Final = "asking"
RUN: Final = Process("exec sleep 1000")
NEEDS: Final = Resources(cpus=0.01, mem="1MiB")


@attrs.frozen
class Wanted:
    """The tasks number `first` and so on."""

    first: int
    count: int


class Asking(Framework):
    """Asks for what it is told to; what ends is not replaced."""

    name = NAME

    def command(self, view: View, command: Wanted) -> Iterator[Action]:
        for number in range(command.first, command.first + command.count):
            yield Ask(f"task-{number}", run=RUN, needs=NEEDS, group="asked")
        yield Reply(command.count)

    def handle(self, view: View, changed: Changed) -> Iterator[Action]:
        yield from ()


@hookimpl
def frameworks() -> list[type[Framework]]:
    return [Asking]


@hookimpl
def routes(host: Any, settings: Any) -> list[Routes]:
    async def ask(request: web.Request) -> web.Response:
        body = await request.json()
        asked = await host.command(NAME, Wanted(first=body["first"], count=body["count"]))
        return web.json_response({"asked": asked})

    application = web.Application()
    application.router.add_post("/", ask)
    return [Routes(prefix=NAME, application=application)]


def install(folder: Path) -> None:
    """As pip would leave it."""
    metadata = folder / f"{NAME}-1.0.dist-info"
    metadata.mkdir(parents=True)
    shutil.copy(__file__, folder / f"{NAME}.py")
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {NAME}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[orlop]\n{NAME} = {NAME}\n")
