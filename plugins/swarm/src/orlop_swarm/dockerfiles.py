"""Which images a Dockerfile begins with and copies from. Pure.

Only as much of it is read as that takes; what is no Dockerfile is for an engine to complain of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

#: More than a Dockerfile of people has; each is asked for on all engines.
IMAGES_MAX: Final = 32
#: The base of what begins with nothing.
SCRATCH: Final = "scratch"

_DIRECTIVE: Final = re.compile(r"#\s*(\w+)\s*=\s*(\S+)\s*")
_VARIABLE: Final = re.compile(r"\$(?:(\w+)|\{(\w+)(?:(:?[-+])([^}]*))?\})")
_MOUNTED: Final = re.compile(r"--mount=\S*?\bfrom=([^,\s]+)")
_COPIED: Final = re.compile(r"--from=(\S+)")


def images(text: str, arguments: Mapping[str, str | None], target: str = "") -> list[str]:
    """The images that a build needs, each once, in the order of first sight; those that it makes itself are not among
    them. arguments: of the build; None: not set. target: the stage that it ends with; empty: the last one."""
    found: dict[str, None] = {}
    values: dict[str, str] = {}
    stages: list[str] = []
    for word, rest in _instructions(text):
        if word == "FROM":
            if target and stages and target.lower() in (stages[-1], str(len(stages) - 1)):
                break
            names = [one for one in rest.split() if not one.startswith("--")]
            image = _expanded(names[0], values) if names else ""
            if image.lower() not in stages:
                found[image] = None
            stages.append(names[2].lower() if len(names) == 3 and names[1].upper() == "AS" else "")
        elif word == "ARG" and not stages:
            for one in rest.split():
                name, equals, default = one.partition("=")
                given = arguments.get(name)
                if given is not None or equals:
                    values[name] = given if given is not None else _expanded(default.strip("'\""), values)
        elif word in ("COPY", "ADD", "RUN"):
            for name in (_MOUNTED if word == "RUN" else _COPIED).findall(_flags(rest)):
                if name.lower() not in stages and not name.isdecimal():
                    found[name] = None
    return [name for name in found if name and name != SCRATCH][:IMAGES_MAX]


def _flags(rest: str) -> str:
    """What an instruction's words begin with."""
    flags: list[str] = []
    for word in rest.split():
        if not word.startswith("--"):
            break
        flags.append(word)
    return " ".join(flags)


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    """Each one's name, in capitals, and what follows it, with continued lines as one."""
    escape, directives, begun = "\\", True, ""
    for line in text.removeprefix("\ufeff").splitlines():
        stripped = line.strip()
        if stripped.startswith("#") or not stripped:
            directive = _DIRECTIVE.fullmatch(stripped) if directives else None
            if directive is None:
                directives = False
            elif directive[1].lower() == "escape":
                escape = directive[2]
            continue
        directives = False
        if stripped.endswith(escape):
            begun += stripped.removesuffix(escape) + " "
            continue
        word, _, rest = (begun + stripped).strip().partition(" ")
        begun = ""
        yield word.upper(), rest.strip()


def _expanded(word: str, values: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, how, other = match[1] or match[2], match[3] or "", match[4] or ""
        known = values.get(name)
        counts = bool(known) if how.startswith(":") else known is not None
        if how.endswith("+"):
            return other if counts else ""
        return known if counts and known is not None else other

    return _VARIABLE.sub(value, word.strip("'\""))
