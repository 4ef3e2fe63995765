"""Whatever is done, in any order: no run is doubled, and none overlaps where that is forbidden."""

from __future__ import annotations

from collections.abc import Callable

from chronos_cluster import ChronosCluster
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.framework import Outcome
from orlop.testing.harness import Refused
from orlop_chronos import orders
from orlop_chronos.documents import Cause
from orlop_chronos.errors import ChronosError
from orlop_chronos.framework import Chronos

steps = st.lists(
    st.one_of(
        st.tuples(st.just("advance"), st.sampled_from([0.5, 3, 10, 61])),
        st.tuples(st.just("end"), st.tuples(st.integers(0, 9), st.sampled_from([0, 0, 1]))),
        st.tuples(st.just("lose"), st.integers(0, 9)),
        st.tuples(st.just("start"), st.sampled_from("abcd")),
        st.tuples(st.just("kill"), st.sampled_from("abcd")),
        st.tuples(st.just("disable"), st.tuples(st.sampled_from("abcd"), st.booleans())),
        st.tuples(st.just("pause"), st.booleans()),
        st.tuples(st.just("restart"), st.none()),
        st.tuples(st.just("put"), st.sampled_from("abcd")),
        st.tuples(st.just("delete"), st.tuples(st.sampled_from("abcd"), st.sampled_from(list(orders.Children)))),
    ),
    max_size=25,
)
overlaps = st.sampled_from(["queue", "forbid", "allow", "replace"])


@given(steps, overlaps, st.sampled_from(["none", "one", "all"]), st.sampled_from(["", "PT20S"]))
@settings(max_examples=60)
def test_no_run_is_doubled_and_none_overlaps_where_that_is_forbidden(
    steps: list[tuple[str, object]], overlap: str, catch_up: str, epsilon: str
) -> None:
    cluster = ChronosCluster(history_count=1000)
    common = {"overlap": overlap, "catchUp": catch_up, "epsilon": epsilon, "retryDelay": 5}

    def put(name: str) -> None:
        parents = {"c": ["a"], "d": ["a", "b"]}.get(name)
        if parents is None:
            cluster.put(name, schedule={"a": "R//PT10S", "b": "R9//PT1M"}[name], **common)
        elif set(parents) <= set(cluster.names()):
            cluster.put(name, parents=parents, **common)

    for name in "abcd":
        put(name)
    for what, value in steps:
        try:
            do(cluster, put, what, value)
        except Refused as error:
            assert isinstance(error.reason, ChronosError)
        check(cluster, overlap)


def do(cluster: ChronosCluster, put: Callable[[str], None], what: str, value: object) -> None:
    running = cluster.running()
    match what, value:
        case "advance", float() | int() as seconds:
            cluster.advance(seconds)
        case "end", (int() as which, int() as code) if running:
            cluster.cluster.end_task(running[which % len(running)], code=code)
        case "lose", int() as which if running:
            cluster.cluster.end_task(running[which % len(running)], outcome=Outcome.LOST)
        case "start", str() as name:
            cluster.give(orders.StartJob(name=name))
        case "kill", str() as name:
            cluster.give(orders.KillRuns(name=name))
        case "disable", (str() as name, bool() as disabled):
            cluster.give(orders.SetDisabled(name=name, disabled=disabled))
        case "pause", bool() as paused:
            cluster.give(orders.Pause(paused=paused))
        case "restart", _:
            cluster.cluster.restart(Chronos(cluster.settings))
        case "put", str() as name:
            put(name)
        case "delete", (str() as name, orders.Children() as children):
            cluster.give(orders.DeleteJob(name=name, children=children))
    cluster.cluster.settle()


def check(cluster: ChronosCluster, overlap: str) -> None:
    for name in cluster.names():
        runs = cluster.runs(name)
        live = [task for task in cluster.cluster.live() if task.group == name]
        if overlap != "allow":
            assert len(live) <= 1, live
        nominal = [
            run.nominal_ms for run in runs if run.cause in (Cause.TIME, Cause.CATCH_UP) and run.state != "skipped"
        ]
        assert len(nominal) == len(set(nominal)), "a due time has one run"
        open_runs = {run.number for run in runs if not run.final}
        assert open_runs == set(cluster.progress(name).open_runs)
        active = [run for run in runs if run.state == "active"]
        assert len(active) == len(live), (active, live)
        left = cluster.progress(name).left
        assert left is None or 0 <= left <= 9
