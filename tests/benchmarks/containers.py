"""Containers through Orlop beside the same engine's own API, in turns, so that both meet the same load."""

from __future__ import annotations

import concurrent.futures
import contextlib
import os
import queue
import signal
import statistics
import threading
import time
from collections.abc import Iterator
from typing import Any, Final

import attrs
import docker
import requests
from engines import Engine, Lane, missing
from running import RunningOrlop, wait_until

from .figures import Figure
from .services import DEADLINE_S, running_orlop, seconds_to_run

__all__ = ["missing", "run"]

COUNT: Final = 20
THREADS: Final = 8
ROUNDS: Final = 7
KILLS: Final = 15
OWN_RESTARTS: Final = 5
BETWEEN_KILLS_S: Final = 0.3
IMAGE: Final = "busybox:latest"
OWN_LABEL: Final = "bench"
CONTAINER: Final[dict[str, Any]] = {
    "cmd": "sleep 1000",
    "cpus": 0.001,
    "mem": 8,
    "backoffSeconds": 0,
    "container": {"type": "DOCKER", "docker": {"image": IMAGE}},
}


class Starts:
    """Events of containers with this label as they start and die, with the engine's own times.

    seen: where they are put; several engines may share one.
    """

    def __init__(self, engine: Engine, label: str, seen: queue.SimpleQueue[dict[str, Any]] | None = None) -> None:
        self._client = engine.client()
        filters = {"type": "container", "event": ["start", "die"], "label": label}
        self._stream = self._client.events(decode=True, filters=filters)
        self.seen: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue() if seen is None else seen
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with contextlib.suppress(
            requests.exceptions.RequestException, docker.errors.DockerException, ValueError, OSError
        ):
            for event in self._stream:
                self.seen.put(event)

    def forget(self) -> None:
        with contextlib.suppress(queue.Empty):
            while True:
                self.seen.get_nowait()

    def next(self, action: str) -> dict[str, Any]:
        while (event := self.seen.get(timeout=DEADLINE_S))["Action"] != action:
            pass
        return event

    def close(self) -> None:
        self._stream.close()
        self._thread.join(10)
        self._client.close()


def same_container(engine: Engine) -> dict[str, Any]:
    """The body to create the like of the container that Orlop has made, which Orlop will not take for its own."""
    with contextlib.closing(engine.client()) as client:
        made = client.inspect_container(client.containers()[0]["Id"])
    body = {name: made["Config"][name] for name in ("Image", "Entrypoint", "Cmd", "Env", "WorkingDir")}
    labels = {f"{OWN_LABEL}.{name}": value for name, value in made["Config"]["Labels"].items()}
    return body | {"HostConfig": made["HostConfig"], "Labels": labels | {OWN_LABEL: ""}}


def create_and_start(client: docker.APIClient, body: dict[str, Any]) -> str:
    """Its id."""
    made = str(client.create_container_from_config(body)["Id"])
    client.start(made)
    return made


def engine_alone_s(engine: Engine, body: dict[str, Any]) -> float:
    """Seconds for as many containers through the engine's API, some at a time."""
    with contextlib.closing(engine.client(num_pools=THREADS)) as client:
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: create_and_start(client, body), range(COUNT)))
        return time.perf_counter() - began


def remove(orlop: RunningOrlop, engine: Engine, app_id: str) -> None:
    """Deletes the app and every container."""
    orlop.wait_deployed(DEADLINE_S)
    orlop.call("DELETE", f"/v2/apps{app_id}")
    orlop.wait_deployed(DEADLINE_S)
    engine.clear()


def many_figures(orlop: RunningOrlop, engine: Engine) -> Iterator[Figure]:
    through_orlop, alone = [], []
    seconds_to_run(orlop, CONTAINER | {"id": "/warm-up", "instances": 1})
    body = same_container(engine)
    remove(orlop, engine, "/warm-up")

    def measure_orlop(attempt: int) -> None:
        app = CONTAINER | {"id": f"/many-{attempt}", "instances": COUNT}
        through_orlop.append(seconds_to_run(orlop, app))
        remove(orlop, engine, app["id"])

    def measure_engine(_: int) -> None:
        alone.append(engine_alone_s(engine, body))
        engine.clear()

    for attempt in range(ROUNDS):
        turns = [measure_engine, measure_orlop]
        for measure in turns if attempt % 2 == 0 else reversed(turns):
            measure(attempt)
    network = body["HostConfig"]["NetworkMode"]
    ratio = statistics.median(mine / own for mine, own in zip(through_orlop, alone, strict=True))
    yield Figure(f"{COUNT} containers through Orlop: median", statistics.median(through_orlop), "s")
    yield Figure(f"{COUNT} the same, engine's API, {THREADS} threads, {network} network", statistics.median(alone), "s")
    yield Figure(f"{COUNT} containers: Orlop over engine, median of the rounds", ratio, "x", at_most=1.1)


def running_pid(client: docker.APIClient) -> int:
    """Of the only container; 0 if there is none."""
    listed = client.containers()
    return int(client.inspect_container(listed[0]["Id"])["State"]["Pid"]) if len(listed) == 1 else 0


@attrs.frozen
class Kill:
    """One, in milliseconds. died: from the kill to the engine's `die`, when it has noticed. again: from the kill to
    the engine's `start`. own: one create and start through the engine's API."""

    died: float
    again: float
    own: float


def kills(orlop: RunningOrlop, engine: Engine) -> Iterator[Kill]:
    """Of the only container of an app; the engine's own turn comes after each."""
    with contextlib.closing(engine.client()) as client, contextlib.closing(Starts(engine, "orlop.task")) as starts:
        body = same_container(engine)
        for _ in range(KILLS):
            wait_until(lambda: orlop.app("/killed")["tasksRunning"] == 1 and running_pid(client), "it runs")
            time.sleep(BETWEEN_KILLS_S)
            pid = running_pid(client)
            starts.forget()
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            died = starts.next("die")
            started = starts.next("start")
            again_ms = 1000 * (time.perf_counter() - began)
            after_die_ms = (started["timeNano"] - died["timeNano"]) / 1e6
            wait_until(lambda: orlop.app("/killed")["tasksRunning"] == 1, "it runs again")
            yield Kill(died=again_ms - after_die_ms, again=again_ms, own=own_start_ms(client, body))


def kill_figures(orlop: RunningOrlop, engine: Engine) -> Iterator[Figure]:
    seconds_to_run(orlop, CONTAINER | {"id": "/killed", "instances": 1})
    body = same_container(engine)
    found = list(kills(orlop, engine))
    remove(orlop, engine, "/killed")
    median = statistics.median
    yield Figure("killed container runs again: median", median(kill.again for kill in found), "ms")
    yield Figure("killed container: until the engine says so", median(kill.died for kill in found), "ms")
    yield Figure("killed container: after that", median(kill.again - kill.died for kill in found), "ms")
    yield Figure("killed container: by the engine's own restart policy", median(own_restarts_ms(engine, body)), "ms")
    yield Figure("engine's own create and start: median", median(kill.own for kill in found), "ms")
    ratio = median(kill.again / kill.own for kill in found)
    yield Figure("killed container: over create and start, median of the kills", ratio, "x", at_most=1.2)
    after = median((kill.again - kill.died) / kill.own for kill in found)
    yield Figure("killed container: after the engine says so, over create and start", after, "x")


def own_start_ms(client: docker.APIClient, body: dict[str, Any]) -> float:
    """One create and start through the engine's API; the container is removed again."""
    began = time.perf_counter()
    made = create_and_start(client, body)
    took_ms = 1000 * (time.perf_counter() - began)
    client.remove_container(made, force=True)
    return took_ms


def own_restarts_ms(engine: Engine, body: dict[str, Any]) -> Iterator[float]:
    """From the kill to the start by the engine itself, which waits a little first; a new container for each, since it
    waits longer each time."""
    body = body | {"HostConfig": body["HostConfig"] | {"RestartPolicy": {"Name": "always"}}}
    with contextlib.closing(engine.client()) as client, contextlib.closing(Starts(engine, OWN_LABEL)) as starts:
        for _ in range(OWN_RESTARTS):
            made = create_and_start(client, body)
            starts.next("start")
            pid = int(client.inspect_container(made)["State"]["Pid"])
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            starts.next("start")
            yield 1000 * (time.perf_counter() - began)
            client.remove_container(made, force=True)


def run() -> Iterator[Figure]:
    """All figures of this module."""
    with contextlib.closing(Lane()) as lane:
        engine = lane.engine("bench")
        with running_orlop(docker=engine.url) as orlop:
            orlop.start()
            orlop.wait_ready()
            yield from many_figures(orlop, engine)
            yield from kill_figures(orlop, engine)
