"""The members of an etcd: which of them is asked, and what happens when it does not answer.

Theory of operation: one connection per member, made when it is first needed. All calls go to the *current* member; who
fails to answer is left for the next one in the circle, for all callers. Before a member is used for the first time, and
again after it has failed, it is *examined*: a call that it answers by itself, without the others, tells that it is
there, is of the right cluster and version; and with a user, a token is got. So a write is sent only to a member that
has answered before, and a host that swallows packets costs a read or an examination, never a write of unknown outcome.

Each attempt has a deadline. What is idempotent, reads above all, and what surely was not applied, is tried again until
`timeout_s` is over, on one member after the other, with growing pauses between the rounds; so a change of etcd's leader
is waited for. A write whose fate is not known is never tried again.

A token belongs to one member (members forget theirs when they restart). When one is refused, it is got anew, and the
call, which was refused before it was begun, is made again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc

from orlop.store import etcd_protocol as protocol
from orlop.store.etcd_address import EtcdAddress
from orlop.store.etcd_errors import (
    Cure,
    EtcdRefused,
    NoAnswer,
    NotSent,
    Unreachable,
    Verdict,
    code_of,
    details_of,
    judge,
)
from orlop.store.interface import OutcomeUnknown, StoreError, StoreRefused

#: Of the time that a call may take; then another member is asked.
ATTEMPTS_PER_CALL: Final = 3
FIRST_PAUSE_S: Final = 0.02
LONGEST_PAUSE_S: Final = 0.5
OLDEST_VERSION: Final = (3, 4)

_HAS_LEADER: Final = ("hasleader", "true")


class _Unusable(Exception):
    """The member is there, and must not be used."""


class Member:
    """One member's connection. Safe to use from any thread. Methods raise grpc.RpcError."""

    def __init__(self, endpoint: tuple[str, int], address: EtcdAddress) -> None:
        self.name = f"{endpoint[0]}:{endpoint[1]}"
        self.trusted = False
        self._endpoint = endpoint
        self._access = address.access
        self._lock = threading.Lock()
        self._authenticating = threading.Lock()
        self._client: Any = None
        self._token = ""
        self._streams: set[Any] = set()

    def ask(self, method: protocol.Method, request: Any, timeout_s: float | None, needs_leader: bool = True) -> Any:
        """The answer. needs_leader: a member that knows of none refuses, instead of waiting for one."""
        metadata = [("token", self._token)] if self._token else []
        if needs_leader:
            metadata.append(_HAS_LEADER)
        try:
            answer = method.of(self._connected())(request, timeout=timeout_s, metadata=metadata)
        except ValueError as error:  # gRPC's word for a connection that another thread has just closed
            raise NotSent(str(error)) from error
        if answer is None:
            raise NoAnswer("the stream ended without an answer")
        return answer

    @contextmanager
    def stream(self, method: protocol.Method, request: Any, timeout_s: float | None = None) -> Iterator[Any]:
        """The stream of answers, which is also ended by `distrust`. timeout_s: until it ends by itself."""
        stream = self.ask(method, request, timeout_s)
        with self._lock:
            self._streams.add(stream)
        try:
            yield stream
        finally:
            with self._lock:
                self._streams.discard(stream)
            stream.cancel()

    def examine(self, timeout_s: float) -> Any:
        """Its status, when it answers by itself. The connection of one that does not is given up."""
        try:
            return self.ask(protocol.STATUS, protocol.messages.StatusRequest(), timeout_s, needs_leader=False)
        except grpc.RpcError:
            self.disconnect()  # a new one reads the certificates again and looks the name up again
            raise

    def authenticate(self, timeout_s: float) -> None:
        """Gets a token, if there is a user and none yet."""
        if not self._access.user or self._token:
            return
        request = protocol.messages.AuthenticateRequest(name=self._access.user, password=self._access.password)
        with self._authenticating:
            if self._token:
                return
            try:
                self._token = self.ask(protocol.AUTHENTICATE, request, timeout_s).token
            except grpc.RpcError as error:
                if "authentication is not enabled" not in details_of(error):
                    raise

    def forget_token(self) -> None:
        """It was refused."""
        self._token = ""

    def distrust(self) -> None:
        """It must be examined before it is used again; its streams end, and are opened elsewhere."""
        self.trusted = False
        with self._lock:
            streams = tuple(self._streams)
        for stream in streams:
            stream.cancel()

    def disconnect(self) -> None:
        """Ends the connection, and every call on it."""
        with self._lock:
            client, self._client = self._client, None
            self._token = ""
            self.trusted = False
        if client is not None:
            client.close()

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                access = self._access
                try:
                    self._client = protocol.connect(*self._endpoint, access.ca_file, access.cert_file, access.key_file)
                except OSError as error:
                    raise StoreRefused(f"{error.filename} cannot be read: {error.strerror}") from error
            return self._client


class Members:
    """All members of one etcd. Methods raise StoreError when the store is closed."""

    def __init__(self, address: EtcdAddress) -> None:
        self.all = tuple(Member(endpoint, address) for endpoint in address.endpoints)
        self.timeout_s = address.access.timeout_s
        self._attempt_s = self.timeout_s / ATTEMPTS_PER_CALL
        self._has_user = bool(address.access.user)
        self._lock = threading.Lock()
        self._current = random.randrange(len(self.all))  # noqa: S311 - it only spreads the load
        self._cluster_id: int | None = None
        self._closed = threading.Event()

    @property
    def current(self) -> Member:
        """The one that is asked next."""
        return self.all[self._current]

    def ask(self, method: protocol.Method, request: Any, *, needs_leader: bool = True) -> Any:
        """The answer of some member.

        Raises EtcdRefused; Unreachable (nobody has carried it out in time); OutcomeUnknown (not for idempotent ones).
        """
        search = _Search(self, method)
        while True:
            member = self.current
            verdict = self._prepare(member, search.remaining_s)
            if verdict is None:
                try:
                    return member.ask(method, request, self._patience_s(method, search), needs_leader)
                except grpc.RpcError as error:
                    verdict = judge(error)
                    if verdict.cure is Cure.NONE or (verdict.cure is Cure.AUTHENTICATE and not self._has_user):
                        raise EtcdRefused(verdict.text, code_of(error), details_of(error)) from error
                    self._treat(member, verdict)
                    if not verdict.surely_not_applied and not method.idempotent:
                        raise OutcomeUnknown(
                            f"etcd may or may not have done it: {member.name}: {verdict.text}"
                        ) from error
            search.failed(member, verdict)

    def usable(self) -> Member:
        """A member that has answered. Raises Unreachable, EtcdRefused."""
        search = _Search(self, protocol.STATUS)
        while (verdict := self._prepare(self.current, search.remaining_s)) is not None:
            search.failed(self.current, verdict)
        return self.current

    def leave(self, member: Member) -> None:
        """The next one is asked from now on, if this one is the current one."""
        with self._lock:
            if self.all[self._current] is member:
                self._current = (self._current + 1) % len(self.all)

    def require_open(self) -> None:
        """Raises StoreError."""
        if self._closed.is_set():
            raise StoreError("the store is closed")

    def pause(self, seconds: float) -> None:
        """Waits, or until the store is closed: then raises StoreError."""
        self._closed.wait(seconds)
        self.require_open()

    def close(self) -> None:
        """Ends all calls."""
        self._closed.set()
        for member in self.all:
            member.disconnect()

    def check(self, member: Member, timeout_s: float) -> Any:
        """The member's status, when it answers and belongs here. Raises grpc.RpcError, StoreError."""
        status = member.examine(timeout_s)
        try:
            self._check(status)
        except _Unusable as error:
            raise StoreError(f"etcd member {member.name} {error}") from error
        return status

    def _patience_s(self, method: protocol.Method, search: _Search) -> float:
        """A write gets its full time, however long it took to find a member."""
        return max(min(self._attempt_s, search.remaining_s), 0.01) if method.idempotent else self.timeout_s

    def _prepare(self, member: Member, remaining_s: float) -> Verdict | None:
        """Makes the member usable; None if it is. Whatever fails here, the call was not begun."""
        self.require_open()
        timeout_s = max(min(self._attempt_s, remaining_s), 0.01)
        try:
            if not member.trusted:
                self._check(member.examine(timeout_s))
            member.authenticate(timeout_s)
        except _Unusable as error:
            verdict = Verdict(True, Cure.ELSEWHERE, str(error))
        except grpc.RpcError as error:
            verdict = judge(error)
            if verdict.cure is Cure.NONE:
                raise EtcdRefused(verdict.text, code_of(error), details_of(error)) from error
            verdict = Verdict(True, verdict.cure, verdict.text)
        else:
            member.trusted = True
            return None
        self._treat(member, verdict)
        return verdict

    def _check(self, status: Any) -> None:
        version = tuple(int(part) for part in status.version.split(".")[:2] if part.isdigit())
        if version < OLDEST_VERSION:
            raise _Unusable(f"is of version {status.version}; the oldest that will do is 3.4")
        if status.isLearner:
            raise _Unusable("is a learner, which has no vote")
        with self._lock:
            if self._cluster_id is None:
                self._cluster_id = status.header.cluster_id
            if self._cluster_id != status.header.cluster_id:
                raise _Unusable("belongs to another etcd than the members asked before")

    def _treat(self, member: Member, verdict: Verdict) -> None:
        if verdict.cure is Cure.AUTHENTICATE:
            member.forget_token()
        elif verdict.cure is Cure.ELSEWHERE:
            member.distrust()
            self.leave(member)


class _Search:
    """One call's way through the members: until when, what went wrong where."""

    def __init__(self, members: Members, method: protocol.Method) -> None:
        self._members = members
        self._method = method
        self._end = time.monotonic() + members.timeout_s
        self._pause_s = FIRST_PAUSE_S
        self._surely_not_applied = True
        self._attempts = 0
        self._troubles: dict[str, str] = {}

    @property
    def remaining_s(self) -> float:
        return self._end - time.monotonic()

    def failed(self, member: Member, verdict: Verdict) -> None:
        """After a round, a pause. Raises Unreachable when time is over, StoreError when the store is closed."""
        self._members.require_open()
        self._troubles[member.name] = verdict.text
        self._surely_not_applied &= verdict.surely_not_applied
        self._attempts += 1
        if self._attempts % len(self._members.all) == 0 or verdict.cure is Cure.LATER:
            pause_s = self._pause_s * random.uniform(0.5, 1)  # noqa: S311 - so that clients do not keep step
            self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
            if pause_s < self.remaining_s:
                self._members.pause(pause_s)
                return
        if self.remaining_s <= 0 or self._attempts % len(self._members.all) == 0:
            raise Unreachable(self._summary(), self._surely_not_applied)

    def _summary(self) -> str:
        told = "; ".join(f"{name}: {trouble}" for name, trouble in self._troubles.items())
        return f"etcd cannot be used ({self._method.name}): {told}"
