"""Writes a new plugin: a small framework that works, and its test."""

from __future__ import annotations

import builtins
import keyword
import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import orlop
from orlop import framework
from orlop.cli.failures import CONFLICT, Failure
from orlop.cli.installed import plugin_names

_NAME: Final = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
NAME_CHARACTERS_MAX: Final = 40
#: Also where they are not installed.
_OWN: Final = frozenset({"orlop", "marathon", "chronos", "swarm"})
#: Template → where it goes.
_FILES: Final = {
    "pyproject.toml.template": "pyproject.toml",
    "README.md.template": "README.md",
    "plugin.py.template": "src/{module}/__init__.py",
    "test.py.template": "tests/test_{name}.py",
}


def write_plugin(name: str, parent: Path) -> Path:
    """Writes `orlop-NAME` into the folder; its path. Raises Failure when the name does not do or is taken."""
    name = name.removeprefix("orlop-")
    if not _NAME.match(name) or len(name) > NAME_CHARACTERS_MAX:
        raise Failure(
            f"NAME: expected a lower-case letter, and after it no more than {NAME_CHARACTERS_MAX - 1} lower-case "
            f'letters, digits and single "-" between them, got "{name}"',
            code=2,
        )
    if name in _OWN:
        raise Failure(f"NAME: {name} is what Orlop's own plugin is called", code=2)
    if name in plugin_names():
        raise Failure(f"NAME: a plugin {name} is installed already", code=CONFLICT)
    folder = parent / f"orlop-{name}"
    if folder.exists():
        raise Failure(f"{folder} exists already", code=CONFLICT)
    major, minor = orlop.__version__.split(".")[:2]
    templates = {
        target: (files("orlop.cli") / "templates" / template).read_text(encoding="utf-8")
        for template, target in _FILES.items()
    }
    words = {
        "name": name,
        "module": f"orlop_{name.replace('-', '_')}",
        "framework": _class_name(name, " ".join(templates.values())),
        "version": f"{major}.{minor}",
        "next_version": f"{major}.{int(minor) + 1}",
    }
    for target, template in templates.items():
        path = folder / target.format(module=words["module"], name=name.replace("-", "_"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(Template(template).substitute(words), encoding="utf-8")
    return folder


def _class_name(name: str, templates: str) -> str:
    """Of the framework: not one that something else has there, and none by which pytest takes it for a test."""
    made = "".join(part.capitalize() for part in name.split("-"))
    known = {*re.findall(r"\w+", templates), *framework.__all__, *vars(builtins), *keyword.kwlist}
    return f"My{made}" if made in known or made.startswith("Test") else made
