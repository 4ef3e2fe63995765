"""What a process task is told to run: the payload, checked, and the environment it amounts to.

    {"command": "…"} or {"arguments": ["…", …]}, and optionally "environment", "user", "directory",
    "artefacts" (see `orlop.agent.artefacts`)

The payload is the runtime's own, so a member that it does not know is an error: a typing error found before anything
runs. Errors name the path: `payload.environment.PORT: expected text, got 8080`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from orlop.agent.artefacts import Artefact, parse_artefacts
from orlop.agent.runtimes.interface import InvalidPayload
from orlop.agent.supervisor.remains import MARK

DEFAULT_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEFAULT_LANG: Final = "C.UTF-8"
_MEMBERS: Final = ("command", "arguments", "environment", "user", "directory", "artefacts")


@attrs.frozen(kw_only=True)
class Payload:
    """arguments: the program and its arguments; a command is one for `/bin/sh -c`.
    user: a name or a number; empty: the agent's own. directory: relative to the work folder; empty: that folder.
    artefacts: brought into the work folder before the start.
    """

    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    user: str = ""
    directory: str = ""
    artefacts: tuple[Artefact, ...] = ()


def parse_payload(payload: object) -> Payload:
    """Raises InvalidPayload."""
    if not isinstance(payload, Mapping):
        raise InvalidPayload(f"payload: expected an object, got {_shown(payload)}")
    for name in payload:
        if name not in _MEMBERS:
            raise InvalidPayload(f"payload.{_shown_name(name)}: unknown; known are {', '.join(_MEMBERS)}")
    return Payload(
        arguments=_arguments(payload),
        environment=_environment(payload.get("environment", {})),
        user=_text("payload.user", payload["user"]) if "user" in payload else "",
        directory=_text("payload.directory", payload["directory"]) if "directory" in payload else "",
        artefacts=parse_artefacts("payload.artefacts", payload.get("artefacts")),
    )


def _arguments(payload: Mapping[str, Any]) -> tuple[str, ...]:
    if ("command" in payload) == ("arguments" in payload):
        raise InvalidPayload("payload: expected either command or arguments")
    if "command" in payload:
        return ("/bin/sh", "-c", _text("payload.command", payload["command"]))
    given = payload["arguments"]
    if not isinstance(given, list | tuple) or not given:
        raise InvalidPayload(f"payload.arguments: expected an array of at least one text, got {_shown(given)}")
    rest = (_text(f"payload.arguments[{i}]", value, empty=True) for i, value in enumerate(given[1:], 1))
    return (_text("payload.arguments[0]", given[0]), *rest)


def _environment(given: object) -> Mapping[str, str]:
    if not isinstance(given, Mapping):
        raise InvalidPayload(f"payload.environment: expected an object, got {_shown(given)}")
    checked = {}
    for name, value in given.items():
        where = f"payload.environment.{_shown_name(name)}"
        if not isinstance(name, str) or not name or "=" in name:
            raise InvalidPayload(f"{where}: expected a variable's name, which is not empty and without '='")
        checked[_text(where, name)] = _text(where, value, empty=True)
    return checked


def _text(where: str, value: object, *, empty: bool = False) -> str:
    """Text that can be handed to a program: what the kernel cannot take is refused here, with its path."""
    if not isinstance(value, str):
        raise InvalidPayload(f"{where}: expected text, got {_shown(value)}")
    if not value and not empty:
        raise InvalidPayload(f"{where}: expected text that is not empty")
    if "\0" in value:
        raise InvalidPayload(f"{where}: expected text without NUL characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InvalidPayload(f"{where}: expected Unicode text: {error.reason}") from None
    return value


def _shown(value: object) -> str:
    """Never the value of something large, or of what may be a secret."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    kinds: dict[type, str] = {str: "text", list: "an array", dict: "an object"}
    return kinds.get(type(value), f"a {type(value).__name__}")


def _shown_name(name: object) -> str:
    return str(name)[:100].encode(errors="backslashreplace").decode() if isinstance(name, str) else _shown(name)


def environment_of(payload: Payload, added: Mapping[str, str], *, task: str, work: str, home: str) -> dict[str, str]:
    """Defaults under the control plane's variables under the payload's own."""
    defaults = {
        "PATH": DEFAULT_PATH,
        "HOME": home,
        "LANG": DEFAULT_LANG,
        "MESOS_SANDBOX": work,
        MARK: task,
    }
    return {**defaults, **added, **payload.environment}
