"""When an agent's connection is tried again, pinged and given up: decisions, and what the system is told."""

from __future__ import annotations

import asyncio
import socket
import sys

import pytest

from orlop.agent import lifeline
from orlop.agent.lifeline import PING_S, SILENT_S, SLACK_S, STUCK_S, Care, Lifeline, Sample, keep_awake

QUIET = Care(unacknowledged_s=SLACK_S)


def sample(outstanding: int = 0, acknowledged: int = 100, received: int = 0) -> Sample:
    return Sample(outstanding=outstanding, acknowledged=acknowledged, received=received)


def test_the_last_try_is_always_a_moment_away() -> None:
    line = Lifeline(0)
    assert line.look(sample(), 1.0) == QUIET
    assert [line.look(sample(1), at).unacknowledged_s for at in (1.25, 2.0, 4.5)] == [
        SLACK_S + 0.25,
        SLACK_S + 1.0,
        SLACK_S + 3.5,
    ]
    assert line.look(sample(1, acknowledged=101), 4.75) == QUIET, "some of it has arrived"
    assert line.look(sample(1, acknowledged=101), 5.0 - 0.01).unacknowledged_s == pytest.approx(SLACK_S + 0.24)
    assert line.look(sample(0, acknowledged=101), 5.0 - 0.005) == QUIET


def test_what_never_arrives_ends_the_connection() -> None:
    line = Lifeline(0)
    line.look(sample(), 10.0)
    assert not line.look(sample(1, received=1), 10.0 + STUCK_S - 0.01).give_up
    assert "has arrived" in line.look(sample(1, received=2), 10.0 + STUCK_S).give_up


def test_who_says_nothing_is_pinged_and_then_given_up() -> None:
    line = Lifeline(0)
    line.look(sample(received=7), 0)
    pinged = [at for at in range(1, 15) if line.look(sample(received=7), at).ping]
    assert pinged == [PING_S]
    assert "was heard" in line.look(sample(received=7), SILENT_S).give_up


def test_one_byte_at_a_time_is_no_silence() -> None:
    line = Lifeline(0)
    assert all(line.look(sample(received=at), 4.9 * at) == QUIET for at in range(100))


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells")
async def test_the_system_is_told_and_a_silent_connection_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifeline, "LOOK_S", 0.01)
    monkeypatch.setattr(lifeline, "PING_S", 0.1)
    monkeypatch.setattr(lifeline, "SILENT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        reader, writer = await asyncio.open_connection(*listening.getsockname())
        other, _ = listening.accept()
        raw = writer.get_extra_info("socket")

        class Plain:
            """A connection whose pings are a byte each."""

            get_extra_info = staticmethod(writer.get_extra_info)

            async def ping(self, message: bytes = b"") -> None:
                writer.write(b"?")

        with other:
            assert await keep_awake(Plain()) == "nothing was heard for 0.3 s"  # type: ignore[arg-type]
            assert raw.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) >= SLACK_S * 1000
            assert other.recv(10) == b"??"
            assert await reader.read() == b"", "it is cut"
            writer.close()
            await writer.wait_closed()
            with pytest.raises(OSError, match="descriptor"):
                await keep_awake(Plain())  # type: ignore[arg-type]
