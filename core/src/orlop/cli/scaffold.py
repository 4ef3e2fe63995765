"""Writes a new plugin: a small framework that works, and its test."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final

import orlop
from orlop.cli.failures import CONFLICT, Failure

_NAME: Final = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*\Z")
NAME_CHARACTERS_MAX: Final = 40
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
            f'NAME: expected at most {NAME_CHARACTERS_MAX} lower-case letters, digits and "-", got "{name}"', code=2
        )
    if name == "orlop":
        raise Failure("NAME: orlop is what Orlop's own plugin is called", code=2)
    folder = parent / f"orlop-{name}"
    if folder.exists():
        raise Failure(f"{folder} exists already", code=CONFLICT)
    major, minor = orlop.__version__.split(".")[:2]
    words = {
        "name": name,
        "module": f"orlop_{name.replace('-', '_')}",
        "framework": "".join(part.capitalize() for part in name.split("-")),
        "version": f"{major}.{minor}",
        "next_version": f"{major}.{int(minor) + 1}",
    }
    templates = files("orlop.cli") / "templates"
    for template, target in _FILES.items():
        path = folder / target.format(module=words["module"], name=name.replace("-", "_"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            Template((templates / template).read_text(encoding="utf-8")).substitute(words), encoding="utf-8"
        )
    return folder
