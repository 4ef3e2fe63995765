"""A framework whose objects could be written and not be read again is refused when its plugin is loaded."""

from __future__ import annotations

from typing import Any, ClassVar

import attrs
import pytest

from orlop.configuration import Settings
from orlop.framework import Framework
from orlop.hookspecs import hookimpl
from orlop.server import builtin
from orlop.server.framework_checks import check_framework
from orlop.server.plugin_host import PluginHost, PluginRecord


@attrs.frozen
class Wish:
    copies: int = 0


def same(document: dict[str, Any]) -> dict[str, Any]:
    return document


class Plugin:
    def __init__(self, framework: type[Framework]) -> None:
        self._framework = framework

    @hookimpl
    def frameworks(self) -> list[type[Framework]]:
        return [self._framework]


def loaded(**members: Any) -> PluginRecord:
    """Of a plugin with a framework that has these members."""
    framework = type("Probe", (Framework,), {"name": "probe", "documents": {"wish": Wish}, **members})
    host = PluginHost(Settings(), [("probe", Plugin(framework))], found=[])
    host.load()
    host.collect("frameworks")
    (record,) = host.records()
    return record


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ({"name": "pro/be"}, "framework pro/be: name: expected a text without \"/\", got 'pro/be'"),
        ({"name": "pro\0be"}, "contains a zero character"),
        ({"name": "\ud800"}, "is not valid Unicode text"),
        ({"name": 5}, 'Probe: name: expected a text without "/", got 5'),
        (
            {"documents": {"do/c": Wish}},
            "framework probe: kind in documents: expected a text without \"/\", got 'do/c'",
        ),
        ({"documents": {"": Wish}}, "a key must not be empty"),
        ({"documents": {5: Wish}}, "got 5"),
        ({"documents": [Wish]}, "framework probe: documents: expected a mapping of kinds to attrs classes"),
        ({"documents": {"doc": dict}}, "documents['doc']: expected an attrs class, got <class 'dict'>"),
        ({"documents": {"doc": object}}, "documents['doc']: expected an attrs class, got <class 'object'>"),
        ({"documents": {"doc": Wish()}}, "documents['doc']: expected an attrs class, got Wish(copies=0)"),
        ({"version": "2"}, "framework probe: version: expected a whole number from 1 on, got '2'"),
        ({"version": 0}, "from 1 on, got 0"),
        ({"version": True}, "from 1 on, got True"),
        ({"version": 2.0}, "from 1 on, got 2.0"),
        ({"version": 2}, "expected steps from every version before 2, and there are none from 1 ({}"),
        ({"version": 4, "migrations": {2: {}}}, "there are none from 1, 3"),
        ({"version": 2, "migrations": {"1": {}}}, "there are none from 1"),
        (
            {"version": 2, "migrations": None},
            "expected a mapping of versions to mappings of kinds to functions, got None",
        ),
        ({"version": 2, "migrations": [{}]}, "expected a mapping of versions"),
        ({"version": 2, "migrations": {1: same}}, "for version 1"),
        ({"version": 2, "migrations": {1: {"wish": "same"}}}, "got 'same' for 'wish' in version 1"),
    ],
)
def test_what_could_not_be_read_again_is_refused(members: dict[str, Any], why: str) -> None:
    record = loaded(**members)
    assert record.state == "failed"
    assert why in record.error
    assert record.retry_at_s is None


class OwnWay(Framework):
    name: ClassVar[str] = "own-way"
    version: ClassVar[int] = 7

    @classmethod
    def migrate(cls, kind: str, document: dict[str, Any], from_version: int) -> dict[str, Any]:
        return document


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"documents": {}},
        {"name": "Pro be.1"},
        {"version": 2, "migrations": {1: {}}},
        {"version": 3, "migrations": {1: {"wish": same}, 2: {"wish": None}, 3: {"wish": same}}},
        {"version": 7, "migrate": vars(OwnWay)["migrate"]},
    ],
)
def test_what_can_be_read_is_taken(members: dict[str, Any]) -> None:
    record = loaded(**members)
    assert (record.state, record.error, record.warnings) == ("loaded", "", ())


def test_frameworks_that_inherit_their_way_are_taken() -> None:
    class Later(OwnWay):
        version = 9

    check_framework(Later)


def test_a_step_for_a_kind_without_a_class_is_a_warning() -> None:
    record = loaded(version=2, migrations={1: {"wisch": same}})
    assert record.state == "loaded"
    assert record.warnings == ("framework probe: migrations[1]: documents has no kind 'wisch'; did you mean \"wish\"?",)


def test_orlops_own_frameworks_are_taken() -> None:
    from orlop_chronos.framework import Chronos
    from orlop_marathon.framework import Marathon
    from orlop_swarm.framework import Swarm

    for framework in (*builtin.frameworks(), Chronos, Marathon, Swarm):
        check_framework(framework)
