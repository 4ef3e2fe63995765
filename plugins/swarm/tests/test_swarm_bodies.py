"""Bodies of requests are taken, and refused, as engines do it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from direct_engines import Host, Served, served
from engines import Engine, Lane
from twin_engines import clean, twins

from orlop_swarm.http.bodies import CONTAINER, NETWORK, Misfit, decoded, shaped

JSON = "application/json"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"a": 1} and more', {"a": 1}),
        (b' \n {"a": "\\ud800b"}', {"a": "\ufffdb"}),
        (b'{"\\udfff": ["\xff"]}', {"\ufffd": ["\ufffd"]}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "\U0001f600"}),
        (b"null null", None),
    ],
)
def test_the_first_value_counts_and_what_is_no_character_is_replaced(body: bytes, expected: Any) -> None:
    assert decoded(body) == expected


@pytest.mark.parametrize("body", [b"", b"  ", b"{", b'{"a": NaN}', b"nonsense", b"[" * 100_000, b"\xef\xbb\xbf{}"])
def test_what_is_no_json_is_none(body: bytes) -> None:
    with pytest.raises(Misfit):
        decoded(body)


def test_members_have_the_names_of_the_shape_and_others_stay() -> None:
    given = {"image": "a", "IMAGE": "b", "hostConfig": {"MEMORY": 7, "Other": 1}, "x": [1], "Labels": {"image": None}}
    expected = {"Image": "b", "HostConfig": {"Memory": 7, "Other": 1}, "x": [1], "Labels": {"image": ""}}
    assert shaped(given, CONTAINER) == expected
    assert shaped({"IPAM": None, "labels": None}, NETWORK) == {"IPAM": None, "Labels": None}
    assert shaped({"HostConfig": {"Mounts": [None], "Binds": [None]}}, CONTAINER) == {
        "HostConfig": {"Mounts": [{}], "Binds": [""]}
    }


@pytest.mark.parametrize(
    "value",
    [
        [],
        {"Image": 1},
        {"Env": "A=b"},
        {"Env": [1]},
        {"Labels": []},
        {"Tty": 1},
        {"HostConfig": {"Memory": True}},
        {"HostConfig": {"Memory": 1.0}},
        {"HostConfig": {"Memory": 2**63}},
        {"HostConfig": {"PortBindings": {"80/tcp": [{"HostPort": 80}]}}},
        {"HostConfig": {"Links": {}}},
    ],
)
def test_other_types_do_not_fit(value: Any) -> None:
    with pytest.raises(Misfit):
        shaped(value, CONTAINER)


@pytest.fixture(scope="module")
def members(engines: Lane) -> list[Engine]:
    return twins(engines, "kappa", "lambda")


@pytest.fixture
def pool(members: list[Engine], tmp_path: Path) -> Iterator[Served]:
    with served([Host(one.name, one.address, one.url.removeprefix("unix://")) for one in members], tmp_path) as api:
        try:
            yield api
        finally:
            for one in members:
                clean(one)


NETWORKS = [
    b'{"Name": "x", "IPAM": 1}',
    b'{"Name": "x", "Labels": []}',
    b'{"Name": 1}',
    b"null",
    b"[]",
    b"",
    b"{",
    b"{}",
]
VOLUMES = [b'{"Name": 1}', b"[]", b"1", b"", b'{"Name": "x", "Labels": []}', b'{"name": "-"}']
CONNECTIONS = [b"{}", b'{"Container": 1}', b'{"Container": null}', b"null", b"[]", b"", b'{"Container": "a'
               , b'{"Container": "nobody"}', b'{"container": "nobody"} more']  # fmt: skip
CREATIONS = [b"null", b"{}", b'{"HostConfig": {}}', b'{"Image": ""}', b'{"Image": "nobody"}', b'{"Image": 1}',
             b'{"Image": "busybox", "HostConfig": {"Binds": 1}}', b'{"Image": "busybox", "Env": [1]}']  # fmt: skip


@pytest.mark.parametrize(
    ("path", "body", "kind"),
    [
        *(("/networks/create", body, JSON) for body in NETWORKS),
        ("/networks/create", b'{"Name": "x"}', "text/plain"),
        *(("/volumes/create", body, JSON) for body in VOLUMES),
        ("/volumes/create", b'{"Name": "x"}', "text/plain"),
        *(("/networks/bridge/connect", body, JSON) for body in CONNECTIONS),
        *(("/networks/bridge/disconnect", body, JSON) for body in CONNECTIONS),
        ("/networks/bridge/connect", b"{}", "text/plain"),
        *(("/containers/create", body, JSON) for body in CREATIONS),
        ("/commit", b"", JSON),
    ],
)
def test_what_one_engine_refuses_the_pool_refuses_in_its_words(
    path: str, body: bytes, kind: str, pool: Served, members: list[Engine]
) -> None:
    def said(url: str) -> tuple[int, str]:
        answer = requests.post(url + path, data=body, headers={"Content-Type": kind})
        return answer.status_code, answer.text

    one = said(members[0].tcp_url.replace("tcp", "http"))
    assert one[0] >= 400
    assert said(f"http://127.0.0.1:{pool.port}") == one


LISTS = [
    *(("GET", path) for path in ("/containers/json", "/images/json", "/networks", "/volumes", "/events")),
    *(("POST", f"/{what}/prune") for what in ("containers", "images", "networks", "volumes")),
]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(
            (method, f"{path}?until=1&filters={filters}")
            for method, path in LISTS
            for filters in ("{", "[]", '{"a":[1]}')
        ),
        ("GET", "/v1/info"),
        ("GET", "/v1.2.3/_ping"),
        ("GET", "/v1.99/info"),
        ("OPTIONS", "/containers/json"),
        ("OPTIONS", "/v1.41/nowhere"),
        ("OPTIONS", "/v1.1/info"),
        ("DELETE", "/containers/"),
        ("GET", '/networks/?filters={"name":["nobody"]}'),
        ("GET", "/containers/nobody/checkpoints"),
        ("POST", "/containers/nobody/checkpoints"),
        ("DELETE", "/containers/nobody/checkpoints/one"),
    ],
)
def test_what_is_not_as_usual_is_answered_as_by_one_engine(
    method: str, path: str, pool: Served, members: list[Engine]
) -> None:
    def said(url: str) -> tuple[int, str, str | None]:
        answer = requests.request(method, url + path)
        return answer.status_code, answer.text, answer.headers.get("Content-Type")

    assert said(f"http://127.0.0.1:{pool.port}") == said(members[0].tcp_url.replace("tcp", "http"))


def test_more_than_is_usual_of_a_version_is_that_version(pool: Served) -> None:
    for version in ("1.41.0", "1.41."):
        assert requests.get(f"http://127.0.0.1:{pool.port}/v{version}/info").json()["ServerVersion"]
    assert requests.get(f"http://127.0.0.1:{pool.port}/v1.41.1/info").status_code == 400


def test_what_one_engine_takes_the_pool_takes(pool: Served) -> None:
    def asked(path: str, body: bytes) -> Any:
        answer = requests.post(f"http://127.0.0.1:{pool.port}{path}", data=body, headers={"Content-Type": JSON})
        assert answer.status_code in (200, 201), answer.text
        return answer.json() if answer.content else None

    made = asked("/containers/create?name=one", b'{"image": "busybox", "CMD": ["true"], "env": ["A=\\ud800"]} more')
    shown = requests.get(f"http://127.0.0.1:{pool.port}/containers/one/json").json()
    assert (shown["Id"], shown["Config"]["Cmd"]) == (made["Id"], ["true"])
    assert "A=\ufffd" in shown["Config"]["Env"]
    assert asked("/volumes/create", b'{"name": "vol"}')["Name"] == "vol"
    assert asked("/volumes/create", b"null")["Name"]
    asked("/networks/create", b'{"name": "net"} more')
    asked("/networks/net/connect", b'{"container": "one"}')
    inside = requests.get(f"http://127.0.0.1:{pool.port}/containers/one/json").json()["NetworkSettings"]["Networks"]
    assert "net" in inside
    asked("/commit?container=one&repo=of-nothing", b"")
