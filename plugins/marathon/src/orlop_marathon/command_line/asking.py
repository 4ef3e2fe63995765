"""What all commands share: the client, paths of apps and groups, shortened ids, options, questions before the dear."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

import attrs
import click

from orlop.cli.client import Client
from orlop.cli.failures import NOT_FOUND, Failure
from orlop.cli.options import completed, completed_by, json_option
from orlop_marathon import paths

#: Where a server has Marathon's API.
MOUNTED: Final = "/marathon"
USAGE: Final = 2
#: So many of the ids that a shortened one may mean are named.
MOST_NAMED: Final = 5

complete_apps: Final = completed(f"{MOUNTED}/v2/apps", "apps", ("id",), "cmd")
app_argument: Final = click.argument("app_id", shell_complete=complete_apps)
yes_option: Final = click.option("--yes", is_flag=True, help="Do not ask.")
_SECONDS: Final = click.FloatRange(min=0)
IN_THE_WAY: Final = "Cancel deployments that are in the way."


def server(ctx: click.Context) -> Client:
    """A client of the server that was named."""
    return Client(ctx.find_root().obj["server"])


def marathon_of(ctx: click.Context) -> Client:
    """A client of that server's Marathon."""
    return Client(ctx.find_root().obj["server"] + MOUNTED)


# --- paths and ids ---


def app_path(app_id: str) -> str:
    """Where the API has the app. Raises as `full_id`."""
    return f"/v2/apps{full_id(app_id)}"


def full_id(app_id: str) -> str:
    """From the root on. Raises Failure for what is no app's id: `web/tasks` would be something else in the API."""
    path = paths.resolve(app_id)
    wrong = paths.violations(app_id) or (["must not be root"] if path == paths.ROOT else [])
    if wrong:
        raise Failure(f"{app_id!r} is no app's id: {'; '.join(wrong)}", code=USAGE)
    return path


def group_path(group_id: str) -> str:
    """Where the API has the group; `/` is the root. Raises Failure for what is no group's path, or none in the API:
    `shop/apps` is a list of apps there."""
    parts = paths.segments(paths.resolve(group_id))
    wrong = paths.violations(group_id)
    if not group_id:
        wrong = ["must not be empty; `/` is the root"]
    elif parts[-1:] == ["apps"] or parts[-2:-1] == ["versions"]:
        wrong = [f"/v2/groups{paths.join(parts)} is something else in Marathon's API"]
    if wrong:
        raise Failure(f"{group_id!r} is no group's path: {'; '.join(wrong)}", code=USAGE)
    return f"/v2/groups{paths.join(parts)}"


def groups_in(group: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """A group of the API and all below it."""
    yield group
    for one in group.get("groups", []):
        yield from groups_in(one)


def apps_in(group: dict[str, Any]) -> list[dict[str, Any]]:
    """All apps in a group of the API, at any depth."""
    return [app for one in groups_in(group) for app in one.get("apps", [])]


group_argument: Final = click.argument(
    "group_id",
    shell_complete=completed_by(
        f"{MOUNTED}/v2/groups", lambda root: {one["id"]: f"{len(apps_in(one))} apps" for one in groups_in(root)}
    ),
)
deployment_argument: Final = click.argument(
    "deployment_id",
    shell_complete=completed_by(
        f"{MOUNTED}/v2/deployments", lambda running: {one["id"]: ", ".join(one["affectedApps"]) for one in running}
    ),
)


def the_one(ids: Iterable[str], given: str, what: str, see: str) -> str:
    """The one of the ids that is meant: the very same, else the only one that begins so. Raises Failure.

    what: of what they are, "deployment". see: the command that lists them.
    """
    known = list(ids)
    if given in known:
        return given
    meant = [one for one in known if given and one.startswith(given)]
    if not meant:
        raise Failure(f"there is no {what} {given!r}", hint=f"see `{see}`", code=NOT_FOUND)
    if len(meant) > 1:
        more = ", …" if len(meant) > MOST_NAMED else ""
        named = ", ".join(sorted(meant)[:MOST_NAMED]) + more
        raise Failure(f"{given!r} is the beginning of more than one {what}: {named}", code=USAGE)
    return meant[0]


# --- options ---


@attrs.frozen(kw_only=True)
class Waiting:
    """How a command waits for its deployment. timeout: in seconds. output: `table` for people, or `json`."""

    detach: bool = False
    timeout: float = 600
    force: bool = False
    output: str = "table"


def waits(*, detach: bool = True, force: str | None = IN_THE_WAY) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options of a command that waits for a deployment, which it is given as `waiting`.

    detach: can it be told not to? force: what `--force` does, None where there is none.
    """
    options = [
        json_option,
        click.option("--timeout", type=_SECONDS, default=600, show_default=True, help="Seconds to wait."),
    ]
    if detach:
        options.append(click.option("--detach", is_flag=True, help="Do not wait for the deployment."))
    if force is not None:
        options.append(click.option("--force", is_flag=True, help=force))

    def decorated(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def bundled(*arguments: Any, **given: Any) -> Any:
            own = {field.name: given.pop(field.name) for field in attrs.fields(Waiting) if field.name in given}
            return command(*arguments, waiting=Waiting(**own), **given)

        for option in options:
            bundled = option(bundled)
        return bundled

    return decorated


def kills(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of commands that kill tasks: what becomes of their places."""
    for option in (
        click.option("--wipe", is_flag=True, help="Give their instances up: those in their place are new ones."),
        click.option("--scale", is_flag=True, help="Start none in their place: their apps run as many fewer."),
    ):
        command = option(command)
    return command


def either(scale: bool, wipe: bool) -> None:
    """Raises Failure for both, as the API would."""
    if scale and wipe:
        raise Failure("give either --scale or --wipe, not both", code=USAGE)


def confirm(question: str, yes: bool) -> None:
    """Asks on a terminal, unless told not to. Raises click.Abort."""
    if not yes and sys.stdin.isatty():
        click.confirm(question, abort=True, err=True)
