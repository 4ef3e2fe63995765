"""Pools of engines of several versions: all of them speak what they have in common, and a client cannot tell."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from email.message import Message
from pathlib import Path
from typing import Any, Final

import docker
import pytest
from engines import Engine, Lane
from newer_engine import CLI
from running import container_app
from swarm_pool import RunningPool, running_pool
from swarm_side_by_side import STORIES, play
from test_swarm_rescheduling import held, wait_rows
from twin_engines import share
from waiting import wait_until

from orlop_swarm.http.versions import number

pytestmark = [pytest.mark.real, pytest.mark.docker]

OLD_CLI: Final = "/usr/bin/docker"
ENDS_AT_ONCE: Final = ("--stop-timeout", "0")
DOCKERFILE: Final = b"FROM busybox\nLABEL made=here\nRUN echo built >/built\nCMD cat /built\n"
#: What the two versions do in code of their own.
PLAYED: Final = ("the life of a container", "commands in a container", "output", "files")


def on(engine: Engine) -> tuple[str, str]:
    return "-e", f"constraint:node=={engine.name}"


@contextlib.contextmanager
def drained(pool: RunningPool, engine: Engine) -> Iterator[None]:
    """What may move has left the engine's node, or is about to; nothing new goes there meanwhile."""
    pool.server.cli("drain", engine.name, "--deadline", "0s")
    try:
        yield
    finally:
        pool.server.cli("undrain", engine.name)


def build(pool: RunningPool, tag: str, engine: Engine) -> None:
    where = f"constraint:node=={engine.name}"
    pool.docker("build", "-t", tag, "--build-arg", where, "-", given=DOCKERFILE, cli=OLD_CLI)


def told(url: str, path: str) -> tuple[int, bytes, Message]:
    """Status, body and headers of the answer. url: `tcp://…`."""
    try:
        with urllib.request.urlopen(url.replace("tcp:", "http:") + path, timeout=30) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, refusal.read(), refusal.headers


def asked(url: str, path: str) -> Any:
    """The JSON of an answer that has to be good."""
    status, body, _ = told(url, path)
    assert status == 200, (path, body)
    return json.loads(body)


@pytest.fixture(scope="module")
def mixed(engines: Lane, newer_programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPool]:
    """The installed engine's node has the server, the newer one's a remote agent. Tests further below change it."""
    members = [engines.engine("debian"), engines.engine("debian-next", programs=newer_programs)]
    share(*members)
    with running_pool(members, tmp_path_factory.mktemp("mixed")) as running:
        yield running


@pytest.fixture
def pool(mixed: RunningPool) -> Iterator[RunningPool]:
    """Cleared afterwards, with all engines."""
    try:
        yield mixed
    finally:
        mixed.restore()


def test_a_pool_speaks_what_both_engines_speak(pool: RunningPool) -> None:
    older, newer = pool.engines
    of_older, of_newer = (asked(one.tcp_url, "/version") for one in (older, newer))
    assert number(of_older["ApiVersion"]) < number(of_newer["ApiVersion"]), "they are of different versions"
    minimum = max(of_older["MinAPIVersion"], of_newer["MinAPIVersion"], key=number)
    version = asked(pool.url, "/version")
    spoken = {"ApiVersion": of_older["ApiVersion"], "MinAPIVersion": minimum, "Version": of_older["Version"]}
    assert {member: version[member] for member in spoken} == spoken
    assert told(pool.url, "/_ping")[2]["Api-Version"] == of_older["ApiVersion"]
    for cli in (OLD_CLI, str(CLI)):
        assert f"API version:      {of_older['ApiVersion']} (minimum version {minimum})" in pool.docker(
            "version", cli=cli
        )
    rows = pool.docker("info")
    assert of_older["Version"] in rows
    assert of_newer["Version"] in rows

    too_new = told(pool.url, "/v1.50/containers/json")
    assert too_new[:2] == told(older.tcp_url, "/v1.50/containers/json")[:2]
    assert f"Maximum supported API version is {of_older['ApiVersion']}".encode() in too_new[1]
    assert told(pool.url, f"/v{of_newer['ApiVersion']}/info")[0] == 400, "one of them does not speak it"
    too_old = told(pool.url, "/v1.20/containers/json")
    assert (too_old[0], f"Minimum supported API version is {minimum}".encode() in too_old[1]) == (400, True)


def test_each_version_that_is_spoken_is_answered_by_both(pool: RunningPool) -> None:
    for engine in pool.engines:
        assert pool.run(f"on-{engine.name}", *on(engine)) == engine.name
    names = [f"on-{engine.name}" for engine in pool.engines]
    version = asked(pool.url, "/version")
    first, last = (number(version[member])[1] for member in ("MinAPIVersion", "ApiVersion"))
    assert last - first > 10
    for minor in range(first, last + 1):
        prefix = f"/v1.{minor}"
        assert sorted(one["Names"][0] for one in asked(pool.url, f"{prefix}/containers/json")) == [
            f"/{name}" for name in names
        ]
        assert asked(pool.url, f"{prefix}/info")["ContainersRunning"] == 2
        for name in names:
            shown = asked(pool.url, f"{prefix}/containers/{name}/json")
            assert shown["State"]["Running"]
        for path in ("/images/json", "/networks", "/volumes", "/system/df"):
            asked(pool.url, prefix + path)


@pytest.mark.parametrize("version", ["1.24", "1.39", "1.41"])
def test_what_a_client_of_a_version_creates_is_what_its_engine_makes_of_it(version: str, pool: RunningPool) -> None:
    """What is not said has another default in each version."""
    for engine in pool.engines:
        made = []
        for url, more in ((pool.url, {"Env": [f"constraint:node=={engine.name}"]}), (engine.tcp_url, {})):
            with contextlib.closing(docker.APIClient(base_url=url, version=version)) as client:
                body = {"Image": "busybox", "Cmd": ["true"], "MacAddress": "02:42:ac:11:00:05", **more}
                created = client.create_container_from_config(body)
                shown = client.inspect_container(created["Id"])
            made.append((shown["HostConfig"], shown["Config"].get("MacAddress"), created["Warnings"]))
        engine.clear()
        assert made[0] == made[1], engine.name


@pytest.mark.parametrize(("position", "cli"), [(0, str(CLI)), (1, OLD_CLI)])
def test_the_pool_says_what_its_engine_says(
    position: int, cli: str, pool: RunningPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each with the other's client, in the version that the pool speaks."""
    monkeypatch.setenv("DOCKER_API_VERSION", asked(pool.url, "/version")["ApiVersion"])
    engine, other = pool.engines[position], pool.engines[1 - position]
    said: dict[str, list[str]] = {pool.url: [], engine.url: []}
    with drained(pool, other):
        for (url, told_by), story in itertools.product(said.items(), PLAYED):
            folder = tmp_path / str(len(told_by)) / url.partition(":")[0]
            folder.mkdir(parents=True)
            told_by += [str(one) for one in play(cli, url, STORIES[story].lines, folder)]
            engine.clear()
    assert said[pool.url] == said[engine.url]


def test_images_travel_both_ways(pool: RunningPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = {}
    for engine, other in (pool.engines, reversed(pool.engines)):
        for buildkit in ("0", "1"):
            monkeypatch.setenv("DOCKER_BUILDKIT", buildkit)
            name = f"built-on-{engine.name}-{buildkit}"
            build(pool, name, engine)
            with contextlib.closing(engine.client()) as client:
                made[name] = client.inspect_image(name)["Id"]
        with contextlib.closing(other.client()) as client:
            assert not client.images(f"built-on-{engine.name}-0"), "it is on one node alone"
        # One is copied by the pool, to the node where a container has to be, and one by the user.
        pool.run(f"holder-on-{other.name}", *on(other))
        beside = f"container:holder-on-{other.name}"
        assert pool.docker("run", "--rm", "--network", beside, f"built-on-{engine.name}-0") == "built\n"
        archive = str(tmp_path / engine.name)
        pool.docker("save", "-o", archive, f"built-on-{engine.name}-1", cli=str(CLI))
        pool.docker("rmi", f"built-on-{engine.name}-1")
        pool.docker("load", "-i", archive)
    for name, identity in made.items():
        for engine in pool.engines:
            with contextlib.closing(engine.client()) as client:
                assert client.inspect_image(name)["Id"] == identity, f"{name} on {engine.name}"
            assert pool.docker("run", "--rm", *on(engine), name) == "built\n"


def test_networks_volumes_and_events_are_those_of_both(pool: RunningPool) -> None:
    for engine in pool.engines:
        pool.docker("network", "create", f"{engine.name}/net-{engine.name}")
        pool.docker("volume", "create", f"{engine.name}/vol-{engine.name}")
        pool.run(f"db-{engine.name}", "--network", f"net-{engine.name}", "-v", f"vol-{engine.name}:/data", "--init")
        assert pool.node(f"db-{engine.name}") == engine.name
        web = f"web-{engine.name}"
        pool.run(web, "--network", f"net-{engine.name}", "-v", f"vol-{engine.name}:/data", "-p", "80")
        assert pool.node(web) == engine.name
        pool.docker("exec", f"db-{engine.name}", "touch", "/data/kept")
        assert pool.docker("exec", web, "ls", "/data") == "kept\n"
        pool.docker("exec", web, "ping", "-c", "1", "-W", "5", f"db-{engine.name}")
        assert pool.docker("port", web).startswith("80/tcp -> ")
    both = sorted(engine.name for engine in pool.engines)
    listed = {kind: pool.docker(kind, "ls", "--format", "{{.Name}}").split() for kind in ("network", "volume")}
    assert [name for name in listed["network"] if name.startswith("net-")] == [f"net-{name}" for name in both]
    assert listed["volume"] == [f"vol-{name}" for name in both]
    started = pool.docker(
        "events", "--since", "10m", "--until", f"{time.time():.9f}", "--filter", "event=start", "--format",
        '{{index .Actor.Attributes "name"}} {{index .Actor.Attributes "node.name"}}',
    ).splitlines()  # fmt: skip
    assert {f"{kind}-{name} {name}" for kind in ("db", "web") for name in both} <= set(started)


def test_marathons_containers_run_on_both(pool: RunningPool) -> None:
    pool.server.put(container_app("/both", 2, constraints=[["hostname", "UNIQUE"]]))
    pool.server.wait_deployed()
    tasks = pool.server.running("/both")
    assert len(tasks) == 2
    for task in tasks:
        assert pool.server.cli("exec", task, "--", "echo", "inside") == "inside\n"
    pool.server.call("DELETE", "/v2/apps/both?force=true")
    pool.server.wait_deployed()
    for engine in pool.engines:
        engine.clear()  # what is kept of ended tasks has a volume


def test_what_moves_moves_from_one_version_to_the_other_and_back(pool: RunningPool) -> None:
    old, new = pool.engines
    moves = ("-e", "reschedule:on-node-failure", "-e", f"constraint:node==~{new.name}")
    assert pool.run("moves", *moves, *ENDS_AT_ONCE) == new.name
    pool.die(new)
    wait_rows(pool, {"moves": "Up"})
    assert pool.node("moves") == old.name
    pool.revive(new)
    wait_until(pool.complete, "the node is back")
    with drained(pool, old):
        wait_until(lambda: held(new).get("moves") == "running", "it is there again")
        wait_rows(pool, {"moves": "Up"})
    assert pool.node("moves") == new.name
    assert pool.docker("exec", "moves", "echo", "inside") == "inside\n"


@pytest.fixture(scope="module")
def apart(mixed: RunningPool) -> RunningPool:
    """From now on the newer one refuses, as engines of today do, what the older one speaks, and has containerd's store
    of images."""
    older, newer = mixed.engines
    newer.stop()
    newer.variables = {"DOCKER_MIN_API_VERSION": "1.44"}
    newer.settings = {"features": {"containerd-snapshotter": True}}
    newer.start()
    with contextlib.closing(older.client()) as giving, contextlib.closing(newer.client()) as taking:
        taking.load_image(b"".join(giving.get_image("busybox:latest")))
    wait_until(mixed.complete, "both are there")
    return mixed


def test_engines_without_a_common_version_make_a_pool(apart: RunningPool) -> None:
    older, newer = apart.engines
    version = asked(apart.url, "/version")
    assert version["ApiVersion"] == version["MinAPIVersion"] == asked(older.tcp_url, "/version")["ApiVersion"]
    assert told(newer.tcp_url, f"/v{version['ApiVersion']}/containers/json")[0] == 400
    for engine, other in (apart.engines, reversed(apart.engines)):
        name = f"on-{engine.name}"
        assert apart.run(name, *on(engine)) == engine.name
        assert apart.docker("exec", "-i", name, "cat", given=b"in") == "in"
        build(apart, f"built-{name}", engine)
        beside = f"container:beside-{other.name}"
        apart.run(f"beside-{other.name}", *on(other))
        assert apart.docker("run", "--rm", "--network", beside, f"built-{name}") == "built\n"
    nodes = {apart.run(f"anywhere-{count}") for count in range(4)}
    assert nodes == {older.name, newer.name}, "one image is one, whatever ids the engines give it"
    apart.clear()


def test_an_engine_becomes_a_newer_one(apart: RunningPool, newer_programs: Path) -> None:
    engine, other = apart.engines
    apart.run("stays", *on(engine), "--restart", "always", *ENDS_AT_ONCE)
    apart.docker("run", "--name", "ended", *on(engine), "busybox", "echo", "said")
    kept = apart.docker("inspect", "-f", "{{.Id}}", "stays", "ended")
    engine.stop()
    engine.programs = newer_programs
    engine.start()
    wait_until(apart.complete, "the upgraded engine is back")
    wait_until(lambda: "Up" in apart.docker("ps", "--filter", "name=stays", "--format", "{{.Status}}"), "it runs again")
    version, of_other = asked(apart.url, "/version"), asked(other.tcp_url, "/version")
    assert [version[one] for one in ("ApiVersion", "MinAPIVersion")] == [of_other["ApiVersion"], "1.44"]
    assert apart.docker("inspect", "-f", "{{.Id}}", "stays", "ended") == kept
    assert apart.docker("logs", "ended") == "said\n"
    assert apart.docker("exec", "stays", "echo", "inside") == "inside\n"
    assert apart.run("new", *on(engine)) == engine.name
