"""Streams of progress (`pull`, `load`, `import`, `build`) of several engines as the one that a client can show.

A client keeps one line a layer. Of each layer it is told where the slowest node is with it, so that a line never goes
back and "complete" means complete everywhere. What is not about a layer is said once, when the last node has said it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import orjson

from orlop_swarm.merging.answers import joined

Message = dict[str, Any]

#: What a layer goes through, as engines call it. A layer that is there already needs nothing.
STEPS: Final = (
    "Pulling fs layer",
    "Waiting",
    "Downloading",
    "Retrying",
    "Verifying Checksum",
    "Download complete",
    "Loading layer",
    "Extracting",
    "Pull complete",
    "Already exists",
)
_DONE: Final = STEPS.index("Pull complete")
#: A line longer than this is no progress message.
LINE_BYTES_MAX: Final = 2**20
#: Of two results of the same pull, the one that tells of work done.
NEWER: Final = "Status: Downloaded newer image"
SAME: Final = "Status: Image is up to date"


class Lines:
    """Cuts an engine's stream into its messages, wherever the pieces were cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[Message]:
        """Raises ValueError for what is no message."""
        *lines, self._rest = (self._rest + piece).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            raise ValueError("a line of progress is too long")
        return [orjson.loads(line) for line in lines if line.strip()]

    def end(self) -> list[Message]:
        """What had no line's end. Raises ValueError."""
        rest, self._rest = self._rest, b""
        return [orjson.loads(rest)] if rest.strip() else []


def encoded(messages: Iterable[Message]) -> bytes:
    """As an engine writes them."""
    return b"".join(orjson.dumps(message) + b"\r\n" for message in messages)


def _rank(message: Message) -> tuple[int, float]:
    """How far a layer is; what is not known counts as done."""
    detail = message.get("progressDetail") or {}
    current, total = detail.get("current") or 0, detail.get("total") or 0
    status = str(message.get("status", ""))
    step = next((number for number, name in enumerate(STEPS) if status.startswith(name)), len(STEPS))
    return step, (current / total if total else 0.0)


def _is_done(message: Message) -> bool:
    return _rank(message)[0] >= _DONE


class Progress:
    """Of one request to several nodes. nodes: the names of all that were asked.

    Its methods return what the client is to be told now.
    """

    def __init__(self, nodes: Iterable[str]) -> None:
        self._working = set(nodes)
        self._done: set[str] = set()
        self._failed: dict[str, str] = {}
        #: By layer: where each node is with it, and what the client was told last.
        self._layers: dict[str, dict[str, Message]] = {}
        self._told: dict[str, Message] = {}
        #: What is not about a layer, by its text: the message, and who has said it.
        self._said: dict[str, tuple[Message, set[str]]] = {}

    def said(self, node: str, message: Message) -> list[Message]:
        """The node's next message."""
        if "error" in message or "errorDetail" in message:
            detail = message.get("errorDetail") or {}
            return self.failed(node, str(message.get("error") or detail.get("message") or "failed"))
        layer = message.get("id")
        if layer and "status" in message:
            self._layers.setdefault(layer, {})[node] = message
            return self._news_of(layer)
        key = _key(message)
        known, nodes = self._said.get(key, (message, set()))
        self._said[key] = (message if _tells_of_work(message) else known, nodes | {node})
        return self._said_by_all()

    def ended(self, node: str) -> list[Message]:
        """The node's stream has ended in good order."""
        if node not in self._failed:
            self._done.add(node)
        return self._gone(node)

    def failed(self, node: str, reason: str) -> list[Message]:
        """The node cannot do it, or is away."""
        self._failed.setdefault(node, reason)
        self._done.discard(node)
        return self._gone(node)

    @property
    def done(self) -> list[str]:
        """The nodes that have done it, by name."""
        return sorted(self._done)

    def error(self) -> Message | None:
        """The last message of all, when a node has failed: the words of one engine, unless nodes differ."""
        if not self._failed:
            return None
        text = joined({node: self._failed[node] for node in sorted(self._failed)}, self.done)
        return {"errorDetail": {"message": text}, "error": text}

    def _gone(self, node: str) -> list[Message]:
        """Nobody waits for this node any longer."""
        self._working.discard(node)
        news = []
        for layer, seen in self._layers.items():
            if node in seen and len(seen) > 1 and not _is_done(seen[node]):
                del seen[node]
            news += self._news_of(layer)
        return news + self._said_by_all()

    def _news_of(self, layer: str) -> list[Message]:
        """The slowest node's word, if that is further than what was told. "Done" is told when all are."""
        seen, told = self._layers[layer], self._told.get(layer)
        slowest = min(seen.values(), key=_rank)
        if _is_done(slowest) and not self._working <= seen.keys():
            return []
        if told is not None and (told == slowest or _rank(slowest) < _rank(told)):
            return []
        self._told[layer] = slowest
        return [slowest]

    def _said_by_all(self) -> list[Message]:
        """What all have said that still work or have done it; once nobody works, what anybody has said."""
        waited_for = self._working | self._done if self._working else set()
        ready = [key for key, (_, nodes) in self._said.items() if waited_for <= nodes]
        return [self._said.pop(key)[0] for key in ready]


def _tells_of_work(message: Message) -> bool:
    return str(message.get("status", "")).startswith(NEWER)


def _key(message: Message) -> str:
    """Equal for messages that say the same thing of one request."""
    if str(message.get("status", "")).startswith((NEWER, SAME)):
        return "Status:"
    return orjson.dumps(message, option=orjson.OPT_SORT_KEYS).decode()
