"""A session's messages as bytes: one JSON object each, `{"v": 1, "type": "hello", ...}`.

Reading is strict: an unknown type, a message that belongs to the other direction, a wrong type of a value and another
version are errors that say so. One message is readable in every version, so that both sides can always tell why they
part: `refused`, whose form never changes.

The members of a message are those of its class, without those that have their default value. Members that are not
known are passed over: a version grows only when an older reader would misunderstand. A kind of message that is new
needs no new version either: it is sent to those only whose hello, or welcome, says that they understand it.

Which version is spoken is settled before the first message: the agent names those it speaks as the WebSocket's
protocols, and the server picks the highest that both know. An agent that names none speaks the first version, and so
does a server that picks none. A program keeps a *step* for each version that it still speaks, see `Language`, and
thinks in the newest one only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Final, get_args

import attrs
import orjson

from orlop.model.documents import VERSION, DocumentError, from_plain, to_plain
from orlop.model.messages import (
    CLOCK,
    FACTS,
    RENEW,
    Assignment,
    Assignments,
    ClockReading,
    Facts,
    Goodbye,
    Heartbeat,
    Hello,
    OpenStreams,
    Received,
    Refused,
    RenewCertificate,
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
    FACTS: Facts,
    CLOCK: ClockReading,
}
_TO_AGENT: Final[dict[str, type]] = {
    "welcome": Welcome,
    "refused": Refused,
    "assignments": Assignments,
    "received": Received,
    "open-streams": OpenStreams,
    RENEW: RenewCertificate,
}
_NAMES: Final = {cls: name for name, cls in (_TO_SERVER | _TO_AGENT).items()}
assert set(_NAMES) == {*get_args(ToServer), *get_args(ToAgent)}, "each message has a name on the wire"


class WireError(ValueError):
    """A message that cannot be read; the text says what is wrong with it."""


class WrongVersion(WireError):
    """A message of a version that this program does not speak; the text names both."""

    def __init__(self, found: int, spoken: str = str(VERSION)) -> None:
        super().__init__(f"the other side speaks version {found} of the session, and this one speaks version {spoken}")
        self.found = found


#: A message's type and its members in one version → its members in another. Pure.
Translate = Callable[[str, dict[str, Any]], dict[str, Any]]


@attrs.frozen
class Step:
    """From a version to the next. up: what an earlier side says, in the later one's words. down: the other way."""

    up: Translate
    down: Translate


@attrs.frozen
class Dialect:
    """One version of the session. steps: from it to the newest one, in which messages are."""

    version: int = VERSION
    steps: tuple[Step, ...] = ()

    def encode(self, message: ToServer | ToAgent) -> bytes:
        """The bytes of a message."""
        kind, members = _NAMES[type(message)], to_plain(message)
        for step in reversed(self.steps):
            members = step.down(kind, members)
        return orjson.dumps({"v": self.version, "type": kind, **members})

    def decode_to_server(self, data: bytes) -> ToServer:
        """What an agent says. Raises WireError, WrongVersion."""
        message: ToServer = decode(data, _TO_SERVER, _TO_AGENT, "an agent", self)
        return message

    def decode_to_agent(self, data: bytes) -> ToAgent:
        """What a server says. Raises WireError, WrongVersion."""
        message: ToAgent = decode(data, _TO_AGENT, _TO_SERVER, "a server", self)
        return message

    def encode_in_pieces(self, message: ToServer | ToAgent, bytes_max: int = PIECE_BYTES) -> Iterator[bytes]:
        """The bytes of a message, or, of many assignments, those of several that mean the same in this order.

        A hello that is too large with its facts goes without them: they are told after the welcome.
        """
        whole = self.encode(message)
        if isinstance(message, Hello) and message.facts is not None and len(whole) > MESSAGE_BYTES_MAX:
            whole = self.encode(attrs.evolve(message, facts=None))
        if isinstance(message, Assignments) and len(whole) > bytes_max:
            yield from map(self.encode, _pieces(message, bytes_max))
        else:
            yield whole


@attrs.frozen
class Language:
    """The versions of the session that a program speaks: the oldest, and one more for each step."""

    oldest: int = VERSION
    steps: tuple[Step, ...] = ()

    @property
    def newest(self) -> int:
        """In which it thinks."""
        return self.oldest + len(self.steps)

    @property
    def spoken(self) -> str:
        """For people."""
        return str(self.newest) if not self.steps else f"{self.oldest} to {self.newest}"

    def offers(self) -> tuple[str, ...]:
        """What an agent names, the best first. Nothing where that would say no more than silence does."""
        if self.newest == VERSION:
            return ()
        return tuple(f"{_PROTOCOL}{version}" for version in range(self.newest, self.oldest - 1, -1))

    def pick(self, offered: Iterable[str]) -> tuple[str | None, Dialect]:
        """What a server picks of the protocols that it was offered, and what it means. Raises WrongVersion."""
        versions: dict[int, str | None] = {VERSION: None}
        if known := {version: text for text in offered if (version := _version_of(text)) is not None}:
            versions = dict(known)
        common = [version for version in versions if self.oldest <= version <= self.newest]
        if not common:
            raise WrongVersion(max(versions), self.spoken)
        return versions[max(common)], self.dialect(max(common))

    def agreed(self, picked: str | None) -> Dialect:
        """What it means to an agent that the server has picked this protocol, or none. Raises WrongVersion."""
        return self.dialect(_version_of(picked or "") or VERSION)

    def dialect(self, version: int) -> Dialect:
        """Raises WrongVersion."""
        if not self.oldest <= version <= self.newest:
            raise WrongVersion(version, self.spoken)
        return Dialect(version, self.steps[version - self.oldest :])


_PROTOCOL: Final = "orlop.session."


def _version_of(protocol: str) -> int | None:
    number = protocol.removeprefix(_PROTOCOL)
    return int(number) if protocol.startswith(_PROTOCOL) and number.isascii() and number.isdigit() else None


#: What this program speaks.
LANGUAGE: Final = Language()
_PRESENT: Final = LANGUAGE.dialect(LANGUAGE.newest)
encode = _PRESENT.encode
decode_to_server = _PRESENT.decode_to_server
decode_to_agent = _PRESENT.decode_to_agent
encode_in_pieces = _PRESENT.encode_in_pieces


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


def decode(
    data: bytes, ours: Mapping[str, type], others: Mapping[str, type], sender: str, dialect: Dialect | None = None
) -> Any:
    """A message of one of these kinds. others: what is known, and not for the sender to say. dialect: else the first.

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
    expected = dialect.version if dialect is not None else VERSION
    same_in_all = kind == "refused" and kind in ours
    if version != expected and not same_in_all:
        raise WrongVersion(version, str(expected))
    cls = ours.get(kind)
    if cls is None:
        wrong = f"not one that {sender} sends" if kind in others else "unknown"
        raise WireError(f"a message's type is {wrong}: {kind[:40]!r}")
    try:
        for step in dialect.steps if dialect is not None and not same_in_all else ():
            document = step.up(kind, document)
        return from_plain(document, cls, f"a {kind} message")
    except DocumentError as error:
        raise WireError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of a step
        raise WireError(f"a {kind} message of version {version} cannot be read: {error!r}") from error
