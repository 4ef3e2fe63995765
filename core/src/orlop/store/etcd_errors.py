"""What an error of etcd or of gRPC means: was the call carried out, and does it help to ask again?

A write is *not applied* only when that is certain: etcd refused it before or instead of applying it, or it never left
this process. Everything else, whatever its code, leaves the outcome unknown. The rules are about the codes and words
of etcd 3.4 to 3.6 and of gRPC; words that change fall to the safe side.
"""

from __future__ import annotations

import enum
import re
from typing import Final

import attrs
import grpc

from orlop.store.interface import StoreError, StoreRefused


class Cure(enum.Enum):
    """What may help. NONE: nothing; it is refused."""

    NONE = "none"
    ELSEWHERE = "elsewhere"
    LATER = "later"
    AUTHENTICATE = "authenticate"


@attrs.frozen
class Verdict:
    """surely_not_applied: see the module. text: for people."""

    surely_not_applied: bool
    cure: Cure
    text: str


class NotSent(grpc.RpcError):
    """The call has not left this process: the connection had just been closed."""


class NoAnswer(grpc.RpcError):
    """A stream ended without the answer."""


class EtcdRefused(StoreRefused):
    """etcd refused the call; `code` and `details` say why."""

    def __init__(self, text: str, code: grpc.StatusCode, details: str) -> None:
        super().__init__(text)
        self.code = code
        self.details = details


class Unreachable(StoreError):
    """No member of etcd has carried out the call in time. surely_not_applied: none of them has begun it."""

    def __init__(self, text: str, surely_not_applied: bool) -> None:
        super().__init__(text)
        self.surely_not_applied = surely_not_applied


_REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.DATA_LOSS,
    }
)

#: Said before anything is proposed to the cluster, or instead of sending: (code, beginning of the details, cure).
_KNOWN: Final = (
    (grpc.StatusCode.UNAVAILABLE, "failed to connect to all addresses", Cure.ELSEWHERE),
    (grpc.StatusCode.UNAVAILABLE, "DNS resolution failed", Cure.ELSEWHERE),
    (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader", Cure.ELSEWHERE),
    (grpc.StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner", Cure.ELSEWHERE),
    (grpc.StatusCode.FAILED_PRECONDITION, "etcdserver: rpc not supported for learner", Cure.ELSEWHERE),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", Cure.LATER),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: ", Cure.NONE),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, "grpc: received message larger than max", Cure.NONE),
    (grpc.StatusCode.UNAUTHENTICATED, "etcdserver: ", Cure.AUTHENTICATE),
    (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: user name is empty", Cure.AUTHENTICATE),
    (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", Cure.AUTHENTICATE),
    # How the maintenance service speaks.
    (grpc.StatusCode.UNKNOWN, "auth: invalid auth token", Cure.AUTHENTICATE),
    (grpc.StatusCode.UNKNOWN, "auth: ", Cure.NONE),
)

_ADDRESS: Final = re.compile(r"^ipv[46]:\S+: ")
_NO_SPACE: Final = "etcdserver: mvcc: database space exceeded"
_HINTS: Final = {
    _NO_SPACE: "etcd is full: its database has reached its quota; `orlop store compact` makes room",
    "etcdserver: request is too large": "etcd refuses a request of this size; it may run with a smaller "
    "--max-request-bytes than usual",
    "etcdserver: too many operations in txn request": "etcd runs with a smaller --max-txn-ops than usual",
    "etcdserver: permission denied": "etcd's user has no permission for this",
    "auth: permission denied": "etcd's user has no permission for this; maintenance needs the role root",
    "etcdserver: user name is empty": "etcd asks for a user and a password",
    "etcdserver: authentication failed, invalid user ID or password": "etcd does not know this user and password",
    "etcdserver: no leader": "etcd has no leader: fewer than half of its members are in touch",
    "etcdserver: corrupt cluster": "etcd has raised its alarm about corrupt data",
}


def judge(error: grpc.RpcError) -> Verdict:
    """What the error means."""
    if isinstance(error, NotSent):
        return Verdict(True, Cure.ELSEWHERE, "the connection was given up")
    code, details = code_of(error), details_of(error)
    text = _HINTS.get(details) or _plain(code, details)
    for known, beginning, cure in _KNOWN:
        if code is known and details.startswith(beginning):
            return Verdict(True, cure, text)
    if code in _REFUSALS:
        return Verdict(True, Cure.NONE, text)
    return Verdict(False, Cure.ELSEWHERE, text)


def code_of(error: grpc.RpcError) -> grpc.StatusCode:
    """gRPC's code; UNKNOWN for an error without one."""
    return error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN


def details_of(error: grpc.RpcError) -> str:
    """The words that came with it."""
    return (error.details() or "") if isinstance(error, grpc.Call) else str(error)


def is_about_compaction(refused: EtcdRefused) -> bool:
    """The revision asked for is compacted."""
    return refused.code is grpc.StatusCode.OUT_OF_RANGE and "has been compacted" in refused.details


def is_about_the_future(refused: EtcdRefused) -> bool:
    """The revision asked for lies ahead."""
    return refused.code is grpc.StatusCode.OUT_OF_RANGE and "is a future revision" in refused.details


def is_unknown_lease(refused: EtcdRefused) -> bool:
    """There is no such lease (any more)."""
    return refused.code is grpc.StatusCode.NOT_FOUND


def is_known_lease(refused: EtcdRefused) -> bool:
    """There already is such a lease."""
    return refused.details.endswith("lease already exists")


def _plain(code: grpc.StatusCode, details: str) -> str:
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return "did not answer in time"
    # gRPC wraps the cause: "failed to connect to all addresses; last error: UNKNOWN: ipv4:1.2.3.4:5: Connection …"
    cause = details.rpartition("last error: ")[2].removeprefix("UNKNOWN: ")
    return _ADDRESS.sub("", cause) or code.name
