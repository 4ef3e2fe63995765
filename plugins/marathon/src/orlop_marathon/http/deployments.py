"""`/v2/deployments`."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from orlop_marathon import orders, root
from orlop_marathon.deployments import Deployment, action_json, plan_json
from orlop_marathon.http.calls import Call, Methods, answer, deployed, empty


def resolve(tail: list[str]) -> Methods | None:
    if not tail:
        return {"GET": _list}
    return {"DELETE": partial(_cancel, deployment=tail[0])} if len(tail) == 1 else None


async def _list(call: Call) -> web.Response:
    view = await call.view()
    found: list[Deployment] = sorted(
        view.objects(root.DEPLOYMENT).values(), key=lambda one: (one.started_utc_ms, one.version)
    )
    return answer([deployment_json(one) for one in found])


def deployment_json(deployment: Deployment) -> dict[str, object]:
    """One running deployment; `currentStep` counts from 1."""
    return {
        "id": deployment.id,
        "version": deployment.version,
        "affectedApps": deployment.affected,
        "affectedPods": [],
        "steps": plan_json(deployment),
        "currentActions": [
            {**action_json(action), "readinessCheckResults": []} for action in deployment.current_actions
        ],
        "currentStep": deployment.current + 1,
        "totalSteps": len(deployment.steps),
    }


async def _cancel(call: Call, deployment: str) -> web.Response:
    force = call.flag("force")
    result = await call.give(orders.CancelDeployment(id=deployment, force=force))
    return empty(202) if force else deployed(result)
