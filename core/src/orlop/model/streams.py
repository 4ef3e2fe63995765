"""What is said on a stream: a connection between server and node for one purpose, such as a task's output.

The server begins with a request; the agent answers whether it is accepted; then both send frames of bytes. An empty
frame ends one direction. What the frames hold depends on the request: output, or what an engine hears and says, as it
is; or, for a command, a byte that names the channel, and what goes through it.
"""

from __future__ import annotations

import enum
from typing import Final

import attrs
import orjson

from orlop.model import wire
from orlop.model.documents import VERSION, to_plain

#: The largest frame; a larger one ends the stream unread.
FRAME_BYTES_MAX: Final = 2**20
#: What is cut into frames is cut into such ones.
CHUNK_BYTES: Final = 64 * 1024
#: The runtime that has an engine.
DOCKER: Final = "docker"


@attrs.frozen(kw_only=True)
class OutputRequest:
    """A task's output: the last `tail` lines (None: all that is kept), then, with `follow`, what comes until its end.

    output: "stdout" or "stderr".
    """

    task: str
    runtime: str
    output: str
    follow: bool = False
    tail: int | None = None


@attrs.frozen(kw_only=True)
class CommandRequest:
    """A command beside a task: its words, and the size of the terminal that it shall have; no terminal without one."""

    task: str
    runtime: str
    words: tuple[str, ...]
    rows: int = 0
    columns: int = 0

    @property
    def terminal(self) -> bool:
        return self.rows > 0 and self.columns > 0


@attrs.frozen(kw_only=True)
class EngineRequest:
    """A connection to the node's Docker Engine: bytes both ways, each direction ended by itself."""

    runtime: str = DOCKER


@attrs.frozen(kw_only=True)
class Accepted:
    """The agent does it; frames follow."""


class Fault(enum.StrEnum):
    """Why a request is rejected."""

    NOT_FOUND = "not-found"
    UNAVAILABLE = "unavailable"
    INVALID = "invalid"


@attrs.frozen(kw_only=True)
class Rejected:
    """The agent does not do it, and why. The stream ends."""

    fault: Fault
    reason: str


class Channel(enum.IntEnum):
    """First byte of a frame of a command's stream. What follows it: bytes; from RESIZE on a JSON object.

    An empty INPUT ends the command's input; an empty OUTPUT only shows that the other end is there. RESIZE: {"rows",
    "columns"}. ENDED: {"code"}, null when it is not known. FAILED: {"error"}: the command could not be run, or what
    runs it went away. The last two end the stream.
    """

    INPUT = 0
    OUTPUT = 1
    ERROR = 2
    RESIZE = 3
    ENDED = 4
    FAILED = 5


StreamRequest = OutputRequest | CommandRequest | EngineRequest
StreamAnswer = Accepted | Rejected

_REQUESTS: Final[dict[str, type]] = {"output": OutputRequest, "command": CommandRequest, "engine": EngineRequest}
_ANSWERS: Final[dict[str, type]] = {"accepted": Accepted, "rejected": Rejected}
_NAMES: Final = {cls: name for name, cls in (_REQUESTS | _ANSWERS).items()}


def encode(message: StreamRequest | StreamAnswer) -> bytes:
    """The first frame of one of the directions."""
    return orjson.dumps({"v": VERSION, "type": _NAMES[type(message)], **to_plain(message)})


def decode_request(data: bytes) -> StreamRequest:
    """What a server asks for. Raises WireError, WrongVersion."""
    request: StreamRequest = wire.decode(data, _REQUESTS, _ANSWERS, "a server")
    return request


def decode_answer(data: bytes) -> StreamAnswer:
    """What an agent answers. Raises WireError, WrongVersion."""
    answer: StreamAnswer = wire.decode(data, _ANSWERS, _REQUESTS, "an agent")
    return answer
