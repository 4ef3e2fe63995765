"""Apps and tasks of the API as rows of tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from orlop.cli.output import age

APP_COLUMNS: Final = ("id", "running", "healthy", "staged", "deploying", "cpus", "mem", "command")
TASK_COLUMNS: Final = ("id", "state", "healthy", "host", "ports", "age", "version")
TASK_COLUMNS_WIDE: Final = ("app", "started", "node")
#: So much of a command is shown in a table, in characters.
COMMAND_SHOWN: Final = 40


def runs(app: Mapping[str, Any]) -> str:
    """What an app runs: its command, else its arguments, else its image."""
    image = app.get("container", {}).get("docker", {}).get("image", "")
    return str(app.get("cmd") or " ".join(app.get("args", [])) or image)


def runs_shortly(app: Mapping[str, Any]) -> str:
    """As much of it as a table has room for."""
    return runs(app)[:COMMAND_SHOWN]


def app_row(app: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "id": app["id"],
        "running": f"{app['tasksRunning']}/{app['instances']}",
        "healthy": app["tasksHealthy"] if app.get("healthChecks") else None,
        "staged": app["tasksStaged"],
        "deploying": bool(app["deployments"]),
        "cpus": app["cpus"],
        "mem": app["mem"],
        "command": runs_shortly(app),
    }


def task_row(task: Mapping[str, Any]) -> dict[str, Any]:
    """healthy: by all its checks; unknown without any, or without a result yet."""
    results = [check["alive"] for check in task.get("healthCheckResults", [])]
    return {
        "id": task["id"],
        "app": task["appId"],
        "state": str(task["state"]).removeprefix("TASK_").lower(),
        "healthy": all(results) if results else None,
        "host": task["host"],
        "ports": task["ports"],
        "age": age(task.get("startedAt") or task.get("stagedAt")),
        "version": task["version"],
        "started": task.get("startedAt"),
        "node": task["slaveId"],
    }
