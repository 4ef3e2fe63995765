"""Keeps what is known of an engine beside this cluster's tasks true to it, on threads of its own.

The engine's events say what to look at again: they are hints, so that doubled, late or replayed ones do no harm. What
comes within a moment is looked at together. Events of the tasks themselves are passed over. Some changes have no event
(an image that BuildKit has made), so all is looked at again now and then; and after each reconnection.

While the engine is away what it said last stays, for its containers may go on.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import attrs

from orlop.agent.runtimes.docker_engine import (
    BACKOFF_FIRST_S,
    BACKOFF_LAST_S,
    CLOSE_WITHIN_S,
    EVENTS_OVERLAP_S,
    LIST_TIMEOUT_S,
    connect,
)
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused, engine_errors
from orlop.agent.runtimes.docker_events import Events
from orlop.agent.runtimes.docker_facts import bounded, engine_of, foreign_of, image_of, is_task
from orlop.model.facts import EngineFacts, ForeignContainer, Image, NodeFacts

#: What comes within so much time of an event is looked at together with it.
GATHER_S: Final = 0.1
#: Most events are of tasks, and the thread that reads them shall not be in the way of the tasks' own starts.
READ_EVERY_S: Final = 0.1
#: So often all is looked at again.
LOOK_AGAIN_S: Final = 30.0
#: Kinds of events, and what of them may change a fact.
_EVENTS: Final = {
    "type": ["container", "image", "daemon"],
    "event": [
        "create", "start", "die", "pause", "unpause", "rename", "update", "destroy", "commit",
        "pull", "tag", "untag", "delete", "load", "import", "reload",
    ],
}  # fmt: skip

_log = logging.getLogger(__name__)


@attrs.define
class _Changed:
    """What is to be looked at again. containers: by their ids."""

    containers: set[str] = attrs.field(factory=set)
    images: bool = False
    engine: bool = False

    def note(self, event: Mapping[str, Any], cluster: str) -> bool:
        """Does the event say that there is something to look at?"""
        kind, action, actor = event.get("Type"), event.get("Action"), event.get("Actor") or {}
        if kind == "container" and action != "commit":
            if is_task(actor.get("Attributes") or {}, cluster):
                return False
            self.containers.add(actor["ID"])
        elif kind == "daemon":
            self.engine = True
        else:
            self.images = True
        return True


class _Seen:
    """What was seen of one engine."""

    def __init__(self, client: Any, cluster: str) -> None:
        self._client = client
        self._cluster = cluster
        self._engine = EngineFacts()
        self._images: list[Image] = []
        self._containers: dict[str, ForeignContainer] = {}

    @property
    def facts(self) -> NodeFacts:
        return bounded(self._engine, self._images, self._containers.values())

    def look_at_all(self) -> None:
        """Raises EngineLost, EngineRefused."""
        with engine_errors():
            listing = self._client.containers(all=True)
        self._containers = {
            item["Id"]: self._containers[item["Id"]] for item in listing if item["Id"] in self._containers
        }
        changed = _Changed(images=True, engine=True)
        for item in listing:
            known = self._containers.get(item["Id"])
            if not is_task(item.get("Labels") or {}, self._cluster) and (known is None or known.state != item["State"]):
                changed.containers.add(item["Id"])
        self.look(changed)

    def look(self, changed: _Changed) -> None:
        """Raises EngineLost, EngineRefused."""
        with engine_errors():
            if changed.engine:
                self._engine = engine_of(self._client.info())
            if changed.images:
                self._images = [image_of(item) for item in self._client.images()]
        for container in changed.containers:
            found = self._inspect(container)
            if found is None:
                self._containers.pop(container, None)
            else:
                self._containers[container] = found

    def _inspect(self, container: str) -> ForeignContainer | None:
        try:
            with engine_errors():
                return foreign_of(self._client.inspect_container(container), self._cluster)
        except EngineRefused as error:
            if error.status == 404:
                return None
            raise


class _Reader:
    """Reads events on a thread of its own. To be closed by whoever made it."""

    def __init__(self, stream: Events, cluster: str) -> None:
        self._stream = stream
        self._cluster = cluster
        self._changed: _Changed | None = None
        self.ended = False
        #: Guards all that the threads share.
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="orlop-docker-facts-events", daemon=True)
        self._thread.start()

    def next(self) -> _Changed | None:
        """What is to be looked at next; None for all. After the end: anything."""
        with self._news:
            self._news.wait_for(lambda: self._changed is not None or self.ended, LOOK_AGAIN_S)
            if self._changed is not None:
                self._news.wait_for(lambda: self.ended, GATHER_S)
            changed, self._changed = self._changed, None
            return changed

    def end(self) -> None:
        """Nobody waits any more. From any thread."""
        with self._news:
            self.ended = True
            self._news.notify_all()
        self._stream.cut()

    def close(self) -> None:
        self.end()
        self._thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        """Until they end, for whatever reason."""
        try:
            with contextlib.suppress(EngineLost):
                for event in self._stream:
                    self._note(event)
        finally:
            self.end()
            self._stream.close()

    def _note(self, event: Mapping[str, Any]) -> None:
        with self._news:
            changed = self._changed or _Changed()
            if changed.note(event, self._cluster):
                self._changed = changed
                self._news.notify_all()


class FactsFollower:
    """See the module. tell: is called with all facts, on a thread of this, at first and whenever they have changed."""

    def __init__(self, url: str, cluster: str, tell: Callable[[NodeFacts], None]) -> None:
        self._url = url
        self._cluster = cluster
        self._tell = tell
        self._told: NodeFacts | None = None
        self._closed = threading.Event()
        self._reader: _Reader | None = None
        self._thread = threading.Thread(target=self._run, name="orlop-docker-facts", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Blocks until the thread has ended, or is found waiting for an engine that does not answer."""
        self._closed.set()
        if self._reader is not None:
            self._reader.end()
        self._thread.join(CLOSE_WITHIN_S)

    def _run(self) -> None:
        backoff_s = BACKOFF_FIRST_S
        while not self._closed.is_set():
            try:
                with contextlib.closing(connect(self._url, LIST_TIMEOUT_S)) as client:
                    self._follow(client)
                backoff_s = BACKOFF_FIRST_S
            except (EngineLost, EngineRefused) as error:
                _log.debug("facts of the Docker Engine at %s cannot be read: %s", self._url, error)
            except Exception:  # noqa: BLE001 - the thread must live: nothing else looks at the engine again
                _log.exception("a bug in the docker runtime")
            self._closed.wait(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    def _follow(self, client: Any) -> None:
        """Until the engine goes away. Raises EngineLost, EngineRefused."""
        since_s = int(time.time()) - EVENTS_OVERLAP_S
        stream = Events(
            self._url,
            client.api_version,
            since_s=since_s,
            filters=_EVENTS,
            timeout_s=LIST_TIMEOUT_S,
            pause_s=READ_EVERY_S,
        )
        self._reader = reader = _Reader(stream, self._cluster)
        with contextlib.closing(reader):
            seen = _Seen(client, self._cluster)
            seen.look_at_all()
            while not (self._closed.is_set() or reader.ended):
                self._say(seen.facts)
                changed = reader.next()
                if changed is not None:
                    seen.look(changed)
                elif not (self._closed.is_set() or reader.ended):
                    seen.look_at_all()

    def _say(self, facts: NodeFacts) -> None:
        if facts != self._told:
            self._told = facts
            self._tell(facts)
