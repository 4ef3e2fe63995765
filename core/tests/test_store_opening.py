"""From URLs to stores."""

from pathlib import Path

import pytest
from stored import value_of

from orlop.store.interface import Put, StoreError
from orlop.store.memory import MemoryStore
from orlop.store.opening import open_store


def test_sqlite_at_a_path_taken_as_written(tmp_path: Path) -> None:
    path = tmp_path / "a %41?b#c.db"
    store = open_store(f"sqlite://{path}")
    store.transact([Put("a", b"1")])
    store.close()
    assert path.exists()
    store = open_store(f"sqlite://{path}")
    assert value_of(store, "a") == b"1"
    store.close()


def test_memory_is_new_each_time():
    first, second = open_store("memory://"), open_store("memory://")
    first.transact([Put("a", b"1")])
    assert second.get("a") is None
    first.close()
    second.close()


def test_a_plugin_adds_a_scheme_and_gets_the_whole_url():
    seen: list[str] = []

    def factory(url: str) -> MemoryStore:
        seen.append(url)
        return made

    made = MemoryStore()
    assert open_store("cloud://somewhere/else", {"cloud": factory}) is made
    assert seen == ["cloud://somewhere/else"]


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("etcdd://10.0.0.1", "no store has the scheme 'etcdd'; there are cloud, etcd, etcds, memory, sqlite"),
        ("/var/lib/orlop.db", "has no scheme"),
        ("", "has no scheme"),
        ("sqlite://relative.db", "sqlite:///absolute"),
        ("sqlite://", "sqlite:///absolute"),
        ("sqlite:///folder/", "sqlite:///absolute"),
        ("memory://somewhere", "just memory://"),
    ],
)
def test_what_is_wrong_with_a_url(url: str, why: str) -> None:
    with pytest.raises(StoreError, match=why):
        open_store(url, {"cloud": lambda url: MemoryStore()})


def test_a_plugin_cannot_take_over_what_is_built_in():
    with pytest.raises(ValueError, match="sqlite, which is built in"):
        open_store("memory://", {"sqlite": lambda url: MemoryStore()})
