"""Faults that classic Swarm was known for do not happen on a real pool: two engines, one behind a remote agent."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import subprocess
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import docker
import pytest
from engines import Engine
from swarm_pool import RunningPool
from waiting import wait_until

pytestmark = pytest.mark.docker


def asked(pool: RunningPool, method: str, path: str, body: Any = None) -> tuple[int, list[tuple[str, str]], bytes]:
    """Status, headers and content, as they come over the wire."""
    address = urlsplit(pool.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    with contextlib.closing(connection):
        content = json.dumps(body).encode() if body is not None else None
        connection.request(method, path, content, {"Content-Type": "application/json"} if content else {})
        answer = connection.getresponse()
        return answer.status, answer.getheaders(), answer.read()


def engine_of(pool: RunningPool, name: str) -> Engine:
    node = pool.node(name)
    return next(one for one in pool.engines if one.name == node)


def far(pool: RunningPool) -> Engine:
    """The one behind the remote agent."""
    return pool.engines[1]


def names(pool: RunningPool) -> list[str]:
    return sorted(pool.docker("ps", "-a", "--format", "{{.Names}}").split())


def built(pool: RunningPool, tag: str, folder: Path, *steps: str, code: int = 0) -> str:
    (folder / "Dockerfile").write_text("\n".join(("FROM busybox", *steps)))
    command = ["env", "DOCKER_BUILDKIT=0", "docker", "-H", pool.url, "build", "--force-rm", "-t", tag, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def registry_lines(pool: RunningPool) -> int:
    """How often engines have spoken of a registry."""
    return sum(engine.log().count("registry-1.docker.io") for engine in pool.engines)


def test_containers_of_build_steps_are_not_left_behind(clean_pool: RunningPool, tmp_path: Path) -> None:
    built(clean_pool, "made", tmp_path, "RUN echo hi > /made")
    built(clean_pool, "failed", tmp_path, "RUN echo once more", "RUN false", code=1)
    assert names(clean_pool) == []
    for engine in clean_pool.engines:
        with contextlib.closing(engine.client()) as client:
            assert client.containers(all=True) == []


def test_an_image_that_one_node_has_is_run_there_and_no_registry_is_asked(
    clean_pool: RunningPool, tmp_path: Path
) -> None:
    built(clean_pool, "mine", tmp_path, "RUN echo made here > /made", 'CMD ["cat", "/made"]')
    before = registry_lines(clean_pool)
    for _ in range(3):
        assert clean_pool.docker("run", "--rm", "mine") == "made here\n"
    assert registry_lines(clean_pool) == before
    assert "orlop" not in clean_pool.docker("run", "nobody-has-it", code=125)
    assert registry_lines(clean_pool) > before  # so the engines' logs do tell


def test_a_registry_that_refuses_does_not_cost_the_pool_an_engine(clean_pool: RunningPool) -> None:
    for _ in range(4):  # classic Swarm dropped an engine after three refusals
        clean_pool.docker("pull", "nowhere.invalid:1/none", code=1)
    assert clean_pool.complete()
    assert {clean_pool.run(name) for name in ("first", "second")} == {engine.name for engine in clean_pool.engines}


def test_changes_of_an_import_are_kept(clean_pool: RunningPool, tmp_path: Path) -> None:
    clean_pool.docker("create", "--name", "source", "busybox")
    archive = tmp_path / "source.tar"
    clean_pool.docker("export", "-o", str(archive), "source")
    clean_pool.docker(
        "import", "-c", 'CMD ["echo", "as it was said"]', "-c", "ENV SAID=yes", str(archive), "imported:latest"
    )
    seen = set()
    for engine in clean_pool.engines:
        with contextlib.closing(engine.client()) as client:
            image = client.inspect_image("imported:latest")
        assert image["Config"]["Cmd"] == ["echo", "as it was said"]
        assert "SAID=yes" in image["Config"]["Env"]
        seen.add(image["Id"])
        on_it = ("-e", f"constraint:node=={engine.name}")
        assert clean_pool.docker("run", "--rm", *on_it, "imported") == "as it was said\n"
    assert len(seen) == 1


def test_removed_containers_are_not_listed(clean_pool: RunningPool) -> None:
    for name in ("one", "two", "three"):
        clean_pool.run(name)
    clean_pool.docker("rm", "-f", "one")
    assert names(clean_pool) == ["three", "two"]
    with contextlib.closing(engine_of(clean_pool, "two").client()) as client:
        client.remove_container("two", force=True)
    assert names(clean_pool) == ["three"]
    wait_until(lambda: "two" not in clean_pool.server.cli("tasks"), "the kernel lets go of what its engine removed")
    assert clean_pool.run("two") in {engine.name for engine in clean_pool.engines}


def test_every_constraint_on_the_node_counts(clean_pool: RunningPool) -> None:
    first, second = (engine.name for engine in clean_pool.engines)
    with clean_pool.client() as client:
        host = client.create_host_config()
        both = client.create_container_config(
            "busybox",
            ["true"],
            environment=[f"constraint:node!={second}", f"constraint:node!={first}"],
            host_config=host,
        )
        with pytest.raises(docker.errors.APIError) as refused:
            client.create_container_from_config(both, name="nowhere")
    assert f"[node!={second} node!={first}]" in str(refused.value)
    # Docker's own client sends the last of several variables with one name; the label keeps all.
    label = "com.docker.swarm.constraints=" + json.dumps([f"node!={second}", f"node!={first}"])
    assert "Unable to find a node" in clean_pool.docker("run", "-l", label, "busybox", code=125)


def test_what_has_ended_is_not_shown_as_up_after_its_engine_was_killed(clean_pool: RunningPool) -> None:
    node = far(clean_pool)
    clean_pool.run("ended", "-e", f"constraint:node=={node.name}")
    follower = subprocess.Popen(
        ["docker", "-H", clean_pool.url, "logs", "-f", "ended"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        node.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            follower.wait(60)
        assert follower.returncode is not None, "`logs -f` of a dead engine never ended"
        wait_until(
            lambda: clean_pool.docker("ps", "-a", "--format", "{{.Status}}") == "Host Down\n", "its engine is missed"
        )
        refusal = clean_pool.docker("logs", "ended", code=1)
        assert f"is on node {node.name}, which is not available" in refusal
    finally:
        follower.kill()
        node.start()
        follower.communicate()
    wait_until(clean_pool.complete, "the engine is back in the pool")
    with contextlib.closing(node.client()) as client:
        (of_engine,) = client.containers(all=True)
    with clean_pool.client() as client:
        (of_pool,) = client.containers(all=True)
    assert of_engine["State"] == "exited"
    assert (of_pool["State"], of_pool["Status"].startswith("Exited")) == ("exited", True)
    clean_pool.docker("start", "ended")
    assert clean_pool.docker("ps", "--format", "{{.Names}} {{.State}}") == "ended running\n"


def test_events_of_the_past_are_told_up_to_a_time_and_filtered(clean_pool: RunningPool) -> None:
    since = time.time()
    for engine in clean_pool.engines:
        on_it = ("-e", f"constraint:node=={engine.name}")
        clean_pool.docker("run", "--name", f"on-{engine.name}", *on_it, "busybox", "true")
    past = ("--since", f"{since:.9f}", "--until", f"{time.time():.9f}", "--filter", "event=die")
    both = ("--filter", "event=start", "--filter", "type=container")
    told = clean_pool.docker("events", *past, *both, "--format", "{{.Action}} {{.Actor.Attributes.name}}")
    first, second = (f"on-{engine.name}" for engine in clean_pool.engines)
    assert told.splitlines() == [f"start {first}", f"die {first}", f"start {second}", f"die {second}"]
    of_one = ("--filter", f"container={second}", "--format", '{{index .Actor.Attributes "node.name"}}')
    assert clean_pool.docker("events", *past, *of_one).split() == [clean_pool.engines[1].name]


def test_a_container_of_an_image_of_a_container_is_one_of_its_own(clean_pool: RunningPool) -> None:
    pool = clean_pool
    pool.run("mother", "-e", "reschedule:on-node-failure", "-l", "mine=1")
    swarm_id = pool.docker("inspect", "-f", '{{index .Config.Labels "com.docker.swarm.id"}}', "mother").strip()
    pool.docker("commit", "mother", "made:1")
    pool.docker(
        "commit", "-c", f"LABEL com.docker.swarm.id={swarm_id}", "-c", 'CMD ["sleep", "77"]', "mother", "made:2"
    )
    with contextlib.closing(engine_of(pool, "mother").client()) as engine:
        labels = engine.inspect_image("made:1")["Config"]["Labels"]
    assert {name for name, value in labels.items() if value and "policies" not in name} == {"mine"}
    configured = json.loads(pool.docker("inspect", "-f", "{{json .Config}}", "made:2"))
    assert (configured["Cmd"], configured["Labels"]["mine"]) == (["sleep", "77"], "1")
    for tag, name in (("made:1", "child"), ("made:2", "marked")):
        pool.docker("run", "-d", "--name", name, "--label", "tag=" + tag, tag)
        assert name in names(pool)
        assert pool.docker("inspect", "-f", "{{.Config.Image}}", name).strip() == tag
        pool.docker("logs", name)
    assert "com.docker.swarm.id" not in pool.docker("inspect", "-f", "{{json .Config.Labels}}", "child")
    assert pool.docker("inspect", "-f", "{{.Name}}", swarm_id).strip() == "/mother"
    pool.docker("rm", "-f", "child", "marked")
    assert names(pool) == ["mother"]


def test_an_exec_can_be_inspected_after_its_end(clean_pool: RunningPool) -> None:
    for engine in clean_pool.engines:
        clean_pool.run(f"on-{engine.name}", "-e", f"constraint:node=={engine.name}")
        with clean_pool.client() as client:
            made = client.exec_create(f"on-{engine.name}", ["sh", "-c", "echo out; exit 7"])["Id"]
            assert client.exec_start(made) == b"out\n"
            seen = client.exec_inspect(made)
        assert (seen["Running"], seen["ExitCode"]) == (False, 7)


def test_an_exec_without_an_upgrade_is_answered_once(clean_pool: RunningPool) -> None:
    clean_pool.run("one")
    with clean_pool.client() as client:
        made = client.exec_create("one", ["echo", "out"])["Id"]
    status, headers, content = asked(clean_pool, "POST", f"/v1.40/exec/{made}/start", {"Detach": False, "Tty": False})
    assert status == 200
    assert content == b"\x01\0\0\0\0\0\0\x04out\n"
    assert len([name for name, _ in headers if name.lower() == "api-version"]) == 1


@pytest.mark.parametrize("prefix", ["", "/v1.40"])
def test_answers_have_the_form_that_an_engine_gives_them(clean_pool: RunningPool, prefix: str) -> None:
    assert asked(clean_pool, "HEAD", f"{prefix}/_ping")[0] == 200
    status, headers, content = asked(clean_pool, "GET", f"{prefix}/containers/nobody/json")
    assert (status, json.loads(content)) == (404, {"message": "No such container: nobody"})
    counted = [name.lower() for name, _ in headers]
    assert counted.count("api-version") == 1
    status, _, content = asked(clean_pool, "GET", f"{prefix}/nothing/like/this")
    assert (status, json.loads(content)) == (404, {"message": "page not found"})
    status, _, content = asked(clean_pool, "GET", "/v9.99/version")
    assert status == 400
    assert "client version 9.99 is too new" in json.loads(content)["message"]


def test_a_start_of_what_runs_says_so(clean_pool: RunningPool) -> None:
    clean_pool.run("one")
    assert asked(clean_pool, "POST", "/v1.40/containers/one/start")[0] == 304


def test_sizes_are_told(clean_pool: RunningPool) -> None:
    clean_pool.docker("run", "--name", "writer", "busybox", "sh", "-c", "head -c 5000 /dev/zero > /zeros")
    seen = json.loads(clean_pool.docker("inspect", "--size", "writer"))[0]
    assert seen["SizeRw"] == 5000
    assert "5kB (virtual" in clean_pool.docker("ps", "-as", "--format", "{{.Size}}")


def test_each_line_of_a_build_says_what_an_engine_says(clean_pool: RunningPool) -> None:
    with clean_pool.client() as client:
        lines = list(client.build(fileobj=io.BytesIO(b"FROM busybox\nRUN true\n"), rm=True, decode=True))
    assert lines
    assert [line for line in lines if not {"stream", "status", "aux", "error"} & line.keys()] == []


def test_volumes_go_by_their_bare_names(clean_pool: RunningPool) -> None:
    assert clean_pool.docker("volume", "create", "data") == "data\n"
    assert json.loads(clean_pool.docker("volume", "inspect", "data"))[0]["Name"] == "data"
    assert clean_pool.docker("volume", "ls", "-q") == "data\n"
    clean_pool.docker("run", "--rm", "-v", "data:/data", "busybox", "sh", "-c", "echo kept > /data/file")
    assert clean_pool.docker("run", "--rm", "-v", "data:/data", "busybox", "cat", "/data/file") == "kept\n"
    clean_pool.docker("volume", "rm", "data")
    assert "no such volume" in clean_pool.docker("volume", "inspect", "data", code=1).lower()


def test_a_network_without_a_driver_is_a_bridge_and_goes_by_its_bare_name(clean_pool: RunningPool) -> None:
    with clean_pool.client() as client:
        made = client.create_network("inner")["Id"]
        assert client.inspect_network("inner")["Driver"] == "bridge"
        assert client.inspect_network("inner")["Id"] == made
        assert [one["Id"] for one in client.networks(names=["inner"])] == [made]
    clean_pool.run("server", "--network", "inner")
    assert "1 packets received" in clean_pool.docker(
        "run", "--rm", "--network", "inner", "busybox", "ping", "-c", "1", "server"
    )
    clean_pool.docker("rm", "-f", "server")
    clean_pool.docker("network", "rm", "inner")
    assert "inner" not in clean_pool.docker("network", "ls")


def test_a_network_of_a_configuration_is_made_on_all_nodes_and_has_one_home(clean_pool: RunningPool) -> None:
    clean_pool.docker("network", "create", "--config-only", "--subnet", "10.200.7.0/24", "settings")
    clean_pool.docker("network", "create", "--config-from", "settings", "made")
    assert clean_pool.docker("network", "ls", "-q", "--filter", "name=made").count("\n") == 1
    assert clean_pool.docker("network", "inspect", "-f", "{{json .Labels}} {{.IPAM.Config}}", "made") == (
        "{} [{10.200.7.0/24   map[]}]\n"
    )
    nodes = {clean_pool.run(name, "--network", "made") for name in ("one", "two", "three")}
    assert len(nodes) == 1
    clean_pool.docker("rm", "-f", "one", "two", "three")
    clean_pool.docker("network", "rm", "made", "settings")
    assert not clean_pool.docker("network", "ls", "--format", "{{.ID}} {{.Name}}", "--filter", "type=custom")


def test_pruning_is_done_on_all_engines(clean_pool: RunningPool) -> None:
    for engine in clean_pool.engines:
        clean_pool.docker("create", "-e", f"constraint:node=={engine.name}", "--name", engine.name, "busybox")
        clean_pool.docker("volume", "create", f"{engine.name}/v-{engine.name}")
    clean_pool.docker("network", "create", "unused")
    assert names(clean_pool) == sorted(engine.name for engine in clean_pool.engines)
    pruned = clean_pool.docker("system", "prune", "-f")
    assert len([line for line in pruned.splitlines() if len(line) == 64]) == 2
    assert "unused" in pruned
    clean_pool.docker("volume", "prune", "-f")
    assert names(clean_pool) == []
    assert clean_pool.docker("volume", "ls", "-q") == ""
    assert "swarm" not in clean_pool.server.cli("tasks")


def test_disk_use_is_that_of_all_engines(clean_pool: RunningPool) -> None:
    for engine in clean_pool.engines:
        clean_pool.docker("create", "-e", f"constraint:node=={engine.name}", "busybox")
    with clean_pool.client() as client:
        found = client.df()
    assert len(found["Containers"]) == 2
    assert [image["RepoTags"] for image in found["Images"]] == [["busybox:latest"]]


def test_a_registry_is_asked_about_an_image_as_one_engine_asks(clean_pool: RunningPool) -> None:
    path = "/v1.40/distribution/nowhere.invalid:1/none/json"
    status, _, content = asked(clean_pool, "GET", path)
    with contextlib.closing(clean_pool.engines[0].client()) as client:
        direct = client._get(client._url("/distribution/nowhere.invalid:1/none/json"))
    assert status == direct.status_code != 404
    assert "nowhere.invalid" in json.loads(content)["message"]


def test_an_engine_that_refuses_a_container_refuses_it_in_its_own_words(clean_pool: RunningPool) -> None:
    said = clean_pool.docker("run", "busybox", "no-such-program", code=127)
    assert 'exec: "no-such-program": executable file not found in $PATH' in said
    assert "invalid" in clean_pool.docker("run", "-p", "99999:1", "busybox", code=125).lower()


def test_cpu_shares_are_shares(clean_pool: RunningPool) -> None:
    clean_pool.run("shares", "--cpu-shares", "512")
    assert clean_pool.docker("inspect", "-f", "{{.HostConfig.CpuShares}}", "shares") == "512\n"


def test_lists_are_filtered_by_image_age_and_port(clean_pool: RunningPool) -> None:
    for number in range(3):
        clean_pool.run(f"c{number}", "-p", f"1808{number}:80")

    def listed(*options: str) -> list[str]:
        return clean_pool.docker("ps", "-a", "--format", "{{.Names}}", *options).split()

    assert listed("--filter", "ancestor=busybox") == ["c2", "c1", "c0"]
    assert listed("--filter", "ancestor=nothing") == []
    assert listed("--filter", "since=c0") == ["c2", "c1"]
    assert listed("--filter", "before=c1") == ["c0"]
    assert listed("--filter", "publish=18081") == ["c1"]
    assert listed("-n", "1") == ["c2"]


def test_a_link_can_be_removed(clean_pool: RunningPool) -> None:
    clean_pool.run("base")
    clean_pool.run("user", "--link", "base:other")
    links = ("inspect", "-f", "{{json .HostConfig.Links}}", "user")
    assert clean_pool.docker(*links) == '["/base:/user/other"]\n'
    clean_pool.docker("rm", "--link", "/user/other")
    assert clean_pool.docker(*links) == "null\n"
    assert names(clean_pool) == ["base", "user"]
