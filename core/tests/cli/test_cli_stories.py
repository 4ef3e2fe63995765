"""Explanations, events and logs on the command line, once and as they come."""

import json
import threading
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from answering import EXPLANATION, TASK, WAITING, Fake, body, event, run

from orlop.cli import stories

# Explanations and events


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


def test_explain_a_task_whose_node_is_away(fake: Fake) -> None:
    fake.answers["GET", "/v1/explain/t-1"] = {"task": TASK | {"unreachable": True}, "explanation": EXPLANATION}
    line = "node     alpha cannot be reached; what runs there goes on. To give it up: orlop kill t-1"
    assert line in run(fake, "explain", "t-1").stdout.splitlines()


def test_explain_a_group(fake: Fake) -> None:
    ask = WAITING | {"since": "2026-01-01T00:00:00.000Z", "count": 3, "delayed": False, "explanation": EXPLANATION}
    document = {"group": "/web", "framework": "marathon", "tasks": {"pending": 3}, "text": "3 wait", "asks": [ask]}
    fake.answers["GET", "/v1/explain//web"] = document
    out = run(fake, "explain", "/web").stdout
    assert "waiting  3 since 2026-01-01T00:00:00.000Z, such as t-2" in out
    assert "0 of 2 nodes fit" in out
    ended = TASK | {"state": "removed", "outcome": "failed", "exit_code": 3, "reason": "out of memory"}
    fake.answers["GET", "/v1/explain//web"] = document | {"last_ended": ended}
    assert "before   failed, exit code 3: out of memory  (t-1, on alpha)" in run(fake, "explain", "/web").stdout
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
    run(fake, "events", "--since", "999999999d")
    result = run(fake, "events", "--since", "17-3")
    assert fake.asked[-1][2]["after"] == "17-3"
    assert "no longer kept" in result.stderr
    assert "--since: expected" in run(fake, "events", "--since", "yesterday", code=2).stderr


def test_of_the_events_since_a_moment_the_last_are_shown(fake: Fake) -> None:
    fake.answers["GET", "/v1/events"] = {"events": [event(number) for number in range(1, 61)], "next": "60-0"}
    shown = run(fake, "events", "--since", "2026-01-01", "--limit", "2", "-o", "json").stdout.splitlines()
    assert [json.loads(line)["id"] for line in shown] == ["59-0", "60-0"]
    assert len(run(fake, "events", "--since", "2026-01-01").stdout.splitlines()) == 60
    assert fake.asked[-1][2]["limit"] == "1000"
    run(fake, "events", "--since", "17-3", "--limit", "2")
    assert fake.asked[-1][2] == {"after": "17-3", "limit": "2"}


def test_a_terminal_obeys_nothing_that_an_event_says(fake: Fake) -> None:
    fake.answers["GET", "/v1/events"] = {"events": [event(1, name="a\nb\x1b[31m\u202e")], "next": "1-0"}
    assert run(fake, "events").stdout.splitlines()[0].endswith("name=a b [31m")


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
    both = run(fake, "logs", "web.1", "--stdout", "--stderr")
    assert (both.stdout_bytes, both.stderr_bytes) == (result.stdout_bytes, result.stderr_bytes)
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
