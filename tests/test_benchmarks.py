"""The benchmarks that know sizes run, in small: they are what nobody looks at until a figure is wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import engines
import pytest
from etcd_members import missing

pytestmark = pytest.mark.real

SECONDS_MAX = 250


needs_etcd = pytest.mark.skipif(bool(missing()) and "CI" not in os.environ, reason=missing())


def measured(module: str, folder: Path, seconds_max: float = SECONDS_MAX) -> dict[str, float]:
    """The figures of a module, in small, by their names."""
    file = folder / "bench.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--only", module, "--small", "--json", str(file)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=seconds_max, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return {figure["name"]: figure["value"] for figure in json.loads(file.read_text())["figures"]}


@needs_etcd
def test_agents_are_emulated_and_tasks_are_asked_for(tmp_path: Path) -> None:
    figures = measured("agents", tmp_path)
    for kind in ("TLS", "plain"):
        assert figures[f"40 agents, {kind}: all have joined and are welcome"] > 0
        assert figures[f"200 tasks at 40 agents, {kind}: from ask to commit, median"] > 0


@needs_etcd
def test_jobs_of_chronos_are_due_together_and_lie_there(tmp_path: Path) -> None:
    figures = measured("cron_load", tmp_path)
    assert figures["40 jobs on one second: committed and told to start, the last"] > 0
    assert figures["20 fires every 5 s for 6 s: starts that were expected and are missing"] == 0
    assert figures["300 jobs loaded: GET /jobs, gzip: sent"] > 0
    assert figures["300 jobs loaded: leader killed, another one lists and stores after"] > 0


def test_processes_of_jobs_start_and_the_machine_is_measured(tmp_path: Path) -> None:
    figures = measured("cron", tmp_path)
    assert figures["one job every 5 s: late, median"] > 0
    many = "40 jobs on one second"
    assert figures[f"{many}: processes start, the last"] > 0
    assert 0 <= figures[f"{many}: processors idle until then, I/O wait included"] <= 100
    assert figures[f"{many}: Orlop's rate over that with all that"] > 0


def test_bytes_go_to_an_engine_and_come_back(tmp_path: Path) -> None:
    if reason := engines.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Docker Engine: {reason}")
    figures = measured("engine_streams", tmp_path)
    for way in ("agent in the server's process", "agent elsewhere, TLS"):
        assert figures[f"2 MiB out of a command, {way}: median"] > 0
        assert figures[f"2 MiB into a command, {way}: over the engine alone"] > 0
        assert figures[f"GET /_ping, {way}, a new connection: median"] > 0


def test_containers_are_made_through_the_pool_and_beside_it(tmp_path: Path) -> None:
    if reason := engines.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Docker Engine: {reason}")
    figures = measured("swarm", tmp_path)
    for agent in ("agent in the server's process", "agent elsewhere"):
        assert figures[f"create and start, {agent}: pool over engine, median of the pairs"] > 0
        assert figures[f"2 MiB into a command, {agent}: through the pool, median"] > 0
    assert figures["6 containers on 2 engines, 8 workers: through the pool, median"] > 0


def test_the_pool_lists_and_makes_the_containers_of_emulated_engines(tmp_path: Path) -> None:
    figures = measured("swarm_load", tmp_path)
    assert figures["ps -a of 10 containers on 2 emulated engines: median"] > 0
    assert figures["50 containers made and removed: 4 workers"] > 0


@pytest.mark.timeout(2 * SECONDS_MAX)
def test_the_pool_and_swarmkit_run_containers_and_lose_a_node(tmp_path: Path) -> None:
    if reason := engines.missing():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no Docker Engine: {reason}")
    figures = measured("swarm_peers", tmp_path, 2 * SECONDS_MAX)
    for way in ("pool", "Marathon"):
        assert figures[f"one container: {way} over SwarmKit, started, median of the rounds"] > 0
        assert figures[f"6 containers: {way} over SwarmKit, said, median of the rounds"] > 0
    lost = "a node's agent and engine are killed, one container"
    assert figures[f"{lost}: SwarmKit runs all elsewhere, median"] > 0
