"""A server and agents as real processes on hosts of their own: joining, being killed, being cut off, coming back."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hosts import Hosts, RemoteCluster
from running import RunningOrlop, processes_with_environment, wait_until

pytestmark = pytest.mark.real

LIVELY = {
    "ORLOP_CLUSTER__UNREACHABLE_AFTER_S": "6",
    "ORLOP_CLUSTER__GONE_AFTER_S": "10",
}


@pytest.fixture(scope="module")
def cluster(hosts: Hosts) -> Iterator[RemoteCluster]:
    """A server and three agents that have joined over TLS."""
    made = RemoteCluster(hosts, **LIVELY)
    try:
        made.start_server()
        for name in ("n1", "n2", "n3"):
            made.add_agent(name, wait=False)
        made.wait_ready("n1", "n2", "n3")
        yield made
    finally:
        made.close()


def sleepers(cluster: RemoteCluster, group: str) -> dict[str, list[int]]:
    """Task id → pids, of a group's tasks, on all hosts, as the machine sees them."""
    found: dict[str, list[int]] = {}
    for agent in cluster.agents.values():
        for task, pids in agent.tasks().items():
            for pid in pids:
                with contextlib.suppress(OSError):
                    if f"MARATHON_APP_ID={group}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"):
                        found.setdefault(task, []).append(pid)
    return found


def test_tasks_run_on_other_hosts_and_are_reached_there(cluster: RemoteCluster) -> None:
    cluster.deploy(
        "/spread", 6, cmd="echo here $MARATHON_APP_ID; exec sleep 1000", constraints=[["hostname", "GROUP_BY"]]
    )
    placed = cluster.placed("/spread")
    assert sorted(placed.values()) == ["n1", "n1", "n2", "n2", "n3", "n3"]
    assert sleepers(cluster, "/spread").keys() == placed.keys()
    for task in placed:
        wait_until(lambda task=task: "here /spread" in cluster.cli("logs", task), "its output is shown")
    addresses = {node["name"]: node["address"] for node in cluster.get("/v1/nodes")["nodes"]}
    assert addresses == {name: agent.host.address for name, agent in cluster.agents.items()}
    cluster.call("DELETE", "/v2/apps/spread?force=true", base=cluster.marathon)
    wait_until(lambda: not sleepers(cluster, "/spread"), "they are stopped")


def test_a_node_has_no_open_port(cluster: RemoteCluster) -> None:
    """Its agent dials: whoever reaches the node finds neither the agent nor its engine."""
    cluster.deploy("/quiet", 3, constraints=[["hostname", "UNIQUE"]])
    (task, *_) = cluster.placed("/quiet")
    assert run_in(cluster, task, "sh", "-c", "echo reached").stdout == b"reached\n"
    server = cluster.server.process
    assert server is not None
    assert listening(server.pid), "it is seen where there is one"
    for agent in cluster.agents.values():
        assert agent.process is not None
        assert not listening(agent.process.pid)
    cluster.call("DELETE", "/v2/apps/quiet?force=true", base=cluster.marathon)
    wait_until(lambda: not sleepers(cluster, "/quiet"), "they are stopped")


def listening(pid: int) -> list[str]:
    """Local addresses, as the kernel writes them, at which anybody on the process's host listens on TCP."""
    rows = [
        row.split() for kind in ("tcp", "tcp6") for row in Path(f"/proc/{pid}/net/{kind}").read_text().splitlines()[1:]
    ]
    return [local for _, local, _, state, *_ in rows if state == "0A"]


def test_output_is_followed_across_the_network(cluster: RemoteCluster, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    count = 60_000
    writing = f"while [ ! -e {gate} ]; do sleep 0.05; done; seq 1 {count}; echo the end; sleep 1000"
    cluster.deploy("/followed", 1, cmd=writing)
    (task,) = cluster.placed("/followed")
    with subprocess.Popen(
        [sys.executable, "-m", "orlop", "logs", "-f", "--stdout", task],
        stdout=subprocess.PIPE,
        text=True,
        env=cluster.environment(),
    ) as following:
        gate.touch()
        assert following.stdout is not None
        lines = []
        for line in following.stdout:
            lines.append(line.strip())
            if line.startswith("the end"):
                break
        following.kill()
    assert lines == [*map(str, range(1, count + 1)), "the end"]


def run_in(cluster: RemoteCluster, task: str, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """What `orlop exec` gives."""
    return subprocess.run(
        [sys.executable, "-m", "orlop", "exec", task, "--", *words],
        input=given,
        capture_output=True,
        env=cluster.environment(),
        timeout=120,
        check=False,
    )


def test_commands_run_beside_tasks_on_other_hosts(cluster: RemoteCluster) -> None:
    cluster.deploy("/commanded", 3, constraints=[["hostname", "UNIQUE"]])
    for task, node in cluster.placed("/commanded").items():
        done = run_in(cluster, task, "sh", "-c", "echo $ORLOP_TASK_ID; echo no >&2; exit 7")
        assert (done.returncode, done.stdout, done.stderr) == (7, f"{task}\n".encode(), b"no\n"), node
    events = cluster.get("/v1/events?type=orlop.task.exec")["events"]
    assert {event["subject"] for event in events} >= cluster.placed("/commanded").keys()
    assert {event["details"]["program"] for event in events} == {"sh"}
    assert run_in(cluster, task, "nosuchprogram").returncode == 127
    assert run_in(cluster, "nosuchtask", "true").returncode == 4


def test_50_mb_go_to_a_command_and_come_back_and_more_after_their_end(cluster: RemoteCluster) -> None:
    cluster.deploy("/pipe", 1)
    (task,) = cluster.placed("/pipe")
    data = os.urandom(52_000_000)
    done = run_in(cluster, task, "sh", "-c", "cat; echo and then", given=data)
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout == data + b"and then\n"


def test_a_command_ends_with_the_one_who_asked_for_it(cluster: RemoteCluster) -> None:
    cluster.deploy("/left", 1)
    (task,) = cluster.placed("/left")
    with subprocess.Popen(
        [sys.executable, "-m", "orlop", "exec", task, "--", "sh", "-c", "echo $$; exec sleep 1234"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=cluster.environment(),
    ) as asking:
        assert asking.stdout is not None
        pid = int(asking.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        asking.kill()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "the command is gone")


def test_a_killed_agent_finds_its_tasks_again(cluster: RemoteCluster) -> None:
    cluster.deploy("/adopted", 6)
    before = sleepers(cluster, "/adopted")
    assert len(before) == 6
    for agent in cluster.agents.values():
        agent.kill()
    assert sleepers(cluster, "/adopted") == before
    for agent in cluster.agents.values():
        agent.start()  # without a token: they have their certificates
    wait_until(lambda: all(agent.said().count(" of cluster ") == 2 for agent in cluster.agents.values()), "they are up")
    cluster.wait_ready("n1", "n2", "n3")
    task, (pid, *_) = next(iter(before.items()))
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(sleepers(cluster, "/adopted").keys() - {task}) == 6, "a killed task is replaced")
    now = sleepers(cluster, "/adopted")
    assert {one: now[one] for one in before if one != task} == {one: before[one] for one in before if one != task}


def test_a_killed_server_harms_no_task_and_agents_come_back(cluster: RemoteCluster) -> None:
    cluster.deploy("/steady", 6)
    before = sleepers(cluster, "/steady")
    cluster.server.kill()
    task, (pid, *_) = next(iter(before.items()))
    os.kill(pid, signal.SIGKILL)  # something happens while nobody can be told
    cluster.start_server()
    wait_until(lambda: len(cluster.placed("/steady").keys() - {task}) == 6, "the lost one is replaced")
    now = sleepers(cluster, "/steady")
    assert len(now) == 6
    assert {one: now[one] for one in before if one != task} == {one: before[one] for one in before if one != task}
    ended = cluster.get(f"/v1/tasks/{task}")
    assert (ended["outcome"], ended["signal"]) == ("failed", 9), "its end was kept on the node"


def test_a_frozen_server_is_left_and_found_again(cluster: RemoteCluster) -> None:
    cluster.deploy("/frozen", 3, constraints=[["hostname", "GROUP_BY"]])  # so each node has a session
    before = sleepers(cluster, "/frozen")
    assert cluster.server.process is not None
    cluster.server.process.send_signal(signal.SIGSTOP)
    try:
        said = {name: agent.said().count("the session with the server ended") for name, agent in cluster.agents.items()}
        for name, agent in cluster.agents.items():
            wait_until(
                lambda name=name, agent=agent: agent.said().count("the session with the server ended") > said[name],
                "the agent notices that nobody answers",
            )
    finally:
        cluster.server.process.send_signal(signal.SIGCONT)
    cluster.wait_ready("n1", "n2", "n3")
    cluster.deploy("/frozen", 4)
    now = sleepers(cluster, "/frozen")
    assert len(now) == 4
    assert {one: now[one] for one in before} == before


@pytest.mark.parametrize("how", ["cut_off", "unplug", "cut_incoming"])
def test_a_node_that_is_cut_off_is_replaced_and_comes_back(cluster: RemoteCluster, how: str) -> None:
    app = f"/cut-{how.replace('_', '-')}"
    cluster.deploy(app, 6, constraints=[["hostname", "GROUP_BY"]])
    lost = {task for task, node in cluster.placed(app).items() if node == "n2"}
    kept = sleepers(cluster, app)
    assert len(lost) == 2
    victim = cluster.agents["n2"]
    getattr(victim.host, how)()
    try:
        wait_until(lambda: cluster.nodes()["n2"] == "unreachable", "it is unreachable")
        assert sleepers(cluster, app).keys() >= lost
        wait_until(lambda: cluster.nodes()["n2"] == "gone", "it is gone")
        wait_until(lambda: sorted(cluster.placed(app).values()) == ["n1"] * 3 + ["n3"] * 3, "its tasks run elsewhere")
        assert sleepers(cluster, app).keys() >= lost, "and where nobody can stop them"
    finally:
        victim.host.mend()
    cluster.wait_ready("n1", "n2", "n3")
    wait_until(lambda: len(sleepers(cluster, app)) == 6, "exactly the wanted instances are left")
    now = sleepers(cluster, app)
    assert not lost & now.keys()
    assert now.keys() == cluster.placed(app).keys()
    assert {one: pids for one, pids in kept.items() if one not in lost} == {
        one: pids for one, pids in now.items() if one in kept
    }, "the others were left alone"


def test_a_planned_stop_says_goodbye(cluster: RemoteCluster) -> None:
    cluster.deploy("/goodbye", 3, constraints=[["hostname", "UNIQUE"]])
    before = sleepers(cluster, "/goodbye")
    agent = cluster.agents["n3"]
    assert agent.stop() == 0
    assert "the session of node" in wait_until(
        lambda: cluster.server.said() if "ended: the agent stops" in cluster.server.said() else "", "the server knows"
    )
    cluster.deploy("/meanwhile", 4)
    assert "n3" not in cluster.placed("/meanwhile").values(), "nothing new is put on it"
    time.sleep(8)  # longer than a node may be silent without a word
    assert cluster.nodes()["n3"] == "ready"
    assert sleepers(cluster, "/goodbye") == before
    agent.start()
    wait_until(lambda: agent.said().count(" of cluster ") >= 2, "it is up")
    cluster.deploy("/goodbye", 3, constraints=[["hostname", "UNIQUE"]], env={"ROUND": "2"})
    assert len(sleepers(cluster, "/goodbye")) == 3


def test_an_app_may_wait_for_a_node_that_is_gone(cluster: RemoteCluster) -> None:
    cluster.deploy("/patient", 3, constraints=[["hostname", "UNIQUE"]], unreachableStrategy="disabled")
    before = sleepers(cluster, "/patient")
    host = cluster.agents["n1"].host
    host.unplug()
    try:
        wait_until(lambda: cluster.nodes()["n1"] == "gone", "it is gone")
    finally:
        host.mend()
    cluster.wait_ready("n1", "n2", "n3")
    cluster.deploy("/patient", 3, constraints=[["hostname", "UNIQUE"]], unreachableStrategy="disabled")
    assert sleepers(cluster, "/patient") == before


def test_a_drained_node_is_emptied_at_its_deadline(cluster: RemoteCluster) -> None:
    cluster.deploy("/moved", 6, constraints=[["hostname", "GROUP_BY"]])
    cluster.cli("drain", "n1", "--deadline", "1h")
    cluster.cli("undrain", "n1")
    node = next(node for node in cluster.get("/v1/nodes")["nodes"] if node["name"] == "n1")
    assert (node["drained"], node["drain_at"]) == (False, None)
    assert "which are stopped at" in cluster.cli("drain", "n1", "--deadline", "1s", "--reason", "new disk")
    try:
        wait_until(lambda: not cluster.agents["n1"].tasks(), "all is stopped there")
        wait_until(lambda: sorted(cluster.placed("/moved").values()) == ["n2"] * 3 + ["n3"] * 3, "and runs elsewhere")
    finally:
        cluster.cli("undrain", "n1")
    assert len(sleepers(cluster, "/moved")) == 6


def test_a_node_that_is_gone_is_forgotten_and_joins_anew(cluster: RemoteCluster) -> None:
    """What was on it runs elsewhere although its app would wait for ever; with its old certificate it is let in no
    more, and with a token it is a node like any other, which stops what was replaced."""
    agent = cluster.add_agent("n4")
    cluster.deploy("/given-up", 4, constraints=[["hostname", "UNIQUE"]], unreachableStrategy="disabled")
    with pytest.raises(AssertionError, match="node n4 is ready: only a node that is gone"):
        cluster.cli("forget", "n4")
    agent.host.unplug()
    wait_until(lambda: cluster.nodes()["n4"] == "gone", "it is gone")
    before = cluster.placed("/given-up")
    assert sorted(before.values()) == ["n1", "n2", "n3", "n4"], "it waits for its node"
    assert cluster.cli("forget", "n4", "--reason", "burnt") == "n4 is forgotten\n"
    assert cluster.nodes().keys() == {"n1", "n2", "n3"}
    wait_until(lambda: list(cluster.placed("/given-up", "pending").values()) == [None], "another one waits for a node")
    agent.host.mend()
    wait_until(lambda: "not admitted" in agent.said(), "it is not let in")
    agent.stop()
    agent.start("--token", cluster.token())
    cluster.wait_ready("n4")
    wait_until(lambda: len(cluster.placed("/given-up")) == 4, "the one that waited runs there")
    (new,) = cluster.placed("/given-up").keys() - before.keys()
    wait_until(lambda: list(agent.tasks()) == [new], "and it has stopped what was replaced")


# --- one machine, without tokens ---


def test_agents_of_the_same_machine_need_no_token(tmp_path: Path) -> None:
    orlop = RunningOrlop(tmp_path, ORLOP_AGENT__RUNTIMES="[]")
    agents = []
    try:
        orlop.start()
        for number in (1, 2):
            environment = {
                **os.environ,
                "ORLOP_AGENT__NAME": f"local{number}",
                "ORLOP_AGENT__DOCKER": "unix:///nonexistent/docker.sock",
                "ORLOP_AGENT__RESOURCES__PORTS": f"{31000 + 100 * number}-{31099 + 100 * number}",
            }
            data = tmp_path / f"agent{number}"
            command = [sys.executable, "-m", "orlop", "agent", "--join", orlop.url, "--data", str(data)]
            agents.append(subprocess.Popen(command, env=environment, start_new_session=True))
        wait_until(lambda: len(orlop.get(f"{orlop.url}/v1/nodes")["nodes"]) == 3, "both join")
        app = {"id": "/x", "cmd": "echo hi; exec sleep 1000", "cpus": 0.01, "mem": 8, "instances": 4}
        orlop.call("POST", "/v2/apps", app)
        orlop.wait_deployed()
        tasks = orlop.get(f"{orlop.url}/v1/tasks?group=/x")["tasks"]
        assert {task["node_name"] for task in tasks} == {"local1", "local2"}
        wait_until(lambda: all("hi" in orlop.cli("logs", task["id"]) for task in tasks), "their output is shown")
        second = subprocess.run(
            [*command, "--name", "twin"], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert second.returncode == 1
        assert "another agent uses" in second.stderr
    finally:
        for agent in agents:
            agent.kill()
            agent.wait()
        for number in (1, 2):
            for pid in processes_with_environment(f"MESOS_SANDBOX={tmp_path}/agent{number}"):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        orlop.close()
