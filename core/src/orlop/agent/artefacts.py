"""What a task wants on its node before it starts: artefacts, checked, and what each is called there. Pure.

    [{"uri": "https://host/app.tgz", "output_file": "…", "extract": true, "executable": false, "cache": false}, …]

Only `uri` is needed. The rules are those of Mesos' fetcher: an artefact lands in the task's folder under the last part
of its URI's path, or under `output_file`, which may lead into folders below; an archive, told by that name, is unpacked
into the task's folder beside itself, unless `extract` is false or the artefact is `executable`. A URI's query is no
part of the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

import attrs

from orlop.agent.runtimes.interface import InvalidPayload

SCHEMES: Final = ("http", "https", "ftp", "file")
ARTEFACTS_MAX: Final = 100
URI_LENGTH_MAX: Final = 4096
NAME_LENGTH_MAX: Final = 1024
_MEMBERS: Final = ("uri", "output_file", "extract", "executable", "cache")


@attrs.frozen(kw_only=True)
class Artefact:
    """name: below the task's folder. cache: may be kept on the node for other tasks that want the same URI."""

    uri: str
    name: str
    extract: bool = True
    executable: bool = False
    cache: bool = False


def parse_artefacts(where: str, given: object) -> tuple[Artefact, ...]:
    """where: the path of the list, for errors. Raises InvalidPayload."""
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        raise InvalidPayload(f"{where}: expected an array")
    if len(given) > ARTEFACTS_MAX:
        raise InvalidPayload(f"{where}: expected at most {ARTEFACTS_MAX} artefacts, got {len(given)}")
    return tuple(_artefact(f"{where}[{position}]", one) for position, one in enumerate(given))


def _artefact(where: str, given: object) -> Artefact:
    if not isinstance(given, Mapping):
        raise InvalidPayload(f"{where}: expected an object")
    for member in given:
        if member not in _MEMBERS:
            shown = str(member)[:100].encode(errors="backslashreplace").decode()
            raise InvalidPayload(f"{where}.{shown}: unknown; known are {', '.join(_MEMBERS)}")
    uri = _uri(f"{where}.uri", given.get("uri"))
    output_file = given.get("output_file")
    if output_file in (None, ""):
        name = _name(f"{where}.uri", _base_name(uri), "expected a URI whose path ends in a name, or an output_file")
    else:
        name = _name(f"{where}.output_file", output_file, "expected a relative path that does not lead out")
    return Artefact(
        uri=uri,
        name=name,
        extract=_flag(where, given, "extract", default=True),
        executable=_flag(where, given, "executable", default=False),
        cache=_flag(where, given, "cache", default=False),
    )


def _uri(where: str, given: object) -> str:
    """A URI, or an absolute path, which stands for a local file (Mesos)."""
    if not isinstance(given, str) or not given:
        raise InvalidPayload(f"{where}: expected a URI")
    if len(given) > URI_LENGTH_MAX or any(ord(character) < 0x20 or character == "\x7f" for character in given):
        raise InvalidPayload(f"{where}: expected at most {URI_LENGTH_MAX} characters, none of them a control character")
    _check_text(where, given)
    if given.startswith("/"):
        return given
    try:
        scheme = urlsplit(given).scheme
    except ValueError as error:
        raise InvalidPayload(f"{where}: expected a URI: {error}") from None
    if scheme not in SCHEMES:
        raise InvalidPayload(f"{where}: expected {', '.join(SCHEMES)} or an absolute path, got {scheme or 'no scheme'}")
    return given


def _base_name(uri: str) -> str:
    path = uri if uri.startswith("/") else urlsplit(uri).path
    return path.rpartition("/")[2]


def _name(where: str, given: object, expected: str) -> str:
    if not isinstance(given, str) or len(given) > NAME_LENGTH_MAX or "\0" in given:
        raise InvalidPayload(f"{where}: {expected}")
    _check_text(where, given)
    parts = [part for part in given.split("/") if part not in ("", ".")]
    if given.startswith("/") or ".." in parts or not parts or given.endswith("/"):
        raise InvalidPayload(f"{where}: {expected}")
    return "/".join(parts)


def _check_text(where: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidPayload(f"{where}: expected Unicode text: {error.reason}") from None


def _flag(where: str, given: Mapping[str, Any], member: str, *, default: bool) -> bool:
    value = given.get(member, default)
    if not isinstance(value, bool):
        raise InvalidPayload(f"{where}.{member}: expected true or false")
    return value


def shown(uri: str) -> str:
    """The URI as it may be shown to anybody: without what may be a password or a signature."""
    if uri.startswith("/"):
        return uri
    parts = urlsplit(uri)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
