"""The command line against a small server that answers as the operator API does."""

import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import attrs
import click
import pytest
from click.testing import CliRunner, Result

from orlop.cli import output, stories
from orlop.cli.client import Client
from orlop.cli.cluster import shown_state
from orlop.cli.failures import Failure, Unreachable
from orlop.cli.main import _MODULES, _OWN, cli

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
CLUSTER = {
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


@pytest.fixture
def fake() -> Iterator[Fake]:
    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            parts = urlsplit(self.path)
            path = unquote(parts.path)
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            made.asked.append((self.command, path, query, body))
            made.headers.append(dict(self.headers))
            answer = made.answers.get((self.command, path), (404, {"error": f"there is no {path}", "hint": "look"}))
            if callable(answer):
                answer(self)
                return
            status, document = answer if isinstance(answer, tuple) else (200, answer)
            data = document if isinstance(document, bytes) else json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = _serve  # noqa: N815

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    made = Fake(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield made
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ORLOP_SERVER", "ORLOP_TOKEN", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


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


# Start-up


def test_the_table_of_commands_says_what_the_commands_say() -> None:
    abouts = {name: about for section in _OWN.values() for name, (_, about) in section.items()}
    for name in _MODULES:
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert command.name == name
        first = abouts[name].split(".")[0].split(":")[0]
        assert (command.help or "").startswith(first), f"{name}: {command.help} / {first}"


def test_help_and_short_commands_import_nothing_heavy() -> None:
    heavy = {
        "requests",
        "rich",
        "aiohttp",
        "docker",
        "pluggy",
        "cattrs",
        "orlop.kernel",
        "orlop_marathon",
        "orlop_keepalive",
    }
    for arguments in (["--help"], ["--server", "http://127.0.0.1:1", "status"], ["version"]):
        program = (
            "import sys\nfrom orlop.cli.main import main\n"
            f"try: main({arguments!r})\nexcept SystemExit: pass\n"
            "print('\\nLOADED', *sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        loaded = set(done.stdout.partition("LOADED")[2].split())
        assert "orlop.cli.main" in loaded
        assert not loaded & heavy, arguments


def test_help_names_installed_plugins_and_what_to_type() -> None:
    out = run(None, "--help").output
    assert re.search(r"Plugins \(their commands: orlop NAME --help\):\n.*keepalive", out)
    for name in _MODULES:
        assert f"  {name} " in out


def test_a_mistyped_command() -> None:
    assert 'there is no command "stauts"; did you mean "status"?' in run(None, "stauts", code=2).stderr


def test_a_plugin_without_commands() -> None:
    assert run(None, "keepalive", code=1).stderr == "orlop: the plugin keepalive has no commands\n"


# Failures


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_server_is_one_line_with_a_hint() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    result = run(None, "--server", url, "status", code=1)
    assert result.stdout == ""
    hint = "start one with `orlop up`, or name it with --server URL or ORLOP_SERVER"
    assert result.stderr == f"orlop: cannot reach {url}: Connection refused ({hint})\n"


@pytest.mark.parametrize(
    ("status", "document", "code", "text"),
    [
        (404, {"error": "there is no task 'x'", "hint": "see all"}, 4, "orlop: there is no task 'x' (see all)"),
        (409, {"error": "'x' may be any of: a, b"}, 5, "orlop: 'x' may be any of: a, b"),
        (400, {"error": "too long", "path": "query.reason"}, 1, "orlop: query.reason: too long"),
        (503, {"error": "the store is full"}, 1, "orlop: the store is full"),
        (401, {"error": "who are you?"}, 1, "orlop: who are you? (give a token in ORLOP_TOKEN: "),
        (502, b"<html>", 1, "orlop: 502 Bad Gateway"),
        (
            422,
            {"message": "Invalid", "details": [{"path": "/id", "errors": ["a", "b"]}]},
            1,
            "orlop: Invalid: /id a, b",
        ),
        (200, b"<html>", 1, "answered with something that is not JSON (is it Orlop?)"),
    ],
)
def test_refusals_have_their_exit_codes(fake: Fake, status: int, document: Any, code: int, text: str) -> None:
    fake.answers["DELETE", "/v1/tasks/x"] = (status, document)
    result = run(fake, "kill", "x", code=code)
    assert text in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_answer_that_breaks_off(fake: Fake) -> None:
    def break_off(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b"{")

    fake.answers["GET", "/v1/nodes"] = break_off
    assert "broke off" in run(fake, "nodes", code=1).stderr


@pytest.mark.parametrize("url", ["ftp://host", "127.0.0.1:5050", "http://"])
def test_a_server_that_is_no_url(url: str) -> None:
    assert "--server: expected a URL" in run(None, "--server", url, "status", code=2).stderr


def test_a_surprise_is_a_bug_in_one_line_and_a_traceback_with_debug(fake: Fake) -> None:
    fake.answers["GET", "/v1/nodes"] = {}
    result = run(fake, "nodes", code=1)
    assert result.stderr == "orlop: KeyError: 'nodes' (this is a bug; `orlop --debug …` shows where)\n"
    for arguments in (["--debug", "nodes"], ["nodes", "--debug"]):
        assert "Traceback (most recent call last)" in run(fake, *arguments, code=1).stderr


def test_proxies_are_not_asked_for_this_machine(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    fake.answers["GET", "/v1/cluster"] = CLUSTER
    run(fake, "status")


def test_the_token_and_the_server_come_from_the_environment(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORLOP_TOKEN", "s3cret")
    monkeypatch.setenv("ORLOP_SERVER", fake.url)
    fake.answers["GET", "/v1/cluster"] = CLUSTER
    run(None, "status")
    assert fake.headers[0]["Authorization"] == "Bearer s3cret"


def test_the_server_may_be_named_behind_the_command(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER
    run(None, "status", "--server", fake.url)


# Looking


def test_status_says_what_others_take(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER | {"resources": CLUSTER["resources"] | {"foreign": {"mem": 2**20}}}
    assert "mem        1.5GiB of 16GiB used, 1MiB by foreign containers" in run(fake, "status").stdout.splitlines()


def test_status_says_what_needs_attention_last(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER
    lines = run(fake, "status").stdout.splitlines()
    assert lines[0] == "cluster    blue (c1), Orlop 0.1.0"
    assert "nodes      2 ready" in lines
    assert "tasks      1 running, 1 pending" in lines
    assert "cpus       0.5 of 4 used" in lines
    assert "mem        1.5GiB of 16GiB used" in lines
    assert "framework  marathon quarantined: KeyError: 'x'" in lines
    assert "runtime    docker on alpha: the engine does not answer" in lines
    assert lines[-3:-1] == [
        "orphans    1 task runs and is not in this cluster's state: it is left alone",
        "           t-9 on alpha",
    ]
    assert lines[-1] == "READ ONLY  the disk is full"
    assert json.loads(run(fake, "status", "-o", "json").stdout) == CLUSTER


def test_of_many_orphans_the_first_are_shown(fake: Fake) -> None:
    orphans = [{"task": f"t-{number:03}", "node": "n-1", "node_name": "alpha"} for number in range(200)]
    fake.answers["GET", "/v1/cluster"] = CLUSTER | {"orphans": orphans, "read_only": ""}
    lines = run(fake, "status").stdout.splitlines()
    assert "orphans    200 tasks run and are not in this cluster's state: they are left alone" in lines
    assert lines[-1] == "           and 180 more (see: orlop status -o json)"


def test_tables_are_aligned_json_is_the_document_and_names_are_bare(fake: Fake) -> None:
    document = {"tasks": [TASK, WAITING], "total": 2}
    fake.answers["GET", "/v1/tasks"] = document
    heading, first, second = run(fake, "tasks").stdout.splitlines()
    assert heading.split() == ["ID", "FRAMEWORK", "NAME", "STATE", "HEALTHY", "NODE", "PORTS", "AGE"]
    for column, value in (("STATE", "running"), ("NODE", "alpha"), ("PORTS", "31000,31001")):
        assert first.startswith(value, heading.index(column))
    assert second.startswith("pending", heading.index("STATE"))
    assert json.loads(run(fake, "tasks", "-o", "json").stdout) == document
    assert run(fake, "tasks", "-o", "name").stdout == "t-1\nt-2\n"
    assert "GROUP" in run(fake, "tasks", "-o", "wide").stdout
    assert "OUTCOME" in run(fake, "tasks", "--all").stdout


def test_what_is_asked_for_reaches_the_server(fake: Fake) -> None:
    fake.answers["GET", "/v1/tasks"] = {"tasks": []}
    run(fake, "tasks", "--all", "--framework", "marathon", "--state", "pending", "--group", "/web", "--node", "alpha")
    assert fake.asked[-1][2] == {
        "all": "true", "framework": "marathon", "state": "pending", "group": "/web", "node": "alpha"
    }  # fmt: skip
    run(fake, "tasks")
    assert fake.asked[-1][2] == {}


def test_nodes(fake: Fake) -> None:
    fake.answers["GET", "/v1/nodes"] = {"nodes": [NODE]}
    _, row = run(fake, "nodes").stdout.splitlines()
    assert re.split(" {3,}", row)[:7] == ["n-1", "alpha", "ready", "no", "1", "0.5/4", "0B/16GiB"]
    assert "rack=r1" in run(fake, "nodes", "-o", "wide").stdout
    resources = {"cpus": {"amount": 0.5, "unit": "cores"}, "mem": {"amount": 2**29, "unit": "bytes"}}
    used = {"containers": 3, "running": 1, "resources": resources}
    fake.answers["GET", "/v1/nodes"] = {"nodes": [NODE | {"foreign": None}, NODE | {"foreign": used}]}
    heading, _, row = run(fake, "nodes").stdout.splitlines()
    assert "FOREIGN" in heading
    assert "3 (0.5 cpus, 512MiB mem)" in row
    fake.answers["GET", "/v1/nodes"] = {"nodes": [NODE, NODE | {"unavailable": {"docker": "it does not answer"}}]}
    heading, healthy, troubled = run(fake, "nodes").stdout.splitlines()
    assert heading.endswith("UNAVAILABLE")
    assert troubled.endswith("docker: it does not answer")
    assert "docker" not in healthy


def test_drain_undrain_and_kill(fake: Fake) -> None:
    fake.answers["POST", "/v1/nodes/a/b/drain"] = {"node": NODE | {"drained": True}}
    fake.answers["POST", "/v1/nodes/alpha/undrain"] = {"node": NODE}
    fake.answers["DELETE", "/v1/tasks/web.1"] = (202, {"changed": True, "task": TASK})
    fake.answers["DELETE", "/v1/tasks/web.2"] = (202, {"changed": False, "task": {"id": "t-2"}})
    assert run(fake, "drain", "a/b", "--reason", "new disk").stdout == "alpha takes no new tasks; it runs 1\n"
    assert fake.asked[-1][3] == {"reason": "new disk"}
    assert run(fake, "undrain", "alpha").stdout == "alpha takes tasks again\n"
    assert fake.asked[-1][3] is None
    assert run(fake, "kill", "web.1", "--reason", "enough").stdout == "stopping t-1\n"
    assert fake.asked[-1][2] == {"reason": "enough"}
    assert run(fake, "kill", "web.2").stdout == "t-2 was stopping already, or has ended\n"


def test_on_a_terminal_tables_are_coloured_unless_told_otherwise(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    rows = [{"id": "t-1", "state": "running"}]
    output.table(rows, ("id", "state"))
    assert "\x1b[" in capsys.readouterr().out
    monkeypatch.setenv("NO_COLOR", "1")
    output.table(rows, ("id", "state"))
    assert capsys.readouterr().out == "ID    STATE\nt-1   running\n"


def test_watching_goes_on_over_an_absence_until_interrupted(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answers["GET", "/v1/tasks"] = {"tasks": [TASK]}
    rounds: list[float] = []

    def wait(seconds: float) -> None:
        rounds.append(seconds)
        if len(rounds) == 1:
            fake.answers["GET", "/v1/tasks"] = lambda handler: handler.connection.close()
        elif len(rounds) == 2:
            fake.answers["GET", "/v1/tasks"] = {"tasks": [WAITING]}
        else:
            raise KeyboardInterrupt

    monkeypatch.setattr(output, "_wait", wait)
    result = run(fake, "tasks", "--watch")
    assert [line.split()[0] for line in result.stdout.split("\n") if line][1::2] == ["t-1", "t-2"]
    assert "cannot reach" in result.stderr


def test_watching_does_not_begin_without_a_server() -> None:
    run(None, "--server", f"http://127.0.0.1:{free_port()}", "tasks", "--watch", code=1)


# Stories


def test_explain_a_waiting_task(fake: Fake) -> None:
    document = {"task": WAITING, "explanation": EXPLANATION, "story": [event(1, node="alpha")], "specification": {}}
    fake.answers["GET", "/v1/explain/web.2"] = document
    lines = run(fake, "explain", "web.2").stdout.splitlines()
    assert "state    pending, wanted running" in lines
    assert "why      0 of 2 nodes fit: not enough cpus (2)" in lines
    assert "resources   2       not enough cpus" in lines
    assert lines[-1] == "2026-01-01T00:00:00.000Z  task.running  node=alpha"
    assert json.loads(run(fake, "explain", "web.2", "-o", "json").stdout) == document


def test_explain_an_ended_task(fake: Fake) -> None:
    ended = TASK | {"state": "removed", "outcome": "failed", "exit_code": 3, "reason": "out of memory"}
    fake.answers["GET", "/v1/explain/t-1"] = {"task": ended, "explanation": EXPLANATION, "story": []}
    out = run(fake, "explain", "t-1").stdout
    assert "ended    failed, exit code 3: out of memory" in out
    assert "not enough cpus" not in out


def test_explain_a_group(fake: Fake) -> None:
    ask = WAITING | {"since": "2026-01-01T00:00:00.000Z", "count": 3, "delayed": False, "explanation": EXPLANATION}
    document = {"group": "/web", "framework": "marathon", "tasks": {"pending": 3}, "text": "3 wait", "asks": [ask]}
    fake.answers["GET", "/v1/explain//web"] = document
    out = run(fake, "explain", "/web").stdout
    assert "waiting  3 since 2026-01-01T00:00:00.000Z, such as t-2" in out
    assert "0 of 2 nodes fit" in out
    fake.answers["GET", "/v1/explain//web"] = document | {"asks": [], "text": "nothing of /web waits"}
    assert "nothing of /web waits" in run(fake, "explain", "/web").stdout


def test_explain_what_is_not_there(fake: Fake) -> None:
    run(fake, "explain", "nothing", code=4)


def test_events_and_their_filters(fake: Fake) -> None:
    fake.answers["GET", "/v1/events"] = {"events": [event(1, code="0"), event(2)], "gap": False, "next": "2-0"}
    out = run(fake, "events", "--type", "task", "--subject", "t-1", "--limit", "7").stdout.splitlines()
    assert out[0] == "2026-01-01T00:00:00.000Z  task.running             t-1  code=0"
    assert fake.asked[-1][2] == {"type": "task", "subject": "t-1", "limit": "7"}
    assert [json.loads(line)["id"] for line in run(fake, "events", "-o", "json").stdout.splitlines()] == ["1-0", "2-0"]


def test_events_since(fake: Fake) -> None:
    old, new = event(1, "2020-01-01T00:00:00.000Z"), event(2, "2999-01-01T00:00:00.000Z")
    fake.answers["GET", "/v1/events"] = {"events": [old, new], "gap": True, "next": "2-0"}
    for since in ("10m", "2026-01-01", "2026-01-01T00:00:00Z"):
        out = run(fake, "events", "--since", since, "-o", "json").stdout.splitlines()
        assert [json.loads(line)["id"] for line in out] == ["2-0"], since
        assert "after" not in fake.asked[-1][2]
    result = run(fake, "events", "--since", "17-3")
    assert fake.asked[-1][2]["after"] == "17-3"
    assert "no longer kept" in result.stderr
    assert "--since: expected" in run(fake, "events", "--since", "yesterday", code=2).stderr


def test_following_events_resumes_after_each_break(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    def frame(document: dict[str, Any], kind: str = "") -> bytes:
        head = f"event: {kind}\n" if kind else f"id: {document['id']}\n"
        return f"{head}data: {json.dumps(document)}\n\n".encode()

    streams = [
        b"retry: 2000\n: connected\n\n" + frame(event(2)) + b"id: 3-0\ndata: {unfinished",
        frame({"after": "2-0"}, "gap") + frame(event(5)),
    ]

    def serve(handler: BaseHTTPRequestHandler) -> None:
        if handler.headers["Accept"] == "text/event-stream":
            body(streams.pop(0))(handler)
        else:
            body(json.dumps({"events": [event(1)], "gap": False, "next": "1-0"}).encode())(handler)

    def pause(_: float) -> None:
        if not streams:
            raise KeyboardInterrupt

    fake.answers["GET", "/v1/events"] = serve
    monkeypatch.setattr(stories, "_pause", pause)
    result = run(fake, "events", "-f", "-o", "json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["1-0", "2-0", "5-0"]
    assert "no longer kept" in result.stderr
    assert [query.get("after") for _, _, query, _ in fake.asked] == [None, "1-0", "2-0"]


def test_following_ends_when_the_server_refuses(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    refusals = iter([{"events": [], "gap": False, "next": None}, (503, {"error": "too many followers"})])

    def serve(handler: BaseHTTPRequestHandler) -> None:
        answer = next(refusals)
        status, document = answer if isinstance(answer, tuple) else (200, answer)
        handler.send_response(status)
        handler.end_headers()
        handler.wfile.write(json.dumps(document).encode())

    fake.answers["GET", "/v1/events"] = serve
    assert "too many followers" in run(fake, "events", "-f", code=1).stderr


# Logs


def test_logs_of_both_streams_each_on_its_own(fake: Fake) -> None:
    def serve(handler: BaseHTTPRequestHandler) -> None:
        body(b"to " + parse_qs(urlsplit(handler.path).query)["stream"][0].encode() + b"\n\xff\n")(handler)

    fake.answers["GET", "/v1/tasks/web.1/logs"] = serve
    result = run(fake, "logs", "web.1")
    assert (result.stdout_bytes, result.stderr_bytes) == (b"to stdout\n\xff\n", b"to stderr\n\xff\n")
    assert run(fake, "logs", "web.1", "--stderr").stdout_bytes == b"to stderr\n\xff\n"
    assert run(fake, "logs", "web.1", "--stdout", "--tail", "0").stderr == ""
    assert fake.asked[-1][2] == {"stream": "stdout", "tail": "0"}


def test_following_logs_shows_whole_lines_as_they_come(fake: Fake) -> None:
    first_seen = threading.Event()

    def serve(handler: BaseHTTPRequestHandler) -> None:
        query = parse_qs(urlsplit(handler.path).query)
        assert query["follow"] == ["true"]
        handler.send_response(200)
        handler.end_headers()
        if query["stream"] == ["stdout"]:
            handler.wfile.write(b"one\ntw")
            first_seen.set()
            handler.wfile.write(b"o\nthree")
        else:
            assert first_seen.wait(30)
            handler.wfile.write(b"error\n")

    fake.answers["GET", "/v1/tasks/t-1/logs"] = serve
    result = run(fake, "logs", "-f", "t-1")
    assert result.stdout == "one\ntwo\nthree"
    assert result.stderr == "error\n"


@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_a_task_without_one_of_the_streams(fake: Fake, follow: tuple[str, ...]) -> None:
    def serve(handler: BaseHTTPRequestHandler) -> None:
        if "stream=stdout" in handler.path:
            body(b"hello\n")(handler)
        else:
            handler.send_response(404)
            handler.end_headers()
            handler.wfile.write(b'{"error": "no such output"}')

    fake.answers["GET", "/v1/tasks/t-1/logs"] = serve
    assert run(fake, "logs", *follow, "t-1").output == "hello\n"
    assert "there is no /v1/tasks/t-2/logs" in run(fake, "logs", *follow, "t-2", code=4).stderr


# Small parts


@pytest.mark.parametrize(
    ("amount", "unit", "text"),
    [(0, "bytes", "0B"), (2**30, "bytes", "1GiB"), (-(2**20), "bytes", "-1MiB"), (0.25, "cores", "0.25"),
     (4.0, "cores", "4"), (10**8, "bit/s", "100Mbit/s"), (None, "bytes", "-")],
)  # fmt: skip
def test_quantities(amount: float | None, unit: str, text: str) -> None:
    assert output.quantity(amount, unit) == text


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1.5h", 5400), ("2 d", 172800), ("m", None), ("5", None)])
def test_durations(text: str, seconds: float | None) -> None:
    assert output.duration_s(text) == seconds


def test_cells_are_one_line_whatever_they_hold() -> None:
    assert output.text_of("a\nb\t c") == "a b c"
    assert output.text_of({"a": [1, 2], "b": None}) == "a=1,2,b=-"


def test_completion_asks_the_server_and_is_silent_without_one(fake: Fake) -> None:
    fake.answers["GET", "/v1/tasks"] = {"tasks": [TASK, WAITING]}
    fake.answers["GET", "/v1/nodes"] = {"nodes": [NODE]}

    def completed(url: str, words: str) -> list[str]:
        environment = {"_ORLOP_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2", "ORLOP_SERVER": url}
        result = CliRunner().invoke(cli, [], env=environment, prog_name="orlop", complete_var="_ORLOP_COMPLETE")
        return [line.partition(",")[2] for line in result.stdout.splitlines() if line]

    assert completed(fake.url, "orlop logs web.") == ["web.1", "web.2"]
    assert completed(fake.url, "orlop drain al") == ["alpha"]
    assert completed(f"http://127.0.0.1:{free_port()}", "orlop drain al") == []
    for shell in ("bash", "zsh", "fish"):
        assert "_ORLOP_COMPLETE" in run(None, "completion", shell).stdout


def test_the_clients_failures_for_plugins() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}")
    with pytest.raises(Unreachable) as caught:
        client.get("/v1/nodes")
    assert isinstance(caught.value, Failure)
    assert caught.value.code == 1


def test_a_plugins_command_is_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib.metadata import EntryPoint
    from pathlib import Path

    from orlop.cli import installed

    monkeypatch.syspath_prepend(str(Path(__file__).parent / "misbehaving"))
    points = [EntryPoint(name, name, "orlop") for name in ("exits_on_import", "raises_on_import", "well_behaved")]
    monkeypatch.setattr(installed, "entry_points", lambda: points)
    assert run(None, "behave").output == "well\n"
    assert "the plugin exits_on_import is broken: SystemExit: 3" in run(None, "exits_on_import", code=1).stderr
    assert 'there is no command "behav"' in run(None, "behav", code=2).stderr
    sys.modules.pop("well_behaved", None)


@pytest.mark.parametrize(
    ("task", "shown"),
    [
        ({"state": "running", "unreachable": False, "outcome": None}, "running"),
        ({"state": "running", "unreachable": True, "outcome": None}, "unreachable"),
        ({"state": "prepared", "unreachable": False, "outcome": None}, "prepared"),
        ({"state": "prepared", "unreachable": False, "outcome": "failed"}, "stopped"),
        ({"state": "removed", "unreachable": False, "outcome": "failed"}, "removed"),
    ],
)
def test_a_state_is_shown_as_people_call_it(task: dict[str, Any], shown: str) -> None:
    assert shown_state(task) == shown
