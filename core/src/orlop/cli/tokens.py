"""`orlop token`: what lets machines join."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import click

from orlop.cli.options import client_of, json_option, output_option, server_options
from orlop.cli.output import duration_s, show, show_json, text_of


@click.group()
def token() -> None:
    """Tokens that let machines join: create, list, revoke."""


@token.command()
@click.option("--lifetime", default="24h", show_default=True, help="90s, 10m, 3h, 2d; 0: for ever.")
@click.option("--uses", type=click.IntRange(1), default=1, show_default=True, help="How many nodes it lets in.")
@click.option("--node", default="", help="Only this node (its id); it may come with a new key.")
@click.option("--note", default="", help="What it is for, to be found again by.")
@json_option
@server_options
@click.pass_context
def create(ctx: click.Context, lifetime: str, uses: int, node: str, note: str, output: str) -> None:
    """Make a join token. It is shown this once: for `orlop agent --join URL --token TOKEN`."""
    seconds = 0.0 if lifetime.strip() == "0" else duration_s(lifetime)
    if seconds is None:
        raise click.UsageError(f'--lifetime: expected "90s", "10m", "3h", "2d" or "0", got "{lifetime}"')
    body: dict[str, Any] = {"lifetime_s": round(seconds), "uses": uses}
    body |= {name: value for name, value in (("node", node), ("note", note)) if value}
    document = client_of(ctx).send("POST", "/v1/tokens", body)
    if output == "json":
        show_json(document)
    else:
        click.echo(document["token"])


@token.command("list")
@output_option
@server_options
@click.pass_context
def list_(ctx: click.Context, output: str) -> None:
    """All tokens, without their secrets."""
    document = client_of(ctx).get("/v1/tokens")
    rows = [
        one | {"used": f"{one['uses']}/{one['uses_max']}" if one.get("uses_max") else "-", "note": text_of(one["note"])}
        for one in document["tokens"]
    ]
    show(output, document, rows, ["id", "purpose", "state", "used", "node", "expires", "note"], wide=("created",))


@token.command()
@click.argument("token_id", metavar="ID")
@server_options
@click.pass_context
def revoke(ctx: click.Context, token_id: str) -> None:
    """End a token. Nodes that came with it stay.

    ID: as `orlop token list` shows it, or the whole token.
    """
    parts = token_id.strip().split("-")
    wanted = parts[3] if token_id.startswith("orlop-") and len(parts) > 4 else token_id
    document = client_of(ctx).send("DELETE", f"/v1/tokens/{quote(wanted, safe='')}")
    click.echo(f"revoked {wanted}" if document["changed"] else f"{wanted} was revoked before")
