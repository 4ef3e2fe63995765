"""What happened and why: explain, events, logs."""

from __future__ import annotations

import json
import queue
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any, BinaryIO, Final
from urllib.parse import quote

import attrs
import click

from orlop.cli.client import Client
from orlop.cli.failures import NOT_FOUND, Failure, Unreachable
from orlop.cli.options import client_of, json_option, server_options, task_argument
from orlop.cli.output import details_of, duration_s, one_line, show_json, table

EVENTS_MAX: Final = 1_000
EVENTS_SHOWN: Final = 50
RECONNECT_FIRST_S: Final = 0.5
RECONNECT_MAX_S: Final = 10.0
#: Pieces of output that are read ahead of a slow terminal.
PIECES_AHEAD_MAX: Final = 64
#: Longer lines are shown in parts.
LINE_BYTES_MAX: Final = 2**20


@click.command()
@task_argument
@json_option
@server_options
@click.pass_context
def explain(ctx: click.Context, task: str, output: str) -> None:
    """Why a task waits or died, and its story.

    TASK: its id, its name, the beginning of its id, or a group such as an app's path.
    """
    document = client_of(ctx).get(f"/v1/explain/{quote(task, safe='')}")
    if output == "json":
        show_json(document)
    elif "asks" in document:
        _explain_group(document)
    else:
        _explain_task(document)


def _explain_group(document: Mapping[str, Any]) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in document["tasks"].items()) or "none"
    click.echo(f"group    {document['group']} of {document['framework']}")
    click.echo(f"tasks    {counts}")
    if not document["asks"]:
        click.echo(f"waiting  {document['text']}")
    for ask in document["asks"]:
        delayed = f", delayed until {ask.get('not_before')}" if ask.get("delayed") else ""
        click.echo(f"waiting  {ask.get('count', 1)} since {ask.get('since')}{delayed}, such as {ask['id']}")
        _explanation(ask["explanation"])
    last = document.get("last_ended")
    if document["asks"] and last:
        where = f", on {last.get('node_name') or last['node']}" if last.get("node") else ""
        click.echo(f"before   {_end_of(last)}  ({last['id']}{where})")


def _end_of(task: Mapping[str, Any]) -> str:
    code = f", exit code {task['exit_code']}" if task.get("exit_code") is not None else ""
    signal = f", signal {task['signal']}" if task.get("signal") is not None else ""
    reason = f": {task['reason']}" if task.get("reason") else ""
    return f"{task['outcome']}{code}{signal}{reason}"


def _explain_task(document: Mapping[str, Any]) -> None:
    task = document["task"]
    where = f", on {task.get('node_name') or task['node']}" if task.get("node") else ""
    owner = " ".join(filter(None, (task["framework"], task.get("group"))))
    click.echo(f"task     {task['id']}  {task['name']}  ({owner})")
    click.echo(f"state    {task['state']}, wanted {task['desired']}{where}")
    if task.get("unreachable"):
        node = task.get("node_name") or task["node"]
        click.echo(
            f"node     {node} cannot be reached; what runs there goes on. To give it up: orlop kill {task['id']}"
        )
    if task.get("outcome"):
        click.echo(f"ended    {_end_of(task)}")
    elif task.get("message"):
        click.echo(f"message  {task['message']}")
    if task["state"] == "pending" and document.get("explanation"):
        _explanation(document["explanation"])
    for entry in document.get("story", []):
        click.echo(f"{entry['at']}  {entry['type']}  {details_of(entry)}".rstrip())


def _explanation(explanation: Mapping[str, Any]) -> None:
    click.echo(f"why      {explanation['text']}")
    if explanation["ruled_out"]:
        table(explanation["ruled_out"], ("filter", "nodes", "reason"))


# Events


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Go on with what happens, until Ctrl-C.")
@click.option("--since", default="", help="10m, 2h, a time such as 2026-01-31T12:00Z, or an event's id.")
@click.option("--type", "kind", default="", help="Only these types: task, node.unreachable.")
@click.option("--subject", default="", help="Only events about this task, node or app.")
@click.option("--limit", type=click.IntRange(1, EVENTS_MAX), help="How many at most: 50, or 1000 with --since.")
@json_option
@server_options
@click.pass_context
def events(
    ctx: click.Context, follow: bool, since: str, kind: str, subject: str, limit: int | None, output: str
) -> None:
    """What happened, to whom, why. With -o json one object a line.

    With --limit the last ones, or those that come next after an event's id.
    """
    client = client_of(ctx)
    wanted = {"type": kind, "subject": subject}
    after, earliest = _since(since)
    asked = EVENTS_MAX if earliest is not None else limit or (EVENTS_MAX if after else EVENTS_SHOWN)
    document = client.get("/v1/events", after=after, limit=asked, **wanted)
    found = [entry for entry in document["events"] if earliest is None or _moment(entry) >= earliest]
    found = found[-(limit or asked) :]
    if document.get("gap") and after:
        _gap()
    for entry in found:
        _show_event(entry, output)
    if follow:
        try:
            for entry in _followed(client, document.get("next") or after, wanted):
                _show_event(entry, output)
        except KeyboardInterrupt:
            return


def _since(text: str) -> tuple[str, datetime | None]:
    """(id to start after, earliest moment). Raises UsageError."""
    if not text:
        return "", None
    first, dash, second = text.partition("-")
    if dash and first.isdigit() and second.isdigit():
        return text, None
    seconds = duration_s(text)
    if seconds is not None:
        return "", datetime.fromtimestamp(max(0.0, time.time() - seconds), UTC)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise click.UsageError(
            f'--since: expected "10m", "2h", a time such as "2026-01-31T12:00Z", or an event\'s id, got "{text}"'
        ) from None
    return "", moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _moment(entry: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(entry["at"]) if entry.get("at") else datetime.min.replace(tzinfo=UTC)


def _followed(client: Client, last: str | None, wanted: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Events as they happen; a server that went away is asked again, from where it was."""
    delay_s = RECONNECT_FIRST_S
    while True:
        try:
            for event, entry in _server_sent(
                client.stream("/v1/events", accept="text/event-stream", after=last, **wanted)
            ):
                delay_s = RECONNECT_FIRST_S
                if event == "gap":
                    _gap()
                else:
                    last = entry["id"]
                    yield entry
        except Unreachable as failure:
            failure.show()
        _pause(delay_s)
        delay_s = min(RECONNECT_MAX_S, delay_s * 2)


def _pause(seconds: float) -> None:
    time.sleep(seconds)


def _server_sent(pieces: Iterator[bytes]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(event, data) of a stream of server-sent events; an unfinished one at its end is left out."""
    event, data, rest = "", [], b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            name, _, value = line.decode(errors="replace").rstrip("\r").partition(":")
            if name == "event":
                event = value.strip()
            elif name == "data":
                data.append(value.removeprefix(" "))
            elif not name and not value and data:
                yield event, json.loads("\n".join(data))
                event, data = "", []


def _gap() -> None:
    click.echo("-- events before this are no longer kept --", err=True)


def _show_event(entry: Mapping[str, Any], output: str) -> None:
    if output == "json":
        click.echo(json.dumps(entry, ensure_ascii=False))
    else:
        subject = one_line(entry.get("subject", ""))
        line = f"{entry['at']}  {entry['type']:<24} {subject}  {details_of(entry)}"
        click.echo(line.rstrip())
    sys.stdout.flush()


# Logs


@click.command()
@task_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the task ends, or Ctrl-C.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last N lines.")
@click.option("--stdout", "stdout", is_flag=True, help="Standard output alone.")
@click.option("--stderr", "stderr", is_flag=True, help="Standard error alone.")
@click.option("--node", help="Where to ask for the output of a task that is forgotten everywhere else.")
@server_options
@click.pass_context
def logs(
    ctx: click.Context, task: str, follow: bool, tail: int | None, stdout: bool, stderr: bool, node: str | None
) -> None:
    """A task's output; kept for a while after its end, then its first and last 64 kB for longer.

    Without --stdout or --stderr, or with both of them, both are shown, each on its own of these two here.
    """
    if follow and node:
        raise click.UsageError("--node: what is forgotten has ended and cannot be followed")
    only = None if stdout == stderr else "stdout" if stdout else "stderr"
    show_output(client_of(ctx), task, follow=follow, tail=tail, only=only, node=node)


def show_output(
    client: Client,
    task: str,
    *,
    follow: bool = False,
    tail: int | None = None,
    only: str | None = None,
    node: str | None = None,
) -> None:
    """What `orlop logs` shows. only: "stdout" or "stderr". Ctrl-C ends it. Raises Failure."""
    output = _Output(client, task, tail, node)
    try:
        if only:
            for piece in output.read(only, follow=follow):
                _write(sys.stdout.buffer, piece)
        else:
            _both(output, follow)
    except KeyboardInterrupt:
        return


@attrs.frozen
class _Output:
    client: Client
    task: str
    tail: int | None
    node: str | None

    def read(self, stream: str, *, follow: bool) -> Iterator[bytes]:
        path = f"/v1/tasks/{quote(self.task, safe='')}/logs"
        return self.client.stream(path, stream=stream, follow=follow, tail=self.tail, node=self.node)


def _write(out: BinaryIO, piece: bytes) -> None:
    out.write(piece)
    out.flush()


def _both(output: _Output, follow: bool) -> None:
    """Both streams: one after the other, or, when followed, in whole lines as they come.

    A stream that does not exist is passed over while the other one does.
    """
    targets = {"stdout": sys.stdout.buffer, "stderr": sys.stderr.buffer}
    failures: list[Failure] = []
    pieces = _interleaved(output) if follow else _in_turn(output)
    for stream, piece in pieces:
        if isinstance(piece, Failure):
            failures.append(piece)
        else:
            _write(targets[stream], piece)
    if failures and (len(failures) == len(targets) or failures[0].code != NOT_FOUND):
        raise failures[0]


def _in_turn(output: _Output) -> Iterator[tuple[str, bytes | Failure]]:
    for stream in ("stdout", "stderr"):
        try:
            for piece in output.read(stream, follow=False):
                yield stream, piece
        except Failure as failure:
            yield stream, failure


def _interleaved(output: _Output) -> Iterator[tuple[str, bytes | Failure]]:
    arrived: queue.Queue[tuple[str, bytes | Failure | None]] = queue.Queue(PIECES_AHEAD_MAX)

    def read(stream: str) -> None:
        rest = b""
        try:
            for piece in output.read(stream, follow=True):
                whole, newline, rest = (rest + piece).rpartition(b"\n")
                if len(rest) > LINE_BYTES_MAX:
                    whole, newline, rest = whole + newline + rest, b"", b""
                if whole or newline:
                    arrived.put((stream, whole + newline))
        except Failure as failure:
            arrived.put((stream, failure))
        except Exception as error:  # noqa: BLE001  (a thread's end must be told, or the reader waits for ever)
            arrived.put((stream, Failure(f"{type(error).__name__}: {error}")))
        finally:
            if rest:
                arrived.put((stream, rest))
            arrived.put((stream, None))

    streams = ["stdout", "stderr"]
    for stream in streams:
        threading.Thread(target=read, args=(stream,), daemon=True).start()
    while streams:
        stream, piece = arrived.get()
        if piece is None:
            streams.remove(stream)
        else:
            yield stream, piece
