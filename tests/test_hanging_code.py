"""Code of a plugin that does not return, in the middle of a decision or on the event loop: without it, all goes on."""

from __future__ import annotations

import contextlib
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from etcd_members import EtcdCluster, EtcdFactory
from installed_plugins import install
from running import RunningOrlop, process_app, wait_until
from servers import AgentProcess, Servers, call

pytestmark = pytest.mark.real

#: Two hangs of a leader, one after the other, each of ten seconds and a beginning.
TWO_HANGS_S = 120.0

RACK = """
import threading
from aiohttp import web
from orlop.hookspecs import Routes, hookimpl


class Rack:
    name = "rack"

    def prepare(self, request, view):
        return self.check if request.group == "/stuck" else None

    def check(self, candidate):
        threading.Event().wait()


async def hang(request):
    threading.Event().wait()


@hookimpl
def node_filters(settings):
    return [Rack()]


@hookimpl
def routes(host, settings):
    application = web.Application()
    application.router.add_get("/hang", hang)
    return [Routes(prefix="rack", application=application)]
"""


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    install(tmp_path / "plugins", "rack", RACK)
    return tmp_path / "plugins"


@pytest.fixture
def orlop(tmp_path: Path, plugins: Path) -> Iterator[RunningOrlop]:
    cluster = RunningOrlop(tmp_path, PYTHONPATH=str(plugins))
    with contextlib.closing(cluster):
        cluster.start()
        yield cluster


def rack(plugins: Any) -> dict[str, Any]:
    return next(one for one in plugins["plugins"] if one["name"] == "rack")


def is_without(orlop: RunningOrlop) -> bool:
    with contextlib.suppress(OSError):
        return "off until the next start" in rack(orlop.get(f"{orlop.url}/v1/plugins"))["error"]
    return False


def test_a_filter_that_does_not_return_is_done_without(orlop: RunningOrlop) -> None:
    orlop.put(process_app("/web", 2))
    orlop.wait_deployed()
    before, pid = orlop.running("/web"), orlop.process and orlop.process.pid
    with pytest.raises(ConnectionError):  # what was not decided is not answered
        orlop.put(process_app("/stuck", 1))

    wait_until(lambda: is_without(orlop), "it begins anew without the plugin")
    wait_until(orlop.answers, "it answers again")
    orlop.put(process_app("/stuck", 1))
    orlop.wait_deployed()
    assert len(orlop.running("/stuck")) == 1
    assert orlop.running("/web") == before
    assert orlop.process is not None
    assert (orlop.process.pid, orlop.process.poll()) == (pid, None)
    found = rack(orlop.get(f"{orlop.url}/v1/plugins"))
    assert found["error"].startswith(f"a decision takes more than 10 s, in check ({orlop.data.parent}/plugins/rack.py:")
    assert "a decision takes more than 10 s" in orlop.cli("plugins", "list")
    assert f'rack.py", line {found["error"].rpartition(":")[2].partition(")")[0]}, in check' in orlop.log.read_text()

    assert orlop.stop() == 0
    orlop.start()
    assert rack(orlop.get(f"{orlop.url}/v1/plugins"))["state"] == "loaded"
    assert orlop.running("/web") == before


def test_a_route_that_does_not_return_is_done_without(orlop: RunningOrlop) -> None:
    orlop.put(process_app("/web", 2))
    orlop.wait_deployed()
    before = orlop.running("/web")
    with pytest.raises(ConnectionError), urllib.request.urlopen(f"{orlop.url}/rack/hang", timeout=60):
        pass
    wait_until(lambda: is_without(orlop), "it begins anew without the plugin")
    wait_until(orlop.answers, "it answers again")
    assert "nothing is answered for more than 30 s, in hang (" in rack(orlop.get(f"{orlop.url}/v1/plugins"))["error"]
    assert orlop.running("/web") == before


@pytest.fixture
def members(etcds: EtcdFactory) -> Iterator[EtcdCluster]:
    with contextlib.closing(etcds.cluster(1)) as cluster:
        yield cluster


def test_of_two_servers_the_other_one_takes_over(members: EtcdCluster, tmp_path: Path, plugins: Path) -> None:
    with (
        contextlib.closing(Servers(tmp_path, members.url(), 2, PYTHONPATH=str(plugins))) as servers,
        contextlib.closing(AgentProcess(tmp_path, "node1", servers)) as agent,
    ):
        servers.start()
        agent.start()
        leader = servers.leader()
        (other,) = servers.others(leader)
        pids = [one.process and one.process.pid for one in servers.all]
        assert call(f"{other.marathon}/v2/apps", "POST", process_app("/web", 1))[0] == 201
        wait_until(lambda: len(agent.tasks()) == 1, lambda: f"it runs; {servers.logs()}")
        (web,) = agent.tasks()

        def taken() -> bool:
            """Both servers find out that they hang of it."""
            with contextlib.suppress(OSError):
                return bool(call(f"{other.marathon}/v2/apps", "POST", process_app("/stuck", 1), 60)[0] == 201)
            return False

        assert not taken()
        wait_until(lambda: other.leads, lambda: f"the other one leads; {servers.logs()}")
        wait_until(taken, lambda: f"it is taken; {servers.logs()}", TWO_HANGS_S)
        wait_until(lambda: len(agent.tasks()) == 2, lambda: f"both run; {servers.logs()}")
        wait_until(servers.settled, lambda: f"one leads and one follows; {servers.logs()}")
        assert web in agent.tasks()
        assert [one.process and one.process.pid for one in servers.all] == pids
        for server in servers.all:
            assert "begins anew: a decision takes more than 10 s" in server.log.read_text()
