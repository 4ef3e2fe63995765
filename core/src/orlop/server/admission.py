"""Who may join and who may ask: tokens, admitted nodes, the sealed authority. The framework that Orlop itself has.

It is a framework so that all of this is committed state, changed by commands only: a token is redeemed in one command,
and two nodes that race with the same token cannot both win. Nothing here is random, signs or knows a secret: what the
API routes hand in are hashes, and what is sealed stays sealed.

A node is known by its id and the fingerprint of its key. It may come again with the same key, for instance after its
certificate has expired; with another key it needs a token that was made for this very node, so that nobody with an
ordinary token takes over a node that exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Final

import attrs

from orlop.framework import Action, Delete, Emit, Framework, Put, Refused, Reply, View
from orlop.kernel.state import State
from orlop.security.tokens import Purpose, StoredToken, wrong_with
from orlop.server import rotation
from orlop.server.rotation import (
    AUTHORITY,
    CURRENT,
    LOCAL_KEY,
    NODE,
    ROTATION,
    TOKEN,
    AdmittedNode,
    HurryRotation,
    NoteCertificate,
    RotateAuthority,
    Rotation,
    StoredAuthority,
)

NAME: Final = "orlop"

TOKENS_MAX: Final = 1_000
#: Join tokens that are good for nothing any more are shown for so long.
SPENT_KEPT_MS: Final = 7 * 24 * 3_600_000


# Commands. by: who asks, for the event log.


@attrs.frozen(kw_only=True)
class KeepAuthority:
    """Keeps this authority if there is none; replies the one that counts."""

    authority: StoredAuthority


@attrs.frozen(kw_only=True)
class CreateToken:
    """Keeps a token. The same once more changes nothing; another one of the same id is refused."""

    id: str
    token: StoredToken
    by: str


@attrs.frozen(kw_only=True)
class RevokeToken:
    """Ends a token; replies whether it was good until now. Nodes that came with it stay."""

    id: str
    by: str


@attrs.frozen(kw_only=True)
class RedeemToken:
    """Admits a node. key: the fingerprint of its key. Replies `AdmittedNode`.

    The same node with the same key and token is admitted again without counting: its first answer may have been lost.
    """

    id: str
    secret_hash: str
    node: str
    key: str


@attrs.frozen(kw_only=True)
class AdmitLocal:
    """The node of a server's own process."""

    node: str


@attrs.frozen(kw_only=True)
class ExpelNode:
    """Takes a node's admission back; replies whether it had one."""

    node: str
    by: str


@attrs.frozen(kw_only=True)
class NoteAccess:
    """An entry in the event log about something that changes no state, such as a command run in a task."""

    type: str
    subject: str
    by: str
    details: dict[str, str] = attrs.field(factory=dict)


class Admission(Framework):
    """See the module."""

    name: ClassVar[str] = NAME
    documents: ClassVar[dict[str, type]] = {
        AUTHORITY: StoredAuthority,
        ROTATION: Rotation,
        TOKEN: StoredToken,
        NODE: AdmittedNode,
    }
    #: 2: rotations, and what nodes have shown of them.
    version: ClassVar[int] = 2
    migrations: ClassVar[dict[int, dict[str, Any]]] = {1: {}}

    def reconcile(self, view: View) -> Iterator[Action]:
        for token_id, token in view.objects(TOKEN).items():
            if _spent_since(token) + SPENT_KEPT_MS <= view.now.utc_ms:
                yield Delete(TOKEN, token_id)
        yield from rotation.go_on(view)

    def command(self, view: View, command: Any) -> Iterator[Action]:
        match command:
            case KeepAuthority():
                yield from _keep_authority(view, command)
            case CreateToken():
                yield from _create(view, command)
            case RevokeToken():
                yield from _revoke(view, command)
            case RedeemToken():
                yield from _redeem(view, command)
            case AdmitLocal():
                if view.objects(NODE).get(command.node) != AdmittedNode(key=LOCAL_KEY):
                    yield Put(NODE, command.node, AdmittedNode(key=LOCAL_KEY))
            case ExpelNode():
                yield from _expel(view, command)
            case RotateAuthority():
                yield from rotation.rotate(view, command)
            case HurryRotation():
                yield from rotation.hurry(view, command)
            case NoteCertificate():
                yield from rotation.note(view, command)
            case NoteAccess():
                yield Emit(command.type, command.subject, {"by": command.by, **command.details})
            case _:
                raise Refused(f"{type(command).__name__} is not a command of admission")


def stored_authorities(state: State) -> dict[str, StoredAuthority]:
    """By their ids, see `rotation`; empty before there is one."""
    return {name: stored.value for name, stored in _objects(state, AUTHORITY).items()}


def rotation_under_way(state: State) -> tuple[Rotation, list[str]] | None:
    """The rotation, and the nodes that it waits for."""
    found = _objects(state, ROTATION).get(rotation.THE_ROTATION)
    if found is None:
        return None
    coming = stored_authorities(state).get(rotation.NEXT)
    nodes = {name: stored.value for name, stored in _objects(state, NODE).items()}
    return found.value, rotation.not_ready(nodes, coming) if coming is not None else []


def stored_token(state: State, token_id: str) -> StoredToken | None:
    """The token of this id."""
    found = _objects(state, TOKEN).get(token_id)
    return found.value if found is not None else None


def stored_tokens(state: State) -> dict[str, StoredToken]:
    """All of them, the oldest first."""
    found = {token_id: stored.value for token_id, stored in _objects(state, TOKEN).items()}
    return dict(sorted(found.items(), key=lambda item: (item[1].created_utc_ms, item[0])))


def admitted_node(state: State, node: str) -> AdmittedNode | None:
    """The node's admission."""
    found = _objects(state, NODE).get(node)
    return found.value if found is not None else None


def _objects(state: State, kind: str) -> Any:
    return state.framework(NAME).objects.get(kind) or {}


def _spent_since(token: StoredToken) -> int:
    """From when on a join token is of no interest; never for the API's, whose revocation must not be forgotten."""
    never: Final = 2**63
    if token.purpose is not Purpose.JOIN:
        return never
    if token.revoked or token.uses >= token.uses_max:
        return max(token.created_utc_ms, token.expires_utc_ms)
    return token.expires_utc_ms or never


def _keep_authority(view: View, command: KeepAuthority) -> Iterator[Action]:
    known = view.objects(AUTHORITY).get(CURRENT)
    if known is None:
        yield Put(AUTHORITY, CURRENT, command.authority)
        yield Emit("authority.made")
    yield Reply(known or command.authority)


def _create(view: View, command: CreateToken) -> Iterator[Action]:
    tokens = view.objects(TOKEN)
    known = tokens.get(command.id)
    if known == command.token:
        return
    if known is not None:
        raise Refused("there is a token of this id already")
    if len(tokens) >= TOKENS_MAX:
        raise Refused(
            f"there are {TOKENS_MAX} tokens already: revoke some for nodes to join, which are forgotten a week after "
            "their end; those of the API are kept for good"
        )
    yield Put(TOKEN, command.id, command.token)
    details = {"by": command.by, "purpose": command.token.purpose.value, "note": command.token.note}
    yield Emit("token.created", command.id, details)


def _revoke(view: View, command: RevokeToken) -> Iterator[Action]:
    token = view.objects(TOKEN).get(command.id)
    if token is None:
        raise Refused(f"there is no token {command.id}")
    yield Reply(not token.revoked)
    if not token.revoked:
        yield Put(TOKEN, command.id, attrs.evolve(token, revoked=True))
        yield Emit("token.revoked", command.id, {"by": command.by, "purpose": token.purpose.value})


def _redeem(view: View, command: RedeemToken) -> Iterator[Action]:
    token: StoredToken | None = view.objects(TOKEN).get(command.id)
    why = wrong_with(token, Purpose.JOIN, command.secret_hash, view.now.utc_ms)
    if token is None or why is not None:
        raise Refused(why)
    known: AdmittedNode | None = view.objects(NODE).get(command.node)
    if known is not None and (known.key, known.token) == (command.key, command.id):
        yield Reply(known)
        return
    if token.node not in ("", command.node):
        raise Refused(f"the token is for node {token.node} only, and this is {command.node}")
    if token.uses >= token.uses_max:
        raise Refused("the token was used before" if token.uses_max == 1 else "the token has been used up")
    if known is not None and known.key != command.key and token.node != command.node:
        raise Refused(
            f"node {command.node} has joined with another key: make a token for it with "
            f"`orlop token create --node {command.node}`, or let this machine join as a new node"
        )
    admitted = AdmittedNode(key=command.key, token=command.id, joined_utc_ms=view.now.utc_ms)
    yield Put(NODE, command.node, admitted)
    yield Put(TOKEN, command.id, attrs.evolve(token, uses=token.uses + 1))
    yield Emit("node.joined", command.node, {"token": command.id})
    yield Reply(admitted)


def _expel(view: View, command: ExpelNode) -> Iterator[Action]:
    known = command.node in view.objects(NODE)
    if known:
        yield Delete(NODE, command.node)
        yield Emit("node.expelled", command.node, {"by": command.by})
    yield Reply(known)
