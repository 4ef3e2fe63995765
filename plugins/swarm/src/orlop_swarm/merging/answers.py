"""Answers of several engines to one request."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import attrs

from orlop.docker_containers import LABELS
from orlop_swarm.asking import ID_LABEL

#: In what an engine says of a registry that it cannot reach: one and the same for our purposes.
_SOURCE_PORT: Final = re.compile(r":[0-9]+(?=->)")

Document = dict[str, Any]


@attrs.frozen(kw_only=True)
class Answer:
    """What one engine said. node: its node's name. content: its JSON, or None; of a refusal the message.

    status: of HTTP; 503 for an engine that cannot be reached.
    """

    node: str
    node_id: str = ""
    status: int = 200
    content: Any = None

    @property
    def good(self) -> bool:
        return self.status < 400


@attrs.frozen
class Refusal:
    """What the pool answers instead of success. status: of HTTP."""

    status: int
    message: str


def in_order(answers: Iterable[Answer]) -> list[Answer]:
    """By the names of their nodes."""
    return sorted(answers, key=lambda answer: (answer.node, answer.node_id))


def good(answers: Iterable[Answer]) -> list[Answer]:
    return [answer for answer in in_order(answers) if answer.good]


def refusal(answers: Iterable[Answer], but: Iterable[int] = ()) -> Refusal | None:
    """The refusals as one, except those of the statuses `but`; None when there are none.

    The same words of all engines are said once and without names, as one engine would say them, unless others have
    done what was asked: that is told too.
    """
    ordered = in_order(answers)
    bad = [answer for answer in ordered if not answer.good and answer.status not in but]
    if not bad:
        return None
    done = [answer.node for answer in ordered if answer.good]
    message = joined({answer.node: str(answer.content) for answer in bad}, done)
    return Refusal(max(answer.status for answer in bad), message)


def joined(refusals: Mapping[str, str], done: Sequence[str]) -> str:
    """Refusals by node as one text. done: the nodes that have done it; both in the order of their names."""
    texts = {_SOURCE_PORT.sub(":", text): text for text in refusals.values()}
    if len(texts) == 1 and not done:
        return next(iter(refusals.values()))
    message = "; ".join(f"{node}: {text}" for node, text in refusals.items())
    return f"{message} (done on {', '.join(done)})" if done else message


def nobody_has_it(answers: Iterable[Answer]) -> Refusal | None:
    """404 when no engine knows what was asked for, in the words of the first; None when one does."""
    ordered = in_order(answers)
    if any(answer.good for answer in ordered):
        return None
    return refusal(ordered, but=(404,)) or refusal(ordered)


def is_own(label: str) -> bool:
    """Is it what the pool itself says of one container, which is true of no other?"""
    return label.startswith(LABELS) or label == ID_LABEL


def visible(labels: Any) -> Any:
    """Labels without the pool's own; anything else as it is. A Swarm id is its client's business, but an empty one is
    only what an image has instead of that of the container that it was made of."""
    if not isinstance(labels, dict) or not any(_is_hidden(*label) for label in labels.items()):
        return labels
    return {name: value for name, value in labels.items() if not _is_hidden(name, value)}


def _is_hidden(name: str, value: Any) -> bool:
    return name.startswith(LABELS) or (name == ID_LABEL and not value)


def without_our_labels(document: Document) -> Document:
    """The same document when nothing is to be hidden."""
    labels = document.get("Labels")
    shown = visible(labels)
    return document if shown is labels else {**document, "Labels": shown}


def united(lists: Iterable[Sequence[Any] | None]) -> list[Any] | None:
    """Each item once, in the order of first sight. None when all of them are None."""
    known = [one for one in lists if one is not None]
    return list(dict.fromkeys(item for one in known for item in one)) if known else None


def pruned(answers: Iterable[Answer], member: str) -> Document:
    """What was removed everywhere. member: the list's, such as "VolumesDeleted"; each text or object of it once."""
    removed: list[Any] = []
    reclaimed, counted = 0, False
    for answer in good(answers):
        removed += [item for item in answer.content.get(member) or () if item not in removed]
        counted = counted or "SpaceReclaimed" in answer.content
        reclaimed += answer.content.get("SpaceReclaimed") or 0
    merged: Document = {member: removed or None}
    if counted:
        merged["SpaceReclaimed"] = reclaimed
    return merged
