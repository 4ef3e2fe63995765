"""Images, builds, networks, volumes, events and the pool itself, over two real engines."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from direct_engines import Host, Served, served
from engines import Engine, Lane, busybox_archive
from swarm_side_by_side import THERE
from twin_engines import clean, tags_of, twins
from waiting import wait_until

NETWORKS_OF_EVERY_ENGINE = {"bridge", "host", "none"}


@pytest.fixture(scope="module")
def members(engines: Lane) -> list[Engine]:
    return twins(engines, "gamma", "delta")


@pytest.fixture
def pool(members: list[Engine], tmp_path: Path) -> Iterator[Served]:
    hosts = [Host(one.name, one.address, one.url.removeprefix("unix://")) for one in members]
    with served(hosts, tmp_path) as api:
        try:
            yield api
        finally:
            for one in members:
                clean(one)


@pytest.fixture
def client(pool: Served) -> Iterator[docker.APIClient]:
    with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as made:
        yield made


@pytest.fixture
def direct(members: list[Engine]) -> Iterator[dict[str, docker.APIClient]]:
    clients = {one.name: one.client() for one in members}
    yield clients
    for one in clients.values():
        one.close()


def context_of(dockerfile: str) -> io.BytesIO:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(dockerfile)
        archive.addfile(entry, io.BytesIO(dockerfile.encode()))
    packed.seek(0)
    return packed


def build(client: docker.APIClient, dockerfile: str, **options: Any) -> list[dict[str, Any]]:
    context = context_of(dockerfile)
    return list(client.build(fileobj=context, custom_context=True, decode=True, **options))


def names_of(client: docker.APIClient, volume: bool = False) -> set[str]:
    found = client.volumes()["Volumes"] or () if volume else client.networks()
    return {one["Name"] for one in found} - NETWORKS_OF_EVERY_ENGINE


def test_an_image_of_all_nodes_is_listed_once_and_its_tags_are_everywhere(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    assert tags_of(client) == ["busybox:latest"]
    assert client.tag("busybox:latest", "again", "2")
    for one in (client, *direct.values()):
        assert tags_of(one) == ["again:2", "busybox:latest"]
    assert client.remove_image("again:2") == [{"Untagged": "again:2"}]
    for one in (client, *direct.values()):
        assert tags_of(one) == ["busybox:latest"]


def test_an_import_is_one_image_on_all_nodes_with_its_changes(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    said = client.import_image_from_data(busybox_archive(), "made", "1", changes=['CMD ["true"]', "ENV A=b"])
    identifier = json.loads(said.splitlines()[-1])["status"]
    for one in (client, *direct.values()):
        shown = one.inspect_image("made:1")
        assert shown["Id"] == identifier
        assert (shown["Config"]["Cmd"], shown["Config"]["Env"][-1]) == (["true"], "A=b")


def test_saved_and_loaded_images_are_on_all_nodes_again(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    client.tag("busybox:latest", "kept", "1")
    archive = b"".join(client.get_image("kept:1"))
    client.remove_image("kept:1")
    direct["gamma"].tag("busybox:latest", "other", "1")
    assert [line.get("stream") for line in client.load_image(archive)] == ["Loaded image: kept:1\n"]
    assert tags_of(direct["delta"]) == ["busybox:latest", "kept:1"]
    assert tags_of(direct["gamma"]) == ["busybox:latest", "kept:1", "other:1"]


def test_images_are_saved_together_wherever_they_are(
    pool: Served, client: docker.APIClient, direct: dict[str, docker.APIClient], tmp_path: Path
) -> None:
    for node in ("gamma", "delta"):
        build(client, f"FROM busybox\nENV NODE={node}", tag=f"of-{node}:1",
              buildargs={"constraint:node": f"={node}"})  # fmt: skip
    archive = tmp_path / "both.tar"
    command = [THERE[0], "-H", pool.url, "save", "-o", str(archive), "of-gamma:1", "of-delta:1", "busybox"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with tarfile.open(archive) as tar, tar.extractfile("manifest.json") as file:  # type: ignore[union-attr]
        found = sorted(tag for one in json.load(file) for tag in one["RepoTags"])
    assert found == ["busybox:latest", "of-delta:1", "of-gamma:1"]
    assert sorted(sum(tag.startswith("of-") for tag in tags_of(one)) for one in direct.values()) == [1, 2]


def test_a_name_of_another_image_is_not_given_away_for_an_archive(
    pool: Served, client: docker.APIClient, direct: dict[str, docker.APIClient], tmp_path: Path
) -> None:
    """Each node has an own image by the name that the other one's was built after."""
    for name, first, last in (("one:1", "gamma", "delta"), ("two:1", "delta", "gamma")):
        for node in (first, last):
            build(client, f"FROM busybox\nENV NODE={name}{node}", tag=name,
                  buildargs={"constraint:node": f"={node}"})  # fmt: skip
    before = {(node, name): direct[node].inspect_image(name)["Id"] for node in direct for name in ("one:1", "two:1")}
    command = [THERE[0], "-H", pool.url, "save", "-o", str(tmp_path / "both.tar"), "one:1", "two:1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Unable to find a healthy engine containing all images: [one:1 two:1]" in done.stderr
    assert {one: direct[one[0]].inspect_image(one[1])["Id"] for one in before} == before


def test_a_tag_of_two_images_means_the_one_tagged_last_to_every_command(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    for node in ("delta", "gamma", "delta"):
        build(client, f"FROM busybox\nENV NODE={node}\nRUN date +%N > /x", tag="app:1", nocache=True,
              buildargs={"constraint:node": f"={node}"})  # fmt: skip
        last = direct[node].inspect_image("app:1")["Id"]
        assert client.inspect_image("app:1")["Id"] == last
        assert client.history("app:1")[0]["Id"] == last
        assert f"{last.removeprefix('sha256:')}.json" in tarred(client.get_image("app:1"))
        assert f"{last.removeprefix('sha256:')}.json" in tarred(
            [client.get(f"{client.base_url}/images/get?names=app:1").content]
        )
        client.tag("app:1", "app", "2")
        assert client.inspect_image("app:2")["Id"] == last


def tarred(pieces: Any) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(b"".join(pieces))) as archive:
        return archive.getnames()


def test_an_image_that_a_container_uses_stays_on_all_nodes(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    client.tag("busybox:latest", "used", "1")
    client.remove_image("busybox:latest")
    try:
        direct["gamma"].create_container("used:1", "true", name="user")
        with pytest.raises(docker.errors.APIError, match="conflict: unable to remove repository reference") as caught:
            client.remove_image("used:1")
        assert caught.value.status_code == 409
        assert tags_of(direct["delta"]) == ["used:1"]
    finally:
        client.tag("used:1", "busybox", "latest")


def test_a_commit_is_where_its_container_is(client: docker.APIClient, direct: dict[str, docker.APIClient]) -> None:
    client.create_container("busybox", "true", name="delta/source")
    made = client.commit("source", "committed", "1", changes=["ENV A=b"])
    assert client.inspect_image("committed:1")["Id"] == made["Id"]
    assert "committed:1" in tags_of(direct["delta"])
    assert "committed:1" not in tags_of(direct["gamma"])


def test_images_before_and_since_one_that_a_single_node_has(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    build(client, "FROM busybox\nLABEL a=1", tag="middle:1", buildargs={"constraint:node": "=delta"})
    found = client.images(filters={"before": "middle:1"})
    assert [image["RepoTags"] for image in found] == [["busybox:latest"]]
    assert client.images(filters={"since": "middle:1"}) == []
    assert [image["RepoTags"] for image in client.images(filters={"since": "busybox:latest"})] == [["middle:1"]]
    for one in (client, direct["gamma"]):
        with pytest.raises(docker.errors.APIError, match="No such image: nothing:latest"):
            one.images(filters={"since": "nothing"})


def test_what_no_node_has_is_not_there_in_an_engines_words(client: docker.APIClient) -> None:
    for ask in (client.inspect_image, client.history, client.remove_image):
        with pytest.raises(docker.errors.ImageNotFound) as caught:
            ask("no-such-image")
        assert "No such image: no-such-image:latest" in caught.value.explanation


def test_a_build_goes_where_its_arguments_say_and_they_are_not_the_builds(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    for node in ("delta", "gamma"):
        arguments = {"constraint:node": f"={node}", "MINE": "yes"}
        said = build(client, "FROM busybox\nARG MINE\nRUN echo got-$MINE", tag=f"on-{node}:1", buildargs=arguments)
        assert any("got-yes" in line.get("stream", "") for line in said), said
        assert not any("constraint" in line.get("stream", "") for line in said)
        assert f"on-{node}:1" in tags_of(direct[node])
    assert "on-delta:1" not in tags_of(direct["gamma"])


def test_a_build_that_fits_nowhere_says_why(client: docker.APIClient) -> None:
    with pytest.raises(docker.errors.APIError) as caught:
        build(client, "FROM busybox", buildargs={"constraint:node": "=nobody"})
    assert caught.value.explanation == (
        "Unable to find a node that satisfies the following conditions \n[available container slots]\n[node==nobody]"
    )
    with pytest.raises(
        docker.errors.APIError, match="error from constraint filter: One of operator ==, != is expected"
    ):
        build(client, "FROM busybox", buildargs={"constraint:node": "nobody"})


@pytest.mark.parametrize("cli", THERE)
def test_a_failed_build_leaves_no_container_behind(cli: str, pool: Served, client: docker.APIClient) -> None:
    command = [cli, "-H", pool.url, "build", "-"]
    done = subprocess.run(
        command,
        input=b"FROM busybox\nRUN true\nRUN exit 7",
        env={"DOCKER_BUILDKIT": "0", "HOME": "/nonexistent"},
        capture_output=True,
        check=False,
    )
    assert b"returned a non-zero code: 7" in done.stderr, done
    assert client.containers(all=True) == []


def test_a_build_is_repeated_where_its_layers_are(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    arguments = {"constraint:node": "=delta"}
    build(client, "FROM busybox\nRUN echo once > /x", tag="cached:1", buildargs=arguments)
    said = build(client, "FROM busybox\nRUN echo once > /x", tag="other:1", cache_from=["cached:1"])
    assert "other:1" in tags_of(direct["delta"]), said
    assert any("Using cache" in line.get("stream", "") for line in said)


def test_a_build_goes_where_what_it_begins_with_was_built(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    on_delta = {"constraint:node": "=delta"}
    build(client, "FROM busybox\nRUN echo mine > /x", tag="mybase:1", buildargs=on_delta)
    client.create_container("busybox", "true", name="delta/makes-it-fuller")
    built_of = {
        "from:1": "FROM mybase:1\nRUN grep mine /x",
        "argument:1": "ARG TAG\nFROM mybase:${TAG}\nRUN grep mine /x",
        "copied:1": "FROM busybox\nCOPY --from=mybase:1 /x /y\nRUN grep mine /y",
    }
    for tag, dockerfile in built_of.items():
        said = build(client, dockerfile, tag=tag, buildargs={"TAG": "1"})
        assert tag in tags_of(direct["delta"]), said
    build(client, "FROM busybox\nRUN echo new > /x", tag="mybase:1", buildargs={"constraint:node": "=gamma"})
    said = build(client, "FROM mybase:1\nRUN grep new /x", tag="newest:1")
    assert "newest:1" in tags_of(direct["gamma"]), said
    assert "mybase:1" in tags_of(direct["delta"])
    said = build(client, "FROM mybase:1\nRUN grep new /x", tag="brought:1", buildargs=on_delta)
    assert "brought:1" in tags_of(direct["delta"]), said


def test_a_build_in_a_network_is_where_the_networks_containers_are(client: docker.APIClient) -> None:
    network = client.create_network("building")["Id"]
    client.create_container("busybox", "sleep 1000", name="delta/target")
    client.start("target")
    client.connect_container_to_network("target", network, aliases=["target.local"])
    said = build(client, "FROM busybox\nRUN ping -c 1 target.local", tag="pinged:1", network_mode=network)
    assert client.inspect_image("pinged:1"), said


def test_buildkit_builds_through_its_session(pool: Served, client: docker.APIClient, tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM busybox\nCOPY Dockerfile /copied\nRUN test -s /copied\n")
    done = subprocess.run(
        ["/usr/bin/docker", "-H", pool.url, "build", "--progress", "plain", "-t", "kit:1", str(tmp_path)],
        env={"DOCKER_BUILDKIT": "1", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert client.inspect_image("kit:1")


def test_a_network_is_on_every_node_and_shown_once(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    made = client.create_network("both", labels={"mine": "1"}, check_duplicate=True)
    assert names_of(client) == {"both"}
    assert all(names_of(one) == {"both"} for one in direct.values())
    ids = {node: one.inspect_network("both")["Id"] for node, one in direct.items()}
    assert made["Id"] == ids["delta"]  # the first by name
    for reference in (ids["gamma"], ids["gamma"][:12], ids["delta"], "both"):
        shown = client.inspect_network(reference)
        assert (shown["Id"], shown["Labels"]) == (made["Id"], {"mine": "1"})
    assert client.inspect_network("gamma/both")["Id"] == ids["gamma"]
    with pytest.raises(docker.errors.APIError, match="network with name both already exists"):
        client.create_network("both", check_duplicate=True)
    client.remove_network(ids["gamma"])
    assert names_of(client) == names_of(direct["gamma"]) == names_of(direct["delta"]) == set()


def test_containers_of_all_nodes_are_seen_in_their_network_and_keep_it(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    network = client.create_network("busy")["Id"]
    made = {}
    for node in ("gamma", "delta"):
        made[node] = client.create_container("busybox", "sleep 1000", name=f"{node}/in-{node}")["Id"]
        client.start(made[node])
        client.connect_container_to_network(f"in-{node}", network)
    shown = client.inspect_network("busy")["Containers"]
    assert {identifier: one["Name"] for identifier, one in shown.items()} == {
        made["gamma"]: "in-gamma",
        made["delta"]: "in-delta",
    }
    ids = {part["Id"] for part in (one.inspect_network("busy") for one in direct.values())}
    assert len(ids) == 2
    assert network in ids
    for reference in ("busy", *ids):
        rows = client.containers(filters={"network": reference})
        assert {row["Id"] for row in rows} == set(made.values()), reference
        assert {row["NetworkSettings"]["Networks"]["busy"]["NetworkID"] for row in rows} == {network}
    for name in ("in-gamma", "in-delta"):
        shown = client.inspect_container(name)["NetworkSettings"]["Networks"]
        assert shown["busy"]["NetworkID"] == network
        assert shown["bridge"]["NetworkID"] in {one.inspect_network("bridge")["Id"] for one in direct.values()}
    assert client.containers(filters={"network": "0" * 64}) == []
    client.disconnect_container_from_network("in-delta", network)
    with pytest.raises(docker.errors.APIError, match="has active endpoints"):
        client.remove_network("busy")
    assert names_of(client) == {"busy"}
    client.disconnect_container_from_network("in-gamma", network)
    client.remove_network("busy")
    with pytest.raises(docker.errors.NotFound, match="network busy not found"):
        client.inspect_network("busy")


def test_a_network_that_a_node_lacks_is_made_there_when_a_container_needs_it(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    client.create_network("gamma/late", options={"com.docker.network.bridge.enable_icc": "false"})
    assert (names_of(direct["gamma"]), names_of(direct["delta"])) == ({"late"}, set())
    client.create_container("busybox", "sleep 1000", name="delta/needs")
    client.connect_container_to_network("needs", "late")
    copy = direct["delta"].inspect_network("late")
    assert copy["Options"] == {"com.docker.network.bridge.enable_icc": "false"}


def test_copies_have_the_addresses_that_the_client_chose_and_else_their_engines_own(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet="172.29.0.0/16")])
    client.create_network("chosen", ipam=ipam)
    client.create_network("own")
    for name in ("chosen", "own"):
        # As on a node that was away.
        direct["gamma"].remove_network(name)
    direct["gamma"].create_network(
        "in-the-way", ipam=docker.types.IPAMConfig(pool_configs=client.inspect_network("own")["IPAM"]["Config"])
    )
    client.create_container("busybox", "sleep 1000", name="gamma/needs")
    for name in ("chosen", "own"):
        client.connect_container_to_network("needs", name)
    assert direct["gamma"].inspect_network("chosen")["IPAM"]["Config"] == [{"Subnet": "172.29.0.0/16"}]
    assert direct["gamma"].inspect_network("own")["IPAM"] != client.inspect_network("own")["IPAM"]
    assert client.inspect_network("own")["Labels"] == {}


def test_networks_that_one_node_uses_are_not_pruned(client: docker.APIClient) -> None:
    for name in ("idle", "used"):
        client.create_network(name)
    client.create_container("busybox", "sleep 1000", name="gamma/user")
    client.start("user")
    client.connect_container_to_network("user", "used")
    assert client.prune_networks()["NetworksDeleted"] == ["idle"]
    assert names_of(client) == {"used"}


def holders(direct: dict[str, docker.APIClient], volume: str) -> list[str]:
    return [node for node, one in direct.items() if volume in names_of(one, volume=True)]


def test_a_volume_is_on_one_node_and_found_by_its_name(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    assert client.create_volume("data", labels={"mine": "1"})["Name"] == "data"
    (home,) = holders(direct, "data")
    assert client.inspect_volume("data")["Mountpoint"] == direct[home].inspect_volume("data")["Mountpoint"]
    assert client.create_volume("data")["Labels"] == {"mine": "1"}, "it is there already"
    assert holders(direct, "data") == [home]
    unnamed = client.create_volume()["Name"]
    assert len(holders(direct, unnamed)) == 1
    client.create_volume("gamma/own")
    client.create_volume("delta/own")
    assert holders(direct, "own") == ["gamma", "delta"]
    assert client.inspect_volume("gamma/own")["Mountpoint"] == direct["gamma"].inspect_volume("own")["Mountpoint"]
    assert names_of(client, volume=True) == {"data", "own", unnamed}
    for name in ("data", "own"):
        client.remove_volume(name)
    assert names_of(client, volume=True) == {unnamed}
    with pytest.raises(docker.errors.NotFound, match="no such volume"):
        client.remove_volume("data")


def test_a_volume_in_use_on_one_node_stays_on_all(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    for node in direct:
        client.create_volume(f"{node}/used")
    client.create_container(
        "busybox", "true", name="gamma/user", host_config=client.create_host_config(binds=["used:/data"])
    )
    with pytest.raises(docker.errors.APIError, match="volume is in use") as caught:
        client.remove_volume("used")
    assert caught.value.status_code == 409
    assert all(names_of(one, volume=True) == {"used"} for one in direct.values())
    assert client.volumes(filters={"dangling": "true"})["Volumes"] == []


def test_what_belongs_to_one_project_has_one_home(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    homes = []
    for project in ("one", "two"):
        labels = {"com.docker.compose.project": project}
        client.create_network(f"{project}_default", labels=labels)
        copies = [one.inspect_network(f"{project}_default") for one in direct.values()]
        (home,) = {copy["Labels"]["orlop.home"] for copy in copies}
        for number in range(2):
            client.create_volume(f"{project}_{number}", labels=labels)
            assert holders(direct, f"{project}_{number}") == [home]
        for number in range(2):
            client.create_container("busybox", name=f"{home}/{project}{number}")
        homes.append(home)
    assert sorted(homes) == sorted(direct), "the second one goes where there is less"


def test_events_of_all_nodes_come_in_one_stream(pool: Served, client: docker.APIClient) -> None:
    seen: list[dict[str, Any]] = []
    with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as listening:
        stream = listening.events(decode=True, filters={"type": "container", "event": ["create", "destroy"]})
        reader = threading.Thread(target=lambda: seen.extend(stream), daemon=True)
        reader.start()
        for node in ("gamma", "delta"):
            client.create_container("busybox", "true", name=f"{node}/on-{node}")
        wait_until(lambda: len(seen) >= 2, "both events to come")
        stream.close()
        reader.join(30)
    told = [(event["Action"], event["Actor"]["Attributes"]["node.name"], event["node"]["Name"]) for event in seen]
    assert told == [("create", "gamma", "gamma"), ("create", "delta", "delta")]
    first, second = (event["timeNano"] for event in seen)
    past = client.events(
        since=f"{first // 10**9}.{first % 10**9:09d}",
        until=f"{second // 10**9}.{second % 10**9:09d}",
        filters={"event": "create", "type": "container"},
        decode=True,
    )
    assert [event["Actor"]["Attributes"]["name"] for event in past] == ["on-gamma", "on-delta"]


def test_what_is_done_on_all_nodes_is_told_once(client: docker.APIClient) -> None:
    since = f"{time.time():.9f}"
    seen: list[dict[str, Any]] = []
    with contextlib.closing(docker.APIClient(base_url=client.base_url, version="1.41")) as listening:
        stream = listening.events(decode=True, filters={"type": ["network", "image"]})
        reader = threading.Thread(target=lambda: seen.extend(stream), daemon=True)
        reader.start()
        network = client.create_network("told")["Id"]
        client.remove_network("told")
        for tag in ("1", "2"):
            client.tag("busybox:latest", "told", tag)
        for tag in ("1", "2"):
            client.remove_image(f"told:{tag}")
        client.create_network("the-last")
        wait_until(lambda: seen and seen[-1]["Actor"]["Attributes"].get("name") == "the-last", "the last event")
        stream.close()
        reader.join(30)
    expected = ["create", "destroy", "tag", "tag", "untag", "untag", "create"]
    assert sorted(event["Action"] for event in seen) == sorted(expected)
    past = list(
        client.events(since=since, until=f"{time.time():.9f}", filters={"type": ["network", "image"]}, decode=True)
    )
    assert [event["Action"] for event in past] == expected
    assert {event["Actor"]["ID"] for event in past if event["Actor"]["Attributes"].get("name") == "told"} == {network}


@pytest.mark.parametrize("cli", THERE)
def test_the_cli_shows_past_events_of_all_nodes_by_time(cli: str, pool: Served, client: docker.APIClient) -> None:
    for name in ("delta/one", "gamma/two", "delta/three"):
        client.create_container("busybox", "true", name=name)
    command = [cli, "-H", pool.url, "events", "--since", "10m", "--until", f"{time.time():.9f}"]
    command += ["--filter", "event=create", "--format", "{{.Actor.Attributes.name}}"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    names = shown.stdout.split()
    assert [name for name in names if name in ("one", "two", "three")][-3:] == ["one", "two", "three"]


def test_an_engine_that_is_killed_and_returns_is_in_the_stream_again(
    pool: Served, client: docker.APIClient, members: list[Engine]
) -> None:
    seen: list[str] = []
    gamma = members[0]
    with contextlib.closing(docker.APIClient(base_url=pool.url, version="1.41")) as listening:
        stream = listening.events(decode=True, filters={"type": "volume"})
        reader = threading.Thread(
            target=lambda: seen.extend(event["Actor"]["Attributes"]["node.name"] for event in stream), daemon=True
        )
        reader.start()
        gamma.kill()
        client.create_volume("delta/meanwhile")
        wait_until(lambda: seen == ["delta"], "the other engine's event to come")
        assert client.info()["Warnings"][-1].startswith("WARNING: Node gamma is not available:")
        gamma.start()
        client.create_volume("gamma/after")
        wait_until(lambda: seen == ["delta", "gamma"], "the returned engine's event to come")
        stream.close()
        reader.join(30)


def test_info_and_version_and_df_speak_for_the_pool(
    client: docker.APIClient, direct: dict[str, docker.APIClient]
) -> None:
    info, each = client.info(), [one.info() for one in direct.values()]
    assert info["NCPU"] == sum(one["NCPU"] for one in each)
    assert info["MemTotal"] == sum(one["MemTotal"] for one in each)
    assert info["Images"] == 1
    rows = [row[0] for row in info["SystemStatus"]]
    assert [row for row in rows if row in (" gamma", " delta")] == [" delta", " gamma"]
    version, one = client.version(), direct["gamma"].version()
    for member in ("Version", "ApiVersion", "MinAPIVersion", "Os"):
        assert version[member] == one[member]
    assert {component["Name"] for component in version["Components"]} > {"Engine", "Orlop"}
    usage = client.df()
    assert [image["RepoTags"] for image in usage["Images"]] == [["busybox:latest"]]
    assert usage["LayersSize"] == sum(one.df()["LayersSize"] for one in direct.values())


@pytest.mark.parametrize("cli", THERE)
def test_the_cli_prints_the_pools_rows(cli: str, pool: Served) -> None:
    shown = subprocess.run([cli, "-H", pool.url, "info"], capture_output=True, text=True, check=True).stdout
    for row in ("Nodes: 2", "Status: Healthy", "Reserved CPUs: 0 / ", "Role: primary", "└ Labels: engine=delta"):
        assert row in shown


def test_a_node_that_is_down_is_told_and_hides_nothing(pool: Served, client: docker.APIClient) -> None:
    client.create_volume("delta/there")
    pool.pool.down["gamma"] = "its agent is gone"
    assert names_of(client, volume=True) == {"there"}
    assert tags_of(client) == ["busybox:latest"]
    info = client.info()
    assert "WARNING: Node gamma is not available: its agent is gone" in info["Warnings"]
    assert ["  └ Error", "its agent is gone"] in info["SystemStatus"]
