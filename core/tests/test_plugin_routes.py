"""Routes that cannot be served: their plugin has failed and says why, and the server goes on without them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import attrs
import pytest
from aiohttp import web
from ports import free_port
from serving import Serving, serving

from orlop.framework import Action, Framework, View
from orlop.hookspecs import Routes, hookimpl
from orlop.processes.exposure import CannotStart
from orlop.processes.plugin_routes import _overlap
from orlop.server import server as module

USED = web.Application()
USED.freeze()


class Routed:
    """Answers under each prefix with its own name."""

    def __init__(self, name: str, *prefixes: Any, listen: Any = (), application: Any = None) -> None:
        self._name = name
        self._prefixes = prefixes
        self._listen = listen
        self._application = application

    @hookimpl
    def routes(self, host: Any, settings: Any) -> Sequence[Routes]:
        return [self._routes(prefix, self._listen) for prefix in self._prefixes]

    def _routes(self, prefix: Any, listen: Any) -> Routes:
        async def who(_: web.Request) -> web.Response:
            return web.Response(text=self._name)

        application = web.Application()
        application.router.add_get("/", who)
        return Routes(prefix=prefix, application=self._application or application, listen=listen)


class Everywhere:
    """Refuses every node, has a framework, and routes that fail as long as they are told to."""

    name = "everywhere"

    def __init__(self) -> None:
        self.fails = True

    @hookimpl
    def frameworks(self) -> Sequence[type[Framework]]:
        return [Idle]

    @hookimpl
    def node_filters(self, settings: Any) -> Sequence[Any]:
        return [self]

    def prepare(self, request: Any, view: Any) -> Any:
        return lambda _: "nobody passes"

    @hookimpl
    def routes(self, host: Any, settings: Any) -> Sequence[Routes]:
        if self.fails:
            raise OSError("no templates")
        return []


class Idle(Framework):
    name = "idle"

    def reconcile(self, view: View) -> Iterator[Action]:
        return iter(())


class Configured(Routed):
    """Listens where its settings say."""

    def __init__(self, name: str, address: str) -> None:
        super().__init__(name, name)
        self._address = address

    @hookimpl
    def configuration(self) -> type:
        return attrs.make_class("Config", {"listen": attrs.field(default=self._address, type=str)}, frozen=True)

    @hookimpl
    def routes(self, host: Any, settings: Any) -> Sequence[Routes]:
        return [self._routes(self._name, settings.listen)]


async def answers(one: Serving, prefix: str) -> str:
    return await at(str(one.url / prefix / ""))


async def at(url: str) -> str:
    timeout = aiohttp.ClientTimeout(total=20)
    async with aiohttp.ClientSession(timeout=timeout) as http, http.get(url) as answer:
        return await answer.text() if answer.status == 200 else f"{answer.status}"


def errors(one: Serving) -> dict[str, str]:
    return {record.name: record.error for record in one.server.plugins.records() if record.error}


@pytest.mark.parametrize(
    ("plugin", "why"),
    [
        (Routed("probe", "v1"), "cannot be mounted under 'v1': expected lower-case letters"),
        (Routed("probe", "/a b/"), "cannot be mounted under '/a b/': expected lower-case letters"),
        (Routed("probe", 5), "cannot be mounted under 5: expected lower-case letters"),
        (Routed("probe", "probe", "v1"), "cannot be mounted under 'v1'"),
        (Routed("probe", "probe", "probe/"), "the prefix 'probe' is one of its other routes"),
        (
            Routed("probe", "probe", application=dict),
            "expected an aiohttp application under 'probe', got <class 'dict'>",
        ),
        (Routed("probe", "probe", application=USED), "was served before: expected a new one"),
        (Routed("probe", "probe", listen=(5,)), 'expected "host:port" or "unix:///path" to listen on, got (5,)'),
        (Routed("probe", "probe", listen="localhost:99999"), 'expected "host:port" or "unix:///path", got "localhost'),
        (Routed("probe", "probe", listen="unix://run"), "expected an absolute path"),
    ],
)
async def test_what_cannot_be_served_is_left_out(
    tmp_path: Path, plugin: Routed, why: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(tmp_path, auth=False, more_plugins={"probe": plugin, "well": Routed("well", "well")}) as one:
        assert await answers(one, "well") == "well"
        assert await answers(one, "probe") == "404"
        assert errors(one).keys() == {"probe"}
        assert why in errors(one)["probe"]
        assert "plugin probe: its routes cannot be served" in caplog.text
        assert one.server.plugins.due_retries(1e12) == []


async def test_a_plugin_is_on_or_off_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PLUGIN_RETRY_CHECK_S", 0.05)
    plugin = Everywhere()

    def filters(one: Serving) -> list[Any]:
        return [found for found in one.server._parts.kernel.planner._filters if found.name == Everywhere.name]

    async with serving(tmp_path, auth=False, plugin=plugin) as one:
        assert errors(one) == {"tested": "in hook routes: OSError: no templates"}
        assert "idle" not in one.server.framework_status()
        assert not filters(one)
        plugin.fails = False
        async with asyncio.timeout(20):
            assert "has recovered" in str(await one.server.failed), "the server begins anew with it"
    async with serving(tmp_path / "anew", auth=False, plugin=plugin) as one:
        assert errors(one) == {}
        assert one.server.framework_status()["idle"].state == "running"
        assert filters(one)


@pytest.mark.parametrize("address", ["nowhere", "localhost:99999", "a b:80", "unix://run/api.sock", "http://a:80"])
async def test_a_malformed_address_of_the_settings_is_as_any_wrong_setting(tmp_path: Path, address: str) -> None:
    plugins = {"probe": Configured("probe", address), "well": Routed("well", "well")}
    async with serving(tmp_path, auth=False, more_plugins=plugins) as one:
        assert await answers(one, "well") == "well"
        assert await answers(one, "probe") == "404"
        [record] = [record for record in one.server.plugins.records() if record.error]
        assert (record.name, record.state, record.retry_at_s) == ("probe", "configuration-error", None)
        assert record.error.startswith("configuration: [plugins.probe] listen: expected ")
        assert record.error.endswith(f', got "{address}"')


async def test_of_one_prefix_the_first_has_it_or_whose_name_it_is(tmp_path: Path) -> None:
    plugins = {
        "probe": Routed("probe", "swarm"),
        "swarm": Routed("swarm", "swarm"),
        "third": Routed("third", "shared"),
        "late": Routed("late", "shared"),
    }
    async with serving(tmp_path, auth=False, more_plugins=plugins) as one:
        assert await answers(one, "swarm") == "swarm"
        assert await answers(one, "shared") == "third"
        assert errors(one) == {
            "probe": "its routes cannot be served: the prefix 'swarm' is one of swarm: expected another",
            "late": "its routes cannot be served: the prefix 'shared' is one of third: expected another",
        }


async def test_who_listens_where_its_settings_say_has_the_address(tmp_path: Path) -> None:
    address = f"127.0.0.1:{free_port()}"
    plugins = {"probe": Routed("probe", "probe", listen=address), "swarm": Configured("swarm", address)}
    async with serving(tmp_path, auth=False, more_plugins=plugins) as one:
        assert await at(f"http://{address}/") == "swarm"
        assert await answers(one, "swarm") == "swarm"
        assert await answers(one, "probe") == "404"
        assert errors(one).keys() == {"probe"}
        assert f"listens on {address}, which swarm is to have: expected another address" in errors(one)["probe"]


async def test_an_address_of_another_program_is_the_operators_matter(tmp_path: Path) -> None:
    with pytest.raises(CannotStart, match=r"\[plugins\.probe\] listen is 0\.0\.0\.0:80: without authentication"):
        async with serving(tmp_path, auth=False, more_plugins={"probe": Routed("p", "probe", listen="0.0.0.0:80")}):
            pass
    async with serving(tmp_path, auth=False) as one:
        taken = Routed("p", "probe", listen=one.server.address)
        with pytest.raises(CannotStart, match=r"choose another address with \[plugins\.probe\] listen"):
            async with serving(tmp_path / "second", auth=False, more_plugins={"probe": taken}):
                pass


@pytest.mark.parametrize(
    ("one", "other", "clash"),
    [
        ("127.0.0.1:80", "127.0.0.1:80", True),
        ("127.0.0.1:80", "127.0.0.1:81", False),
        ("127.0.0.1:80", "127.0.0.2:80", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("0.0.0.0:80", "127.0.0.2:80", True),
        ("0.0.0.0:80", "[::1]:80", False),
        ("[::]:80", "[::1]:80", True),
        (":80", "[::1]:080", True),
        ("localhost:80", "[::1]:80", True),
        ("localhost:80", "127.0.0.2:80", False),
        ("example.org:80", "127.0.0.2:80", False),
        ("unix:///run/a.sock", "unix:///run/a.sock", True),
        ("unix:///run/a.sock", "unix:///run/b.sock", False),
        ("unix:///run/a.sock", ":80", False),
    ],
)
def test_which_addresses_are_in_each_others_way(one: str, other: str, clash: bool) -> None:
    assert _overlap(one, other) == _overlap(other, one) == clash
