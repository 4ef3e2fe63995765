"""`orlop marathon group …`, `… deployment …` and `… queue …`, against the real API over a simulated cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from marathon_commands import Commands

from orlop.cli.failures import CONFLICT, NOT_CONVERGED, NOT_FOUND
from orlop.testing.harness import Cluster
from orlop_marathon.command_line import following
from orlop_marathon.command_line.asking import USAGE


@pytest.fixture
def api() -> Iterator[Commands]:
    with Commands() as made:
        yield made


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Has something happen while a command waits for its deployment."""

    def arranged(happens: Callable[[], object]) -> None:
        monkeypatch.setattr(following.time, "sleep", lambda _: happens())

    return arranged


def add_shop(api: Commands) -> None:
    api.add(id="/shop/web", instances=3)
    api.add(id="/shop/back/db", instances=1)
    api.add(id="/other")


# --- groups ---

NO_GROUPS = (
    "",
    "Shop",
    "sh op",
    "shop/..",
    "shop/*",
    "shop/versions",
    "shop/apps",
    "shop/versions/x",
    "shop?force=true",
)


@pytest.mark.parametrize("wrong", NO_GROUPS)
@pytest.mark.parametrize("command", ["show ID", "rm ID --yes", "scale ID 0.5"])
def test_what_is_no_groups_path_is_refused_and_changes_nothing(api: Commands, command: str, wrong: str) -> None:
    add_shop(api)
    before = api.task_ids()
    refused = api.run("group", *(wrong if part == "ID" else part for part in command.split()), code=USAGE)
    assert f"{wrong!r} is no group's path" in refused.stderr
    assert api.task_ids() == before


@pytest.mark.parametrize("command", ["show ID", "rm ID --yes", "scale ID 0.5"])
@pytest.mark.parametrize("unknown", ["nix", "shop/web"])
def test_groups_that_there_are_not(api: Commands, command: str, unknown: str) -> None:
    add_shop(api)
    told = api.run("group", *(unknown if part == "ID" else part for part in command.split()), code=NOT_FOUND).stderr
    assert told == f"orlop: Group '/{unknown}' does not exist\n"
    assert len(api.task_ids()) == 5


def test_groups_are_listed_with_all_below_them(api: Commands) -> None:
    add_shop(api)
    rows = [line.split() for line in api.run("group", "list").stdout.splitlines()]
    assert rows == [
        ["ID", "APPS", "RUNNING", "DEPLOYING"],
        ["/", "3", "5/5", "no"],
        ["/shop", "2", "4/4", "no"],
        ["/shop/back", "1", "1/1", "no"],
    ]
    assert api.names("group", "list") == ["/", "/shop", "/shop/back"]
    assert api.asked("group", "list")["groups"][0]["id"] == "/shop"


def test_a_group_is_shown_with_its_apps(api: Commands) -> None:
    add_shop(api)
    shown = api.run("group", "show", "shop").stdout
    assert shown.startswith("/shop  2 apps, 4/4 running, version 20")
    assert [line.split()[:2] for line in shown.splitlines()[2:]] == [["/shop/web", "3/3"], ["/shop/back/db", "1/1"]]
    assert api.names("group", "show", "//shop//back/") == ["/shop/back"]
    assert api.asked("group", "show", "shop/back")["apps"][0]["id"] == "/shop/back/db"
    assert "/other" in api.run("group", "show", "/").stdout


def test_a_groups_instances_are_multiplied_and_rounded_up(api: Commands) -> None:
    add_shop(api)
    assert "is done" in api.run("group", "scale", "shop", "0.5").stdout
    assert api.instances() == {"/shop/web": 2, "/shop/back/db": 1, "/other": 1}
    api.run("group", "scale", "shop/back", "3")
    assert api.instances() == {"/shop/web": 2, "/shop/back/db": 3, "/other": 1}
    api.run("group", "scale", "/", "2")
    assert api.instances() == {"/shop/web": 4, "/shop/back/db": 6, "/other": 2}


@pytest.mark.parametrize("wrong", ["0", "-1", "nan", "inf", "1e999", "-0.5", "two", ""])
def test_what_is_no_factor(api: Commands, wrong: str) -> None:
    add_shop(api)
    assert "FACTOR" in api.run("group", "scale", "--", "shop", wrong, code=USAGE).stderr
    assert len(api.task_ids()) == 5


def test_a_factor_that_is_too_large(api: Commands) -> None:
    add_shop(api)
    told = api.run("group", "scale", "shop", "1e12", code=1).stderr
    assert told.startswith("orlop: Object is not valid: /scaleBy")
    assert len(api.task_ids()) == 5


def test_removing_a_group_tells_which_apps_go(api: Commands) -> None:
    add_shop(api)
    removed = api.run("group", "rm", "shop")
    assert removed.stderr == "to be removed: /shop/web, 3/3 running\nto be removed: /shop/back/db, 1/1 running\n"
    assert "is done" in removed.stdout
    assert api.instances() == {"/other": 1}
    assert api.names("group", "list") == ["/"]


@pytest.mark.parametrize("root", ["/", "//", "shop/../../.", "."])
def test_the_root_group_stays(api: Commands, root: str) -> None:
    add_shop(api)
    api.run("group", "rm", root, "--yes", code=USAGE)
    assert len(api.task_ids()) == 5


def test_a_group_that_is_being_deployed_is_locked(api: Commands) -> None:
    running = api.add_waiting("/shop/big")
    for command in ("scale shop 2", "rm shop --yes"):
        told = api.run("group", *command.split(), code=CONFLICT).stderr
        assert f"orlop: locked by deployment {running} (wait for it" in told
        assert api.names("deployment", "list") == [running]
    api.run("group", "rm", "shop", "--yes", "--force")
    assert api.instances() == {}


# --- deployments ---


def test_deployments_are_shown(api: Commands) -> None:
    assert api.run("deployment", "list").stdout.split() == ["ID", "STEP", "DOING", "VERSION"]
    deployment = api.add_waiting("/big")
    (one,) = api.asked("deployment", "list")
    row = api.run("deployment", "list").stdout.splitlines()[1]
    assert row.split() == [deployment, "2/2", "ScaleApplication", "/big", one["version"]]
    assert api.asked("deployment", "show", deployment[:6]) == one
    assert api.names("deployment", "show", deployment) == [deployment]
    shown = api.run("deployment", "show", deployment[:6]).stdout.splitlines()
    assert shown[0] == f"{deployment}  step 2 of 2, leads to version {one['version']}"
    assert [line.split() for line in shown[2:]] == [
        ["1", "done", "StartApplication", "/big"],
        ["2", "running", "ScaleApplication", "/big"],
    ]


@pytest.mark.parametrize("verb", ["show", "follow", "stop"])
def test_deployments_that_there_are_not(api: Commands, verb: str) -> None:
    deployment = api.add_waiting("/big")
    for unknown in ("nix", "", f"{deployment}0", "/"):
        told = api.run("deployment", verb, unknown, code=NOT_FOUND).stderr
        assert told.startswith(f"orlop: there is no running deployment {unknown!r}")
    assert api.names("deployment", "list") == [deployment]


def test_a_deployment_is_followed_to_its_end(api: Commands, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    deployment = api.add_waiting("/big", instances=2)
    assert "2/2" in api.run("deployment", "follow", deployment[:8], "--timeout", "0", code=NOT_CONVERGED).stdout
    meanwhile(api.make_room)
    shown = api.run("deployment", "follow", deployment[:8]).stdout.splitlines()
    assert shown == [
        "step 2/2 ScaleApplication /big: /big 0/2 running",
        f"deployment {deployment} is done",
    ]


@pytest.mark.parametrize("how", ["", "?force=true"])
def test_a_follower_learns_that_a_deployment_was_stopped(
    api: Commands, meanwhile: Callable[[Callable[[], object]], None], how: str
) -> None:
    deployment = api.add_waiting("/big")
    meanwhile(lambda: api.call("DELETE", f"/marathon/v2/deployments/{deployment}{how}"))
    told = api.run("deployment", "follow", deployment, code=CONFLICT).stderr
    assert f"deployment {deployment} did not come to its end: cancelled" in told


def test_whoever_deploys_learns_that_another_deployment_took_its_place(
    api: Commands, meanwhile: Callable[[Callable[[], object]], None]
) -> None:
    meanwhile(lambda: api.call("DELETE", "/marathon/v2/apps/big"))
    assert "did not come to its end" in api.add(id="/big", cpus=1000, code=CONFLICT).stderr


def test_nobody_is_told_that_a_deployment_is_done_without_knowing(api: Commands) -> None:
    api.forgetful = True
    assert api.add(id="/web").stdout.endswith(" is over\n")


def test_what_ctrl_c_ends(api: Commands, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    deployment = api.add_waiting("/big")

    def interrupt() -> None:
        raise KeyboardInterrupt

    meanwhile(interrupt)
    assert f"deployment {deployment} goes on" in api.run("deployment", "follow", deployment).stderr
    assert api.names("deployment", "list") == [deployment]


def test_progress_of_many_apps_fits_in_a_line(api: Commands, meanwhile: Callable[[Callable[[], object]], None]) -> None:
    apps = [{"id": f"app{n}", "cmd": "sleep 1", "cpus": 1000, "mem": 1} for n in range(7)]
    api.call("PUT", "/marathon/v2/groups", {"id": "/many", "apps": apps})
    (deployment,) = api.names("deployment", "list")
    line = api.run("deployment", "follow", deployment, "--timeout", "0", code=NOT_CONVERGED).stdout
    assert "ScaleApplication /many/app3, and 3 more: /many/app0 0/1 running; " in line
    assert "app4" not in line


def test_a_stopped_deployment_is_taken_back(api: Commands) -> None:
    api.add(id="/web", cmd="one")
    deployment = api.add_waiting("/web", cmd="two")
    stopped = api.run("deployment", "stop", deployment[:8]).stdout
    assert stopped.startswith(f"deployment {deployment} is stopped, and taken back by ")
    assert "is done" in stopped
    assert api.get("/apps/web")["app"]["cmd"] == "one"
    assert not api.names("deployment", "list")


def test_a_deployment_is_stopped_by_force_and_nothing_is_taken_back(api: Commands) -> None:
    api.add(id="/web", cmd="one")
    before = api.task_ids()
    deployment = api.add_waiting("/web", cmd="two")
    told = api.run("deployment", "stop", deployment, "--force").stdout
    assert told == f"deployment {deployment} is stopped; its apps keep the new definition\n"
    assert api.get("/apps/web")["app"]["cmd"] == "two"
    assert api.task_ids() == before
    assert not api.names("deployment", "list")
    deployment = api.add_waiting("/big")
    assert api.asked("deployment", "stop", deployment, "--force") == {"deploymentId": deployment, "stopped": True}


def test_stopping_need_not_be_waited_for(api: Commands) -> None:
    api.add_waiting("/web")
    (deployment,) = api.names("deployment", "list")
    (told,) = api.run("deployment", "stop", deployment, "--detach").stdout.split()
    assert told != deployment


# --- the queue ---


def test_what_waits_and_why(api: Commands) -> None:
    assert api.run("queue").stdout.split() == ["APP", "WAITING", "SINCE", "BACK-OFF", "WHY"]
    api.add_waiting("/big", instances=2)
    api.add_waiting("/picky", constraints=[["rack", "IS", "r1"]])
    rows = {line.split()[0]: line.split(maxsplit=4)[1:] for line in api.run("queue", "list").stdout.splitlines()[1:]}
    assert rows["/big"][:1] + rows["/big"][2:] == ["2", "-", "0 of 1 nodes fit: cpus (1)"]
    assert rows["/picky"][3].startswith("0 of 1 nodes fit: ")
    assert api.names("queue") == ["/big", "/picky"]


def test_a_queue_without_nodes() -> None:
    with Commands(nodes=0) as api:
        api.add("--detach", id="/web")
        assert api.run("queue").stdout.splitlines()[1].endswith("there is no node")


def test_a_back_off_is_shown_and_ended(api: Commands) -> None:
    api.add(id="/fails", backoffSeconds=100)

    def fail(cluster: Cluster) -> None:
        (task,) = cluster.running()
        cluster.end_task(task, code=1)

    api.on_loop(fail)
    row = api.run("queue").stdout.splitlines()[1]
    assert row.split(maxsplit=4)[3:] == ["100s", "its tasks ended by themselves"]
    assert not api.task_ids()
    assert api.run("queue", "reset", "fails").stdout == "/fails is tried again now\n"
    assert len(api.task_ids()) == 1
    assert "not found in tasks queue" in api.run("queue", "reset", "fails", code=NOT_FOUND).stderr
    api.on_loop(fail)
    assert api.asked("queue", "reset", "fails") == {"app": "/fails", "reset": True}


@pytest.mark.parametrize("command", ["queue -x", "queue nix", "queue reset", "deployment", "task kill", "app kill"])
def test_wrong_commands(api: Commands, command: str) -> None:
    assert "marathon" in api.run(*command.split(), code=USAGE).output


@pytest.mark.parametrize("group", ["", "app", "group", "deployment", "task", "queue"])
def test_each_command_says_what_it_does_in_one_line(api: Commands, group: str) -> None:
    said = api.run(*group.split(), "-h").stdout
    commands = said.partition("Commands:\n")[2].splitlines()
    assert len(commands) > 1
    assert not [line for line in commands if line.endswith("...")]
