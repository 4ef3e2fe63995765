"""Whom the resources of apps are accounted to: roles, and groups that enforce theirs (Marathon 1.11, `RoleSettings`).

An app that names no role gets one when it is deployed, for only then it is known whether its group enforces its own.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from orlop_marathon import paths
from orlop_marathon.model import App, GroupRecord

#: The role of an app that names none, until it is deployed.
NOT_SAID = ""


def filled_in(apps: Mapping[str, App], groups: Mapping[str, GroupRecord], default: str) -> dict[str, App]:
    """The apps with a role each; those that have one are the same objects. default: of the server's settings."""
    return {
        path: attrs.evolve(app, role=_of_group(path) if enforced(path, groups) else default)
        if app.role == NOT_SAID
        else app
        for path, app in apps.items()
    }


def enforced(path: str, groups: Mapping[str, GroupRecord]) -> bool:
    """Does the top-level group around this app enforce its role?"""
    if paths.parent(path) == paths.ROOT:
        return False
    group = groups.get(paths.top_level(path))
    return group is not None and bool(group.enforce_role)


def allowed(path: str, groups: Mapping[str, GroupRecord], default: str, before: App | None) -> frozenset[str]:
    """The roles that an app may have. before: what it was; it may keep its role."""
    found = {before.role} if before is not None else set()
    if paths.parent(path) == paths.ROOT:
        found.add(default)
    elif enforced(path, groups):
        found.add(_of_group(path))
    else:
        found |= {default, _of_group(path)}
    return frozenset(found)


def _of_group(path: str) -> str:
    return paths.top_level(path).removeprefix(paths.ROOT)
