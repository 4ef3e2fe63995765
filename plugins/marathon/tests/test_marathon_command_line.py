"""`orlop marathon app …` and `… task …`, against the real API over a simulated cluster."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marathon_commands import Commands

from orlop.cli.failures import NOT_FOUND, Failure
from orlop_marathon.command_line import asking
from orlop_marathon.command_line.asking import USAGE, the_one


@pytest.fixture
def api() -> Iterator[Commands]:
    with Commands() as made:
        yield made


def test_commands_cost_no_web_framework() -> None:
    program = "import sys, orlop_marathon.command_line; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "orlop_marathon.command_line.queue" in loaded
    assert not loaded & {"aiohttp", "asyncio", "docker", "orlop_marathon.parsing", "requests", "rich"}


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Commands find themselves on one."""
    monkeypatch.setattr(asking, "sys", SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True)))


NO_IDS = ("", "/", "web/tasks", "/web/versions", "web/restart", "web/..", "web/*", "Web", "we b", "web?force=true")


@pytest.mark.parametrize("wrong", NO_IDS)
@pytest.mark.parametrize(
    "command",
    ["rm ID --yes", "show ID", "restart ID", "scale ID 0", "versions ID", "rollback ID", "kill ID --yes"],
)
def test_what_is_no_apps_id_is_refused_and_changes_nothing(api: Commands, command: str, wrong: str) -> None:
    api.add(id="/web", instances=2)
    before = api.task_ids()
    assert len(before) == 2
    refused = api.run("app", *(wrong if part == "ID" else part for part in command.split()), code=2)
    assert "is no app's id" in refused.output
    assert api.task_ids() == before


@pytest.mark.parametrize("command", [("queue", "reset"), ("task", "list")])
def test_other_commands_take_apps_ids_alone_too(api: Commands, command: tuple[str, str]) -> None:
    for wrong in NO_IDS:
        assert "is no app's id" in api.run(*command, wrong, code=2).output


@pytest.mark.parametrize(
    "command",
    ["app show nix", "app versions nix", "app rollback nix", "app kill nix", "task list nix", "queue reset nix"],
)
def test_what_there_is_not(api: Commands, command: str) -> None:
    told = api.run(*command.split(), code=NOT_FOUND).stderr
    assert told.startswith("orlop: ")
    assert "/nix" in told
    assert told.count("\n") == 1


def test_an_id_may_be_written_in_several_ways(api: Commands) -> None:
    api.add(id="/shop/web")
    for same in ("/shop/web", "shop/web", "//shop//web/", "shop/./db/../web"):
        assert api.run("app", "show", same, "-o", "name").output == "/shop/web\n"


def test_names_are_completed(api: Commands) -> None:
    for app_id in ("/shop/web", "/shop/db", "/other"):
        api.add(id=app_id)
    for verb in ("app show", "app scale", "app restart", "app rm", "app kill", "app versions", "task list"):
        assert api.completed(f"orlop marathon {verb} /shop/") == ["/shop/db", "/shop/web"]
    assert api.completed("orlop marathon group show /s") == ["/shop"]
    assert set(api.completed("orlop marathon task kill shop_")) == api.task_ids() - api.task_ids("/other")
    version = api.get("/apps/other")["app"]["version"]
    assert api.completed("orlop marathon app rollback other 20") == [version]
    assert api.completed("orlop marathon app rollback tasks 20") == []
    api.add_waiting("/big")
    assert api.completed("orlop marathon queue reset /") == ["/big"]
    (deployment,) = api.names("deployment", "list")
    for verb in ("show", "follow", "stop"):
        assert api.completed(f"orlop marathon deployment {verb} {deployment[:3]}") == [deployment]
    assert api.completed("orlop marathon queue ") == ["list", "reset"]


def test_commands_that_wait_answer_programs_with_the_apis_document(api: Commands) -> None:
    api.add(id="/web")
    for more in ((), ("--detach",)):
        answer = api.asked("app", "restart", "web", *more)
        assert set(answer) == {"version", "deploymentId"}


# --- versions ---


def test_versions_and_the_way_back(api: Commands) -> None:
    for command in ("one", "two", "three"):
        api.add(id="/web", cmd=command)
    versions = api.names("app", "versions", "web")
    assert versions == sorted(versions, reverse=True)
    assert len(versions) == 3
    assert api.asked("app", "versions", "/web") == {"versions": versions}
    rows = [line.split() for line in api.run("app", "versions", "web", "--limit", "2").stdout.splitlines()]
    assert rows[0] == ["VERSION", "CURRENT", "INSTANCES", "CPUS", "MEM", "COMMAND"]
    assert rows[1:] == [
        [versions[0], "yes", "1", "0.1", "16", "three"],
        [versions[1], "-", "1", "0.1", "16", "two"],
    ]
    assert f"web returns to {versions[1]}" in api.run("app", "rollback", "web").stdout
    assert api.get("/apps/web")["app"]["cmd"] == "two"
    api.run("app", "rollback", "web")
    assert api.get("/apps/web")["app"]["cmd"] == "three"
    api.run("app", "rollback", "web", versions[2])
    assert api.get("/apps/web")["app"]["cmd"] == "one"


def test_versions_of_apps_with_checks_and_images(api: Commands) -> None:
    container = {"type": "DOCKER", "docker": {"image": "busybox"}}
    check = {"protocol": "TCP", "portIndex": 0}
    document: dict[str, Any] = {"id": "/web", "cmd": None, "container": container, "healthChecks": [check]}
    api.add("--detach", **document)
    assert api.run("app", "versions", "web").stdout.splitlines()[1].split()[-1] == "busybox"
    assert api.run("app", "list").stdout.splitlines()[1].split()[-1] == "busybox"


def test_a_version_may_be_shortened(api: Commands) -> None:
    api.add(id="/web", cmd="one")
    api.on_loop(lambda cluster: cluster.advance(3600))
    api.add(id="/web", cmd="two")
    first = api.names("app", "versions", "web")[-1]
    several = api.run("app", "rollback", "web", first[:4], code=USAGE).stderr
    assert "is the beginning of more than one version of web" in several
    assert "there is no version of web '1999'" in api.run("app", "rollback", "web", "1999", code=NOT_FOUND).stderr
    assert api.get("/apps/web")["app"]["cmd"] == "two"
    api.run("app", "rollback", "web", first[:16])
    assert api.get("/apps/web")["app"]["cmd"] == "one"


def test_there_is_nothing_before_the_first_version(api: Commands) -> None:
    api.add(id="/web")
    assert "has no version before" in api.run("app", "rollback", "web", code=NOT_FOUND).stderr


# --- tasks ---


def test_tasks_of_all_apps_or_of_one(api: Commands) -> None:
    api.add(id="/web", instances=2)
    api.add(id="/db")
    assert set(api.names("task", "list")) == api.task_ids()
    assert set(api.names("task", "list", "web")) == api.task_ids("/web")
    assert len(api.asked("task", "list", "db")["tasks"]) == 1
    heading, row = [line.split() for line in api.run("task", "list", "db").stdout.splitlines()]
    assert heading == ["ID", "STATE", "HEALTHY", "HOST", "PORTS", "AGE", "VERSION"]
    assert row[1:4] == ["running", "-", "n1"]
    assert row[-1] == api.get("/apps/db")["app"]["version"]


def test_the_health_of_tasks(api: Commands) -> None:
    check = {"protocol": "TCP", "portIndex": 0, "gracePeriodSeconds": 0}
    api.add("--detach", id="/web", instances=2, healthChecks=[check])

    def probe(cluster: object) -> None:
        first, second = cluster.running()  # type: ignore[attr-defined]
        cluster.set_health(first, True)  # type: ignore[attr-defined]
        cluster.set_health(second, False)  # type: ignore[attr-defined]

    api.on_loop(probe)
    rows = [line.split()[2] for line in api.run("task", "list", "web").stdout.splitlines()[1:]]
    assert sorted(rows) == ["no", "yes"]


def test_killed_tasks_are_replaced(api: Commands) -> None:
    api.add(id="/web", instances=3)
    first, second, third = sorted(api.task_ids())
    assert api.run("task", "kill", first, second).stdout == f"stopping {first}\nstopping {second}\n"
    assert len(api.task_ids()) == 3
    assert third in api.task_ids()
    assert not {first, second} & api.task_ids()
    assert [one["id"] for one in api.asked("task", "kill", third)["tasks"]] == [third]


def test_killed_tasks_that_are_wiped_are_replaced_by_other_instances(api: Commands) -> None:
    api.add(id="/web")
    (task,) = api.task_ids()
    api.run("task", "kill", task)
    (again,) = api.task_ids()
    assert again.rpartition(".")[0] == task.rpartition(".")[0]
    api.run("task", "kill", "--wipe", again)
    (other,) = api.task_ids()
    assert other.rpartition(".")[0] != task.rpartition(".")[0]


def test_killed_tasks_may_scale_their_app(api: Commands) -> None:
    api.add(id="/web", instances=3)
    first, second, third = sorted(api.task_ids())
    assert "is done" in api.run("task", "kill", "--scale", first, second).stdout
    assert api.task_ids() == {third}
    assert api.instances() == {"/web": 1}


def test_a_task_may_be_named_by_its_beginning_but_not_by_its_apps_name_alone(api: Commands) -> None:
    api.add(id="/web")
    (task,) = api.task_ids()
    for wrong in ("", "web", "w", "web.instance-", "nix", f"{task}x"):
        told = api.run("task", "kill", task, wrong, code=NOT_FOUND).stderr
        assert f"there is no task {wrong!r}" in told
    assert api.task_ids() == {task}
    api.run("task", "kill", task[: len("web.instance-1234")], task)
    assert api.task_ids()
    assert task not in api.task_ids()


@pytest.mark.parametrize("command", ["task kill web.instance-1", "app kill web"])
def test_either_scale_or_wipe(api: Commands, command: str) -> None:
    api.add(id="/web")
    before = api.task_ids()
    assert "not both" in api.run(*command.split(), "--scale", "--wipe", code=USAGE).stderr
    assert api.task_ids() == before


def test_all_tasks_of_an_app_are_killed(api: Commands) -> None:
    api.make_room("n2")
    api.add(id="/web", instances=4, constraints=[["hostname", "GROUP_BY", "2"]])
    hosts = {one["id"]: one["host"] for one in api.get("/tasks")["tasks"]}
    assert sorted(hosts.values()) == ["n1", "n1", "n2", "n2"]
    assert "no task of web runs on n3" in api.run("app", "kill", "web", "--host", "n3", code=NOT_FOUND).stderr
    api.run("app", "kill", "web", "--host", "n2")
    assert {one for one in hosts if one in api.task_ids()} == {one for one, host in hosts.items() if host == "n1"}
    assert len(api.task_ids()) == 4
    assert "is done" in api.run("app", "kill", "web", "--scale").stdout
    assert api.instances() == {"/web": 0}
    assert "no task of web runs" in api.run("app", "kill", "web", code=NOT_FOUND).stderr


@pytest.mark.usefixtures("terminal")
def test_on_a_terminal_the_dear_is_asked_first(api: Commands) -> None:
    api.add(id="/shop/web")
    before = api.task_ids()
    for command in ("app rm shop/web", "app kill shop/web", "group rm shop"):
        asked = api.run(*command.split(), standard_input="n\n", code=1)
        assert "[y/N]" in asked.stderr
        assert api.task_ids() == before
    assert "[y/N]" not in api.run("app", "kill", "shop/web", "--yes").output
    api.run("group", "rm", "shop", standard_input="y\n")
    assert not api.task_ids()


# --- shortened ids ---

_LISTED = "orlop marathon deployment list"


@given(st.sets(st.text("abc", min_size=1, max_size=5), max_size=8), st.text("abc", max_size=5))
def test_a_shortened_id_means_one_or_none(ids: set[str], given_id: str) -> None:
    meant = [one for one in ids if given_id and one.startswith(given_id)]
    if given_id in ids:
        assert the_one(ids, given_id, "deployment", _LISTED) == given_id
    elif len(meant) == 1:
        assert [the_one(ids, given_id, "deployment", _LISTED)] == meant
    else:
        with pytest.raises(Failure) as refused:
            the_one(ids, given_id, "deployment", _LISTED)
        assert refused.value.code == (USAGE if meant else NOT_FOUND)
        assert not meant or min(meant) in refused.value.message


@given(st.sets(st.uuids().map(str), min_size=1, max_size=5), st.data())
def test_each_id_has_a_beginning_that_means_it(ids: set[str], data: st.DataObject) -> None:
    chosen = data.draw(st.sampled_from(sorted(ids)))
    shortest = next(n for n in range(1, 37) if sum(one.startswith(chosen[:n]) for one in ids) == 1)
    for length in range(shortest, len(chosen) + 1):
        assert the_one(ids, chosen[:length], "deployment", _LISTED) == chosen


def test_a_document_of_the_api_is_shown_unchanged(api: Commands) -> None:
    api.add(id="/web")
    assert api.asked("task", "list") == api.get("/tasks")
    assert api.asked("queue") == api.get("/queue")
    assert api.asked("deployment", "list") == api.get("/deployments")
    assert json.dumps(api.asked("group", "list")["groups"]) == "[]"
