"""What the docker runtime says to an engine and reads from it, without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.runtimes.docker_container import (
    KEPT_AGE_MAX_S,
    KEPT_COUNT_MAX,
    Identity,
    container_name,
    creation_of,
    exit_of,
    exit_of_event,
    exit_of_removed,
    identity_of,
    kept_name,
    kept_since,
    report_of,
    scaled_shares,
    surplus,
)
from orlop.agent.runtimes.docker_record import Record
from orlop.agent.runtimes.interface import InvalidPayload, Launch, Phase, RuntimeContext
from orlop.model.messages import Assignment
from orlop.model.resources import Resources
from orlop.model.tasks import Desired, Outcome, PortRequest, Spec

CONTEXT = RuntimeContext(cluster_id="c", node_id="n", data=Path("/d"), tasks=Path("/t"))


def launch(payload: dict[str, Any], host_ports: tuple[int, ...] = (), **options: Any) -> Launch:
    environment = options.pop("environment", {})
    spec = Spec(runtime="docker", payload=payload, **options)
    assignment = Assignment(
        task="t",
        framework="f",
        key="k",
        name="n",
        spec=spec,
        desired=Desired.RUNNING,
        incarnation=2,
        ports=host_ports,
        environment=environment,
    )
    return Launch(assignment=assignment, directory=Path("/t/t"))


def body_of(payload: dict[str, Any], *arguments: Any, **options: Any) -> Any:
    return creation_of(launch({"Image": "i", **payload}, *arguments, **options), CONTEXT).body


json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
OWN_MEMBERS = {"Image", "Env", "Labels", "HostConfig", "ExposedPorts", "orlop_pull", "orlop_labels"}


@given(st.dictionaries(st.text().filter(lambda name: name not in OWN_MEMBERS), json, max_size=5))
def test_members_that_are_not_ours_stay_as_they_are(members: dict[str, Any]) -> None:
    payload = {"Image": "i", "HostConfig": {"Annotations": members}, **members}
    creation = creation_of(launch(payload), CONTEXT)
    assert {name: value for name, value in creation.body.items() if name not in OWN_MEMBERS} == members
    assert creation.body["HostConfig"]["Annotations"] == members
    assert payload == {"Image": "i", "HostConfig": {"Annotations": members}, **members}


def test_the_identity_is_read_back_and_only_ours_is() -> None:
    labels = body_of({"Labels": {"own": "1", "orlop.task": "forged"}})["Labels"]
    assert labels["own"] == "1"
    assert identity_of(labels, CONTEXT) == Identity("t", 2)
    for other in ({"orlop.cluster": "x"}, {"orlop.node": "x"}, {"orlop.incarnation": "x"}):
        assert identity_of({**labels, **other}, CONTEXT) is None
    assert identity_of(None, CONTEXT) is None


def test_variables_of_the_task_may_be_labels_too() -> None:
    payload = {"Labels": {"own": "1", "NAME": "forged"}, "orlop_labels": ["NAME", "ABSENT"]}
    body = body_of(payload, environment={"NAME": "web.1", "OTHER": "x"})
    assert "orlop_labels" not in body
    assert {name: value for name, value in body["Labels"].items() if not name.startswith("orlop.")} == {
        "own": "1",
        "NAME": "web.1",
    }


def test_the_payloads_environment_wins() -> None:
    body = body_of({"Env": ["A=1", "UNSET"]}, environment={"A": "0", "UNSET": "0", "B": "0"})
    assert body["Env"] == ["B=0", "A=1", "UNSET"]


@pytest.mark.parametrize(
    ("given", "resources", "memory", "shares"),
    [
        ({}, Resources(cpus=1.5, mem="64MiB"), 64 * 2**20, 1536),
        ({}, Resources(cpus=0.001, mem="1MiB"), 6 * 2**20, 2),
        ({"Memory": 0, "CpuShares": 0}, Resources(cpus=1, mem="64MiB"), 64 * 2**20, 1024),
        ({"Memory": 7, "CpuShares": 8}, Resources(cpus=1, mem="64MiB"), 7, 8),
        ({}, Resources(), None, None),
    ],
)
def test_limits(given: dict[str, int], resources: Resources, memory: int | None, shares: int | None) -> None:
    host = body_of({"HostConfig": given}, resources=resources)["HostConfig"]
    assert (host.get("Memory"), host.get("CpuShares")) == (memory, shares)


def test_ports_are_merged_into_what_the_payload_says() -> None:
    requests = (PortRequest(container=80), PortRequest(protocol="udp,tcp"), PortRequest(container=81))
    own = {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": ""}], "81/tcp": [{"HostPort": "1"}], "9/tcp": None}
    payload = {"ExposedPorts": {"7/tcp": {}}, "HostConfig": {"PortBindings": own}}
    body = body_of(payload, (31000, 31001, 31002), ports=requests)
    assert body["HostConfig"]["PortBindings"] == {
        "80/tcp": [{"HostIp": "127.0.0.1", "HostPort": "31000"}],
        "31001/udp": [{"HostPort": "31001"}],
        "31001/tcp": [{"HostPort": "31001"}],
        "81/tcp": [{"HostPort": "1"}, {"HostPort": "31002"}],
        "9/tcp": None,
    }
    assert set(body["ExposedPorts"]) == {"7/tcp", "80/tcp", "31001/udp", "31001/tcp", "81/tcp"}


@pytest.mark.parametrize("mode", ["host", "none", "container:abc"])
def test_a_network_that_publishes_nothing_gets_no_ports(mode: str) -> None:
    body = body_of({"HostConfig": {"NetworkMode": mode}}, (31000,), ports=(PortRequest(),))
    assert "PortBindings" not in body["HostConfig"]
    assert "ExposedPorts" not in body


def test_the_log_is_bounded_unless_the_payload_has_its_own() -> None:
    bounded = {"Type": "json-file", "Config": {"max-size": "10000000", "max-file": "2"}}
    assert body_of({})["HostConfig"]["LogConfig"] == bounded
    assert body_of({"HostConfig": {"LogConfig": {"Type": ""}}})["HostConfig"]["LogConfig"] == bounded
    own = {"Type": "syslog"}
    assert body_of({"HostConfig": {"LogConfig": own}})["HostConfig"]["LogConfig"] == own


@pytest.mark.parametrize(
    ("payload", "path"),
    [
        ({"Image": ""}, "payload.Image"),
        ({"Image": 1}, "payload.Image"),
        ({"Env": {"A": "1"}}, "payload.Env"),
        ({"Env": [1]}, "payload.Env"),
        ({"Labels": ["a"]}, "payload.Labels"),
        ({"orlop_labels": "NAME"}, "payload.orlop_labels"),
        ({"orlop_labels": [1]}, "payload.orlop_labels"),
        ({"HostConfig": "x"}, "payload.HostConfig"),
        ({"HostConfig": {"LogConfig": 1}}, "payload.HostConfig.LogConfig"),
        ({"HostConfig": {"PortBindings": 1}}, "payload.HostConfig.PortBindings"),
        ({"ExposedPorts": 1}, "payload.ExposedPorts"),
        ({"orlop_pull": True}, "payload.orlop_pull"),
        ({"orlop_api_version": 1.41}, "payload.orlop_api_version"),
        ({"orlop_api_version": "1.41/x"}, "payload.orlop_api_version"),
    ],
)
def test_bad_payloads_are_named(payload: dict[str, Any], path: str) -> None:
    with pytest.raises(InvalidPayload, match=rf"^{path}: expected "):
        body_of(payload, (31000,), ports=(PortRequest(),))


@pytest.mark.parametrize(
    ("state", "outcome", "code", "number", "reason"),
    [
        ({"ExitCode": 0}, Outcome.FINISHED, 0, None, "exited with code 0"),
        ({"ExitCode": 128}, Outcome.FAILED, 128, None, "exited with code 128"),
        ({"ExitCode": 143}, Outcome.FAILED, None, 15, "ended by SIGTERM"),
        ({"ExitCode": 137, "OOMKilled": True}, Outcome.FAILED, None, 9, "ended by SIGKILL, out of memory"),
        ({"ExitCode": 160}, Outcome.FAILED, None, 32, "ended by signal 32"),
        ({"ExitCode": 255, "Error": "a\n b"}, Outcome.FAILED, 255, None, "exited with code 255: a b"),
    ],
)
def test_exits(state: dict[str, Any], outcome: Outcome, code: int | None, number: int | None, reason: str) -> None:
    seen = exit_of(state)
    assert (seen.outcome, seen.code, seen.signal, seen.reason) == (outcome, code, number, reason)


def test_a_kill_that_was_not_ours_and_left_no_container_is_a_loss() -> None:
    assert exit_of_removed(137, killed=False).outcome is Outcome.LOST
    assert exit_of_removed(137, killed=True).signal == 9
    assert exit_of_removed(3, killed=False).code == 3


def test_an_event_tells_the_exit_unless_the_engine_may_not_know_it() -> None:
    ended = exit_of_event({"exitCode": "3"}, out_of_memory=False)
    assert ended is not None
    assert (ended.outcome, ended.code) == (Outcome.FAILED, 3)
    killed = exit_of_event({"exitCode": "137"}, out_of_memory=True)
    assert killed is not None
    assert (killed.signal, killed.reason) == (9, "ended by SIGKILL, out of memory")
    assert exit_of_event({"exitCode": "255"}, out_of_memory=False) is None
    assert exit_of_event({"exitCode": "x"}, out_of_memory=False) is None
    assert exit_of_event({}, out_of_memory=False) is None


@pytest.mark.parametrize(
    ("host", "stays"),
    [
        ({}, True),
        ({"RestartPolicy": {"Name": ""}}, True),
        ({"RestartPolicy": {"Name": "no"}}, True),
        ({"RestartPolicy": {"Name": "on-failure"}}, False),
        ({"RestartPolicy": {"Name": "always"}}, False),
        ({"AutoRemove": True}, False),
    ],
)
def test_what_the_engine_leaves_as_it_ends(host: dict[str, Any], stays: bool) -> None:
    assert creation_of(launch({"Image": "i", "HostConfig": host}), CONTEXT).stays_ended is stays


def test_who_has_addresses_of_its_own() -> None:
    for mode, own in (("host", False), ("none", False), ("bridge", True), ("", True), ("container:x", True)):
        assert creation_of(launch({"Image": "i", "HostConfig": {"NetworkMode": mode}}), CONTEXT).own_network is own


@pytest.mark.parametrize(
    ("events", "undisturbed"),
    [
        ([("start", {}), ("oom", {})], True),
        ([("start", {}), ("kill", {"signal": "15"})], False),
        ([("start", {}), ("update", {})], False),
        ([("start", {"exitCode": "a label"})], False),
    ],
)
async def test_what_disturbs_a_record(events: list[tuple[str, dict[str, str]]], undisturbed: bool) -> None:
    record = Record(task="t", incarnation=1, undisturbed=True)
    for action, attributes in events:
        record.note(action, attributes)
    assert record.undisturbed is undisturbed
    assert record.out_of_memory is any(action == "oom" for action, _ in events)


@pytest.mark.parametrize(
    ("state", "phase"),
    [
        ({"Status": "created", "Running": False}, Phase.PREPARING),
        ({"Status": "running", "Running": True}, Phase.RUNNING),
        ({"Status": "paused", "Running": True}, Phase.RUNNING),
        ({"Status": "restarting", "Running": True, "Restarting": True, "ExitCode": 1}, Phase.RUNNING),
        ({"Status": "exited", "Running": False, "ExitCode": 1}, Phase.ENDED),
        ({"Status": "removing", "Running": True}, None),
        ({"Status": "dead", "Running": False}, None),
    ],
)
def test_phases(state: dict[str, Any], phase: Phase | None) -> None:
    seen = report_of({"Id": "x", "State": state}, Identity("t", 2))
    assert (seen.phase if seen else None) == phase
    assert seen is None or (seen.exit is not None) == (phase is Phase.ENDED)


@given(st.from_regex(r"[a-z0-9.-]{1,30}", fullmatch=True), st.integers(1, 99), st.integers(0, 2**40))
def test_kept_names_are_told_from_live_ones(task: str, incarnation: int, since: int) -> None:
    assert kept_since("/" + kept_name(task, incarnation, since)) == since
    assert kept_since("/" + container_name(task)) is None


@given(st.lists(st.integers(0, 3 * KEPT_AGE_MAX_S), max_size=2 * KEPT_COUNT_MAX))
def test_the_oldest_go_first_until_few_and_young_remain(since: list[int]) -> None:
    now = 3 * KEPT_AGE_MAX_S
    kept = [(moment, str(number)) for number, moment in enumerate(since)]
    removed = surplus(kept, now)
    ages = {container: moment for moment, container in kept}
    left = [ages[container] for container in ages if container not in removed]
    assert [ages[container] for container in removed] == sorted(ages[container] for container in removed)
    assert len(left) <= KEPT_COUNT_MAX
    assert all(now - moment <= KEPT_AGE_MAX_S for moment in left)
    assert all(moment <= min(left, default=now) for moment in (ages[container] for container in removed))
    assert len(left) == min(KEPT_COUNT_MAX, sum(now - moment <= KEPT_AGE_MAX_S for moment in since))


@pytest.mark.parametrize(
    ("cpus", "engine_cpus", "shares"), [(1, 1, 1024), (1, 2, 512), (2, 3, 683), (3, 3, 1024), (1, 0, 1)]
)
def test_shares_that_are_cpus_are_the_part_of_an_engine(cpus: int, engine_cpus: int, shares: int) -> None:
    """As classic Swarm told them: rounded up."""
    payload = {"Image": "i", "HostConfig": {"CpuShares": cpus, "Memory": 7}, "orlop_shares_are_cpus": True}
    creation = creation_of(launch({**payload, "orlop_exact": True}), CONTEXT)
    assert creation.shares_are_cpus
    assert "orlop_shares_are_cpus" not in creation.body
    assert scaled_shares(creation.body, engine_cpus)["HostConfig"] == {"CpuShares": shares, "Memory": 7}


def test_a_body_without_shares_has_none_when_they_are_scaled() -> None:
    assert scaled_shares({"Image": "i"}, 4) == {"Image": "i", "HostConfig": {}}
