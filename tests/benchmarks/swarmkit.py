"""SwarmKit, which Docker Engines bring along: an orchestrator to measure beside Orlop."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import orjson
from engines import Engine

from .docker_pool import Client

PORT: Final = 2377
SERVICE: Final = "bench"


class SwarmKit:
    """Of the engines themselves, with its defaults. The first one is the manager, and runs containers as well.

    container: the `ContainerSpec` of its only service. network: of its containers, by the name that each engine
    has of its own for it; empty: what an engine gives a container that asks for none.
    """

    #: That all containers of the service have.
    label: Final = f"com.docker.swarm.service.name={SERVICE}"

    def __init__(self, engines: Sequence[Engine], container: Mapping[str, Any], network: str = "") -> None:
        first, *others = engines
        self._task = {"ContainerSpec": container, "Networks": [{"Target": network}] if network else []}
        self._engines = len(engines)
        self._manager = Client(first.url)
        own = {"ListenAddr": f"{first.address}:{PORT}", "AdvertiseAddr": first.address}
        self._manager.call("POST", "/swarm/init", own)
        token = self._manager.call("GET", "/swarm")["JoinTokens"]["Worker"]
        for engine in others:
            asked = {"JoinToken": token, "RemoteAddrs": [own["ListenAddr"]], "ListenAddr": f"{engine.address}:{PORT}"}
            with contextlib.closing(Client(engine.url)) as client:
                client.call("POST", "/swarm/join", asked)

    def ready(self) -> bool:
        """Do all engines take part?"""
        return [node["Status"]["State"] for node in self._manager.call("GET", "/nodes")] == ["ready"] * self._engines

    def deploy(self, count: int) -> None:
        """Orders the service, of so many containers."""
        mode = {"Replicated": {"Replicas": count}}
        self._manager.call("POST", "/services/create", {"Name": SERVICE, "TaskTemplate": self._task, "Mode": mode})

    def running(self) -> int:
        """How many of its tasks run, as the manager says: the count alone, so that asking costs it little."""
        name = quote(orjson.dumps({"name": [SERVICE]}))
        (service,) = self._manager.call("GET", f"/services?status=true&filters={name}")
        return int(service["ServiceStatus"]["RunningTasks"])

    def remove(self) -> None:
        """Takes the service back; its containers end a little later."""
        self._manager.call("DELETE", f"/services/{SERVICE}")

    def gone(self) -> bool:
        """Has it forgotten all tasks?"""
        return not self._manager.call("GET", "/tasks")

    def close(self) -> None:
        self._manager.close()
