"""The supervisor as a program: requests, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from supervised_node import SLEEP, Node, is_alive

from orlop.agent.supervisor import journal, spawn


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[]", b"{}", b'{"do":"dance"}', b'{"do":"kill","task":"x"}', b'{"do":"kill","task":[]}',
     b'{"do":"signal","task":"a","signal":"x"}', b'{"do":"forget","task":"a"}', b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_answered_and_harms_nothing(node: Node, line: bytes) -> None:
    client, _ = node.open()
    client.send(**node.request("a", *SLEEP))
    pid = client.wait_for("started", "a")["task"]["pid"]
    client.socket.sendall(line + b"\n")
    assert client.wait_for("error")["reason"]
    assert is_alive(pid)


def test_a_forgotten_task_is_gone_for_good(node: Node) -> None:
    client, _ = node.open()
    client.send(**node.request("a", "/bin/true"))
    client.ended("a")
    client.send(do="forget", task="a")
    client.wait_for("forgotten", "a")
    client.send(do="list")
    assert client.wait_for("list")["tasks"] == []
    assert journal.replay((node.data / "supervisor.journal").read_bytes()) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
start_members = ["task", "incarnation", "folder", "arguments", "environment", "directory", "stdout", "user", "groups"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(start_members), json_values), st.sampled_from(start_members))
def test_a_bad_start_is_nothing_but_a_value_error(damage: dict[str, Any], left_out: str) -> None:
    message = {**Node(Path("/")).request("a", "x"), **damage}
    message.pop(left_out, None)
    try:
        start = spawn.Start(message)
    except ValueError:
        return
    assert all(isinstance(argument, bytes) for argument in start.arguments)
