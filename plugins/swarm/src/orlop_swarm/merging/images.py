"""Images: the same one on several nodes is shown once.

One tag may stand for different images on different nodes, when it was built or imported there. Lists show both; who
calls for one by that tag, gets the one that was tagged last (see `http.looking`).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

import attrs

from orlop_swarm.merging.answers import Answer, Document, good, united, without_our_labels

NO_TAG: Final = "<none>:<none>"
NO_DIGEST: Final = "<none>@<none>"
#: An engine's "I have not counted".
UNKNOWN: Final = -1


def listed(answers: Iterable[Answer]) -> list[Document]:
    """`GET /images/json`: newest first."""
    copies: dict[str, list[Document]] = {}
    for answer in good(answers):
        for image in answer.content:
            copies.setdefault(image["Id"], []).append(image)
    merged = [_one(images) for images in copies.values()]
    return sorted(merged, key=lambda image: (-image["Created"], image["Id"]))


def _one(images: list[Document]) -> Document:
    first = without_our_labels(images[0])
    merged = {**first, **_names(images)}
    if "Containers" in first:
        merged["Containers"] = counted(image.get("Containers", UNKNOWN) for image in images)
    if "SharedSize" in first:
        merged["SharedSize"] = max(image.get("SharedSize", UNKNOWN) for image in images)
    return merged


def counted(numbers: Iterable[int]) -> int:
    """Their sum without those that nobody has counted; UNKNOWN when nobody has counted at all."""
    known = [number for number in numbers if number != UNKNOWN]
    return sum(known) if known else UNKNOWN


def _names(images: list[Document]) -> Document:
    """Their tags and digests united; the words for "none" stay only where there is nothing else."""
    names: Document = {}
    for member, nothing in (("RepoTags", NO_TAG), ("RepoDigests", NO_DIGEST)):
        if not any(member in image for image in images):
            continue
        all_names = united(image.get(member) for image in images)
        real = [name for name in all_names or () if name != nothing]
        names[member] = sorted(real) if real else all_names
    return names


def between(answer: Answer, before: Answer | None, since: Answer | None) -> Answer:
    """Of an engine's list what was made before or since an image that another engine has. before, since: that one's
    answer to `inspect`."""
    rows = answer.content
    if not answer.good:
        return answer
    if before is not None:
        rows = [row for row in rows if row["Created"] < _made(before)]
    if since is not None:
        rows = [row for row in rows if row["Created"] > _made(since)]
    return attrs.evolve(answer, content=rows)


def _made(image: Answer) -> float:
    return datetime.fromisoformat(image.content["Created"]).timestamp()


def inspected(answers: Iterable[Answer]) -> Document | None:
    """`GET /images/{name}/json`: the first node's, with the names that others have for the same image. None when
    nobody has it."""
    having = good(answers)
    if not having:
        return None
    first = having[0].content
    same = [answer.content for answer in having if answer.content["Id"] == first["Id"]]
    merged: Document = {**first, **_names(same)}
    if isinstance(first.get("Config"), dict):
        merged["Config"] = without_our_labels(first["Config"])
    return merged


def removed(answers: Iterable[Answer]) -> list[Any]:
    """`DELETE /images/{name}`: each untagged name and each removed layer once; what is untagged comes first."""
    steps: list[Any] = []
    for answer in good(answers):
        steps += [step for step in answer.content or () if step not in steps]
    return sorted(steps, key=lambda step: "Untagged" not in step)
