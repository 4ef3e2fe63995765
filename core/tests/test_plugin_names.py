"""Plugins whose frameworks have one name: none of them may take another's tasks for its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from serving import Serving, eventually, serving

from orlop.configuration import Settings
from orlop.framework import Action, Ask, Framework, Kill, Process, View
from orlop.hookspecs import hookimpl
from orlop.server.plugin_checks import name_clashes
from orlop.server.plugin_host import PluginHost, PluginRecord
from orlop.store.memory import MemoryStore


def framework(called: str, key: str) -> type[Framework]:
    """Wants one task, and no other."""

    class OneTask(Framework):
        name = called

        def reconcile(self, view: View) -> Iterator[Action]:
            if key not in view.live:
                yield Ask(key, run=Process("sleep 1000"))
            for other in view.live.keys() - {key}:
                yield Kill(other)

    return OneTask


class Plugin:
    """Has these frameworks; fails as often as it is told to."""

    def __init__(self, *frameworks: type[Framework], failures: int = 0) -> None:
        self._frameworks = frameworks
        self._failures = failures
        self.calls = 0

    @hookimpl
    def frameworks(self) -> Sequence[type[Framework]]:
        self.calls += 1
        self._failures -= 1
        if self._failures >= 0:
            raise RuntimeError("not today")
        return self._frameworks


def host(settings: Mapping[str, Any] | None = None, **plugins: Plugin) -> PluginHost:
    made = PluginHost(Settings(plugins=dict(settings or {})), list(plugins.items()), found=[])
    made.load()
    return made


def records(made: PluginHost) -> dict[str, PluginRecord]:
    return {record.name: record for record in made.records()}


@pytest.mark.parametrize(
    ("claims", "refused"),
    [
        ({"a": ["a"], "b": ["b", "c"]}, {}),
        ({"a": ["x"], "b": ["x"]}, {"a": "b", "b": "a"}),
        ({"a": ["x"], "b": ["x"], "c": ["x"], "d": ["d"]}, {"a": "b, c", "b": "a, c", "c": "a, b"}),
        ({"a": ["b"], "b": ["b"]}, {"a": "the plugin b's"}),
        ({"a": ["x", "b"], "b": ["b"], "c": ["x"]}, {"a": "c", "c": "a"}),
    ],
)
def test_whose_framework_it_is(claims: dict[str, list[str]], refused: dict[str, str]) -> None:
    reasons = name_clashes(claims)
    assert reasons.keys() == refused.keys()
    for plugin, named in refused.items():
        assert f" {named}" in reasons[plugin]


def test_both_fail_and_name_each_other_and_are_not_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    made = host(
        early=Plugin(framework("probe", "early")),
        late=Plugin(framework("probe", "late")),
        other=Plugin(framework("other", "x")),
    )
    made.refuse_namesakes()
    found = records(made)
    assert made.names() == ["other"]
    assert "its framework probe has the name of one of late" in found["early"].error
    assert "its framework probe has the name of one of early" in found["late"].error
    assert made.due_retries(1e12) == []
    assert "plugin early: its framework probe" in caplog.text
    assert "plugin late: its framework probe" in caplog.text


def test_who_has_the_frameworks_name_keeps_it_whatever_state_it_is_in() -> None:
    for broken in (False, True):
        made = host(
            probe=Plugin(framework("swarm", "x")), swarm=Plugin(framework("swarm", "y"), failures=9 if broken else 0)
        )
        made.refuse_namesakes()
        assert made.names() == ([] if broken else ["swarm"])
        assert "the plugin swarm's" in records(made)["probe"].error
    made = host({"swarm": {"unknown": 1}}, probe=Plugin(framework("swarm", "x")), swarm=Plugin(framework("swarm", "y")))
    made.refuse_namesakes()
    assert {name: one.state for name, one in records(made).items()} == {
        "probe": "failed",
        "swarm": "configuration-error",
    }


def test_one_plugin_has_no_two_frameworks_of_one_name() -> None:
    made = host(probe=Plugin(framework("probe", "x"), framework("probe", "y")))
    assert "2 of its frameworks are named probe: expected a name for each" in records(made)["probe"].error


def test_one_that_recovers_as_a_namesake_leaves_the_other_alone() -> None:
    made = host(early=Plugin(framework("probe", "x"), failures=1), late=Plugin(framework("probe", "y")))
    made.refuse_namesakes()
    assert made.names() == ["late"]
    assert made.retry("early").state == "loaded"
    made.refuse_namesakes(only="early")
    assert made.names() == ["late"]
    assert "one of late" in records(made)["early"].error


def test_a_plugin_is_asked_for_its_frameworks_once_each_time_it_is_loaded() -> None:
    ok, failing, misconfigured = Plugin(framework("ok", "x")), Plugin(failures=9), Plugin(framework("bad", "x"))
    made = host({"bad": {"unknown": 1}}, ok=ok, failing=failing, bad=misconfigured)
    made.refuse_namesakes()
    assert [name for name, _ in made.collect("frameworks")] == ["ok"]
    assert made.claims() == {"ok": ("ok",), "failing": ("failing",), "bad": ("bad",)}
    assert (ok.calls, failing.calls, misconfigured.calls) == (1, 1, 1)
    made.retry("ok")
    made.collect("frameworks")
    assert ok.calls == 2


def tasks(one: Serving) -> dict[str, Any]:
    return {task.key: task.desired for task in one.server.state().tasks.values()}


async def test_tasks_of_namesakes_go_on(tmp_path: Path) -> None:
    store = MemoryStore()
    late = Plugin(framework("probe", "late"))
    async with serving(tmp_path, auth=False, store=store, more_plugins={"late": late}) as one:
        await eventually(lambda: "late" in tasks(one), "late's task is asked for")
        before = tasks(one)
    early = Plugin(framework("probe", "early"))
    bystander = Plugin(framework("other", "other"))
    both = {"early": early, "late": late, "other": bystander}
    async with serving(tmp_path, auth=False, store=store, more_plugins=both) as one:
        await eventually(lambda: "other" in tasks(one), "the bystander's task is asked for")
        assert "probe" not in one.server.framework_status()
        assert {key: desired for key, desired in tasks(one).items() if key != "other"} == before
