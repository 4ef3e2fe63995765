"""One authority takes another one's place, while everything runs. The part of `admission` that decides about it. Pure.

Theory of operation. An authority may be dropped only when everybody trusts its successor, and nothing that is trusted
may come from nowhere. So there are three phases, of which two are a wait:

1. *spreading*: the new authority is there beside the old one. All trust both. Agents' certificates come from the new
   one from now on, and with each goes the list of both; servers' still come from the old one, which all know. A node
   that shows a certificate of the new one has kept the list: it is ready.
2. *keeping*: once every node is ready, or the time for it is over, servers' certificates come from the new one. Tokens
   to join with name the old one, so they end. The old one stays trusted for a while: servers change one by one.
3. The old one is dropped; agents are told to fetch the list once more.

A node that was away for all of phase 1 trusts no server any more, and needs a join token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import attrs

from orlop.framework import Action, Delete, Emit, Put, Refused, Reply, View, WakeAt
from orlop.security import authority as signing
from orlop.security.tokens import Purpose, StoredToken

AUTHORITY: Final = "authority"
ROTATION: Final = "rotation"
NODE: Final = "node"
TOKEN: Final = "token"  # noqa: S105  (a kind of object)

#: Ids of the authorities: of servers' certificates; the one that takes its place; the one whose place was taken.
CURRENT: Final = "ca"
NEXT: Final = "next"
FORMER: Final = "former"
#: There is one rotation at a time, and this is its id.
THE_ROTATION: Final = "ca"
WAKE_UP: Final = "rotation"
#: For nodes in a server's own process: they need no certificate, and nobody shall join under their name.
LOCAL_KEY: Final = "local"


@attrs.frozen(kw_only=True)
class StoredAuthority:
    """The cluster's certificate authority. certificate: PEM. sealed_key: see `orlop.security.sealing`."""

    certificate: str
    sealed_key: str = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class AdmittedNode:
    """A node that may have sessions. key: fingerprint of its public key. token: the id of that it came with.

    authority: fingerprint of the one whose certificate it has shown last, where that was looked at.
    """

    key: str
    token: str = ""
    joined_utc_ms: int = 0
    authority: str = ""


@attrs.frozen(kw_only=True)
class Rotation:
    """A rotation under way. from_utc_ms, by_utc_ms: servers change no sooner, and no later.

    keep_ms: how long the old authority is trusted after that. drop_utc_ms: until when; 0 while it is spreading.
    """

    from_utc_ms: int
    by_utc_ms: int
    keep_ms: int
    drop_utc_ms: int = 0


# Commands. by: who asks, for the event log.


@attrs.frozen(kw_only=True)
class RotateAuthority:
    """Begins a rotation. after_ms, within_ms, keep_ms: see `Rotation`, from now on. Replies `Rotation`."""

    authority: StoredAuthority
    after_ms: int
    within_ms: int
    keep_ms: int
    by: str


@attrs.frozen(kw_only=True)
class HurryRotation:
    """Ends the wait of the present phase, whoever is not ready."""

    by: str


@attrs.frozen(kw_only=True)
class NoteCertificate:
    """A node has shown a certificate of this authority (its fingerprint)."""

    node: str
    authority: str


def rotate(view: View, command: RotateAuthority) -> Iterator[Action]:
    """Raises Refused."""
    if THE_ROTATION in view.objects(ROTATION):
        raise Refused("a rotation is under way already (see: orlop authority show)")
    if CURRENT not in view.objects(AUTHORITY):
        raise Refused("there is no authority yet")
    now_ms = view.now.utc_ms
    begun = Rotation(
        from_utc_ms=now_ms + command.after_ms,
        by_utc_ms=now_ms + max(command.after_ms, command.within_ms),
        keep_ms=max(1, command.keep_ms),
    )
    yield Put(AUTHORITY, NEXT, command.authority)
    yield Put(ROTATION, THE_ROTATION, begun)
    yield Emit("authority.spreading", details={"by": command.by})
    yield Reply(begun)


def hurry(view: View, command: HurryRotation) -> Iterator[Action]:
    """Raises Refused."""
    found: Rotation | None = view.objects(ROTATION).get(THE_ROTATION)
    if found is None:
        raise Refused("no rotation is under way")
    now_ms = view.now.utc_ms
    if found.drop_utc_ms:
        yield Put(ROTATION, THE_ROTATION, attrs.evolve(found, drop_utc_ms=now_ms))
    else:
        yield Put(ROTATION, THE_ROTATION, attrs.evolve(found, from_utc_ms=now_ms, by_utc_ms=now_ms))
    yield Emit("authority.hurried", details={"by": command.by})


def note(view: View, command: NoteCertificate) -> Iterator[Action]:
    """Nothing for a node that is not admitted."""
    known: AdmittedNode | None = view.objects(NODE).get(command.node)
    if known is not None and known.authority != command.authority:
        yield Put(NODE, command.node, attrs.evolve(known, authority=command.authority))


def go_on(view: View) -> Iterator[Action]:
    """What is due of the rotation under way; idempotent."""
    found: Rotation | None = view.objects(ROTATION).get(THE_ROTATION)
    if found is None:
        return
    now_ms = view.now.utc_ms
    if found.drop_utc_ms:
        if now_ms < found.drop_utc_ms:
            yield WakeAt(found.drop_utc_ms, WAKE_UP)
            return
        yield Delete(AUTHORITY, FORMER)
        yield Delete(ROTATION, THE_ROTATION)
        yield Emit("authority.dropped")
        return
    waiting = not_ready(view.objects(NODE), view.objects(AUTHORITY)[NEXT])
    due_ms = found.by_utc_ms if waiting else found.from_utc_ms
    if now_ms < due_ms:
        yield WakeAt(due_ms, WAKE_UP)
        return
    yield from _change(view, found, waiting)


def not_ready(nodes: Mapping[str, AdmittedNode], coming: StoredAuthority) -> list[str]:
    """Nodes that have not shown a certificate of the coming authority."""
    wanted = signing.fingerprint(coming.certificate.encode())
    return sorted(name for name, node in nodes.items() if node.authority != wanted and node.key != LOCAL_KEY)


def _change(view: View, found: Rotation, left_behind: list[str]) -> Iterator[Action]:
    """Servers change to the new authority."""
    authorities = view.objects(AUTHORITY)
    drop_utc_ms = view.now.utc_ms + found.keep_ms
    yield Put(AUTHORITY, FORMER, authorities[CURRENT])
    yield Put(AUTHORITY, CURRENT, authorities[NEXT])
    yield Delete(AUTHORITY, NEXT)
    yield Put(ROTATION, THE_ROTATION, attrs.evolve(found, drop_utc_ms=drop_utc_ms))
    yield WakeAt(drop_utc_ms, WAKE_UP)
    tokens: Mapping[str, StoredToken] = view.objects(TOKEN)
    for token_id, token in tokens.items():
        if token.purpose is Purpose.JOIN and not token.revoked and token.uses < token.uses_max:
            ended = attrs.evolve(token, revoked=True, expires_utc_ms=view.now.utc_ms)
            yield Put(TOKEN, token_id, ended)
    yield Emit("authority.changed", details={"left_behind": ", ".join(left_behind[:20])} if left_behind else {})
