"""What routes and command lines ask of the framework. Input is parsed already; what depends on the present state of
apps and groups is decided when the order is carried out (`executing`)."""

from __future__ import annotations

import attrs

from orlop_marathon.model import App
from orlop_marathon.parsing import AppUpdate, GroupUpdate


@attrs.frozen(kw_only=True)
class Origin:
    """Who asked, for the event bus."""

    client_ip: str = ""
    uri: str = ""


@attrs.frozen(kw_only=True)
class CreateApp:
    app: App
    force: bool = False
    origin: Origin = Origin()


@attrs.frozen(kw_only=True)
class UpdateApps:
    """updates: (absolute path, update). partial: what an update does not say keeps its value.

    create: apps that do not exist are made; otherwise they are an error.
    """

    updates: tuple[tuple[str, AppUpdate], ...]
    partial: bool = True
    create: bool = True
    force: bool = False
    origin: Origin = Origin()


@attrs.frozen(kw_only=True)
class DeleteApp:
    path: str
    force: bool = True


@attrs.frozen(kw_only=True)
class RestartApp:
    path: str
    force: bool = False


@attrs.frozen(kw_only=True)
class ChangeGroup:
    """create_only: it must not exist. dry_run: only say what the plan would be."""

    update: GroupUpdate
    force: bool = False
    create_only: bool = False
    dry_run: bool = False


@attrs.frozen(kw_only=True)
class DeleteGroup:
    path: str
    force: bool = False


@attrs.frozen(kw_only=True)
class EnforceRole:
    path: str
    enforce: bool


@attrs.frozen(kw_only=True)
class CancelDeployment:
    """force: leave everything as it is; otherwise a new deployment takes it back."""

    id: str
    force: bool = False


@attrs.frozen(kw_only=True)
class KillTasks:
    """names: Marathon's task ids; unknown ones are ignored. scale: the apps shrink by as many. wipe: not again."""

    names: tuple[str, ...]
    scale: bool = False
    wipe: bool = False
    force: bool = False


@attrs.frozen(kw_only=True)
class ResetDelay:
    """Start the app's waiting instances now."""

    path: str


Order = (
    CreateApp | UpdateApps | DeleteApp | RestartApp | ChangeGroup | DeleteGroup | EnforceRole | CancelDeployment
    | KillTasks | ResetDelay
)  # fmt: skip
