"""From a job to what runs: commands, arguments, containers, constraints."""

from __future__ import annotations

import subprocess
from typing import Any

import orjson
import pytest

from orlop.framework import Constraint, Resources
from orlop.model.asks import canonical
from orlop.model.documents import to_plain
from orlop_chronos import reading, specs
from orlop_chronos.documents import Cause, Run, RunState
from orlop_chronos.errors import ChronosError
from orlop_chronos.model import Job
from orlop_chronos.settings import BODY_BYTES_MAX, Config

NOW_MS = 1_600_000_000_000
#: Bytes of one argument or variable.
LONGEST = reading.LONGEST_WORD_BYTES
#: A backtracking engine does not come back from it.
HANGING = "(?:" * 6 + "v?" + "){9}" * 6 + "x"


def read(**document: Any) -> Job:
    given = {"name": "a", "schedule": "R//PT1H", **document}
    return reading.read_job(given, NOW_MS, reading.Defaults()).job


def payload(words: str | None = None, /, **document: Any) -> Any:
    return specs.spec_of(read(**document), words, Config()).payload


@pytest.mark.parametrize(
    ("document", "arguments", "expected"),
    [
        ({"command": "echo"}, None, {"command": "echo"}),
        ({"command": "echo", "arguments": ["a", "b; c"]}, None, {"command": "echo a b c"}),
        ({"command": "echo", "arguments": ["a"]}, "x y", {"command": "echo x y"}),
        ({"command": "echo", "arguments": ["a"]}, " ", {"command": "echo a"}),
        (
            {"command": "/bin/echo", "shell": False, "arguments": ["a b", "c"]},
            None,
            {"arguments": ["/bin/echo", "a b", "c"]},
        ),
        ({"command": "/bin/echo", "shell": False}, "x y", {"arguments": ["/bin/echo", "x", "y"]}),
        ({"command": "id", "runAsUser": "nobody"}, None, {"command": "id", "user": "nobody"}),
    ],
)
def test_processes(document: dict[str, Any], arguments: str | None, expected: dict[str, Any]) -> None:
    assert payload(arguments, **document) == {"environment": {}, **expected}


SERVED = "https://me:secret@host/tools/my%20run.sh?version=1"


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({"command": SERVED}, {"command": "./my%20run.sh"}),
        ({"command": f"{SERVED} one", "arguments": ["two"]}, {"command": "./my%20run.sh one two"}),
        ({"command": "ftp://host/a&b"}, {"command": "'./a&b'"}),
        ({"command": SERVED, "shell": False, "arguments": ["a b"]}, {"arguments": ["./my%20run.sh", "a b"]}),
    ],
)
def test_a_command_that_is_a_uri_is_fetched(document: dict[str, Any], expected: dict[str, Any]) -> None:
    uri = document["command"].split()[0]
    assert payload(**document) == {"environment": {}, "artefacts": [{"uri": uri, "executable": True}], **expected}


@pytest.mark.parametrize("command", ["httpd -f", "http://", "https://host/", "http://[", "echo http://host/a"])
def test_other_commands_are_not_fetched(command: str) -> None:
    assert payload(command=command) == {"environment": {}, "command": command}


def test_what_is_fetched() -> None:
    fetch = {"uri": "http://a/b", "output_file": "c", "executable": True, "cache": True, "extract": False}
    assert payload(command="true", fetch=[fetch, {"uri": "http://a/d"}])["artefacts"] == [
        fetch,
        {"uri": "http://a/d", "output_file": "", "executable": False, "cache": False, "extract": True},
    ]
    assert payload(command="true", uris=["http://a/b.tgz"])["artefacts"] == [{"uri": "http://a/b.tgz"}]
    body = payload(command="http://a/b", uris=["http://a/c"], container={"image": "busybox"})
    assert body["orlop_artefacts"] == [{"uri": "http://a/c"}, {"uri": "http://a/b", "executable": True}]
    assert body["Cmd"] == ["/mnt/mesos/sandbox/b"]


def test_the_resources_are_in_mebibytes() -> None:
    spec = specs.spec_of(read(command="true", cpus="0.5", mem=64, disk=0), None, Config())
    assert spec.resources == Resources(cpus=0.5, mem="64MiB", disk="256MiB")


def test_constraints() -> None:
    rules = [["rack", "EQUALS", "r1"], ["zone", "LIKE", "a.*"], ["os", "UNLIKE", "win.*"]]
    assert specs.spec_of(read(command="true", constraints=rules), None, Config()).constraints == (
        Constraint(field="rack", operator="IS", value="r1"),
        Constraint(field="zone", operator="LIKE", value="a.*"),
        Constraint(field="os", operator="LIKE", value=".*"),
        Constraint(field="os", operator="UNLIKE", value="win.*"),
    )


def test_containers() -> None:
    container = {
        "type": "docker",
        "image": "busybox",
        "network": "BRIDGE",
        "forcePullImage": "true",
        "volumes": [{"hostPath": "/a", "containerPath": "/b", "mode": "ro"}, {"containerPath": "/c"}],
        "parameters": [{"key": "privileged", "value": "true"}],
    }
    variables = [{"name": "A", "value": "1"}]
    body = payload(command="echo", container=container, environmentVariables=variables, runAsUser="nobody")
    assert body == {
        "Image": "busybox",
        "Env": ["MESOS_SANDBOX=/mnt/mesos/sandbox", "A=1"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo"],
        "User": "nobody",
        "Volumes": {"/mnt/mesos/sandbox": {}},
        "HostConfig": {"NetworkMode": "bridge", "Binds": ["/a:/b:ro", "/c"], "Privileged": True},
        "orlop_pull": "always",
        "orlop_labels": ["MESOS_TASK_ID"],
    }
    plain = payload(shell=False, arguments=["a"], container={"image": "busybox"})
    assert (plain["Cmd"], "Entrypoint" in plain) == (["a"], False)


def test_variables_of_a_job_change_nothing_of_what_each_task_is_told() -> None:
    run = Run(job="a", number=1, identity="", cause=Cause.TIME, nominal_ms=NOW_MS, created_ms=0, state=RunState.ACTIVE)
    names = ["HOST", "MINE", *specs.run_environment(read(command="x"), run, 0, "ct:")]
    variables = [{"name": name, "value": "theirs"} for name in names]
    assert payload(command="x", environmentVariables=variables)["environment"] == {"MINE": "theirs"}
    body = payload(container={"image": "busybox"}, environmentVariables=variables)
    assert body["Env"] == ["MESOS_SANDBOX=/mnt/mesos/sandbox", "MINE=theirs"]


def test_external_volumes() -> None:
    external = {"name": "data", "provider": "rexray", "options": [{"key": "size", "value": "5"}]}
    volumes = [
        {"containerPath": "/a", "mode": "RO", "external": external},
        {"containerPath": "/b", "external": {"name": "plain"}},
        {"containerPath": "/c", "hostPath": "/d"},
    ]
    host = payload(command="x", container={"image": "busybox", "volumes": volumes})["HostConfig"]
    driver = {"DriverConfig": {"Name": "rexray", "Options": {"size": "5"}}}
    assert host["Mounts"] == [
        {"Type": "volume", "Source": "data", "Target": "/a", "ReadOnly": True, "VolumeOptions": driver},
        {"Type": "volume", "Source": "plain", "Target": "/b"},
    ]
    assert host["Binds"] == ["/d:/c"]


@pytest.mark.parametrize(
    ("container", "expected"),
    [
        ({}, "host"),
        ({"network": "BRIDGE"}, "bridge"),
        ({"network": "USER", "networkName": "old", "networkInfos": [{"name": "new"}]}, "old"),
        ({"network": "USER", "networkInfos": [{"name": ""}, {"name": "new"}]}, "new"),
        ({"network": "USER"}, "bridge"),
    ],
)
def test_networks_of_containers(container: dict[str, Any], expected: str) -> None:
    body = payload(command="x", container={"image": "busybox", **container})
    assert body["HostConfig"]["NetworkMode"] == expected


@pytest.mark.parametrize("forced", [True, "true", False, None])
def test_images_are_pulled_always_where_that_is_wanted(forced: object) -> None:
    body = payload(command="x", container={"image": "busybox", "forcePullImage": forced})
    assert body["orlop_pull"] == ("always" if forced else "missing")


@pytest.mark.parametrize(
    ("document", "text"),
    [
        ({"name": None}, "name: expected, but missing"),
        ({"command": ["a"]}, "command: expected a text, got"),
        ({"command": "a\0b"}, "command: expected a text without NUL"),
        ({"retries": -1}, "retries: expected a number from 0"),
        ({"retries": 1.5}, "retries: expected a whole number, got 1.5"),
        ({"cpus": "many"}, 'cpus: expected a number, got "many"'),
        ({"mem": float("inf")}, "mem: expected a number"),
        ({"shell": "perhaps"}, 'shell: expected true or false, got "perhaps"'),
        ({"arguments": "a"}, "arguments: expected an array"),
        ({"arguments": [["a"]]}, "arguments[0]: expected a text"),
        ({"arguments": ["a"] * 10_001}, "arguments: expected at most 10000 elements"),
        ({"command": "x" * 300_000}, "command: expected at most"),
        ({"environmentVariables": [{"value": "a"}]}, "environmentVariables[0].name: expected, but missing"),
        ({"container": {"image": "a", "network": "OTHER"}}, "container.network: expected one of BRIDGE, HOST, USER"),
        ({"container": {"image": "a", "parameters": [{"key": "x"}]}}, "container.parameters: [0]: 'x' is not"),
        ({"container": []}, "container: expected an object"),
        (
            {"container": {"image": "a", "volumes": [{"containerPath": "/b", "external": {}}]}},
            "container.volumes: [0].external.name: expected the volume's name, but missing",
        ),
        (
            {"container": {"image": "a", "volumes": [{"containerPath": "/b"}, {"containerPath": "b"}]}},
            "container.volumes: [1].containerPath: expected an absolute path without a colon, got 'b'",
        ),
        (
            {"container": {"image": "a", "volumes": [{"containerPath": "/etc:/b"}]}},
            "container.volumes: [0].containerPath: expected an absolute path without a colon, got '/etc:/b'",
        ),
        (
            {"container": {"image": "a", "volumes": [{"containerPath": "/b", "hostPath": "/etc:/c"}]}},
            "container.volumes: [0].hostPath: expected a path without a colon, got '/etc:/c'",
        ),
        ({"constraints": [["a", "MAX", "1"]]}, "constraints: [0]: expected EQUALS, LIKE or UNLIKE"),
        ({"constraints": [["a", "LIKE", "("]]}, "constraints: [0]: expected a regular expression"),
        ({"constraints": [["a", "LIKE", HANGING]]}, "constraints: [0]: expected a regular expression of RE2, got"),
        ({"constraints": [["a", "LIKE", "a{99999999999}"]]}, "expected at most 1000 repetitions, got 99999999999"),
        ({"constraints": [["a", "UNLIKE", "(?=a)"]]}, "(?= (RE2 has no look-around"),
        ({"constraints": [["a"]]}, "constraints: [0]: expected an attribute, an operator and a value"),
        ({"fetch": [{"uri": "a"}], "uris": ["b"]}, "fetch: expected either fetch or uris"),
        ({"fetch": [{"uri": "a"}] * 101}, "fetch: expected at most 100 artefacts, got 101"),
        ({"uris": ["a"] * 101}, "fetch: expected at most 100 artefacts, got 101"),
        ({"constraints": [["a", "EQUALS", "b"]] * 201}, "constraints: expected at most 200, got 201"),
        ({"epsilon": "5s"}, "epsilon: expected a period"),
        ({"catchUp": "some"}, "catchUp: expected one of none, one, all"),
        ({"concurrent": True, "overlap": "forbid"}, "overlap: contradicts concurrent"),
        ({"exclude": ["someday"]}, "exclude: [0]: expected a date"),
        ({"exclude": ["2026-02-30"]}, "exclude: [0]: expected a date"),
        ({"retryBackoff": 0.5}, "retryBackoff: expected a number from 1"),
        ({"lastSuccess": "yesterday"}, "lastSuccess: expected a time"),
        ({"parents": ["a"]}, "parents: a job cannot be its own parent"),
        ({"scheduleTimeZone": "localtime"}, "schedule: expected a time zone"),
        ({"schedule": "R/x/P1D", "retries": "x"}, "retries: expected a whole number"),
        ({"shell": False}, "command: expected the executable"),
        ({}, "command: expected what the shell runs, since there is no container, but missing"),
        ({"comand": "true"}, "command: expected what the shell runs"),
        ({"command": " \n", "arguments": [" "]}, "command: expected what the shell runs"),
        ({"command": "x" * (LONGEST + 1)}, f"command: expected at most {LONGEST} bytes, got {LONGEST + 1}"),
        ({"command": "é" * 65_536}, f"command: expected at most {LONGEST} bytes, got 131072"),
        ({"command": "x" * 65_535, "arguments": ["y" * 65_536]}, "command: expected at most 131071 bytes, got 131072"),
        ({"command": "x", "shell": False, "arguments": ["y"] * 2, "owner": "z" * LONGEST}, "owner: expected at most"),
        (
            {"command": "x", "shell": False, "arguments": ["y" * LONGEST, "y" * (LONGEST + 1)]},
            f"arguments: [1]: expected at most {LONGEST} bytes, got {LONGEST + 1}",
        ),
        ({"environmentVariables": [{"name": "a"}, {"name": ""}]}, "environmentVariables: [1].name: expected a name"),
        ({"environmentVariables": [{"name": "a=b"}]}, "[0].name: expected a name without '=', got 'a=b'"),
        ({"environmentVariables": [{"name": "a\0b"}]}, "environmentVariables[0].name: expected a text without NUL"),
        (
            {"environmentVariables": [{"name": "a", "value": "b\0"}]},
            "environmentVariables[0].value: expected a text without NUL",
        ),
        (
            {"environmentVariables": [{"name": "a", "value": "b" * (LONGEST - 1)}]},
            f"environmentVariables: [0]: expected at most {LONGEST} bytes",
        ),
        ({"exclude": [day.lower() for day in reading.WEEKDAYS]}, "exclude: expected a day of the week that is not"),
    ],
)
def test_what_is_no_job(document: dict[str, Any], text: str) -> None:
    with pytest.raises(ChronosError) as error:
        read(**document)
    assert text in error.value.message
    assert error.value.status == 400
    assert len(error.value.message) < 1000


def test_what_is_stored_as_a_job_can_be_stored_as_its_task() -> None:
    """Later nobody could be told that it cannot: it would be so each time that anything is due."""
    document = {
        "name": "a",
        "schedule": "R//PT1H",
        "command": "true",
        "constraints": [["a", "UNLIKE", "b"]] * reading.MOST_CONSTRAINTS,
        "fetch": [{"uri": "a"}] * reading.MOST_FETCHED,
        "environmentVariables": [{"name": f"{number}"} for number in range(reading.MOST_ELEMENTS)],
    }
    rest = BODY_BYTES_MAX - len(orjson.dumps(document))
    variables: list[dict[str, str]] = document["environmentVariables"]  # type: ignore[assignment]
    for one in variables[: rest // 100_000]:
        one["value"] = "x" * (100_000 - len(',"value":""'))
    assert BODY_BYTES_MAX - 100_000 < len(orjson.dumps(document)) <= BODY_BYTES_MAX
    assert len(canonical(to_plain(specs.spec_of(read(**document), None, Config())))) < 1_490_000


@pytest.mark.parametrize(
    "document",
    [
        {"container": {"image": "a"}},
        {"container": {"image": "a"}, "shell": False},
        {"arguments": ["true"]},
        {"command": "x" * LONGEST},
        {"command": "x" * 65_535, "arguments": ["y" * 65_535]},
        {"command": "x", "shell": False, "arguments": ["y" * LONGEST] * 2},
        {"command": "x", "environmentVariables": [{"name": "a", "value": "b" * (LONGEST - 2)}, {"name": "a"}]},
        {"command": "x", "exclude": ["SAT", "SUN", "MON", "TUE", "WED", "THU"]},
        {"command": "x", "parents": ["b"], "exclude": list(reading.WEEKDAYS)},
    ],
)
def test_what_is_just_a_job(document: dict[str, Any]) -> None:
    job = read(**document)
    specs.spec_of(job, None, Config())


def test_what_is_just_not_too_long_can_be_started() -> None:
    """Linux takes no more as one argument or variable."""
    job = read(command="/bin/true", shell=False, arguments=["y" * LONGEST] * 2, owner="z" * (LONGEST - 18))
    run = Run(job="a", number=1, identity="", cause=Cause.TIME, nominal_ms=NOW_MS, created_ms=0, state=RunState.ACTIVE)
    variables = specs.run_environment(job, run, 999_999_999, specs.task_name(job, run, 999_999_999))
    words = specs.spec_of(job, None, Config()).payload["arguments"]
    assert subprocess.run(words, env=variables, check=False).returncode == 0


def test_a_parent_that_is_named_twice_is_one() -> None:
    assert read(command="x", parents=["c", "b", "c", "b"]).parents == ("c", "b")


def test_null_is_a_member_that_is_not_there() -> None:
    """PaaSTA sends such jobs."""
    nothing = dict.fromkeys(("command", "arguments", "scheduleTimeZone", "retries", "shell", "cpus"))
    image = {"container": {"image": "a"}}
    assert read(**nothing, **image) == read(**image)
    assert read(command="x", container=None) == read(command="x")
    container = {"image": "a", "type": None, "network": None, "volumes": None, "parameters": None}
    assert read(container=container) == read(**image)


def test_a_zone_that_chronos_shows_as_null_is_gmt() -> None:
    """So it is in the lists of a Chronos whose clients have sent null."""
    assert read(command="x", scheduleTimeZone="null").schedule_time_zone == "GMT"


def test_texts_of_numbers_and_unknown_members() -> None:
    job = read(command=5, retries="3", cpus="0.25", mem="64", disabled="false", gpus=1, labels={})
    assert (job.command, job.retries, job.cpus, job.mem, job.disabled) == ("5", 3, 0.25, 64.0, False)
