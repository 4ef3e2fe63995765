"""The command line against a small server that answers as the operator API does."""

import json
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import click
import pytest
from answering import CLUSTER, NODE, TASK, WAITING, Fake, body, run
from click.testing import CliRunner
from ports import free_port

from orlop.cli import output
from orlop.cli.client import Client
from orlop.cli.cluster import shown_state
from orlop.cli.failures import Failure, Unreachable
from orlop.cli.main import _MODULES, _OWN, cli

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


def test_a_token_is_one_line(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER
    monkeypatch.setenv("ORLOP_TOKEN", "s3cret\n")
    run(fake, "status")
    assert fake.headers[0]["Authorization"] == "Bearer s3cret"
    monkeypatch.setenv("ORLOP_TOKEN", "s3cret\nand more")
    assert run(fake, "status", code=2).stderr == "orlop: ORLOP_TOKEN: expected a token in one line\n"


def test_https_to_a_server_without_tls_says_what_to_type(fake: Fake) -> None:
    said = run(None, "--server", fake.url.replace("http:", "https:"), "status", code=1).stderr
    assert "Then use http://" in said


def test_a_backup_that_cannot_be_written_names_its_file(fake: Fake, tmp_path: Path) -> None:
    file = tmp_path / "nowhere" / "state"
    said = run(fake, "backup", str(file), code=1).stderr
    assert said == f"orlop: {file} cannot be written: No such file or directory\n"


def test_a_state_is_not_moved_to_where_it_is_lost(tmp_path: Path) -> None:
    said = run(None, "store", "migrate", "--to", "memory://", "--data", str(tmp_path), code=2).stderr
    assert "memory:// is lost" in said


def test_the_server_may_be_named_behind_the_command(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER
    run(None, "status", "--server", fake.url)


# Looking


def test_status_says_what_others_take(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER | {"resources": {**CLUSTER["resources"], "foreign": {"mem": 2**20}}}
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


def test_status_says_which_plugins_cannot_be_used(fake: Fake) -> None:
    broken = {"name": "moody", "state": "failed", "error": "RuntimeError: not today"}
    fake.answers["GET", "/v1/cluster"] = CLUSTER | {"broken_plugins": [broken]}
    said = "plugin     moody failed: RuntimeError: not today (see: orlop plugins show moody)"
    assert said in run(fake, "status").stdout.splitlines()


def test_status_says_that_the_store_has_no_room_left(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER | {"store_trouble": "the disk of /d is full", "read_only": ""}
    assert run(fake, "status").stdout.splitlines()[-1] == "STORE      the disk of /d is full"


def test_clocks_that_differ_are_shown(fake: Fake) -> None:
    fake.answers["GET", "/v1/cluster"] = CLUSTER | {"clock_trouble": "the leader's clock is 60 s ahead"}
    assert "CLOCK      the leader's clock is 60 s ahead" in run(fake, "status").stdout.splitlines()
    fake.answers["GET", "/v1/nodes"] = {"nodes": [NODE | {"clock_ahead_s": -60.04}, NODE | {"clock_ahead_s": None}]}
    heading, first, second = run(fake, "nodes", "-o", "wide").stdout.splitlines()
    assert heading.split()[-1] == "CLOCK"
    assert (first.split()[-1], second.split()[-1]) == ("-60.0s", "-")


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
    fake.answers["GET", "/v1/nodes"] = {"nodes": [NODE | {"away": True}, NODE | {"away": True, "state": "gone"}]}
    assert [re.split(" {3,}", row)[2] for row in run(fake, "nodes").stdout.splitlines()[1:]] == ["away", "gone"]


def test_drain_undrain_forget_and_kill(fake: Fake) -> None:
    fake.answers["POST", "/v1/nodes/a/b/drain"] = {"node": NODE | {"drained": True}}
    fake.answers["POST", "/v1/nodes/alpha/undrain"] = {"node": NODE}
    fake.answers["DELETE", "/v1/tasks/web.1"] = (202, {"changed": True, "task": TASK})
    fake.answers["DELETE", "/v1/tasks/web.2"] = (202, {"changed": False, "task": {"id": "t-2"}})
    assert run(fake, "drain", "a/b", "--reason", "new disk").stdout == "alpha takes no new tasks; it runs 1\n"
    assert fake.asked[-1][3] == {"reason": "new disk"}
    assert run(fake, "undrain", "alpha").stdout == "alpha takes tasks again\n"
    assert fake.asked[-1][3] is None
    fake.answers["DELETE", "/v1/nodes/alpha"] = {"node": "n-1", "name": "alpha"}
    assert run(fake, "forget", "alpha", "--reason", "burnt").stdout == "alpha is forgotten\n"
    assert fake.asked[-1][2] == {"reason": "burnt"}
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
    assert output.text_of("a\x1b[31m\u202eb") == "a [31m b"
    assert output.text_of(["a\x07"]) == "a"


def test_what_a_parameter_has_several_values_of_is_asked_for_each(fake: Fake) -> None:
    queries: list[str] = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        queries.append(handler.path)
        body(b"{}")(handler)

    fake.answers["GET", "/v2/groups"] = answer
    Client(fake.url).get("/v2/groups", embed=("group.apps", "group.groups"), force=False, id="", limit=0)
    assert queries == ["/v2/groups?embed=group.apps&embed=group.groups&limit=0"]


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

    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "misbehaving"))
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


def stale(handler: BaseHTTPRequestHandler) -> None:
    """As a standby answers that has no leader to ask."""
    data = json.dumps({"nodes": [NODE]} if handler.path == "/v1/nodes" else CLUSTER | {"stale_ms": 95_000}).encode()
    handler.send_response(200)
    handler.send_header("Orlop-Stale-Ms", "95000")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def test_what_may_be_old_is_told_once(fake: Fake) -> None:
    fake.answers["GET", "/v1/nodes"] = fake.answers["GET", "/v1/cluster"] = stale
    shown = run(fake, "nodes", "-o", "json")
    assert json.loads(shown.stdout)["nodes"] == [NODE]
    assert shown.stderr == f"orlop: {fake.url} cannot ask a leader: what it knows may be 95 s old\n"
    status = run(fake, "status")
    assert "STALE" in status.stdout
    assert status.stderr == ""
