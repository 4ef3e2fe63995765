"""The versions of the Docker API that every engine of the pool speaks, and what else its answers' heads tell.

A version that a client asks for is checked as one engine would check it, and goes with every request to an engine.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

import attrs

from orlop_swarm.engines.answers import told
from orlop_swarm.engines.interface import Engine, EngineUnavailable, Pool
from orlop_swarm.http.problems import Problem
from orlop_swarm.merging.containers import About

#: An engine is asked again after so long: it may have been replaced by a newer one.
FRESH_S: Final = 30.0
#: How long an engine may take to say its version before the others count without it.
ANSWER_WITHIN_S: Final = 5.0
#: How long one that did not say it counts without it before it is asked again.
RETRY_S: Final = 5.0
#: What is said of an empty pool: the oldest that clients of today speak, and the oldest engine's that is tested.
ALONE: Final = ("1.24", "1.41")
#: Each request names one.
VERSIONS_REMEMBERED: Final = 256
#: Of the versions that there are: "1.41".
USUAL_PARTS: Final = 2


@lru_cache(VERSIONS_REMEMBERED)
def number(version: str) -> tuple[int, ...]:
    """As engines compare versions: at least two numbers, and what is left out is 0. Raises ValueError."""
    parts = [int(part or 0) for part in version.split(".")]
    while len(parts) > USUAL_PARTS and not parts[-1]:
        parts.pop()
    return (*parts, *(0 for _ in range(USUAL_PARTS - len(parts))))


@attrs.frozen(kw_only=True)
class Spoken:
    """Versions of the API from `minimum` to `maximum`. os: of the engines, "linux". server: as in a `Server` header.

    builder, swarm: as in the headers `Builder-Version` and `Swarm` of an answer to a ping; empty: there is none.
    """

    minimum: str = ALONE[0]
    maximum: str = ALONE[1]
    os: str = "linux"
    server: str = "Docker"
    experimental: bool = False
    builder: str = ""
    swarm: str = ""

    def check(self, version: str) -> None:
        """Raises Problem (400), in an engine's words."""
        if number(version) > number(self.maximum):
            raise Problem(400, f"client version {version} is too new. Maximum supported API version is {self.maximum}")
        if number(version) < number(self.minimum):
            raise Problem(
                400,
                f"client version {version} is too old. Minimum supported API version is {self.minimum}, "
                "please upgrade your client to a newer version",
            )


def common(spoken: Iterable[Spoken]) -> Spoken:
    """What all of them speak; of two that have nothing in common, the older one's highest version alone."""
    engines = sorted(spoken, key=lambda one: number(one.maximum))
    if not engines:
        return Spoken()
    lowest = engines[0]
    minimum = max((one.minimum for one in engines), key=number)
    return attrs.evolve(
        lowest,
        minimum=min(minimum, lowest.maximum, key=number),
        experimental=all(one.experimental for one in engines),
        builder=min(one.builder for one in engines),
    )


def spoken_by(version: dict[str, Any], ping: Mapping[str, str]) -> Spoken:
    """From an engine's answer to `GET /version`, and the headers of its answer to a ping."""
    name, system = version.get("Version", ""), version.get("Os", "linux")
    return Spoken(
        minimum=version.get("MinAPIVersion") or ALONE[0],
        maximum=version.get("ApiVersion") or ALONE[1],
        os=system,
        server=f"Docker/{name} ({system})",
        experimental=bool(version.get("Experimental", False)),
        builder=ping.get("Builder-Version", ""),
        swarm="inactive" if "Swarm" in ping else "",
    )


class Versions:
    """Remembers what engines have said of themselves; it is asked for anew beside the requests that use the old.

    clock: monotonic seconds.
    """

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._ask_at: dict[str, float] = {}
        self._said: dict[str, Spoken] = {}
        #: What the engines last said, and what that has in common.
        self._common: tuple[list[Spoken], Spoken] = [], Spoken()
        self._about: dict[str, About] = {}
        #: Up to which version each engine spoke when it was asked.
        self._heard: dict[str, str] = {}
        self._asking: set[asyncio.Task[None]] = set()

    async def spoken(self) -> Spoken:
        """What the usable engines have in common. Raises orlop.framework.NotAvailable.

        An engine that answers as another version than the one that was asked has been replaced, and is asked at once.
        """
        engines = self._pool.engines()
        now = self._clock()
        for engine in engines:
            if self._heard.get(engine.node.id, engine.newest) != engine.newest:
                self._said.pop(engine.node.id, None)
                self._ask_at.pop(engine.node.id, None)
        due = [engine for engine in engines if self._ask_at.get(engine.node.id, now) <= now]
        unknown = [engine for engine in due if engine.node.id not in self._said]
        for engine in due:
            if engine.node.id in self._said:
                self._ask_at[engine.node.id] = now + FRESH_S
                task = asyncio.create_task(self._ask(engine))
                self._asking.add(task)
                task.add_done_callback(self._asking.discard)
        if unknown:
            await asyncio.gather(*(self._ask(engine) for engine in unknown))
        said = [self._said[engine.node.id] for engine in engines if engine.node.id in self._said]
        if said != self._common[0]:
            self._common = said, common(said)
        return self._common[1]

    def about(self, node: str) -> About:
        """Of the machine of that node; zeros as long as its engine has not told."""
        return self._about.get(node, About())

    async def _ask(self, engine: Engine) -> None:
        node = engine.node.id
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S):
                (_, version), (_, info), ping = await asyncio.gather(
                    told(engine, "/version"), told(engine, "/info"), _pinged(engine)
                )
            self._said[node] = spoken_by(version, ping)
            engine.oldest = self._said[node].minimum
            self._about[node] = About(cpus=info["NCPU"], memory=info["MemTotal"], labels=info["Labels"] or ())
        except (EngineUnavailable, TimeoutError, ValueError, KeyError):
            self._ask_at[node] = self._clock() + RETRY_S
        else:
            self._ask_at[node] = self._clock() + FRESH_S
        self._heard[node] = engine.newest


async def _pinged(engine: Engine) -> Mapping[str, str]:
    response = await engine.request("GET", "/_ping")
    try:
        await response.read()
        return response.headers
    finally:
        await response.close()
