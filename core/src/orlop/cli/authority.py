"""`orlop authority`: whose certificates servers and agents have, and how another authority takes its place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from orlop.cli.options import client_of, json_option, server_options
from orlop.cli.output import duration_s, show_json, table, text_of

WAITING_SHOWN_MAX = 20


@click.group()
def authority() -> None:
    """The cluster's certificate authority: show, rotate, hurry."""


@authority.command("show")
@click.option("--pem", is_flag=True, help="Only the certificates, as clients need them: orlop --ca FILE.")
@json_option
@server_options
@click.pass_context
def show_(ctx: click.Context, pem: bool, output: str) -> None:
    """Which authorities are trusted, and how far a rotation is."""
    document = client_of(ctx).get("/v1/authority")
    if pem:
        click.echo("".join(one["certificate"] for one in document["authorities"]), nl=False)
    elif output == "json":
        show_json(document)
    else:
        table(document["authorities"], ["state", "fingerprint", "expires"])
        _tell(document["rotation"])


@authority.command()
@click.option("--after", default="1h", show_default=True, help="Servers change no sooner; clients need the new ca.pem.")
@click.option("--within", default="7d", show_default=True, help="Servers change by then, whatever nodes are away.")
@click.option("--keep", default="1h", show_default=True, help="The old authority is trusted for so long after that.")
@json_option
@server_options
@click.pass_context
def rotate(ctx: click.Context, after: str, within: str, keep: str, output: str) -> None:
    """Let a new authority take the place of the present one, without stopping anything.

    Agents get new certificates over the connections they have. When all have them, and not before --after, servers
    change to the new authority; tokens to join with that were made before end with it.
    """
    body = {}
    for name, text in (("after", after), ("within", within), ("keep", keep)):
        seconds = 0.0 if text.strip() == "0" else duration_s(text)
        if seconds is None:
            raise click.UsageError(f'--{name}: expected "90s", "10m", "3h", "2d" or "0", got "{text}"')
        body[f"{name}_s"] = round(seconds)
    document = client_of(ctx).send("POST", "/v1/authority/rotation", body)
    if output == "json":
        show_json(document)
    else:
        _tell(document["rotation"])
        click.echo("clients on other machines need the new list: orlop authority show --pem > ca.pem")


@authority.command()
@server_options
@click.pass_context
def hurry(ctx: click.Context) -> None:
    """End the wait of a rotation's present phase. Nodes that are not ready need a new token to join with."""
    document = client_of(ctx).send("POST", "/v1/authority/rotation/hurry", {})
    _tell(document["rotation"])


def _tell(rotation: Mapping[str, Any] | None) -> None:
    if rotation is None:
        click.echo("no rotation is under way")
        return
    if rotation["phase"] == "keeping":
        click.echo(f"servers have the new authority; the former one is trusted until {text_of(rotation['drop'])}")
        return
    click.echo(
        f"the new authority spreads; servers change between {rotation['change_from']} and {rotation['change_by']}, "
        "as soon as all nodes are ready"
    )
    waiting = rotation["waiting"]
    if waiting:
        more = f" and {len(waiting) - WAITING_SHOWN_MAX} more" if len(waiting) > WAITING_SHOWN_MAX else ""
        click.echo(f"not ready yet: {', '.join(waiting[:WAITING_SHOWN_MAX])}{more}")
    else:
        click.echo("all nodes are ready")
