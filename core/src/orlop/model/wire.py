"""A session's messages as bytes: one JSON object each, `{"v": 1, "type": "hello", ...}`.

Reading is strict: an unknown type, a message that belongs to the other direction, a wrong type of a value and a newer
version are errors that say so. One message is readable in every version, so that both sides can always tell why they
part: `refused`, whose form never changes.

The members of a message are those of its class, without those that have their default value. Members that are not
known are passed over: a version grows only when an older reader would misunderstand.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, get_args

import attrs
import orjson

from orlop.model.documents import VERSION, DocumentError, from_plain, to_plain
from orlop.model.messages import (
    Assignment,
    Assignments,
    Goodbye,
    Heartbeat,
    Hello,
    OpenStreams,
    Received,
    Refused,
    Statuses,
    ToAgent,
    ToServer,
    Welcome,
)

#: The largest message of a session; what is larger is refused unread.
MESSAGE_BYTES_MAX: Final = 32 * 2**20
#: Assignments are cut into pieces of about this size. A single task's is far below the difference.
PIECE_BYTES: Final = 8 * 2**20

_TO_SERVER: Final[dict[str, type]] = {
    "hello": Hello,
    "statuses": Statuses,
    "heartbeat": Heartbeat,
    "goodbye": Goodbye,
}
_TO_AGENT: Final[dict[str, type]] = {
    "welcome": Welcome,
    "refused": Refused,
    "assignments": Assignments,
    "received": Received,
    "open-streams": OpenStreams,
}
_NAMES: Final = {cls: name for name, cls in (_TO_SERVER | _TO_AGENT).items()}
assert set(_NAMES) == {*get_args(ToServer), *get_args(ToAgent)}, "each message has a name on the wire"


class WireError(ValueError):
    """A message that cannot be read; the text says what is wrong with it."""


class WrongVersion(WireError):
    """A message of a version that this program does not speak; the text names both."""

    def __init__(self, found: int) -> None:
        super().__init__(f"the other side speaks version {found} of the session, and this one speaks version {VERSION}")
        self.found = found


def encode(message: ToServer | ToAgent) -> bytes:
    """The bytes of a message."""
    return orjson.dumps({"v": VERSION, "type": _NAMES[type(message)], **to_plain(message)})


#: What an agent says most often: whoever knows these bytes need not read them.
HEARTBEAT_BYTES: Final = encode(Heartbeat())


def decode_to_server(data: bytes) -> ToServer:
    """What an agent says. Raises WireError, WrongVersion."""
    message: ToServer = decode(data, _TO_SERVER, _TO_AGENT, "an agent")
    return message


def decode_to_agent(data: bytes) -> ToAgent:
    """What a server says. Raises WireError, WrongVersion."""
    message: ToAgent = decode(data, _TO_AGENT, _TO_SERVER, "a server")
    return message


def encode_in_pieces(message: ToServer | ToAgent, bytes_max: int = PIECE_BYTES) -> Iterator[bytes]:
    """The bytes of a message, or, of many assignments, those of several that mean the same in this order."""
    whole = encode(message)
    if isinstance(message, Assignments) and len(whole) > bytes_max:
        yield from map(encode, _pieces(message, bytes_max))
    else:
        yield whole


def _pieces(message: Assignments, bytes_max: int) -> Iterator[Assignments]:
    *first, last = _slices(message.items, bytes_max)
    for items in first:
        yield attrs.evolve(message, full=False, items=items)
    also = tuple(item.task for items in first for item in items) if message.full else ()
    yield attrs.evolve(message, items=last, also=(*message.also, *also))


def _slices(items: tuple[Assignment, ...], bytes_max: int) -> list[tuple[Assignment, ...]]:
    """At least one, in order; each of about `bytes_max`, or of a single item."""
    slices: list[list[Assignment]] = [[]]
    room = bytes_max
    for item in items:
        size = len(orjson.dumps(to_plain(item)))
        if size > room and slices[-1]:
            slices.append([])
            room = bytes_max
        slices[-1].append(item)
        room -= size
    return [tuple(part) for part in slices]


def decode(data: bytes, ours: Mapping[str, type], others: Mapping[str, type], sender: str) -> Any:
    """A message of one of these kinds. others: what is known, and not for the sender to say.

    Raises WireError, WrongVersion.
    """
    try:
        document = orjson.loads(data)
    except orjson.JSONDecodeError as error:
        raise WireError(f"a message is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise WireError("a message is not a JSON object")
    version, kind = document.pop("v", None), document.pop("type", None)
    if type(version) is not int or not isinstance(kind, str):
        raise WireError("a message has no version or no type")
    if version != VERSION and not (kind == "refused" and kind in ours):
        raise WrongVersion(version)
    cls = ours.get(kind)
    if cls is None:
        wrong = f"not one that {sender} sends" if kind in others else "unknown"
        raise WireError(f"a message's type is {wrong}: {kind[:40]!r}")
    try:
        return from_plain(document, cls, f"a {kind} message")
    except DocumentError as error:
        raise WireError(str(error)) from error
