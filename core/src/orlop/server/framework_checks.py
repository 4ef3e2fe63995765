"""What a framework says of its objects: what could be written and not be read again is refused when it is loaded. Pure.

A name, a kind or a version that a stored key or document cannot have is not noticed when it is written. The next server
that starts could not read its state, and the plugin's author would be far away by then.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from orlop.checked_tables import did_you_mean
from orlop.framework import Framework
from orlop.store import requests


def check_framework(framework: type[Framework]) -> None:
    """Raises ValueError, which names what is wrong and what was expected."""
    name = framework.name
    whose = f"framework {name}" if isinstance(name, str) and name.isprintable() else framework.__name__
    _check_part(f"{whose}: name", framework.name)
    if not isinstance(framework.documents, Mapping):
        raise ValueError(
            f"{whose}: documents: expected a mapping of kinds to attrs classes, got {framework.documents!r}"
        )
    for kind, cls in framework.documents.items():
        _check_part(f"{whose}: kind in documents", kind)
        if not isinstance(cls, type) or not attrs.has(cls):
            raise ValueError(f"{whose}: documents[{kind!r}]: expected an attrs class, got {cls!r}")
    version = framework.version
    if type(version) is not int or version < 1:
        raise ValueError(f"{whose}: version: expected a whole number from 1 on, got {version!r}")
    _check_migrations(whose, framework, version)


def doubts(framework: type[Framework]) -> Iterator[str]:
    """What does no harm, and nothing else either: a step for a kind that cannot be read, for it has no class."""
    for version, steps in framework.migrations.items():
        for kind in steps:
            if kind not in framework.documents:
                hint = did_you_mean(kind, framework.documents) if isinstance(kind, str) else ""
                yield f"framework {framework.name}: migrations[{version!r}]: documents has no kind {kind!r}{hint}"


def _check_part(what: str, text: Any) -> None:
    """Of a key: framework and kind end at a slash."""
    expected = f'{what}: expected a text without "/"'
    if not isinstance(text, str) or "/" in text:
        raise ValueError(f"{expected}, got {text!r}")
    try:
        requests.check_key(text)
    except ValueError as error:
        raise ValueError(f"{expected}: {error}") from error


def _check_migrations(whose: str, framework: type[Framework], version: int) -> None:
    migrations = framework.migrations
    expected = f"{whose}: migrations: expected a mapping of versions to mappings of kinds to functions"
    if not isinstance(migrations, Mapping):
        raise ValueError(f"{expected}, got {migrations!r}")
    for found, steps in migrations.items():
        if not isinstance(steps, Mapping):
            raise ValueError(f"{expected}, got {steps!r} for version {found!r}")
        for kind, step in steps.items():
            if step is not None and not callable(step):
                raise ValueError(f"{expected}, got {step!r} for {kind!r} in version {found!r}")
    if inspect.getattr_static(framework, "migrate") is not vars(Framework)["migrate"]:  # it has a way of its own
        return
    missing = [str(earlier) for earlier in range(1, min(version, 1_000)) if earlier not in migrations]
    if missing:
        raise ValueError(
            f"{whose}: migrations: expected steps from every version before {version}, and there are none from "
            f"{', '.join(missing)} ({{}} where nothing is to be done)"
        )
