"""Docker's own CLIs cannot tell the pool's images, networks and volumes from those of one engine."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest
from engines import Engine, busybox_archive
from swarm_pool import RunningPool
from swarm_side_by_side import THERE, Command, play_on_both
from twin_engines import clean


def _context(dockerfile: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile))
    return packed.getvalue()


#: As in `swarm_side_by_side`.
STORIES: Final[Mapping[str, Sequence[Command]]] = {
    "tags": (
        "tag busybox one:1",
        "tag one:1 two",
        "images --format {{.Repository}}:{{.Tag}} one",
        "images -q",
        "image inspect --format {{.RepoTags}}:{{.Config.Cmd}} one:1",
        "rmi one:1",
        "rmi one:1",
        "rmi two busybox:nothing",
        "tag nothing three",
        "tag busybox UPPER",
        "image inspect nothing",
        "history nothing",
        "history --format {{.Size}} busybox",
    ),
    "images in use": (
        "tag busybox used:1",
        "create --name user used:1 true",
        "rmi used:1",
        "rmi -f used:1",
        "rm user",
        "images --format {{.Repository}}:{{.Tag}}",
    ),
    "archives of images": (
        "tag busybox kept:1",
        "save -o {folder}/kept.tar kept:1",
        "rmi kept:1",
        "load -i {folder}/kept.tar",
        "load -q -i {folder}/kept.tar",
        "images --format {{.Repository}}:{{.Tag}} kept",
        "save -o {folder}/none.tar nothing",
        ("load", b"this is no archive"),
        "rmi kept:1",
    ),
    "an import": (
        ('import --change CMD_["true"] --message of_a_test - made:1', busybox_archive()),
        "image inspect --format {{.RepoTags}}:{{.Config.Cmd}}:{{.Comment}} made:1",
        "run --rm made:1",
        ("import - made:2", b"this is no archive"),
        "rmi made:1",
    ),
    "a commit": (
        "run --name source busybox sh -c echo_hello>/written",
        "commit --change CMD_cat_/written source committed:1",
        "run --rm committed:1",
        "diff source",
        "rm source",
        "rmi committed:1",
    ),
    "builds": (
        ("build -q -t built:1 -", b"FROM busybox\nRUN echo hello > /written\nCMD cat /written"),
        "run --rm built:1",
        ("build -t built:2 --build-arg A=5 -", _context(b"FROM busybox\nARG A\nRUN test $A = 5")),
        ("build -", b"FROM nothing:1"),
        ("build -", b"NOT a Dockerfile"),
        ("build --force-rm -", b"FROM busybox\nRUN exit 7"),
        "ps -a",
        "rmi built:1 built:2",
    ),
    "networks": (
        "network create --label tier=front one",
        "network create one",
        "network create --subnet 172.28.0.0/16 two",
        "network create --driver nothing three",
        "network ls",
        "network ls --filter name=tw --format {{.Name}}:{{.Driver}}:{{.Scope}}",
        "network ls --filter nothing=1",
        "network inspect --format {{.Name}}:{{.Labels}}:{{len_.Containers}} one",
        "network inspect --format {{range_.IPAM.Config}}{{.Subnet}}{{end}} two",
        "network inspect nothing",
        "create --name inside --network one busybox sleep 1000",
        "network connect --alias other two inside",
        "start inside",
        "exec inside sh -c ping_-c_1_-W_5_other>/dev/null&&echo_reached",
        "network inspect --format {{range_.Containers}}{{.Name}}{{end}} two",
        "network rm two",
        "network connect two nobody",
        "network connect nothing inside",
        "network disconnect two inside",
        "network disconnect two inside",
        "network rm two",
        "network rm two",
        "network rm bridge",
        "rm -f inside",
        "network prune -f",
        "network ls",
    ),
    "volumes": (
        "volume create --label tier=back one",
        "volume create one",
        "volume create --driver nothing two",
        "volume create",
        "volume ls --filter name=one",
        "volume ls --filter label=tier --format {{.Name}}:{{.Driver}}",
        "volume inspect --format {{.Name}}:{{.Labels}}:{{.Scope}} one",
        "volume inspect nothing",
        "run --name user -v one:/data busybox touch /data/file",
        "run --rm --volumes-from user busybox ls /data",
        "volume ls --filter dangling=false --format {{.Name}}",
        "volume rm one",
        "rm user",
        "volume rm one",
        "volume rm one",
        "volume rm -f one",
        "volume create three",
        "volume prune -f --filter label=nothing",
        "volume rm three",
    ),
    "what needs a swarm": (
        "node ls",
        "service ls",
        "secret ls",
        "config ls",
        "stack ls",
        "swarm leave",
        "swarm ca",
        "plugin ls",
        "plugin inspect nothing",
    ),
    "what needs a registry": (
        "search something",
        "pull something",
        "pull -a something",
        "run something true",
        "push busybox",
        "push nothing:1",
    ),
}


@pytest.fixture(scope="module")
def alike(twin_members: list[Engine], engine: Engine) -> list[Engine]:
    """All engines, with busybox alone, whatever tests before have left."""
    engines = [*twin_members, engine]
    for one in engines:
        clean(one)
    return engines


@pytest.mark.real
@pytest.mark.parametrize("cli", THERE)
@pytest.mark.parametrize("story", STORIES)
def test_the_cli_says_of_the_pool_what_it_says_of_one_engine(
    cli: str, story: str, pool: RunningPool, alike: list[Engine], engine: Engine, tmp_path: Path
) -> None:
    try:
        of_pool, of_engine = play_on_both(cli, (pool.url, engine.url), STORIES[story], tmp_path)
    finally:
        for one in alike:
            clean(one)
    assert of_pool == of_engine
