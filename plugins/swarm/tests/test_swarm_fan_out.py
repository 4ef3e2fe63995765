"""Requests to all engines of the pool, with engines that are written down: who is asked, what is told, and what happens
when one is away, refuses, or goes in the middle."""

from __future__ import annotations

import asyncio
import contextlib
import io
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Set
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from scripted_engines import Asked, Script, ScriptedPool, ScriptedResponse
from waiting import eventually

from orlop_swarm.engines.interface import EngineUnavailable
from orlop_swarm.http import Services, make_application
from orlop_swarm.http.finding import Owner, Owners
from orlop_swarm.http.services import Created, Creation, Known, Switch
from orlop_swarm.http.versions import Versions


class NoContainers:
    """Nothing of the kernel is needed here."""

    async def create(self, creation: Creation) -> Created:
        raise NotImplementedError

    async def reserve(self, container: str, called: str, name: str) -> None:
        raise NotImplementedError

    async def renamed(self, container: str, name: str) -> None:
        raise NotImplementedError

    async def discard(self, reference: str) -> bool:
        raise NotImplementedError

    async def switching(self) -> Callable[[Owner, Switch], Awaitable[None]]:
        async def known(owner: Owner, switch: Switch) -> None:
            return None

        return known

    async def gone(self, container: str) -> None:
        raise NotImplementedError

    async def removing(self, container: str) -> bool:
        raise NotImplementedError

    async def changed(self, container: str, **_: Any) -> None:
        """They are nothing to count, and do not move."""

    async def not_removed(self, container: str) -> None:
        raise NotImplementedError

    async def known(self, reference: str) -> Known | None:
        return None

    async def settled(self, reference: str) -> bool:
        return False

    async def out_of_reach(self, silent: Set[str] = frozenset()) -> list[Known]:
        return []

    async def left_behind(self) -> Callable[[str, Mapping[str, str]], bool]:
        return lambda name, labels: False


@contextlib.asynccontextmanager
async def serving(pool: ScriptedPool) -> AsyncIterator[TestClient[Any, Any]]:
    containers = NoContainers()
    services = Services(pool=pool, owners=Owners(pool, containers), containers=containers, versions=Versions(pool))
    async with TestClient(TestServer(make_application(services), handler_cancellation=True)) as client:
        yield client


def always(content: Any, status: int = 200) -> Script:
    return lambda _: ScriptedResponse([content], status)


def refusing(message: str, status: int) -> Script:
    return always({"message": message}, status)


def away(_: Asked) -> ScriptedResponse:
    raise EngineUnavailable("b", "its agent is gone")


def pulling(*statuses: tuple[str, str]) -> Script:
    """Pairs of layer's id and status; without an id it is about the whole."""
    messages = [{"status": status, **({"progressDetail": {}, "id": id_} if id_ else {})} for id_, status in statuses]
    return lambda _: ScriptedResponse(messages)


async def lines_of(response: aiohttp.ClientResponse) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in (await response.read()).splitlines() if line.strip()]


async def test_a_pull_goes_to_every_node_and_comes_back_as_one() -> None:
    done = "Status: Downloaded newer image for busybox:latest"
    same = "Status: Image is up to date for busybox:latest"
    pool = ScriptedPool(
        {
            "a": pulling(
                ("latest", "Pulling from busybox"), ("x", "Pulling fs layer"), ("x", "Pull complete"), ("", done)
            ),
            "b": pulling(("latest", "Pulling from busybox"), ("", same)),
        }
    )
    async with serving(pool) as client, client.post("/v1.41/images/create?fromImage=busybox&tag=latest") as response:
        assert response.status == 200
        lines = await lines_of(response)
    assert sorted((line.get("id", ""), line["status"]) for line in lines) == [
        ("", done),
        ("latest", "Pulling from busybox"),
        ("x", "Pull complete"),
        ("x", "Pulling fs layer"),
    ]
    assert {(asked.node, asked.path, asked.query) for asked in pool.asked} == {
        (node, "/images/create", "fromImage=busybox&tag=latest") for node in "ab"
    }


async def test_a_pull_that_every_registry_refuses_is_refused_as_by_one_engine() -> None:
    pool = ScriptedPool({name: refusing("manifest unknown", 404) for name in "ab"})
    async with serving(pool) as client, client.post("/images/create?fromImage=x") as response:
        assert (response.status, await response.json()) == (404, {"message": "manifest unknown"})


async def test_a_pull_that_one_node_cannot_do_tells_which_and_where_it_was_done() -> None:
    pool = ScriptedPool({"a": pulling(("", "Digest: sha256:1")), "b": refusing("no space left on device", 500)})
    async with serving(pool) as client, client.post("/images/create?fromImage=x") as response:
        lines = await lines_of(response)
    assert response.status == 200
    assert lines == [
        {"status": "Digest: sha256:1"},
        {
            "errorDetail": {"message": "b: no space left on device (done on a)"},
            "error": "b: no space left on device (done on a)",
        },
    ]


async def test_an_engine_that_goes_in_the_middle_of_a_pull_does_not_stop_the_others() -> None:
    def breaking(_: Asked) -> ScriptedResponse:
        return ScriptedResponse([{"status": "Pulling fs layer", "id": "x"}, EngineUnavailable("b", "cut off")])

    pool = ScriptedPool({"a": pulling(("x", "Pull complete"), ("", "Digest: 1")), "b": breaking})
    async with serving(pool) as client, client.post("/images/create?fromImage=x") as response:
        lines = await lines_of(response)
    assert {"status": "Digest: 1"} in lines
    assert lines[-1]["error"] == "b: cut off (done on a)"


async def test_the_archive_of_a_load_comes_to_every_engine_whole() -> None:
    archive = bytes(range(256)) * 20_000
    pool = ScriptedPool({name: always({"stream": "Loaded image: x:1\n"}) for name in "abc"})
    async with serving(pool) as client, client.post("/images/load?quiet=1", data=io.BytesIO(archive)) as response:
        assert await lines_of(response) == [{"stream": "Loaded image: x:1\n"}]
    assert [asked.body == archive for asked in pool.asked] == [True] * 3


async def test_an_engine_that_takes_nothing_of_a_load_does_not_hold_the_others_up() -> None:
    class NotReading(ScriptedPool):
        def engines(self) -> list[Any]:
            found = super().engines()

            async def refuse(*_: Any, **__: Any) -> ScriptedResponse:
                raise EngineUnavailable("b", "cut off")

            found[1].request = refuse  # type: ignore[method-assign]
            return found

    archive = bytes(2**22)
    pool = NotReading({name: always({"stream": "Loaded\n"}) for name in "ab"})
    async with (
        serving(pool) as client,
        asyncio.timeout(30),
        client.post("/images/load", data=io.BytesIO(archive)) as response,
    ):
        lines = await lines_of(response)
    assert lines[-1]["error"] == "b: cut off (done on a)"
    assert [asked.body == archive for asked in pool.asked if asked.path == "/images/load"] == [True]


async def _as_it_is(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def test_an_archive_that_cannot_be_read_is_refused() -> None:
    pool = ScriptedPool(dict.fromkeys("ab", always({"stream": "Loaded image: x"})))
    headers = {"Content-Encoding": "gzip"}
    async with serving(pool) as client, asyncio.timeout(30):
        sent = client.session.post(client.make_url("/images/load"), data=_as_it_is(b"no gzip at all"), headers=headers)
        async with sent as response:
            assert response.status == 400
            assert (await response.json())["message"].startswith("the request's body cannot be read: ")
    assert not pool.asked


@pytest.mark.parametrize("error", [web.RequestPayloadError("damaged"), KeyError("a bug")])
async def test_whatever_fails_of_a_broadcast_is_an_outcome(error: Exception) -> None:
    def fail(_: Asked) -> ScriptedResponse:
        raise error

    pool = ScriptedPool({"a": fail, "b": fail})
    async with serving(pool) as client, asyncio.timeout(30), client.post("/images/create?fromImage=x") as response:
        assert response.status == (500 if isinstance(error, KeyError) else 400)
        assert str(error) in (await response.json())["message"]


async def test_an_engine_that_is_away_does_not_hide_what_the_others_have() -> None:
    image = {"Id": "sha256:1", "RepoTags": ["x:1"], "RepoDigests": None, "Created": 1, "Labels": None}
    pool = ScriptedPool({"a": always([image]), "b": away})
    async with serving(pool) as client, client.get("/images/json") as response:
        assert [one["Id"] for one in await response.json()] == ["sha256:1"]


async def test_when_all_are_away_that_is_the_answer() -> None:
    async with serving(ScriptedPool({"b": away})) as client, client.get("/images/json") as response:
        assert (response.status, await response.json()) == (503, {"message": "its agent is gone"})


async def test_a_pool_without_a_usable_engine_says_so() -> None:
    pool = ScriptedPool({"a": always([])})
    pool.down["a"] = "it is down"
    async with serving(pool) as client, client.get("/networks") as response:
        assert response.status == 503
        assert (await response.json())["message"] == "no node of the pool has a Docker Engine that can be used"


async def test_an_image_in_use_on_one_node_is_removed_nowhere() -> None:
    def script(in_use: bool) -> Script:
        def answer(asked: Asked) -> ScriptedResponse:
            if asked.path == "/containers/json":
                return ScriptedResponse([[{"Id": "c"}] if in_use else []])
            if in_use:
                return ScriptedResponse([{"message": "conflict: unable to remove x"}], 409)
            return ScriptedResponse([[{"Untagged": "x:1"}]])

        return answer

    pool = ScriptedPool({"a": script(False), "b": script(True)})
    async with serving(pool) as client, client.delete("/images/x:1") as response:
        assert (response.status, await response.json()) == (409, {"message": "conflict: unable to remove x"})
    assert [asked.node for asked in pool.asked if asked.method == "DELETE"] == ["b"]


async def test_of_several_images_the_one_that_nobody_has_is_named() -> None:
    def holding(*held: str) -> Script:
        def script(asked: Asked) -> ScriptedResponse:
            if asked.path == "/images/get":
                return ScriptedResponse([{"message": f"No such image: {asked.query.removeprefix('names=')}"}], 404)
            has_it = asked.path.split("/")[2] in held
            return ScriptedResponse([{"Id": "i"} if has_it else {"message": "no"}], 200 if has_it else 404)

        return script

    pool = ScriptedPool({"a": holding(), "b": holding("there")})
    async with serving(pool) as client, client.get("/images/get?names=there&names=nowhere") as response:
        assert (response.status, (await response.json())["message"]) == (404, "No such image: nowhere")


async def test_several_images_come_from_one_engine_to_which_the_fewest_must_be_brought() -> None:
    """From none that calls another image so."""

    def holding(**held: str) -> Script:
        def script(asked: Asked) -> ScriptedResponse:
            if asked.path.endswith("/get"):
                return ScriptedResponse([f"of {asked.node}".encode()])
            if asked.path == "/images/load":
                return ScriptedResponse([{"stream": "Loaded image"}])
            if (image := held.get(asked.path.split("/")[2])) is None:
                return ScriptedResponse([{"message": "No such image"}], 404)
            return ScriptedResponse([{"Id": image, "Metadata": {"LastTagTime": f"200{image}-01-01T00:00:00Z"}}])

        return script

    pool = ScriptedPool(
        {"a": holding(x="1", y="2", z="0"), "b": holding(x="1", y="2"), "c": holding(y="2", z="3"), "d": holding(x="1")}
    )
    async with serving(pool) as client, client.get("/images/get?names=x,y&names=z&names=x") as response:
        assert (response.status, await response.read()) == (200, b"of b")
    copied = [(asked.node, asked.path) for asked in pool.asked if not asked.path.endswith("/json")]
    assert copied == [("c", "/images/z/get"), ("b", "/images/load"), ("b", "/images/get")]
    for name in ("x", "y", "z"):
        assert [asked.path for asked in pool.asked].count(f"/images/{name}/json") == 4


async def test_a_network_that_one_engine_refuses_is_made_nowhere() -> None:
    def making(asked: Asked) -> ScriptedResponse:
        if asked.path == "/containers/json":
            return ScriptedResponse([[]])
        if asked.method == "POST":
            return ScriptedResponse([{"Id": "n1", "Warning": ""}], 201)
        return ScriptedResponse([{"Id": "n1", "Name": "n", "Scope": "local"}] if asked.method == "GET" else [], 200)

    pool = ScriptedPool({"a": making, "b": refusing("Pool overlaps with other one on this address space", 403)})
    async with serving(pool) as client, client.post("/networks/create", json={"Name": "n"}) as response:
        assert response.status == 403
        assert (await response.json())["message"] == "Pool overlaps with other one on this address space"
    assert [(asked.node, asked.path) for asked in pool.asked if asked.method == "DELETE"] == [("a", "/networks/n1")]


async def test_the_first_engine_being_away_does_not_keep_a_network_or_volume_from_the_others() -> None:
    def making(asked: Asked) -> ScriptedResponse:
        if asked.path == "/containers/json":
            return ScriptedResponse([[]])
        if asked.path == "/volumes/create":
            return ScriptedResponse([{"Name": "v", "Labels": None}], 201)
        if asked.method == "POST":
            return ScriptedResponse([{"Id": f"n{asked.node}", "Warning": ""}], 201)
        return ScriptedResponse([{"Id": f"n{asked.node}", "Name": "n", "Scope": "local"}])

    async with serving(ScriptedPool({"a": away, "b": making, "c": making})) as client:
        async with client.post("/networks/create", json={"Name": "n"}) as response:
            assert (response.status, await response.json()) == (201, {"Id": "nb", "Warning": ""})
        async with client.post("/volumes/create", json={"Name": "v"}) as response:
            assert (response.status, await response.json()) == (201, {"Name": "v", "Labels": None})


async def test_a_network_that_spans_nodes_is_made_once() -> None:
    def making(asked: Asked) -> ScriptedResponse:
        if asked.path == "/containers/json":
            return ScriptedResponse([[]])
        if asked.method == "POST":
            return ScriptedResponse([{"Id": "o1", "Warning": ""}], 201)
        return ScriptedResponse([{"Id": "o1", "Name": "o", "Scope": "swarm"}])

    pool = ScriptedPool(dict.fromkeys("ab", making))
    body = {"Name": "o", "Driver": "overlay"}
    async with serving(pool) as client, client.post("/networks/create", json=body) as response:
        assert (response.status, await response.json()) == (201, {"Id": "o1", "Warning": ""})
    assert [asked.node for asked in pool.asked if asked.method == "POST"] == ["a"]


def making_networks(asked: Asked) -> ScriptedResponse:
    """An engine that makes networks of its own, all called `n`."""
    if asked.path == "/containers/json":
        return ScriptedResponse([[]])
    if asked.method == "POST":
        return ScriptedResponse([{"Id": f"n{asked.node}", "Warning": ""}], 201)
    return ScriptedResponse([{"Id": f"n{asked.node}", "Name": "n", "Scope": "local"}])


async def test_without_a_driver_a_network_is_a_bridge_and_its_copies_share_a_label() -> None:
    pool = ScriptedPool(dict.fromkeys("ab", making_networks))
    async with serving(pool) as client, client.post("/networks/create", json={"Name": "n"}) as response:
        assert (await response.json())["Id"] == "na"
    bodies = [orjson.loads(asked.body or b"") for asked in pool.asked if asked.method == "POST"]
    assert [body["Driver"] for body in bodies] == ["bridge", "bridge"]
    assert bodies[0]["Labels"] == bodies[1]["Labels"]
    assert list(bodies[0]["Labels"]) == ["orlop.network", "orlop.home"]


async def test_a_network_of_a_configuration_has_no_labels_but_those_of_that() -> None:
    """Engines refuse it with any of its own, and it takes over those of the configuration."""
    pool = ScriptedPool(dict.fromkeys("ab", making_networks))
    asked_for = {"Name": "n", "ConfigFrom": {"Network": "c"}}
    async with serving(pool) as client, client.post("/networks/create", json=asked_for) as response:
        assert response.status == 201
    bodies = [orjson.loads(asked.body or b"") for asked in pool.asked if asked.method == "POST"]
    assert bodies == [{**asked_for, "Driver": "bridge"}] * 2


async def test_what_is_left_of_a_container_can_be_disconnected_by_force() -> None:
    def holding(left: str) -> Script:
        def script(asked: Asked) -> ScriptedResponse:
            if asked.path == "/networks":
                return ScriptedResponse([[{"Id": f"n{asked.node}", "Name": "n", "Scope": "local"}]])
            if asked.method == "POST" and left == orjson.loads(asked.body or b"")["Container"]:
                return ScriptedResponse([])
            return ScriptedResponse([{"message": f"{asked.path} not found"}], 404)

        return script

    pool = ScriptedPool({"a": holding(""), "b": holding("ghost")})
    async with serving(pool) as client:
        for container, force, status in (("ghost", True, 200), ("ghost", False, 404), ("nobody", True, 404)):
            body = {"Container": container, "Force": force}
            async with client.post("/networks/n/disconnect", json=body) as response:
                assert response.status == status
    paths = [asked.path for asked in pool.asked if asked.method == "POST"]
    assert sorted(paths) == ["/networks/na/disconnect"] * 2 + ["/networks/nb/disconnect"] * 2


def told(nanos: int, action: str) -> dict[str, Any]:
    return {"Type": "container", "Action": action, "timeNano": nanos, "Actor": {"ID": "c", "Attributes": {}}}


class Remembering:
    """An engine's events: what has been, and what comes. cut: the stream ends, as when the engine goes."""

    def __init__(self, *past: dict[str, Any]) -> None:
        self.past = list(past)
        self.queries: list[str] = []
        self._streams: list[asyncio.Queue[Any]] = []

    def __call__(self, asked: Asked) -> ScriptedResponse:
        assert asked.path == "/events"
        self.queries.append(asked.query)
        if "until" in asked.query:
            return ScriptedResponse(self.past)
        stream: asyncio.Queue[Any] = asyncio.Queue()
        self._streams.append(stream)
        if "since" in asked.query:
            for event in self.past:
                stream.put_nowait(event)
        response = ScriptedResponse([])
        response.pieces = lambda: self._pieces(stream)  # type: ignore[method-assign]
        return response

    @property
    def followed(self) -> int:
        return len(self._streams)

    async def _pieces(self, stream: asyncio.Queue[Any]) -> AsyncIterator[bytes]:
        while (event := await stream.get()) is not None:
            yield orjson.dumps(event) + b"\n"

    def happens(self, event: dict[str, Any]) -> None:
        self.past.append(event)
        for stream in self._streams:
            stream.put_nowait(event)

    def cut(self) -> None:
        for stream in self._streams:
            stream.put_nowait(None)
        self._streams = []


async def next_action(response: aiohttp.ClientResponse) -> str:
    async with asyncio.timeout(30):
        return str(orjson.loads(await response.content.readline())["Action"])


async def test_what_has_been_comes_in_the_order_of_time_and_then_what_comes() -> None:
    a, b = Remembering(told(10, "a10"), told(30, "a30")), Remembering(told(20, "b20"))
    async with serving(ScriptedPool({"a": a, "b": b})) as client, client.get("/events?since=0") as response:
        assert [await next_action(response) for _ in range(3)] == ["a10", "b20", "a30"]
        b.happens(told(40, "b40"))
        assert await next_action(response) == "b40"


async def test_an_engine_that_was_away_goes_on_from_its_last_event() -> None:
    a, b = Remembering(), Remembering()
    later = 2 * 10**18
    async with serving(ScriptedPool({"a": a, "b": b})) as client, client.get("/events") as response:
        await eventually(lambda: a.followed and b.followed, "both to be followed")
        b.happens(told(later, "first"))
        assert await next_action(response) == "first"
        b.cut()
        b.happens(told(later + 1, "meanwhile"))
        assert await next_action(response) == "meanwhile"
        a.happens(told(later, "other"))
        assert await next_action(response) == "other"


async def test_an_engine_that_comes_later_is_followed_too() -> None:
    a, b = Remembering(), Remembering()
    pool = ScriptedPool({"a": a, "b": b})
    pool.down["b"] = "it is down"
    async with serving(pool) as client, client.get("/events") as response:
        assert response.status == 200
        del pool.down["b"]
        await eventually(lambda: b.followed, "the other one to be followed")
        b.happens(told(2 * 10**18, "late"))
        assert await next_action(response) == "late"


async def test_events_of_one_node_alone() -> None:
    a, b = Remembering(told(10, "a10")), Remembering(told(20, "b20"))
    query = 'since=0&until=1&filters={"node":["b"],"type":["container"]}'
    async with serving(ScriptedPool({"a": a, "b": b})) as client, client.get(f"/events?{query}") as response:
        assert [line["Action"] for line in await lines_of(response)] == ["b20"]
    assert a.queries == []
    assert b.queries == ["since=0&until=1.000000000&filters=%7B%22type%22%3A%5B%22container%22%5D%7D"]


async def test_what_an_engine_says_of_a_bad_moment_is_the_answer() -> None:
    script = refusing('strconv.ParseInt: parsing "x": invalid syntax', 400)
    async with serving(ScriptedPool({"a": script})) as client, client.get("/events?since=x") as response:
        assert (response.status, await response.json()) == (
            400,
            {"message": 'strconv.ParseInt: parsing "x": invalid syntax'},
        )


async def test_streams_of_engines_that_accept_are_closed_when_another_refuses() -> None:
    opened: list[ScriptedResponse] = []

    def accept(_: Asked) -> ScriptedResponse:
        opened.append(ScriptedResponse([]))
        return opened[-1]

    pool = ScriptedPool({"a": accept, "b": refusing("invalid filter", 400), "c": accept})
    async with serving(pool) as client, client.get("/events") as response:
        assert (response.status, await response.json()) == (400, {"message": "invalid filter"})
        assert opened
        assert all(one.closed for one in opened)


async def test_a_client_that_goes_leaves_no_stream_open() -> None:
    a = Remembering()
    async with serving(ScriptedPool({"a": a})) as client:
        before = len(asyncio.all_tasks())
        async with client.get("/events"):
            await eventually(lambda: a.followed, "the engine to be followed")
            assert len(asyncio.all_tasks()) > before
        await eventually(lambda: len(asyncio.all_tasks()) <= before, "the stream to be given up")


async def test_what_is_not_there_in_a_pool_is_refused_as_an_engine_refuses_it() -> None:
    async with serving(ScriptedPool({"a": always([])})) as client:
        for path in ("/nodes", "/services", "/tasks", "/secrets", "/configs", "/swarm"):
            async with client.get(path) as response:
                assert response.status == 503
                assert (await response.json())["message"].startswith("This node is not a swarm manager.")
        async with client.post("/swarm/leave") as response:
            assert (response.status, await response.json()) == (503, {"message": "This node is not part of a swarm"})
        async with client.post("/plugins/pull?remote=x") as response:
            assert response.status == 501
        async with client.post("/grpc") as response:
            assert response.status == 501
            assert "DOCKER_BUILDKIT=0" in (await response.json())["message"]
        async with client.post("/session") as response:
            assert (response.status, await response.json()) == (400, {"message": "no session ID provided"})


async def test_what_no_engine_can_read_of_a_build_is_refused_by_an_engine() -> None:
    text = "error reading build args: invalid character 'x' looking for beginning of value"
    pool = ScriptedPool(
        {"a": lambda asked: refusing(text, 400)(asked) if asked.path == "/build" else ScriptedResponse([[]])}
    )
    async with serving(pool) as client, client.post("/build?buildargs=x") as response:
        assert (response.status, (await response.json())["message"]) == (400, text)


async def test_a_build_to_cancel_has_to_be_named() -> None:
    async with serving(ScriptedPool({"a": always([])})) as client, client.post("/build/cancel") as response:
        assert (response.status, (await response.json())["message"]) == (500, "build ID not provided")


async def test_networks_are_listed_with_a_slash_at_the_end_too() -> None:
    network = {"Id": "n1", "Name": "n", "Driver": "bridge", "Scope": "local", "Labels": {}}
    async with serving(ScriptedPool({"a": always([network])})) as client, client.get("/networks/") as response:
        assert [one["Name"] for one in await response.json()] == ["n"]


async def test_a_link_of_a_container_that_nobody_has_is_refused_with_both_names() -> None:
    nobody = refusing("No such container: nobody", 404)
    pool = ScriptedPool({"a": nobody, "b": nobody})
    async with serving(pool) as client, client.delete("/v1.41/containers/nobody/database?link=1") as response:
        assert (response.status, await response.json()) == (404, {"message": "No such container: nobody/database"})


@pytest.mark.parametrize(
    ("method", "path", "status", "message"),
    [
        ("POST", "/commit?container=..", 404, "No such container: .."),
        ("GET", "/images/get?names=..", 400, "invalid reference format"),
        ("GET", "/containers/json?filters=%7B%22before%22%3A%5B%22..%22%5D%7D", 404, "no such container .."),
    ],
)
async def test_a_name_that_is_no_part_of_a_path_is_unknown(method: str, path: str, status: int, message: str) -> None:
    def engine(asked: Asked) -> ScriptedResponse:
        if "/../" in asked.path:
            return ScriptedResponse([b""], 301)
        return ScriptedResponse([{"message": message}], status)

    pool = ScriptedPool({"a": engine, "b": engine})
    async with serving(pool) as client, client.request(method, f"/v1.41{path}") as response:
        assert (response.status, await response.json()) == (status, {"message": message})
