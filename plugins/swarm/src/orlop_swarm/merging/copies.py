"""Networks and volumes: what has copies of its own on several nodes and is shown once.

On one engine all containers of a network reach one another, and all users of a volume share its data. So a local
network has one home, where its containers are placed, and a local volume is on one node alone. A bridge network that is
created through the pool is created on every node all the same, so that a container which has to move finds it. Copies
belong together by the label that the pool gives them when it creates them, else by their name; what spans nodes has one
id everywhere. The home's copy is the one that is shown, else the first node's in the order of the nodes' names; the ids
of all copies lead to it. `node/name` is the copy on one node.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

import attrs

from orlop.docker_containers import LABELS
from orlop_swarm.merging.answers import Answer, Document, good, visible, without_our_labels

#: On all copies of one network, the same made-up value.
NETWORK_LABEL: Final = f"{LABELS}network"
#: On all copies of one network: the name of the node where its containers are placed.
HOME_LABEL: Final = f"{LABELS}home"
#: On those whose addresses the client has chosen, so that all copies have them.
ADDRESSES_LABEL: Final = f"{LABELS}addresses"
CHOSEN: Final = "chosen"


class Ambiguous(LookupError):
    """Several things have this name."""


@attrs.frozen
class Copy:
    """One engine's own."""

    node: str
    node_id: str
    document: Document


@attrs.frozen
class Shown:
    """What clients see as one thing. copies: the home's, then in the order of their nodes' names; at least one."""

    copies: tuple[Copy, ...]

    @property
    def first(self) -> Document:
        return self.copies[0].document

    @property
    def name(self) -> str:
        return str(self.first["Name"])

    def on(self, node_id: str) -> Copy | None:
        return next((copy for copy in self.copies if copy.node_id == node_id), None)


Belongs = Callable[[Document], tuple[str, str]]


def of_network(network: Document) -> tuple[str, str]:
    """What copies of the same network have in common."""
    if network.get("Scope", "local") != "local":
        return "id", str(network["Id"])
    label = (network.get("Labels") or {}).get(NETWORK_LABEL)
    return ("label", label) if label else ("name", str(network["Name"]))


def of_volume(volume: Document) -> tuple[str, str]:
    return "name", str(volume["Name"])


def grouped(answers: Iterable[Answer], belongs: Belongs, member: str = "") -> list[Shown]:
    """Sorted by name. member: of each answer that holds the list; empty: the answer is the list.

    Two networks of one engine are never the same one, whatever their names: the older ones of each belong together.
    """
    groups: dict[tuple[str, str, int], list[Copy]] = {}
    for answer in good(answers):
        seen: dict[tuple[str, str], int] = {}
        for document in sorted(
            _documents(answer, member), key=lambda one: (str(one.get("Created", "")), str(one.get("Id", "")))
        ):
            kind, value = belongs(document)
            number = seen[kind, value] = seen.get((kind, value), -1) + 1
            groups.setdefault((kind, value, number), []).append(Copy(answer.node, answer.node_id, document))
    shown = [_shown(copies) for copies in groups.values()]
    return sorted(shown, key=lambda one: (one.name, str(one.first.get("Created", "")), str(one.first.get("Id", ""))))


def of_one(answers: Iterable[Answer]) -> Shown:
    """Answers that each hold one engine's copy of the same thing; at least one of them is good."""
    return _shown([Copy(answer.node, answer.node_id, answer.content) for answer in good(answers)])


def _shown(copies: Iterable[Copy]) -> Shown:
    return Shown(tuple(sorted(copies, key=_not_at_home)))


def _not_at_home(copy: Copy) -> bool:
    return bool((copy.document.get("Labels") or {}).get(HOME_LABEL) != copy.node)


def home_is_there(one: Shown) -> bool:
    """Is the copy that is shown the home's, and not only there while the home is away?"""
    return (one.first.get("Labels") or {}).get(HOME_LABEL, one.copies[0].node) == one.copies[0].node


def unused(answers: Iterable[Answer], used: Iterable[Answer], belongs: Belongs, member: str = "") -> list[Shown]:
    """What is used on no node at all (`dangling`). answers: what is unused on each node; used: what is used there."""
    taken = {belongs(document) for answer in good(used) for document in _documents(answer, member)}
    groups = grouped(answers, belongs, member)
    return [one for one in groups if not any(belongs(copy.document) in taken for copy in one.copies)]


def _documents(answer: Answer, member: str) -> Sequence[Document]:
    return (answer.content.get(member) if member else answer.content) or ()


def found(groups: Iterable[Shown], reference: str) -> Shown | None:
    """By id, name or a prefix of an id, in this order; of `node/name` the copy on that node. Raises Ambiguous."""
    candidates = list(groups)
    node, slash, name = reference.partition("/")
    if slash:
        candidates = [here for one in candidates if (here := _of_node(one, node)) is not None]
    else:
        name = reference
    ways: tuple[tuple[str, Callable[[Document], bool]], ...] = (
        ("name", lambda document: document.get("Id") == name),
        ("name", lambda document: bool(document["Name"] == name)),
        ("ID prefix", lambda document: str(document.get("Id", "")).startswith(name)),
    )
    for basis, fits in ways:
        matches = [one for one in candidates if any(fits(copy.document) for copy in one.copies)]
        if len(matches) > 1:
            raise Ambiguous(f"{len(matches)} matches found based on {basis}: network {reference} is ambiguous")
        if matches:
            return matches[0]
    return None


def _of_node(one: Shown, node: str) -> Shown | None:
    copies = tuple(copy for copy in one.copies if node in (copy.node, copy.node_id))
    return Shown(copies) if copies else None


def networks(groups: Iterable[Shown]) -> list[Document]:
    """`GET /networks`."""
    return [network(one) for one in groups]


def network(one: Shown) -> Document:
    """The first copy's, with the containers of all. `GET /networks/{id}`."""
    merged = without_our_labels(one.first)
    containers: dict[str, object] = {}
    for copy in reversed(one.copies):
        containers.update(copy.document.get("Containers") or {})
    if containers:
        merged = {**merged, "Containers": containers}
    return merged


def volumes(groups: Iterable[Shown], warnings: Iterable[str] = ()) -> Document:
    """`GET /volumes`."""
    return {"Volumes": [volume(one) for one in groups], "Warnings": list(warnings) or None}


def volume(one: Shown) -> Document:
    """The first copy's; what is said of its use is of all."""
    merged = without_our_labels(one.first)
    used = [copy.document["UsageData"] for copy in one.copies if copy.document.get("UsageData")]
    if used:
        merged = {**merged, "UsageData": {"RefCount": _total(used, "RefCount"), "Size": _total(used, "Size")}}
    return merged


def _total(usages: Iterable[Mapping[str, int]], member: str) -> int:
    known = [usage[member] for usage in usages if usage.get(member, -1) >= 0]
    return sum(known) if known else -1


def labelled(body: Document, value: str, home: str) -> Document:
    """A client's request to create a network, with the labels of its copies. home: its node's name."""
    labels = {**(visible(body.get("Labels")) or {}), NETWORK_LABEL: value, HOME_LABEL: home}
    if (body.get("IPAM") or {}).get("Config"):
        labels[ADDRESSES_LABEL] = CHOSEN
    return {**body, "Labels": labels}


def home_of(documents: Mapping[str, Document]) -> frozenset[str]:
    """Names of the nodes where users of it are to be: of those that have it (by name) its home, if it has one; the
    first one, while its home is away. Networks that were made on engines have their homes there."""
    homes = {str((document.get("Labels") or {}).get(HOME_LABEL, "")) for document in documents.values()} - {""}
    if not homes:
        return frozenset(documents)
    here = homes & documents.keys()
    return frozenset(here or {min(documents)})


def has_chosen_addresses(network: Document) -> bool:
    """Did the client choose them, when it was created through the pool?"""
    return (network.get("Labels") or {}).get(ADDRESSES_LABEL) == CHOSEN
