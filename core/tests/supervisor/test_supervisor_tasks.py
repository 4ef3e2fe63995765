"""The supervisor as a program: tasks start and end."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from pathlib import Path

import pytest
from supervised_node import SLEEP, Node, is_alive, pids_in, wait_until

from orlop.agent.cgroups import ControlGroups
from orlop.agent.supervisor import journal, spawn
from orlop.model.resources import Resources


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


def test_the_supervisor_is_spared_when_memory_runs_out_if_it_may_and_its_tasks_are_not(node: Node) -> None:
    spare = "echo -900 > /proc/self/oom_score_adj && cat /proc/self/oom_score_adj"
    allowed = subprocess.run(["/bin/sh", "-c", spare], capture_output=True, text=True)
    own = Path("/proc/self/oom_score_adj").read_text()
    client, listed = node.open()
    for number in range(3):  # together
        script = "cat /proc/self/oom_score_adj"
        client.send(**node.request(f"t{number}", "/bin/sh", "-c", script, stdout=str(node.data / f"out{number}")))
    for number in range(3):
        assert client.ended(f"t{number}")["code"] == 0
        assert (node.data / f"out{number}").read_text() == ("0\n" if allowed.stdout else own)
    assert Path(f"/proc/{listed['pid']}/oom_score_adj").read_text() == (allowed.stdout or own)


def test_children_are_forked_while_the_supervisor_is_not_spared(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it may not spare itself, the one above cannot tell."""
    written: list[str] = []
    read, write = os.pipe()
    fork = os.fork

    def note_and_fork() -> int:
        written.append(os.read(read, 100).decode())
        os.write(write, b"forked")
        return fork()

    monkeypatch.setattr(spawn, "_protection", (write, b"-900"))
    monkeypatch.setattr(os, "fork", note_and_fork)
    starts = [spawn.Start(node.request(f"t{number}", "/bin/true")) for number in range(2)]
    children = spawn.fork_all(starts)
    monkeypatch.undo()
    written.append(os.read(read, 100).decode())
    assert written == ["0", "forked", "forked-900"]
    for child in children:
        assert isinstance(child, spawn.Child)
        child.abandon()
    os.close(read)
    os.close(write)


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


def test_starts_that_come_together_are_journalled_together_and_answered_one_by_one(node: Node) -> None:
    client, _ = node.open()
    requests = [node.request(f"t{number}", "/bin/sh", "-c", f"exit {number}") for number in range(20)]
    requests.insert(5, node.request("t4", "/bin/true", incarnation=2))
    client.socket.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    assert "incarnation 1 is still running" in client.wait_for("refused", "t4")["reason"]
    for number in range(20):
        assert client.ended(f"t{number}")["code"] == number
    data = (node.data / "supervisor.journal").read_bytes()
    records = map(json.loads, data.splitlines())
    assert [record["start"]["task"] for record in records if "start" in record] == [f"t{n}" for n in range(20)]
    exits = {task: entry.exit for task, entry in journal.replay(data).items() if entry.exit is not None}
    assert {task: end.code for task, end in exits.items()} == {f"t{number}": number for number in range(20)}


def test_of_starts_that_cannot_be_journalled_none_has_run(node: Node) -> None:
    client, listed = node.open()
    limit = (node.data / "supervisor.journal").stat().st_size + 20
    resource.prlimit(listed["pid"], resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    requests = [node.request(f"t{number}", "/bin/mkdir", f"ran{number}") for number in range(3)]
    client.socket.sendall(b"".join(json.dumps(request).encode() + b"\n" for request in requests))
    for number in range(3):
        assert "could not be journalled" in client.wait_for("refused", f"t{number}")["reason"]
    resource.prlimit(listed["pid"], resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    client.send(do="list")
    assert client.wait_for("list")["tasks"] == []
    assert not list(node.data.glob("ran*"))
    client.send(**requests[0])
    assert client.ended("t0")["code"] == 0
    assert (node.data / "ran0").exists()


def test_an_output_file_that_has_become_a_pipe_holds_nothing_up(node: Node) -> None:
    os.mkfifo(node.data / "stdout")
    client, _ = node.open()
    client.send(**node.request("a", "/bin/true"))
    assert client.ended("a")["error"].startswith(f"cannot open {node.data}/stdout: ")


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
