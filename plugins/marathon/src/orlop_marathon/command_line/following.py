"""Follows a deployment to its end."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

import click

from orlop.cli.client import Client
from orlop.cli.failures import CONFLICT, NOT_CONVERGED, Failure
from orlop.cli.output import show_json
from orlop_marathon.command_line.asking import Waiting, marathon_of, server

POLL_S: Final = 0.25
#: So many of the apps of a step are shown in a line of progress.
APPS_SHOWN: Final = 4
_SUCCEEDED: Final = "marathon.deployment_success"
_FAILED: Final = "marathon.deployment_failed"


def finish(ctx: click.Context, answer: Mapping[str, Any], waiting: Waiting) -> None:
    """What follows upon an answer that names a deployment: waits for it, unless told not to, and shows progress.

    Ctrl-C stops looking, not the deployment. Raises Failure when it is not done in time, or does not come to its end.
    """
    deployment = str(answer["deploymentId"])
    if waiting.detach:
        if waiting.output == "table":
            click.echo(deployment)
    else:
        end = follow(ctx, deployment, waiting)
        if end is None:
            return
        if waiting.output == "table":
            click.echo(f"deployment {deployment} is {end}")
    if waiting.output == "json":
        show_json(answer)


def follow(ctx: click.Context, deployment: str, waiting: Waiting) -> str | None:
    """How it ended: it is `done`, or `over` when nobody knows any more. None after Ctrl-C. Raises Failure."""
    client = marathon_of(ctx)
    deadline = time.monotonic() + waiting.timeout
    shown = ""
    try:
        while True:
            running = [one for one in client.get("/v2/deployments") if one["id"] == deployment]
            if not running:
                break
            if waiting.output == "table":
                line = _progress(client, running[0])
                if line != shown:
                    click.echo(line)
                    shown = line
            if time.monotonic() > deadline:
                apps = running[0]["affectedApps"]
                about = f"orlop explain {apps[0]}" if len(apps) == 1 else "orlop marathon queue"
                raise Failure(
                    f"deployment {deployment} is not done after {waiting.timeout:g} s",
                    hint=f"it goes on; see `{about}`, `orlop marathon deployment follow {deployment}`",
                    code=NOT_CONVERGED,
                )
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        click.echo(f"\ndeployment {deployment} goes on", err=True)
        return None
    last = _last_event(ctx, deployment)
    if last is None:
        return "over"
    if last["type"] == _FAILED:
        raise Failure(
            f"deployment {deployment} did not come to its end: {last['details'].get('reason', '')}",
            hint="it was stopped, or another took its place: see `orlop marathon deployment list`",
            code=CONFLICT,
        )
    return "done"


def _last_event(ctx: click.Context, deployment: str) -> dict[str, Any] | None:
    """Of its end. The API does not tell of ended deployments; the event log does, to whoever may read it."""
    try:
        events = server(ctx).get("/v1/events", subject=deployment, type=f"{_SUCCEEDED},{_FAILED}")["events"]
    except Failure:
        return None
    return events[-1] if events else None


def _progress(client: Client, deployment: Mapping[str, Any]) -> str:
    """A line: the step, its actions, and how far its apps are."""
    actions = deployment["currentActions"]
    named = actions[:APPS_SHOWN]
    doing = ", ".join(f"{one['action']} {one['app']}" for one in named)
    counts = "; ".join(_counts(client, [one["app"] for one in named]))
    more = f", and {len(actions) - len(named)} more" if len(actions) > len(named) else ""
    step = f"step {deployment['currentStep']}/{deployment['totalSteps']} {doing}{more}"
    return f"{step}: {counts}" if counts else step


def _counts(client: Client, wanted: list[str]) -> list[str]:
    """Of those of the apps that there are: one that is being removed is none any more."""
    found = client.get("/v2/apps", id=wanted[0] if len(wanted) == 1 else "")["apps"]
    known = {one["id"]: one for one in found}
    lines = []
    for path in wanted:
        if path in known:
            one = known[path]
            healthy = f", {one['tasksHealthy']} healthy" if one.get("healthChecks") else ""
            lines.append(f"{path} {one['tasksRunning']}/{one['instances']} running{healthy}")
    return lines
