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

import docker
import requests
from engines import Engine, Lane, missing
from running import RunningOrlop, wait_until

from .figures import Figure
from .services import DEADLINE_S, running_orlop, seconds_to_run

__all__ = ["missing", "run"]

COUNT: Final = 20
THREADS: Final = 8
ROUNDS: Final = 3
KILLS: Final = 10
BETWEEN_KILLS_S: Final = 0.3
IMAGE: Final = "busybox:latest"
CONTAINER: Final = {
    "cmd": "sleep 1000",
    "cpus": 0.001,
    "mem": 8,
    "backoffSeconds": 0,
    "container": {"type": "DOCKER", "docker": {"image": IMAGE}},
}


class Starts:
    """The ids of containers as they start and die, with the engine's own times."""

    def __init__(self, engine: Engine) -> None:
        self._client = engine.client()
        self._stream = self._client.events(decode=True, filters={"type": "container", "event": ["start", "die"]})
        self.seen: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
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


def create_and_start(client: docker.APIClient, network: str) -> None:
    host = client.create_host_config(network_mode=network)
    made = client.create_container(IMAGE, ["/bin/sh", "-c", "sleep 1000"], host_config=host)
    client.start(made["Id"])


def engine_alone_s(engine: Engine, network: str) -> float:
    """Seconds for as many containers through the engine's API, some at a time."""
    with contextlib.closing(engine.client(num_pools=THREADS)) as client:
        began = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(lambda _: create_and_start(client, network), range(COUNT)))
        return time.perf_counter() - began


def remove(orlop: RunningOrlop, engine: Engine, app_id: str) -> None:
    """Deletes the app and every container."""
    orlop.wait_deployed(DEADLINE_S)
    orlop.call("DELETE", f"/v2/apps{app_id}")
    orlop.wait_deployed(DEADLINE_S)
    engine.clear()


def network_of(engine: Engine) -> str:
    """The network mode of the containers that Orlop has made."""
    with contextlib.closing(engine.client()) as client:
        return str(client.inspect_container(client.containers()[0]["Id"])["HostConfig"]["NetworkMode"])


def many_figures(orlop: RunningOrlop, engine: Engine) -> Iterator[Figure]:
    through_orlop, alone = [], []
    seconds_to_run(orlop, CONTAINER | {"id": "/warm-up", "instances": 1})
    network = network_of(engine)
    remove(orlop, engine, "/warm-up")
    for attempt in range(ROUNDS):
        alone.append(engine_alone_s(engine, network))
        engine.clear()
        app = CONTAINER | {"id": f"/many-{attempt}", "instances": COUNT}
        through_orlop.append(seconds_to_run(orlop, app))
        remove(orlop, engine, app["id"])
    mine, own = statistics.median(through_orlop), statistics.median(alone)
    yield Figure(f"{COUNT} containers through Orlop", mine, "s")
    yield Figure(f"{COUNT} containers, engine's API, {THREADS} threads, {network} network", own, "s")
    yield Figure(f"{COUNT} containers: Orlop over engine", mine / own, "x", at_most=1.1)


def running_pid(client: docker.APIClient) -> int:
    """Of the only container; 0 if there is none."""
    listed = client.containers()
    return int(client.inspect_container(listed[0]["Id"])["State"]["Pid"]) if len(listed) == 1 else 0


def kill_figures(orlop: RunningOrlop, engine: Engine) -> Iterator[Figure]:
    app = CONTAINER | {"id": "/killed", "instances": 1}
    seconds_to_run(orlop, app)
    again_ms, after_die_ms, own_ms = [], [], []
    with contextlib.closing(engine.client()) as client, contextlib.closing(Starts(engine)) as starts:
        network = network_of(engine)
        for _ in range(KILLS):
            wait_until(lambda: orlop.app("/killed")["tasksRunning"] == 1 and running_pid(client), "it runs")
            time.sleep(BETWEEN_KILLS_S)
            pid = running_pid(client)
            starts.forget()
            began = time.perf_counter()
            os.kill(pid, signal.SIGKILL)
            died = starts.next("die")
            started = starts.next("start")
            again_ms.append(1000 * (time.perf_counter() - began))
            after_die_ms.append((started["timeNano"] - died["timeNano"]) / 1e6)
            wait_until(lambda: orlop.app("/killed")["tasksRunning"] == 1, "it runs again")
            own_ms.append(own_start_ms(client, network))
    remove(orlop, engine, "/killed")
    again, own = statistics.median(again_ms), statistics.median(own_ms)
    yield Figure("killed container runs again: median", again, "ms")
    yield Figure("killed container: from the engine's die to its start", statistics.median(after_die_ms), "ms")
    yield Figure("engine's own create and start: median", own, "ms")
    yield Figure("killed container: Orlop over create and start", again / own, "x", at_most=1.2)


def own_start_ms(client: docker.APIClient, network: str) -> float:
    """One create and start through the engine's API; the container is removed again."""
    before = {listed["Id"] for listed in client.containers(all=True)}
    began = time.perf_counter()
    create_and_start(client, network)
    took_ms = 1000 * (time.perf_counter() - began)
    for listed in client.containers(all=True):
        if listed["Id"] not in before:
            client.remove_container(listed["Id"], force=True)
    return took_ms


def run() -> Iterator[Figure]:
    """All figures of this module."""
    with contextlib.closing(Lane()) as lane:
        engine = lane.engine("bench")
        with running_orlop(docker=engine.url) as orlop:
            orlop.start()
            orlop.wait_ready()
            yield from many_figures(orlop, engine)
            yield from kill_figures(orlop, engine)
