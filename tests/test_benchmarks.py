"""The benchmarks with emulated agents run, in small: they are what nobody looks at until a figure is wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from etcd_members import missing

pytestmark = pytest.mark.real

SECONDS_MAX = 250


@pytest.mark.skipif(bool(missing()) and "CI" not in os.environ, reason=missing())
def test_agents_are_emulated_and_tasks_are_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    command = [sys.executable, "-m", "tests.benchmarks", "--only", "agents", "--small", "--json", str(file)]
    done = subprocess.run(
        command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    figures = {figure["name"]: figure["value"] for figure in json.loads(file.read_text())["figures"]}
    for kind in ("TLS", "plain"):
        assert figures[f"40 agents, {kind}: all have joined and are welcome"] > 0
        assert figures[f"200 tasks at 40 agents, {kind}: from ask to commit, median"] > 0
