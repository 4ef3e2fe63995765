"""What a framework may have stored: the form of keys and documents is looked at where they are asked for. Pure.

A store takes no key with a zero character, JSON has no lone surrogates, a document has to fit into a transaction, and
what is written down has to be read again: with a member of another type than its class says, no server could start any
more. Whoever asks for such a thing is refused before anything is decided: later nobody could tell whose fault it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from orlop.framework import Emit
from orlop.kernel import records
from orlop.kernel.loading import encode
from orlop.kernel.state import StoredObject
from orlop.model.asks import Request, canonical
from orlop.model.documents import from_plain, to_plain
from orlop.model.tasks import Spec
from orlop.model.versions import VERSIONS
from orlop.store import requests

#: Of the UTF-8 of keys, names, groups, roles and ids of objects. They are repeated in the event log, of which a record
#: holds many.
NAME_BYTES_MAX: Final = 4_096
#: What a spec's document has beside its content.
VERSION_BYTES: Final = len(f'"v":{VERSIONS.of(Spec)},')


class Unstorable(ValueError):
    """The store cannot take it; the text names the key, and what is wrong."""


@attrs.frozen
class Storable:
    """The checks, for a store that takes documents of so many bytes; None: of any size. All raise Unstorable."""

    document_bytes_max: int | None = None

    def object(self, framework: str, kind: str, object_id: str, stored: StoredObject) -> None:
        """Of a framework."""
        key = records.object_key(framework, kind, object_id)
        _check_name(key, object_id)
        try:
            requests.check_key(key)
            size = len(encode(stored))
            from_plain(stored.document, type(stored.value), "what is written")
        except (TypeError, ValueError) as error:
            raise _wrong(key, error) from error
        self._check_size(key, size)

    def spec(self, key: str, spec: Spec) -> bytes:
        """Its canonical form, from which its id is made. key: of the ask."""
        try:
            document = to_plain(spec)
            content = canonical(document)
            if from_plain(document, Spec, "what is written") != spec:
                raise TypeError("a member of it is of another type than its class says, a list for a tuple perhaps")
        except (TypeError, ValueError) as error:
            raise _wrong(key, error) from error
        self._check_size(f"the spec of {key!r}", len(content) + VERSION_BYTES)
        return content

    def ask(self, request: Request) -> None:
        """All but its spec: what becomes part of its task."""
        key = request.key
        for text in (key, request.group, request.role, request.name, request.cause):
            _check_name(key, text)
        size = _texts_size(key, request.environment) + _texts_size(key, request.labels)
        self._check_size(f"the ask {key!r}", 2 * size)  # its task's status has to fit, too

    def reason(self, key: str, reason: str) -> None:
        """Why the task of this key is killed."""
        _check_text(key, reason)

    def event(self, one: Emit) -> None:
        """For the event log."""
        for text in (one.type, one.subject):
            _check_name(one.subject, text)
        self._check_size(f"the event {one.type} of {one.subject!r}", _texts_size(one.subject, one.details))

    def _check_size(self, what: str, size: int) -> None:
        if self.document_bytes_max is not None and size > self.document_bytes_max:
            raise Unstorable(f"{what} has {size} bytes, and the store takes {self.document_bytes_max} at once")


def _texts_size(key: str, texts: Mapping[str, Any]) -> int:
    return sum(_check_text(key, name) + _check_text(key, str(value)) for name, value in texts.items())


def _check_name(key: str, name: str) -> None:
    if _check_text(key, name) > NAME_BYTES_MAX:
        raise Unstorable(f"{key[:80]!r}...: a key or name has at most {NAME_BYTES_MAX} bytes")


def _check_text(key: str, text: str) -> int:
    """Its bytes."""
    if text.isascii():
        return len(text)
    try:
        return requests.check_text(text)
    except ValueError as error:
        raise _wrong(key, error) from error


def _wrong(key: str, error: Exception) -> Unstorable:
    return Unstorable(f"{key!r} cannot be stored: {error}")
