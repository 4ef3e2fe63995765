"""`orlop marathon …` for tests: the command line, against the real API over a simulated cluster."""

from __future__ import annotations

import json
from typing import Any

from aiohttp import web
from click.testing import CliRunner, Result
from served_api import ServedApi

from orlop.cli.main import cli
from orlop.testing.harness import Cluster
from orlop_marathon.constraints import MarathonConstraints
from orlop_marathon.framework import Marathon
from orlop_marathon.http import application
from orlop_marathon.settings import Config


class Commands(ServedApi):
    """The API is below /marathon, as the server has it, and beside it as much of the event log as commands ask for."""

    def __init__(self, nodes: int = 1) -> None:
        #: Has the event log let go of everything?
        self.forgetful = False
        cluster = Cluster(Marathon(Config()), filters=[MarathonConstraints()], check_idempotence=False)
        cluster.add_nodes(nodes, cpus=64, mem="64GiB")
        cluster.settle()

        async def events(request: web.Request) -> web.Response:
            kinds, subject = request.query["type"].split(","), request.query["subject"]
            found = [one for one in cluster.log if one.type in kinds and one.subject == subject]
            if self.forgetful:
                found.clear()
            return web.json_response({"events": [{"type": one.type, "details": dict(one.details)} for one in found]})

        def made(host: object) -> web.Application:
            outer = web.Application()
            outer.router.add_get("/v1/events", events)
            outer.add_subapp("/marathon", application(host, Config()))  # type: ignore[arg-type]
            return outer

        super().__init__(cluster, made)

    def run(self, *arguments: str, code: int = 0, standard_input: str = "") -> Result:
        """`orlop marathon …`, which must end with this code."""
        command = ["--server", self.url, "marathon", *arguments]
        result = CliRunner().invoke(cli, command, input=standard_input)
        assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
        return result

    def asked(self, *arguments: str) -> Any:
        """What a command answers to programs."""
        return json.loads(self.run(*arguments, "-o", "json").stdout)

    def names(self, *arguments: str) -> list[str]:
        return self.run(*arguments, "-o", "name").stdout.split()

    def add(self, *options: str, code: int = 0, **members: Any) -> Result:
        document = {"cmd": "sleep 1", "cpus": 0.1, "mem": 16, **members}
        return self.run("app", "add", "-", *options, standard_input=json.dumps(document), code=code)

    def add_waiting(self, path: str, **members: Any) -> str:
        """An app for which there is no room; the id of its deployment."""
        return self.add("--detach", id=path, cpus=1000, **members).stdout.strip()

    def make_room(self, node: str = "large") -> None:
        self.on_loop(lambda cluster: cluster.add_node(node, cpus=4000, mem="64GiB"))

    def completed(self, words: str) -> list[str]:
        """What a shell offers for the last of the words."""
        environment = {
            "_ORLOP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split(" ")) - 1),
            "ORLOP_SERVER": self.url,
        }  # fmt: skip
        result = CliRunner().invoke(cli, [], env=environment, prog_name="orlop", complete_var="_ORLOP_COMPLETE")
        return [line.partition(",")[2] for line in result.output.split()]

    def get(self, path: str) -> Any:
        return self.call("GET", f"/marathon/v2{path}").json()

    def instances(self) -> dict[str, int]:
        return {one["id"]: one["instances"] for one in self.get("/apps")["apps"]}

    def task_ids(self, path: str = "") -> set[str]:
        return {one["id"] for one in self.get("/tasks")["tasks"] if path in ("", one["appId"])}
