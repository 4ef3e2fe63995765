"""docker-compose 1.29 cannot tell the pool from one engine: a project's whole life, command by command."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import docker
import pytest
from engines import Engine
from swarm_pool import RunningPool
from swarm_side_by_side import Outcome, normalised
from twin_engines import clean

pytestmark = pytest.mark.real

COMPOSE: Final = "docker-compose"
COMMAND_TIMEOUT_S: Final = 100.0

FILES: Final = {
    "docker-compose.yml": """\
version: "2.4"
services:
  db:
    image: busybox
    command: sh -c "echo db is ready; exec sleep 1000"
    volumes: ["data:/data", "/unnamed"]
    networks: {back: {aliases: [database]}}
    healthcheck: {test: "true", interval: 1s}
  web:
    build: web
    command: httpd -f -h /www -p 80
    depends_on: {db: {condition: service_healthy}}
    networks: [front, back]
    ports: ["80"]
  worker:
    image: busybox
    command: sh -c "wget -qO- http://web/; exec sleep 1000"
    depends_on: [web]
    volumes_from: [db]
    environment: {KIND: worker}
    networks: [front]
networks:
  front:
  back: {internal: true}
volumes:
  data:
""",
    "fixed.yml": """\
version: "2.4"
services:
  one:
    image: busybox
    command: httpd -f -p 80
    ports: ["18086:80"]
    volumes: ["data:/data"]
volumes:
  data:
""",
    "changed.yml": """\
version: "2.4"
services:
  one: {environment: {IS: changed}}
""",
    "web/Dockerfile": """\
FROM busybox
ARG TEXT=hello
RUN mkdir /www && echo $TEXT > /www/index.html
""",
}

#: Each is split at spaces; `_` in a word is a space.
STORY: Final[Sequence[str]] = (
    "config --services",
    "build --build-arg TEXT=built",
    "create db",
    "ps",
    "up -d -t 0",
    "ps",
    "exec -T worker wget -qO- http://web/",
    "exec -T db sh -c echo_kept>/data/file",
    "exec -T worker cat /data/file",
    "exec -T web ping -c 1 -W 5 -q database",
    "logs --no-color db",
    "logs --no-color worker",
    "up -d -t 0 --scale worker=3",
    "ps",
    "top db",
    "scale -t 0 worker=2",
    "ps",
    "port web 80",
    "up -d -t 0",
    "restart -t 0 worker",
    "stop -t 0 web",
    "ps",
    "start web",
    "pause db",
    "ps --services --filter status=paused",
    "unpause db",
    "run --rm -T db cat /data/file",
    "run --rm -T worker env",
    "images",
    "kill worker",
    "logs --no-color -f worker",
    "rm -f worker",
    "exec -T worker true",
    "logs --no-color",
    "exec -T db touch /unnamed/kept",
    "up -d -t 0 --force-recreate db",
    "exec -T db cat /data/file",
    "exec -T db ls /unnamed",
    "down -t 0",
    "up -d -t 0 db",
    "exec -T db cat /data/file",
    "-f fixed.yml up -d -t 0",
    "-f fixed.yml -f changed.yml up -d -t 0",
    "-f fixed.yml -f changed.yml exec -T one env",
    "-f fixed.yml down -t 0",
    "down -t 0 -v --rmi local",
    "ps",
)

#: What it prints of several containers comes as they are done.
_UNORDERED: Final = ("up ", "down ", "logs ", "restart ", "scale ", "stop ")
_VARIES: Final = (
    (re.compile(r"<address>:\d+->80/tcp,:::\d+->80/tcp"), "<address>:<port>->80/tcp"),
    (re.compile(r"<address>:<port>->80/tcp,:::\d+->80/tcp"), "<address>:<port>->80/tcp"),
    (re.compile(r"(?m)^<address>:\d+$"), "<address>:<port>"),
    (re.compile(r"(?m)^root \d+ \d+ .*(?=sleep)"), "root "),
    (re.compile(r"time=\d+\.\d+ ms|= [\d./]+ ms"), "<while>"),
    # A column is as wide as what it holds.
    (re.compile(r"(?m) +$|^ +"), ""),
)


def play(host: str, folder: Path) -> list[Outcome]:
    """Runs the story with this DOCKER_HOST."""
    for name, content in FILES.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    environment = {
        **os.environ,
        "DOCKER_HOST": host,
        "DOCKER_CONFIG": str(folder),
        "COMPOSE_PROJECT_NAME": "project",
        "COLUMNS": "250",  # its tables are cut to a terminal's width, wherever that is in a port
    }
    outcomes = []
    for command in STORY:
        argv = [word.replace("_", " ") for word in command.split(" ")]
        done = subprocess.run(
            [COMPOSE, *argv],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
        output, errors = (_compared(command, text, folder) for text in (done.stdout, done.stderr))
        outcomes.append(Outcome(command, done.returncode, output, errors))
    return outcomes


def _compared(command: str, text: str, folder: Path) -> str:
    text = normalised(text, folder)
    for pattern, stand_in in _VARIES:
        text = pattern.sub(stand_in, text)
    return "\n".join(sorted(text.splitlines())) if command.startswith(_UNORDERED) else text


def test_a_built_image_goes_where_its_containers_are_bound_to(pool: RunningPool, twin_members: list[Engine]) -> None:
    first, second = (engine.name for engine in twin_members)

    def build(text: str, node: str) -> None:
        dockerfile = f"FROM busybox\nENV TEXT={text}\n".encode()
        list(client.build(fileobj=io.BytesIO(dockerfile), tag="made", buildargs={"constraint:node": f"={node}"}))

    def run(**options: Any) -> tuple[str, str]:
        made = client.create_container("made", "env", host_config=client.create_host_config(**options))["Id"]
        client.start(made)
        assert client.wait(made)["StatusCode"] == 0
        (text,) = re.findall("TEXT=(.*)", client.logs(made).decode())
        return client.inspect_container(made)["Node"]["Name"], text

    try:
        with contextlib.closing(docker.APIClient(base_url=pool.url, version="auto")) as client:
            client.create_volume(f"{second}/kept")
            build("one", first)
            assert run() == (first, "one")
            assert run(binds=["kept:/data"]) == (second, "one")
            build("two", first)
            assert run(binds=["kept:/data"]) == (second, "two"), "not the copy of the former one"
            build("three", second)
            assert run() == (second, "three")
            client.create_container("busybox", "true", name=f"{first}/source")
            assert run(volumes_from=["source"]) == (first, "three")
    finally:
        for one in twin_members:
            clean(one)


def test_a_project_lives_on_the_pool_as_on_one_engine(
    pool: RunningPool, twin_members: list[Engine], engine: Engine, tmp_path: Path
) -> None:
    if shutil.which(COMPOSE) is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"needs {COMPOSE} (Debian: {COMPOSE})")
    folders = [tmp_path / "pool", tmp_path / "engine"]
    for folder in folders:
        folder.mkdir()
    try:
        with ThreadPoolExecutor() as both:
            of_pool, of_engine = both.map(play, (pool.url, engine.url), folders)
    finally:
        for one in (*twin_members, engine):
            clean(one)
    assert [str(one) for one in of_pool] == [str(one) for one in of_engine]
    assert [one.command for one in of_engine if one.code] == ["exec -T worker true"]
