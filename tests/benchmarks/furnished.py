"""How many processes this machine starts in a second when each is given what a task is given, and nothing schedules
them: folders, files for its output, a session and control groups.

A program of its own, `python -m tests.benchmarks.furnished FOLDER COUNT NODE`, since it joins the control groups of
each process itself before it starts it: that is the quickest way, and it does not come back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from orlop.agent.cgroups import ControlGroups, NoControlGroups
from orlop.model.resources import Resources


def start_all(folder: Path, count: int, groups: ControlGroups | None) -> float:
    """How many a second."""
    resources = Resources(cpus=0.001, mem="1MiB")
    began = time.perf_counter()
    started = []
    for number in range(count):
        task = folder / f"furnished-{number}"
        os.makedirs(task / "work")
        if groups is not None:
            _join(groups.create(f"furnished-{number}", 1, resources))
        with open(task / "stdout", "ab") as stdout, open(task / "stderr", "ab") as stderr:
            started.append(
                subprocess.Popen(
                    ["/bin/sh", "-c", ": > started"],
                    env={},
                    cwd=task / "work",
                    stdin=subprocess.DEVNULL,
                    stdout=stdout,
                    stderr=stderr,
                    start_new_session=True,
                )
            )
    for process in started:
        process.wait()
    return count / (time.perf_counter() - began)


def control_groups(node_id: str) -> ControlGroups | None:
    """None where there are none that a single thread can join."""
    try:
        groups = ControlGroups.open(node_id)
    except NoControlGroups:
        return None
    return groups if all(os.path.exists(f"{path}/tasks") for path in groups.supervisor()) else None


def _join(groups: Iterable[str]) -> None:
    for group in groups:
        Path(group, "tasks").write_text("0")


if __name__ == "__main__":
    print(start_all(Path(sys.argv[1]), int(sys.argv[2]), control_groups(sys.argv[3])))
