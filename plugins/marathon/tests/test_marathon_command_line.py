"""`orlop marathon …`, against the real API over a simulated cluster."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from aiohttp import web
from click.testing import CliRunner, Result
from served_api import ServedApi

from orlop.cli.main import cli
from orlop.testing.harness import Cluster
from orlop_marathon.framework import Marathon
from orlop_marathon.http import application
from orlop_marathon.settings import Config


class Api(ServedApi):
    """Where the server has it: below /marathon."""

    def __init__(self) -> None:
        cluster = Cluster(Marathon(Config()), check_idempotence=False)
        cluster.add_node("n1", cpus=64, mem="64GiB")
        cluster.settle()

        def made(host: object) -> web.Application:
            outer = web.Application()
            outer.add_subapp("/marathon", application(host, Config()))  # type: ignore[arg-type]
            return outer

        super().__init__(cluster, made)

    def run(self, *arguments: str, code: int = 0, standard_input: str = "") -> Result:
        """`orlop marathon app …`, which must end with this code."""
        command = ["--server", self.url, "marathon", "app", *arguments]
        result = CliRunner().invoke(cli, command, input=standard_input)
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    def add(self, **members: object) -> None:
        document = {"cmd": "sleep 1", "cpus": 0.1, "mem": 16, **members}
        self.run("add", "-", standard_input=json.dumps(document))

    def task_ids(self) -> set[str]:
        return {task["id"] for task in self.call("GET", "/marathon/v2/tasks").json()["tasks"]}


@pytest.fixture
def api() -> Iterator[Api]:
    with Api() as made:
        yield made


NO_IDS = ("", "/", "web/tasks", "/web/versions", "web/restart", "web/..", "web/*", "Web", "we b", "web?force=true")


@pytest.mark.parametrize("wrong", NO_IDS)
@pytest.mark.parametrize("command", ["rm ID --yes", "show ID", "restart ID", "scale ID 0"])
def test_what_is_no_apps_id_is_refused_and_changes_nothing(api: Api, command: str, wrong: str) -> None:
    api.add(id="/web", instances=2)
    before = api.task_ids()
    assert len(before) == 2
    refused = api.run(*(wrong if part == "ID" else part for part in command.split()), code=2)
    assert "is no app's id" in refused.output
    assert api.task_ids() == before


def test_an_id_may_be_written_in_several_ways(api: Api) -> None:
    api.add(id="/shop/web")
    for same in ("/shop/web", "shop/web", "//shop//web/", "shop/./db/../web"):
        assert api.run("show", same, "-o", "name").output == "/shop/web\n"


def test_ids_of_apps_are_completed(api: Api) -> None:
    for app_id in ("/shop/web", "/shop/db", "/other"):
        api.add(id=app_id)
    for verb in ("show", "scale", "restart", "rm"):
        environment = {
            "_ORLOP_COMPLETE": "bash_complete", "COMP_WORDS": f"orlop marathon app {verb} /shop/", "COMP_CWORD": "4",
            "ORLOP_SERVER": api.url,
        }  # fmt: skip
        result = CliRunner().invoke(cli, [], env=environment, prog_name="orlop", complete_var="_ORLOP_COMPLETE")
        assert result.output.split() == ["plain,/shop/db", "plain,/shop/web"]
