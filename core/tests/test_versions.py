"""Documents of several versions: what is read, what is written, and what is left alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.framework import EVERYTHING, Action, Framework, Now, Put, View
from orlop.kernel import records
from orlop.kernel.loading import encode
from orlop.model.documents import DocumentError, NewerVersion, from_bytes, to_bytes, version_of
from orlop.model.nodes import Node
from orlop.model.versions import VERSIONS, Versions
from orlop.server.framework_run import FrameworkRunner, read_object
from orlop.server.loading import begin_term, list_entries, state_of, too_new
from orlop.server.mirror import Documents
from orlop.store.interface import Change, Entry
from orlop.store.interface import Put as StorePut
from orlop.store.memory import MemoryStore


@attrs.frozen(kw_only=True)
class Ship:
    """Version 1 had `lengthFeet` and no flag, version 2 had `length` in metres; version 3 has a flag."""

    name: str
    length: float
    flag: str = "none"


def to_metres(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"length": document.pop("lengthFeet") * 0.3}


def with_flag(document: dict[str, Any]) -> dict[str, Any]:
    return document | {"flag": "white"}


@pytest.fixture
def ships(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VERSIONS, "_steps", dict(VERSIONS.steps()))
    VERSIONS._steps[Ship] = []
    VERSIONS.add(Ship, 1, to_metres)
    VERSIONS.add(Ship, 2, with_flag)


def test_steps_are_taken_in_order(ships: None) -> None:
    assert from_bytes(b'{"v":1,"name":"Vasa","lengthFeet":230}', Ship, "s") == Ship(
        name="Vasa", length=69, flag="white"
    )
    assert from_bytes(b'{"v":2,"name":"Vasa","length":69.0}', Ship, "s").flag == "white"
    last = Ship(name="Vasa", length=69.0)
    assert orjson.loads(to_bytes(last))["v"] == 3
    assert from_bytes(to_bytes(last), Ship, "s") == last


def test_what_is_newer_is_refused_with_its_key_both_versions_and_what_to_do(ships: None) -> None:
    with pytest.raises(NewerVersion) as caught:
        from_bytes(b'{"v":4,"name":"Vasa"}', Ship, "ships/vasa")
    assert str(caught.value) == (
        "ships/vasa has version 4, and this program knows up to 3: a newer one has written it. "
        "Start that one, or go back to a backup from before"
    )


@pytest.mark.parametrize(("data", "why"), [
    (b'{"v":1,"name":"Vasa"}', "ships/vasa cannot be brought from version 1 to 3: KeyError"),
    (b'{"v":0,"name":"Vasa"}', "ships/vasa has version 0, and nothing migrates it"),
    (b'{"v":-1,"name":"Vasa"}', "nothing migrates it"),
    (b'{"v":true,"name":"Vasa"}', "not a versioned document"),
])  # fmt: skip
def test_a_document_that_cannot_be_brought_up_to_date_is_named(ships: None, data: bytes, why: str) -> None:
    with pytest.raises(DocumentError, match=why):
        from_bytes(data, Ship, "ships/vasa")


def test_steps_leave_no_gap() -> None:
    versions = Versions()
    versions.add(Ship, 1, to_metres)
    for wrong in (1, 3):
        with pytest.raises(ValueError, match="the last version of Ship is 2"):
            versions.add(Ship, wrong, with_flag)
    assert versions.of(Ship) == 2
    assert versions.of(Node) == 1


@given(st.integers(0, 10**9 - 1), st.sampled_from([b"", b',"x":1', b', "x": 1']), st.booleans())
def test_a_version_is_found_whoever_wrote_the_document(version: int, rest: bytes, spaced: bool) -> None:
    data = b'{"v"' + (b" : " if spaced else b":") + str(version).encode() + rest + b"}"
    assert version_of(data, "it") == version


@pytest.mark.parametrize("data", [b"", b"{}", b'{"v":"1"}', b'{"x":1}', b"\xff"])
def test_what_has_no_version_is_no_document(data: bytes) -> None:
    with pytest.raises(DocumentError):
        version_of(data, "it")


# --- a framework's objects ---


class Harbour(Framework):
    """Version 3 of a framework whose berths have changed once, and whose ships twice."""

    name: ClassVar[str] = "harbour"
    documents: ClassVar[dict[str, type]] = {"ship": Ship, "berth": Ship}
    version: ClassVar[int] = 3
    migrations: ClassVar[dict[int, Any]] = {1: {"ship": to_metres}, 2: {"ship": with_flag, "berth": with_flag}}

    def reconcile(self, view: View) -> Iterator[Action]:
        for ship_id, ship in view.objects("ship").items():
            if ship_id == "touched" and ship.name != "new":
                yield Put("ship", ship_id, attrs.evolve(ship, name="new"))


def test_objects_are_brought_up_to_date_kind_by_kind() -> None:
    ship = read_object(Harbour, "ship", "vasa", b'{"v":1,"name":"Vasa","lengthFeet":230}')
    assert ship.value == Ship(name="Vasa", length=69, flag="white")
    berth = read_object(Harbour, "berth", "1", b'{"v":1,"name":"one","length":5.0}')
    assert berth.value == Ship(name="one", length=5.0, flag="white")
    assert orjson.loads(encode(ship))["v"] == 3, "and written in the new form, when they are put again"


def test_objects_of_a_newer_plugin_are_refused_with_their_name() -> None:
    with pytest.raises(
        NewerVersion, match="ship vasa of harbour has version 4, and the installed harbour knows up to 3"
    ):
        read_object(Harbour, "ship", "vasa", b'{"v":4}')


def test_a_migration_that_is_missing_or_broken_is_named() -> None:
    class Forgetful(Harbour):
        version = 4

    with pytest.raises(DocumentError, match=r"ship vasa of harbour .* harbour has no migration of ship from version 3"):
        read_object(Forgetful, "ship", "vasa", b'{"v":3,"name":"Vasa","length":69.0}')
    with pytest.raises(DocumentError, match="ship vasa of harbour cannot be brought from version 1 to 3: KeyError"):
        read_object(Harbour, "ship", "vasa", b'{"v":1,"name":"Vasa"}')


# --- a state ---


def a_store(**more: bytes) -> MemoryStore:
    """With a cluster, and these documents; `__` stands for a slash."""
    store = MemoryStore()
    meta = records.Meta(cluster_id="c", generation=1, version=1, utc_ms=1, next_sequence=1)
    documents = {records.META_KEY: to_bytes(meta)} | {key.replace("__", "/"): data for key, data in more.items()}
    store.transact([StorePut(key, data) for key, data in documents.items()])
    return store


def test_only_what_changes_is_written_in_the_new_form() -> None:
    old = b'{"v":1,"name":"Vasa","lengthFeet":230}'
    store = a_store(objects__harbour__ship__touched=old, objects__harbour__ship__left=old)
    state = state_of(list_entries(store)[0], {"harbour": Harbour})
    assert state is not None
    runner = FrameworkRunner(Harbour())
    result = runner.run(state, EVERYTHING, [], Now(1, 1), "x")
    assert result.actions is not None
    ((key, stored),) = result.actions.puts.items()
    assert key == ("ship", "touched")
    assert (stored.version, stored.document["flag"]) == (3, "white")


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("meta/state", "meta/state"),
        ("nodes/n1", "nodes/n1"),
        ("tasks/t1", "tasks/t1"),
        ("specs/s1", "specs/s1"),
        ("frameworks/harbour", "frameworks/harbour"),
        ("objects/harbour/ship/a/b", "ship a/b of harbour"),
        ("leader", "leader"),
        ("redo/00000000000000000001/mark", "redo/00000000000000000001/mark"),
    ],
)
def test_every_kind_of_document_that_is_newer_is_noticed(key: str, name: str) -> None:
    classes = {"harbour": Harbour}
    assert too_new(key, b'{"v":1,"x":1}', classes) is None
    why = too_new(key, b'{"v":99,"x":1}', classes)
    assert why is not None
    assert str(why).startswith(f"{name} has version 99, and ")
    assert too_new(key, b"rubbish", classes) is None, "that is another fault"


def test_objects_of_a_framework_that_is_not_installed_are_no_concern() -> None:
    assert too_new("objects/absent/x/y", b'{"v":99}', {}) is None


def test_a_leader_begins_no_term_over_what_is_newer_and_writes_nothing() -> None:
    store = a_store(tasks__t1=b'{"v":2,"id":"t1"}')
    leader = store.transact([StorePut("leader", b'{"v":1}')]).revision
    before = store.range("")
    with pytest.raises(NewerVersion, match="tasks/t1 has version 2"):
        begin_term(store, list_entries(store)[0], {}, leader, new_cluster_id="x", utc_ms=5)
    assert store.range("") == before


def entry(key: str, data: bytes, revision: int) -> Entry:
    return Entry(key, data, revision, revision, 1)


def test_a_standby_knows_what_it_cannot_read_as_long_as_it_is_there() -> None:
    documents = Documents(lambda key, data: too_new(key, data, {}))
    documents.reset({"tasks/a": entry("tasks/a", b'{"v":2}', 1), "tasks/b": entry("tasks/b", b'{"v":1}', 1)}, 1)
    assert list(documents.newer) == ["tasks/a"]
    documents.apply([Change("tasks/b", entry("tasks/b", b'{"v":3}', 2), 2)])
    assert sorted(documents.newer) == ["tasks/a", "tasks/b"]
    documents.apply([Change("tasks/a", None, 3)])
    documents.apply([Change("tasks/b", entry("tasks/b", b'{"v":1}', 4), 4)])
    assert not documents.newer
    documents.apply([Change("tasks/b", entry("tasks/b", b'{"v":9}', 5), 5)])
    documents.reset({}, 6)
    assert not documents.newer
