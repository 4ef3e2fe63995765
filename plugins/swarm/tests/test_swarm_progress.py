"""Streams of progress of several nodes as the one that a client shows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_swarm.merging.progress import STEPS, Lines, Progress, encoded


def layer(id_: str, status: str, current: int = 0, total: int = 0) -> dict[str, Any]:
    detail = {"current": current, "total": total} if total else {}
    return {"status": status, "progressDetail": detail, "id": id_}


def test_a_line_of_a_layer_follows_the_slowest_node() -> None:
    progress = Progress(["a", "b"])
    assert progress.said("a", layer("x", "Downloading", 5, 10)) == [layer("x", "Downloading", 5, 10)]
    assert progress.said("b", layer("x", "Downloading", 2, 10)) == []
    assert progress.said("a", layer("x", "Pull complete")) == []
    assert progress.said("b", layer("x", "Downloading", 6, 10)) == [layer("x", "Downloading", 6, 10)]
    assert progress.said("b", layer("x", "Pull complete")) == [layer("x", "Pull complete")]


def test_complete_means_complete_on_every_node() -> None:
    progress = Progress(["a", "b"])
    assert progress.said("a", layer("x", "Already exists")) == []
    assert progress.said("b", layer("x", "Extracting", 1, 2)) == [layer("x", "Extracting", 1, 2)]
    assert progress.said("b", layer("x", "Pull complete")) == [layer("x", "Pull complete")]


def test_a_node_that_ends_or_fails_is_not_waited_for() -> None:
    progress = Progress(["a", "b", "c"])
    assert progress.said("a", layer("x", "Pull complete")) == []
    assert progress.ended("b") == []
    assert progress.failed("c", "disk full") == [layer("x", "Pull complete")]
    assert progress.ended("a") == []
    assert progress.error() == {
        "errorDetail": {"message": "c: disk full (done on a, b)"},
        "error": "c: disk full (done on a, b)",
    }


def test_what_is_about_no_layer_is_said_once_when_all_have_said_it() -> None:
    progress = Progress(["a", "b"])
    line = {"stream": "Loaded image: busybox:latest\n"}
    assert progress.said("a", line) == []
    assert progress.said("b", line) == [line]
    assert progress.ended("a") == progress.ended("b") == []
    assert progress.error() is None


def test_one_result_of_a_pull_is_told_and_it_tells_of_work() -> None:
    progress = Progress(["a", "b"])
    newer, same = (
        {"status": f"Status: {what} busybox:1"} for what in ("Downloaded newer image for", "Image is up to date for")
    )
    assert progress.said("a", same) == []
    assert progress.said("b", newer) == [newer]


def test_what_only_some_have_said_is_told_at_the_end() -> None:
    progress = Progress(["a", "b"])
    line = {"stream": "only a\n"}
    assert progress.said("a", line) == []
    assert progress.ended("a") == []
    assert progress.ended("b") == [line]


def test_the_same_failure_of_all_nodes_is_said_as_one_engine_says_it() -> None:
    progress = Progress(["a", "b"])
    progress.said("a", {"errorDetail": {"message": "no such tag"}, "error": "no such tag"})
    progress.said("b", {"errorDetail": {"message": "no such tag"}, "error": "no such tag"})
    assert progress.error() == {"errorDetail": {"message": "no such tag"}, "error": "no such tag"}
    assert progress.done == []


def test_a_node_that_has_failed_has_not_done_it_though_its_stream_ends_well() -> None:
    progress = Progress(["a", "b"])
    progress.said("a", {"error": "no"})
    progress.ended("a")
    progress.ended("b")
    assert progress.done == ["b"]


STEP_LISTS = st.lists(st.tuples(st.sampled_from("xy"), st.integers(0, len(STEPS) - 1)), max_size=8)


@given(st.dictionaries(st.sampled_from("abc"), STEP_LISTS, min_size=1), st.randoms(use_true_random=False))
def test_no_line_goes_back_and_every_layer_ends_told(nodes: dict[str, list[tuple[str, int]]], chance: Any) -> None:
    """Whatever the nodes say and in whatever order it comes, each of them going forwards."""
    left = {node: sorted(steps, key=lambda pair: pair[1]) for node, steps in nodes.items()}
    progress = Progress(left)
    lines: dict[str, list[int]] = {}
    while left:
        node = chance.choice(sorted(left))
        if left[node]:
            name, step = left[node].pop(0)
            told = progress.said(node, layer(name, STEPS[step]))
        else:
            del left[node]
            told = progress.ended(node)
        for message in told:
            lines.setdefault(message["id"], []).append(STEPS.index(message["status"]))
    assert set(lines) == {name for steps in nodes.values() for name, _ in steps}
    for steps in lines.values():
        assert steps == sorted(steps)


@given(st.lists(st.dictionaries(st.text(max_size=3), st.text(max_size=5), min_size=1), max_size=5), st.data())
def test_messages_are_read_wherever_the_pieces_are_cut(messages: list[dict[str, str]], data: st.DataObject) -> None:
    raw, lines, read = encoded(messages), Lines(), list[dict[str, Any]]()
    while raw:
        size = data.draw(st.integers(1, len(raw)))
        read += lines.feed(raw[:size])
        raw = raw[size:]
    assert read + lines.end() == messages


def test_a_line_without_an_end_is_refused_before_it_fills_the_memory() -> None:
    lines = Lines()
    assert lines.feed(b"x" * 2**20) == []
    with pytest.raises(ValueError, match="too long"):
        lines.feed(b"x")
