"""A small server that answers as the operator API does, and the command line that asks it."""

from __future__ import annotations

from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

import attrs
from click.testing import CliRunner, Result

from orlop.cli.main import cli

TASK = {
    "id": "t-1", "name": "web.1", "key": "k", "group": "/web", "framework": "marathon", "state": "running",
    "desired": "running", "node": "n-1", "node_name": "alpha", "ports": [31000, 31001], "healthy": True,
    "created": "2026-01-01T00:00:00.000Z", "started": "2026-01-01T00:00:01.000Z", "ended": None, "outcome": None,
    "exit_code": None, "reason": "", "role": "*", "runtime": "docker",
}  # fmt: skip
WAITING = TASK | {"id": "t-2", "name": "web.2", "state": "pending", "node": None, "node_name": None, "ports": []}
EXPLANATION = {
    "nodes": 2, "fits": 0, "note": "", "text": "0 of 2 nodes fit: not enough cpus (2)",
    "ruled_out": [{"filter": "resources", "reason": "not enough cpus", "nodes": 2}],
}  # fmt: skip
CLUSTER: dict[str, Any] = {
    "name": "blue", "id": "c1", "version": "0.1.0", "address": "127.0.0.1:5050", "leader": "http://127.0.0.1:5050",
    "store": "sqlite:///s", "started": "2026-01-01T00:00:00.000Z", "uptime_s": 5, "read_only": "the disk is full",
    "nodes": {"ready": 2}, "tasks": {"running": 1, "pending": 1},
    "resources": {
        "total": {"cpus": 4.0, "mem": 2**34}, "used": {"cpus": 0.5, "mem": 3 * 2**29},
        "units": {"cpus": "cores", "mem": "bytes"},
    },
    "frameworks": [{"name": "marathon", "state": "quarantined", "error": "KeyError: 'x'"}],
    "unavailable": [
        {"runtime": "docker", "node": "n-1", "node_name": "alpha", "reason": "the engine does not answer"}
    ],
    "orphans": [{"task": "t-9", "node": "n-1", "node_name": "alpha"}],
}  # fmt: skip
NODE = {
    "id": "n-1", "name": "alpha", "address": "10.0.0.1", "state": "ready", "drained": False, "tasks": 1,
    "attributes": {"rack": "r1"}, "runtimes": ["process", "docker"], "os": "linux", "arch": "x86_64",
    "resources": {
        "cpus": {"total": 4, "used": 0.5, "unit": "cores"}, "mem": {"total": 2**34, "used": 0, "unit": "bytes"},
    },
    "ports": "31000-32000",
}  # fmt: skip


def event(number: int, at: str = "2026-01-01T00:00:00.000Z", **details: str) -> dict[str, Any]:
    return {"id": f"{number}-0", "at": at, "type": "task.running", "subject": "t-1", "cause": "", "details": details}


@attrs.define
class Fake:
    """Answers by (method, path): JSON, (status, JSON), or a function of the handler. Remembers what was asked."""

    url: str
    answers: dict[tuple[str, str], Any] = attrs.field(factory=dict)
    asked: list[tuple[str, str, dict[str, str], Any]] = attrs.field(factory=list)
    headers: list[dict[str, str]] = attrs.field(factory=list)


def run(fake: Fake | None, *arguments: str, code: int = 0) -> Result:
    before = ["--server", fake.url] if fake else []
    result = CliRunner().invoke(cli, [*before, *arguments])
    assert result.exit_code == code, f"{result.output}\n{result.exception!r}"
    return result


def body(data: bytes) -> Callable[[BaseHTTPRequestHandler], None]:
    """Sends these bytes and closes, as a stream that ends does."""

    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(data)

    return send
