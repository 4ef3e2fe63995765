"""`orlop exec`, what it does not send."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.cli.client import Client
from orlop.cli.execution import FRAME_BYTES_MAX, _Session
from orlop.cli.failures import Failure


class Socket:
    def __init__(self) -> None:
        self.sent: list[str] = []

    async def send_str(self, text: str) -> None:
        self.sent.append(text)


async def test_a_command_that_the_server_would_not_read_is_not_sent() -> None:
    socket: Any = Socket()
    words = ["echo", "x" * FRAME_BYTES_MAX]
    session = _Session(Client("http://127.0.0.1:1"), "t", words, terminal=False, takes_input=False)
    with pytest.raises(Failure, match=r"the command has [0-9]+ bytes, and 1048577 can be sent"):
        await session._talk(socket)
    assert socket.sent == []
