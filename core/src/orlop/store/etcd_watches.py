"""Watches on etcd: every change once and in order, whatever happens to members and connections.

Theory of operation: a watch has a thread that reads one stream of one member, and a bounded queue of what `next` has
not handed out yet. The thread remembers the revision up to which it has seen everything; when the stream ends, for
whatever reason, it opens another one, on a member that answers, from the revision after that. Each stream asks its
member to end it when that member has lost its leader, and gRPC's pings end it when the member is frozen. A revision
that arrives in pieces is queued when its last piece is there. When the queue is full the thread stops reading, and
etcd holds back; if what it holds back is compacted meanwhile, etcd says so, and `next` raises Compacted.

Two things are the client's job. etcd serves a watch that begins exactly at the compacted revision, although deletions
in that revision are forgotten: so, when a stream has been opened, it is checked that the revision before its beginning
can still be read. And a compaction by this very store counts for what the queue holds: a change that was not read
before its revision was compacted is gone, as in the other stores.
"""

from __future__ import annotations

import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any, Final

import grpc

from orlop.store import etcd_protocol as protocol
from orlop.store.etcd_entries import KeySpace
from orlop.store.etcd_errors import EtcdRefused, details_of, is_about_compaction, is_about_the_future, judge
from orlop.store.etcd_members import FIRST_PAUSE_S, Member, Members
from orlop.store.interface import Change, Compacted, StoreError

LONGEST_PAUSE_S: Final = 1.0
#: Of keys and values that wait to be read, and a guess of what each change costs beside these.
QUEUE_BYTES_MAX: Final = 32 * 1024 * 1024
CHANGE_BYTES: Final = 500
CLOSED_WITHIN_S: Final = 5.0


class _Ended(Exception):
    """etcd has ended the stream."""


class _History(Exception):
    """etcd has compacted what the stream should begin with; `oldest` is what it can be read from."""

    def __init__(self, oldest: int) -> None:
        super().__init__(oldest)
        self.oldest = oldest


def oldest_revision(members: Members, keys: KeySpace, within_s: float) -> int | None:
    """The oldest revision that can be read, if that is above 1: etcd tells whom it cannot serve from 1 on.

    None when no member has said so in that time. Raises StoreError.
    """
    request = protocol.messages.WatchRequest(
        create_request=protocol.messages.WatchCreateRequest(key=keys.root, start_revision=1)
    )
    for _ in members.all:
        member = members.usable()
        try:
            with member.stream(protocol.WATCH, request, within_s / len(members.all)) as stream:
                for _ in _batches(member, stream):
                    pass
        except _History as history:
            return history.oldest
        except (_Ended, grpc.RpcError):
            members.leave(member)
    return None


def _batches(member: Member, stream: Any) -> Iterator[tuple[Any, list[Any]]]:
    """The last response and all events of each batch, which may come in several responses.

    Raises _History, _Ended, grpc.RpcError.
    """
    events: list[Any] = []
    for response in stream:
        if response.compact_revision:
            raise _History(response.compact_revision)
        if response.canceled:
            if "auth token" in response.cancel_reason or not response.cancel_reason:
                member.forget_token()
            raise _Ended(response.cancel_reason or "etcd has cancelled the watch")
        events += response.events
        if not response.fragment:
            yield response, events
            events = []
    raise _Ended("the stream has ended")


class EtcdWatch:
    """See `interface.Watch`.

    compacted_to: the revision to which this store itself has compacted. forget: called when it is closed.
    established: a stream is open, and nothing before its beginning is lost. failed: it will bring nothing any more.
    """

    def __init__(
        self,
        members: Members,
        keys: KeySpace,
        prefix: str,
        after_revision: int,
        compacted_to: Callable[[], int],
        forget: Callable[[EtcdWatch], None],
    ) -> None:
        self._members = members
        self._keys = keys
        self._prefix = prefix
        self._compacted_to = compacted_to
        self._forget = forget
        self._state = threading.Condition()
        self._queue: deque[tuple[tuple[Change, ...], int]] = deque()
        self._queued_bytes = 0
        self._handed_out = after_revision
        self._seen = after_revision
        self._closed = False
        self._woken = False
        self._failure: Exception | None = None
        self._interrupted_at = time.monotonic()
        self._interruption = "etcd has not answered yet"
        self._stream: Any = None
        self.established = False
        self._thread = threading.Thread(target=self._run, name=f"orlop-watch-{prefix}", daemon=True)
        self._thread.start()

    def next(self, timeout_s: float) -> tuple[Change, ...]:
        """See `interface.Watch.next`."""
        with self._state:
            if self._closed:
                raise StoreError("the watch is closed")
            self._state.wait_for(lambda: self._queue or self._failure or self._closed or self._woken, timeout_s)
            self._woken = False
            if self._closed:
                return ()
            if self._queue:
                return self._hand_out()
            if isinstance(self._failure, _History):
                raise Compacted(self._handed_out, max(self._failure.oldest, self._compacted_to()))
            if self._failure is not None:
                raise StoreError(f"the watch has failed: {self._failure}") from self._failure
            lost_for_s = 0.0 if self.established else time.monotonic() - self._interrupted_at
            if lost_for_s > self._members.timeout_s:
                raise StoreError(f"etcd has not been watched for {lost_for_s:.0f} s: {self._interruption}")
            return ()

    def wake(self) -> None:
        """See `interface.Watch.wake`."""
        with self._state:
            self._woken = True
            self._state.notify_all()

    def close(self) -> None:
        """Ends it; a waiting `next` returns empty."""
        with self._state:
            self._closed = True
            self.established = False
            stream = self._stream
            self._state.notify_all()
        if stream is not None:
            stream.cancel()
        self._forget(self)

    @property
    def failed(self) -> bool:
        return self._failure is not None

    def join(self) -> None:
        """After `close`: waits for the thread, for a bounded time."""
        self._thread.join(CLOSED_WITHIN_S)

    def _hand_out(self) -> tuple[Change, ...]:
        changes, size = self._queue[0]
        revision = changes[0].revision
        if revision <= self._compacted_to():
            raise Compacted(self._handed_out, self._compacted_to())
        self._queue.popleft()
        self._queued_bytes -= size
        self._handed_out = revision
        self._state.notify_all()
        return changes

    # -- the thread --

    def _run(self) -> None:
        pause_s = FIRST_PAUSE_S
        while not self._closed:
            reason = ""
            try:
                self._follow()
            except (_History, UnicodeDecodeError) as error:
                self._fail(error)
                return
            except (_Ended, EtcdRefused) as error:
                reason = str(error)
            except grpc.RpcError as error:
                reason = judge(error).text
            except StoreError as error:
                reason = str(error)
            with self._state:
                if self.established:
                    pause_s = FIRST_PAUSE_S
                    self._interrupted_at = time.monotonic()
                self.established = False
                self._interruption = reason
                # The first attempt after an interruption comes soon, and not in step with those of others.
                self._state.wait_for(lambda: self._closed, pause_s * random.uniform(0.5, 1))  # noqa: S311
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _fail(self, error: Exception) -> None:
        with self._state:
            self.established = False
            self._failure = error
            self._state.notify_all()

    def _follow(self) -> None:
        """One stream, to its end. Raises _History, _Ended, grpc.RpcError, StoreError."""
        member = self._members.usable()
        start, end = self._keys.span(self._prefix)
        request = protocol.messages.WatchCreateRequest(
            key=start, range_end=end, start_revision=self._seen + 1, progress_notify=True, fragment=True
        )
        try:
            with member.stream(protocol.WATCH, protocol.messages.WatchRequest(create_request=request)) as stream:
                with self._state:
                    self._stream = stream
                    if self._closed:
                        return
                for response, events in _batches(member, stream):
                    if response.created:
                        self._check_beginning()
                        self._set_established()
                    elif events:
                        self._enqueue(self._changes(events))
                    else:
                        self._seen = max(self._seen, response.header.revision)
        except grpc.RpcError as error:
            if not self._closed and "Locally cancelled" not in details_of(error):
                member.distrust()
                self._members.leave(member)
            raise
        finally:
            self._stream = None

    def _check_beginning(self) -> None:
        """Raises _History when the revision that the stream follows on is compacted."""
        if self._seen == 0:
            return
        request = protocol.messages.RangeRequest(key=self._keys.root, count_only=True, limit=1, revision=self._seen)
        try:
            self._members.ask(protocol.RANGE, request)
        except EtcdRefused as refused:
            if is_about_compaction(refused):
                oldest = oldest_revision(self._members, self._keys, self._members.timeout_s)
                raise _History(oldest or self._seen + 1) from refused
            if not is_about_the_future(refused):
                raise

    def _set_established(self) -> None:
        with self._state:
            self.established = not self._closed

    def _changes(self, events: list[Any]) -> list[tuple[Change, ...]]:
        """The events by revision. They come in the order of revisions."""
        return [
            tuple(
                Change(
                    key=self._keys.name(event.kv.key),
                    entry=None if event.type == protocol.DELETED else self._keys.entry(event.kv),
                    revision=revision,
                )
                for event in of_revision
            )
            for revision, of_revision in groupby(events, key=lambda event: event.kv.mod_revision)
        ]

    def _enqueue(self, arrived: list[tuple[Change, ...]]) -> None:
        for changes in arrived:
            size = sum(CHANGE_BYTES + (len(change.entry.value) if change.entry else 0) for change in changes)
            with self._state:
                self._state.wait_for(lambda: self._closed or self._queued_bytes < QUEUE_BYTES_MAX)
                if self._closed:
                    return
                self._queue.append((changes, size))
                self._queued_bytes += size
                self._seen = changes[0].revision
                self._state.notify_all()
