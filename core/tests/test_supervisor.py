"""The supervisor as a program: real processes, real kills."""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orlop.agent import cgroups, supervisor
from orlop.agent.cgroups import ControlGroups, NoControlGroups
from orlop.agent.supervisor import journal, remains, spawn
from orlop.agent.supervisor.journal import Entry, Exit, Journal
from orlop.model.resources import Resources

SOURCE = Path(supervisor.__file__).parent
WITHIN_S = 30.0
SLEEP = ["/bin/sleep", "1000"]


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + WITHIN_S
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {WITHIN_S:g} s: {what}"
        select.select([], [], [], 0.005)
    return found


def is_alive(pid: int) -> bool:
    """Zombies do not count."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False


@attrs.define
class Connection:
    """What a client hears."""

    socket: socket.socket
    heard: list[dict[str, Any]] = attrs.field(factory=list)
    _rest: bytes = b""

    def send(self, **message: Any) -> None:
        self.socket.sendall(json.dumps(message).encode() + b"\n")

    def wait(self, what: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        """The first message that is so, of those that were not waited for yet; the others stay, for news of different
        tasks comes in any order."""
        deadline = time.monotonic() + WITHIN_S
        while True:
            for position, message in enumerate(self.heard):
                if what(message):
                    return self.heard.pop(position)
            assert select.select([self.socket], [], [], deadline - time.monotonic())[0], "nothing is heard"
            data = self.socket.recv(1 << 20)
            assert data, "the supervisor has closed the connection"
            *lines, self._rest = (self._rest + data).split(b"\n")
            self.heard += map(json.loads, lines)

    def wait_for(self, kind: str, task: str = "") -> dict[str, Any]:
        def fits(message: dict[str, Any]) -> bool:
            of = message.get("task")
            name = of["task"] if isinstance(of, dict) else of
            return message["is"] == kind and (not task or name == task)

        return self.wait(fits)

    def ended(self, task: str) -> dict[str, Any]:
        return self.wait_for("exited", task)["task"]["exit"]


@attrs.define
class Node:
    """A folder with a supervisor, and what was started there."""

    data: Path
    source: Path = SOURCE
    idle_exit_s: float = 60.0
    groups: tuple[str, ...] = ()
    connections: list[Connection] = attrs.field(factory=list)

    def options(self, **other: Any) -> dict[str, Any]:
        return {
            "data": str(self.data),
            "version": "first",
            "idle_exit_s": self.idle_exit_s,
            "groups": list(self.groups),
            **other,
        }

    def launch(self) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, "-I", "-S", str(self.source / "__main__.py"), json.dumps(self.options())]
        return subprocess.run(command, capture_output=True, timeout=WITHIN_S, check=False)

    def connect(self) -> Connection:
        connection = Connection(socket.socket(socket.AF_UNIX))
        self.connections.append(connection)
        connection.socket.connect(str(self.data / "supervisor.sock"))
        return connection

    def open(self) -> tuple[Connection, dict[str, Any]]:
        """A connection, to a new supervisor if there is none, and its list."""
        try:
            connection = self.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            assert self.launch().returncode == 0
            connection = self.connect()
        return connection, connection.wait_for("list")

    def request(self, task: str, *arguments: str, **other: Any) -> dict[str, Any]:
        return {
            "do": "start",
            "task": task,
            "incarnation": 1,
            "folder": str(self.data),
            "arguments": list(arguments),
            "environment": {"PATH": "/usr/bin:/bin", remains.MARK: task},
            "directory": str(self.data),
            "stdout": str(self.data / "stdout"),
            "stderr": str(self.data / "stderr"),
            "groups": [],
            **other,
        }

    def close(self) -> None:
        connection, listed = self.open()
        for entry in listed["tasks"]:
            if "exit" not in entry:
                connection.send(do="kill", task=entry["task"])
                connection.ended(entry["task"])
        for opened in self.connections:
            opened.socket.close()
        os.kill(listed["pid"], signal.SIGTERM)
        wait_until(lambda: not is_alive(listed["pid"]), "the supervisor ends")


@pytest.fixture
def node() -> Iterator[Node]:
    data = Path(tempfile.mkdtemp(prefix="orlop-test-"))
    node = Node(data)
    try:
        yield node
        node.close()
    finally:
        shutil.rmtree(data)


@pytest.fixture
def control_groups() -> Iterator[ControlGroups]:
    node_id = f"test-{os.getpid()}"
    try:
        groups = ControlGroups.open(node_id)
    except NoControlGroups as error:
        pytest.skip(str(error))
    yield groups
    remove_node_groups(groups)


def remove_node_groups(groups: ControlGroups) -> None:
    for path in groups.supervisor():
        wait_until(lambda path=path: not Path(path, "cgroup.procs").read_text(), f"{path} is empty")
        os.rmdir(path)
        wait_until(lambda path=path: not [f for f in Path(path).parent.iterdir() if f.is_dir()], f"{path} is bare")
        os.rmdir(Path(path).parent)
        with contextlib.suppress(OSError):  # another node of this machine may have its own there
            os.rmdir(Path(path).parent.parent)


def pids_in(path: Path) -> list[int]:
    """The numbers that a task has written to a file, each with a newline."""
    return [int(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- starting and ending ---


def test_a_task_gets_its_environment_directory_and_files_and_its_code_is_told(node: Node) -> None:
    client, listed = node.open()
    assert listed["tasks"] == []
    script = 'echo "$FRUIT $(pwd)"; echo trouble >&2; read -r line || echo "no input"; exit 7'
    client.send(**node.request("a", "/bin/sh", "-c", script, environment={"FRUIT": "päron"}))
    assert client.ended("a") == {"code": 7, "signal": None, "oom": False, "error": "", "lost": ""}
    assert (node.data / "stdout").read_text() == f"päron {node.data}\nno input\n"
    assert (node.data / "stderr").read_text() == "trouble\n"


def test_a_task_is_a_session_of_its_own_with_fresh_signals_and_no_open_files(node: Node) -> None:
    client, listed = node.open()
    client.send(**node.request("a", *SLEEP))
    pid = client.wait_for("started", "a")["task"]["pid"]
    stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    assert [int(number) for number in stat[1:4]] == [listed["pid"], pid, pid]
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    # Signals 32 and 33 are the C library's own: what it inherited of them stays.
    assert int(status["SigIgn"], 16) & 0x7FFFFFFF == 0
    assert int(status["SigBlk"], 16) == 0
    # The dynamic loader, which runs after the start was told, opens libraries for a moment.
    wait_until(lambda: sorted(os.listdir(f"/proc/{pid}/fd")) == ["0", "1", "2"], "it has three open files")
    assert os.readlink(f"/proc/{pid}/fd/0") == "/dev/null"


def test_a_signal_is_told_as_such(node: Node) -> None:
    client, _ = node.open()
    client.send(**node.request("a", *SLEEP))
    client.send(do="signal", task="a", signal=int(signal.SIGUSR1))  # at once: it must not get lost before the program
    assert client.ended("a")["signal"] == signal.SIGUSR1


@pytest.mark.parametrize(
    ("arguments", "other", "text"),
    [
        (["/no/such"], {}, "no such file: /no/such"),
        (["nosuchprogram"], {}, "no such file: nosuchprogram in any folder of PATH"),
        (["/etc/passwd"], {}, "cannot execute /etc/passwd: permission denied"),
        (["true"], {"directory": "/no/such/place"}, "cannot enter the directory /no/such/place: no such file"),
        (["true"], {"stdout": "/no/such/place/stdout"}, "cannot open /no/such/place/stdout: no such file"),
        (["true"], {"groups": ["/no/orlop/such"]}, "cannot join the control group /no/orlop/such: no such file"),
    ],
)
def test_what_cannot_be_executed_says_why(node: Node, arguments: list[str], other: dict, text: str) -> None:
    client, _ = node.open()
    client.send(**node.request("a", *arguments, **other))
    ended = client.ended("a")
    assert ended["error"].startswith(text)
    assert (ended["code"], ended["signal"]) == (None, None)


def test_starting_again_adopts_what_is_there(node: Node) -> None:
    client, _ = node.open()
    request = node.request("a", "/bin/sh", "-c", "echo once; exec sleep 1000")
    client.send(**request)
    client.send(**request)
    started = client.wait_for("started", "a")["task"]
    client.send(**request)
    assert client.wait_for("started", "a")["task"]["pid"] == started["pid"]
    stdout = node.data / "stdout"
    wait_until(lambda: stdout.exists() and stdout.read_text(), "it speaks")
    client.send(do="kill", task="a")
    client.ended("a")
    client.send(**request)
    assert client.ended("a")["signal"] == signal.SIGKILL
    assert stdout.read_text() == "once\n"


def test_the_next_incarnation_waits_for_the_end_of_the_last(node: Node) -> None:
    client, _ = node.open()
    client.send(**node.request("a", *SLEEP))
    client.wait_for("started", "a")
    client.send(**node.request("a", "/bin/true", incarnation=2))
    assert "incarnation 1 is still running" in client.wait_for("refused", "a")["reason"]
    client.send(do="kill", task="a")
    client.ended("a")
    client.send(**node.request("a", "/bin/true", incarnation=2))
    assert client.ended("a")["code"] == 0


def test_a_hundred_tasks_start_and_stay_small(node: Node) -> None:
    client, listed = node.open()
    for number in range(100):
        client.send(**node.request(f"t{number}", *SLEEP))
    pids = {client.wait_for("started")["task"]["pid"] for _ in range(100)}
    assert all(map(is_alive, pids))
    assert len(pids) == 100
    sizes = Path(f"/proc/{listed['pid']}/smaps_rollup").read_text().splitlines()
    pss_kb = next(int(line.split()[1]) for line in sizes if line.startswith("Pss:"))
    assert pss_kb < 20_000 + 100 * 200
    for number in range(100):
        client.send(do="kill", task=f"t{number}")
    for _ in range(100):
        assert client.wait_for("exited")["task"]["exit"]["signal"] == signal.SIGKILL
    assert not any(map(is_alive, pids))


def test_what_is_left_of_the_group_goes_with_the_main_process(node: Node) -> None:
    client, _ = node.open()
    client.send(**node.request("a", "/bin/sh", "-c", "sleep 1000 & echo $!; sleep 1000 & echo $!; exit 0"))
    assert client.ended("a")["code"] == 0
    left = pids_in(node.data / "stdout")
    assert len(left) == 2
    wait_until(lambda: not any(map(is_alive, left)), "the children are killed")


def test_whatever_left_the_group_goes_with_the_control_group(node: Node, control_groups: ControlGroups) -> None:
    client, _ = node.open()
    groups = control_groups.create("a", 1, Resources())
    script = "setsid sh -c 'echo $$; exec sleep 1000' & echo $$; exec sleep 1000"
    client.send(**node.request("a", "/bin/sh", "-c", script, groups=list(groups)))
    client.wait_for("started", "a")
    both = wait_until(lambda: len(found := pids_in(node.data / "stdout")) == 2 and found, "both have started")
    client.send(do="kill", task="a")
    assert client.ended("a")["signal"] == signal.SIGKILL
    wait_until(lambda: not any(map(is_alive, both)), "both are killed")
    wait_until(lambda: not any(map(os.path.exists, groups)), "the control groups are removed")


def test_a_control_group_of_somebody_else_is_not_touched(node: Node) -> None:
    client, _ = node.open()
    client.send(**node.request("a", *SLEEP, groups=["/sys/fs/cgroup/pids"]))
    assert "expected control groups below one named orlop" in client.wait_for("refused", "a")["reason"]


# --- who may die ---


def test_an_exit_code_is_kept_while_nobody_is_connected(node: Node) -> None:
    client, listed = node.open()
    gate = node.data / "gate"
    os.mkfifo(gate)
    client.send(**node.request("a", "/bin/sh", "-c", f"read -r code < {gate}; exit $code"))
    pid = client.wait_for("started", "a")["task"]["pid"]
    client.socket.close()
    gate.write_text("42\n")
    wait_until(lambda: not is_alive(pid), "the task ends")
    os.kill(listed["pid"], signal.SIGTERM)  # nothing runs, so it goes; the journal stays
    wait_until(lambda: not is_alive(listed["pid"]), "the supervisor ends")
    _, listed = node.open()
    assert listed["tasks"][0]["exit"]["code"] == 42


def test_tasks_outlive_a_killed_supervisor_and_their_code_is_not_invented(node: Node) -> None:
    client, listed = node.open()
    for task in ("stays", "goes"):
        client.send(**node.request(task, "/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.02; done"))
    stays, goes = (client.wait_for("started", task)["task"]["pid"] for task in ("stays", "goes"))
    os.kill(listed["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(listed["pid"]), "the supervisor is dead")
    os.kill(goes, signal.SIGKILL)
    wait_until(lambda: not is_alive(goes), "a task has ended meanwhile")
    client, again = node.open()
    assert again["pid"] != listed["pid"]
    entries = {entry["task"]: entry for entry in again["tasks"]}
    if "exit" not in entries["goes"]:  # nobody has reaped it yet: adopted as a zombie, told at once
        entries["goes"]["exit"] = client.ended("goes")
    assert entries["goes"]["exit"]["lost"]
    assert entries["goes"]["exit"]["code"] is None
    assert entries["stays"]["pid"] == stays
    assert "exit" not in entries["stays"]
    assert is_alive(stays)
    client.send(do="signal", task="stays", signal=int(signal.SIGTERM))
    ended = client.ended("stays")
    assert (ended["code"], ended["signal"]) == (None, None)
    assert "exit code is unknown" in ended["lost"]


def test_an_adopted_task_takes_its_children_with_it(node: Node) -> None:
    client, listed = node.open()
    client.send(**node.request("a", "/bin/sh", "-c", "sleep 1000 & echo $!; wait"))
    main = client.wait_for("started", "a")["task"]["pid"]
    (child,) = wait_until(lambda: pids_in(node.data / "stdout"), "the child has started")
    os.kill(listed["pid"], signal.SIGKILL)
    wait_until(lambda: not is_alive(listed["pid"]), "the supervisor is dead")
    client, _ = node.open()
    os.kill(main, signal.SIGKILL)
    assert client.ended("a")["lost"]
    wait_until(lambda: not is_alive(child), "the child is killed")


def test_a_process_that_only_bears_the_same_number_is_left_alone(node: Node) -> None:
    bystander = subprocess.Popen(SLEEP, start_new_session=True)
    try:
        ticks = remains.start_ticks(bystander.pid)
        assert ticks is not None
        entry = Entry("a", 1, bystander.pid, ticks - 1, remains.boot_id(), str(node.data), [])
        Journal(str(node.data / "supervisor.journal")).rewrite({"a": entry})
        client, listed = node.open()
        assert listed["tasks"][0]["exit"]["lost"]
        client.send(do="kill", task="a")
        client.send(do="signal", task="a", signal=9)
        client.send(do="version")
        client.wait_for("version")
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_after_a_reboot_tasks_are_lost_whoever_has_their_number_now(node: Node) -> None:
    ticks = remains.start_ticks(os.getpid())
    assert ticks is not None
    entry = Entry("a", 3, os.getpid(), ticks, "an earlier boot", str(node.data), [])
    Journal(str(node.data / "supervisor.journal")).rewrite({"a": entry})
    _, listed = node.open()
    assert listed["tasks"][0]["exit"]["lost"] == "machine rebooted"
    assert listed["tasks"][0]["incarnation"] == 3


def test_a_child_whose_parent_vanishes_before_the_journal_runs_nothing(node: Node) -> None:
    start = spawn.Start(node.request("a", "/usr/bin/touch", "ran"))
    child = spawn.fork(start)
    assert is_alive(child.pid)
    child.abandon()
    assert not is_alive(child.pid)
    assert not (node.data / "ran").exists()


def test_reexec_keeps_the_number_the_children_and_their_codes(node: Node) -> None:
    client, listed = node.open()
    client.send(**node.request("a", "/bin/sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.02; done"))
    client.send(**node.request("b", "/bin/sh", "-c", "exit 4"))
    started = client.wait_for("started", "a")["task"]
    newer = node.data / "newer"
    shutil.copytree(SOURCE, newer / "supervisor")
    client.send(
        do="reexec",
        executable=sys.executable,
        source=str(newer / "supervisor" / "__main__.py"),
        options=node.options(version="second"),
    )
    wait_until(lambda: client.socket.recv(1 << 20) == b"", "the old connection is closed")
    client, again = node.open()
    assert (again["pid"], again["version"]) == (listed["pid"], "second")
    assert str(newer).encode() in Path(f"/proc/{again['pid']}/cmdline").read_bytes()
    entries = {entry["task"]: entry for entry in again["tasks"]}
    assert entries["a"]["pid"] == started["pid"]
    assert is_alive(started["pid"])
    assert entries["b"]["exit"]["code"] == 4
    client.send(do="signal", task="a", signal=int(signal.SIGTERM))
    assert client.ended("a")["code"] == 5


def test_a_reexec_to_nothing_is_refused(node: Node) -> None:
    client, listed = node.open()
    client.send(do="reexec", executable="/no/such", source="/no/such", options={})
    assert "executable: expected the path" in client.wait_for("error")["reason"]
    client.send(do="version")
    assert client.wait_for("version") == {"is": "version", "version": "first", "pid": listed["pid"]}


def test_it_lives_apart_from_whom_it_was_started_by(node: Node, control_groups: ControlGroups) -> None:
    node.groups = control_groups.supervisor()
    _, listed = node.open()
    stat = Path(f"/proc/{listed['pid']}/stat").read_text().rpartition(")")[2].split()
    assert int(stat[3]) == int(stat[2]) != os.getsid(0)
    assert int(stat[1]) != os.getpid()
    assert int(stat[4]) == 0  # no terminal
    for path in control_groups.supervisor():
        assert listed["pid"] in pids_in(Path(path, "cgroup.procs"))
    node.close()


def test_the_socket_is_private_and_there_is_one_supervisor_only(node: Node) -> None:
    _, listed = node.open()
    assert (node.data / "supervisor.sock").stat().st_mode & 0o777 == 0o600
    assert (node.data / "supervisor.journal").stat().st_mode & 0o777 == 0o600
    assert node.launch().returncode == 3
    assert node.open()[1]["pid"] == listed["pid"]


def test_with_nothing_to_do_it_ends_by_itself(node: Node) -> None:
    node.idle_exit_s = 0.1
    client, listed = node.open()
    client.send(**node.request("a", "/bin/true"))
    client.ended("a")
    client.socket.close()
    wait_until(lambda: not is_alive(listed["pid"]), "it ends")
    assert not (node.data / "supervisor.sock").exists()


def test_a_journal_of_a_later_version_is_left_alone(node: Node) -> None:
    path = node.data / "supervisor.journal"
    path.write_text('{"v":99}\n')
    refused = node.launch()
    assert refused.returncode == 1
    assert b"the journal has version 99, and this supervisor knows up to 1" in refused.stderr
    assert path.read_text() == '{"v":99}\n'
    path.unlink()


# --- requests ---


@pytest.mark.parametrize(
    "line",
    [b"nonsense", b"[]", b"{}", b'{"do":"dance"}', b'{"do":"kill","task":"x"}', b'{"do":"kill","task":[]}',
     b'{"do":"signal","task":"a","signal":"x"}', b'{"do":"forget","task":"a"}', b"\xff", b"[" * 100_000],
)  # fmt: skip
def test_a_request_that_makes_no_sense_is_answered_and_harms_nothing(node: Node, line: bytes) -> None:
    client, _ = node.open()
    client.send(**node.request("a", *SLEEP))
    pid = client.wait_for("started", "a")["task"]["pid"]
    client.socket.sendall(line + b"\n")
    assert client.wait_for("error")["reason"]
    assert is_alive(pid)


def test_a_forgotten_task_is_gone_for_good(node: Node) -> None:
    client, _ = node.open()
    client.send(**node.request("a", "/bin/true"))
    client.ended("a")
    client.send(do="forget", task="a")
    client.wait_for("forgotten", "a")
    client.send(do="list")
    assert client.wait_for("list")["tasks"] == []
    assert journal.replay((node.data / "supervisor.journal").read_bytes()) == {}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)
start_members = ["task", "incarnation", "folder", "arguments", "environment", "directory", "stdout", "user", "groups"]


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from(start_members), json_values), st.sampled_from(start_members))
def test_a_bad_start_is_nothing_but_a_value_error(damage: dict[str, Any], left_out: str) -> None:
    message = {**Node(Path("/")).request("a", "x"), **damage}
    message.pop(left_out, None)
    try:
        start = spawn.Start(message)
    except ValueError:
        return
    assert all(isinstance(argument, bytes) for argument in start.arguments)


# --- the journal ---

names = st.sampled_from(["a", "b", "c"])
steps = st.lists(
    st.tuples(st.just("start"), names, st.integers(1, 3))
    | st.tuples(st.just("exit"), names, st.integers(0, 255))
    | st.tuples(st.just("forget"), names, st.just(0)),
    max_size=30,
)


def apply(steps: list[tuple[str, str, int]], path: Path) -> dict[str, Entry]:
    """What a supervisor would do, with its journal."""
    written = Journal(str(path))
    table: dict[str, Entry] = {}
    written.rewrite(table)
    for what, task, number in steps:
        if what == "start":
            table[task] = Entry(task, number, 100 + number, 7, "boot", "/folder", ["/g"])
            written.append(journal.started(table[task]))
        elif what == "exit" and task in table:
            table[task].exit = Exit(code=number)
            written.append(journal.exited(table[task]))
        elif what == "forget" and task in table:
            written.append(journal.forgotten(table.pop(task)))
    written.close()
    return table


def plain(table: dict[str, Entry]) -> dict[str, Any]:
    return {task: entry.to_json() for task, entry in table.items()}


@settings(deadline=None)
@given(steps)
def test_the_journal_amounts_to_the_table_also_when_rewritten(steps: list[tuple[str, str, int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        table = apply(steps, path)
        again = Journal(str(path))
        assert plain(again.read()) == plain(table)
        again.rewrite(again.read())
        again.close()
        assert plain(journal.replay(path.read_bytes())) == plain(table)
        assert path.read_bytes().count(b"\n") == 1 + len(table)


@settings(deadline=None)
@given(steps, st.integers(0, 3000))
def test_a_torn_journal_amounts_to_what_its_whole_lines_say(steps: list[tuple[str, str, int]], cut: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "journal")
        apply(steps, path)
        data = path.read_bytes()[:cut]
        whole = data[: data.rfind(b"\n") + 1]
        assert plain(journal.replay(data)) == plain(journal.replay(whole))


def test_a_full_disk_leaves_no_half_line(tmp_path: Path) -> None:
    script = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from orlop.agent.supervisor.journal import Entry, Journal, started
journal = Journal({str(tmp_path / "journal")!r})
journal.rewrite({{}})
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
for number in range(100):
    try:
        journal.append(started(Entry(f"t{{number}}", 1, 1, 1, "boot", "/folder", [])))
    except OSError:
        sys.exit(number)
"""
    ended = subprocess.run([sys.executable, "-c", script], check=False, timeout=WITHIN_S)
    data = (tmp_path / "journal").read_bytes()
    assert ended.returncode > 0
    assert data.endswith(b"}\n")
    assert list(journal.replay(data)) == [f"t{number}" for number in range(ended.returncode)]


def test_it_is_made_of_the_standard_librarys_light_parts_only() -> None:
    script = f"""
import sys
sys.path.append({str(SOURCE.parent)!r})
import supervisor.loop
print(*sys.modules)
"""
    run = subprocess.run([sys.executable, "-I", "-S", "-c", script], capture_output=True, text=True, check=True)
    modules = {name.partition(".")[0] for name in run.stdout.split()}
    assert modules - sys.stdlib_module_names <= {"supervisor", "__main__"}
    assert not modules & {"asyncio", "subprocess", "logging", "typing", "inspect", "dataclasses"}


# --- control groups ---

HYBRID = """\
tmpfs /sys/fs/cgroup tmpfs ro 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0
cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,cpu,cpuacct 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0
cgroup /sys/fs/cgroup/with\\040space cgroup rw,pids 0 0
"""


def test_hierarchies_are_found_in_the_list_of_mounts() -> None:
    first = cgroups.find_hierarchies(HYBRID)
    assert first.version == 1
    assert first.folders["cpu"] == Path("/sys/fs/cgroup/cpu,cpuacct")
    assert first.folders["pids"] == Path("/sys/fs/cgroup/with space")
    second = cgroups.find_hierarchies("cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n")
    assert second.version == 2
    assert second.distinct == (Path("/sys/fs/cgroup"),)
    with pytest.raises(NoControlGroups, match="no control groups are mounted"):
        cgroups.find_hierarchies("proc /proc proc rw 0 0\n")


@pytest.mark.parametrize("version", [1, 2])
def test_limits_are_written_where_the_kernel_has_a_file_for_them(tmp_path: Path, version: int) -> None:
    folders = {name: tmp_path / (name if version == 1 else "all") for name in cgroups.CONTROLLERS}
    groups = ControlGroups(cgroups.Hierarchies(version, folders), "n1")
    files = {1: ["cpu.shares", "memory.limit_in_bytes"], 2: ["cpu.weight", "memory.max", "memory.swap.max"]}[version]
    for folder in folders.values():
        (folder / "orlop" / "n1" / "task").mkdir(parents=True, exist_ok=True)
    for name in files:
        (folders[name.partition(".")[0]] / "orlop" / "n1" / "task" / name).touch()
    paths = groups.create("task", 1, Resources(cpus=2, mem="64MiB"))
    found = {name: file.read_text() for path in paths for name in files if (file := Path(path, name)).exists()}
    if version == 1:
        assert found == {"cpu.shares": "2048", "memory.limit_in_bytes": str(64 * 2**20)}
        assert len(paths) == 3
    else:
        assert found == {"cpu.weight": "79", "memory.max": str(64 * 2**20), "memory.swap.max": "0"}
        assert len(paths) == 1


@settings(deadline=None)
@given(st.text(), st.integers(1, 5))
def test_a_groups_name_is_one_folder_that_the_kernel_takes_for_no_file(task: str, incarnation: int) -> None:
    name = cgroups.group_name(task, incarnation)
    assert name not in ("", ".", "..", cgroups.SUPERVISOR_GROUP)
    assert "/" not in name
    assert len(name.encode()) <= 255
    assert not name.startswith(("cgroup.", "memory.", "cpu.", "pids."))


def test_a_sweep_removes_what_nobody_knows_and_nothing_that_lives(control_groups: ControlGroups, node: Node) -> None:
    client, _ = node.open()
    kept = control_groups.create("kept", 1, Resources())
    forgotten = control_groups.create("forgotten", 1, Resources())
    busy = control_groups.create("busy", 1, Resources())
    client.send(**node.request("busy", *SLEEP, groups=list(busy)))
    client.wait_for("started", "busy")
    control_groups.sweep([kept])
    assert all(map(os.path.exists, kept + busy))
    assert not any(map(os.path.exists, forgotten))
    cgroups.remove(kept)
    client.send(do="kill", task="busy")
    client.ended("busy")
    wait_until(lambda: not any(map(os.path.exists, busy)), "the control groups are removed")


def test_the_groups_of_a_task_that_has_ended_are_removed_by_the_next_supervisor(
    control_groups: ControlGroups, node: Node
) -> None:
    groups = control_groups.create("a", 1, Resources())
    entry = Entry("a", 1, 1, 1, remains.boot_id(), str(node.data), list(groups))
    entry.exit = Exit(code=3)
    Journal(str(node.data / "supervisor.journal")).rewrite({"a": entry})
    with open(node.data / "supervisor.journal", "ab") as file:
        file.write(json.dumps(journal.exited(entry)).encode() + b"\n")
    _, listed = node.open()
    assert [task["exit"]["code"] for task in listed["tasks"]] == [3]
    wait_until(lambda: not any(map(os.path.exists, groups)), "the control groups are removed")


def test_version_2_kills_and_removes_a_group_as_a_whole(node: Node) -> None:
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if line.split()[2] == "cgroup2"]
    if not mounts:
        pytest.skip("version 2 is not mounted")
    try:
        groups = ControlGroups.open(f"test2-{os.getpid()}", "\n".join(mounts))
    except NoControlGroups as error:
        pytest.skip(str(error))
    (path,) = groups.create("a", 1, Resources())
    client, _ = node.open()
    script = "setsid sh -c 'echo $$; exec sleep 1000' & exec sleep 1000"
    client.send(**node.request("a", "/bin/sh", "-c", script, groups=[path]))
    client.wait_for("started", "a")
    (away,) = wait_until(lambda: pids_in(node.data / "stdout"), "the grandchild has started")
    client.send(do="kill", task="a")
    client.ended("a")
    wait_until(lambda: not is_alive(away) and not os.path.exists(path), "all is gone")
    remove_node_groups(groups)
