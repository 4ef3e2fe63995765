"""`/v2/info`, `/v2/leader`, `/v2/plugins`, `/ping`, `/metrics`: the server itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from orlop.addresses import reached_at
from orlop.framework import TaskState, format_utc
from orlop_marathon import root
from orlop_marathon.http.calls import Call, Methods, answer, empty
from orlop_marathon.settings import MARATHON_VERSION, Config

if TYPE_CHECKING:
    from orlop.server.routing import Host

#: Settings of Marathon that mean nothing without Mesos.
_OF_MESOS: Final = (
    "access_control_allow_origin", "decline_offer_duration", "launch_token", "launch_token_refresh_interval",
    "max_instances_per_offer", "mesos_heartbeat_failure_threshold", "mesos_heartbeat_interval", "mesos_leader_ui_url",
    "mesos_user", "min_revive_offers_interval", "offer_matching_timeout", "on_elected_prepare_timeout",
    "reconciliation_initial_delay", "reconciliation_interval", "scale_apps_initial_delay", "scale_apps_interval",
    "store_cache", "task_launch_confirm_timeout", "task_launch_timeout", "task_lost_expunge_initial_delay",
    "task_lost_expunge_interval", "task_reservation_timeout",
)  # fmt: skip


def resolve_info(tail: list[str]) -> Methods | None:
    return {"GET": _info} if not tail else None


def resolve_leader(tail: list[str]) -> Methods | None:
    return {"GET": _leader} if not tail else None


def resolve_plugins(tail: list[str]) -> Methods | None:
    return {"GET": _plugins} if not tail else None


def resolve_ping(tail: list[str]) -> Methods | None:
    return {"GET": _ping} if not tail else None


def resolve_metrics(tail: list[str]) -> Methods | None:
    return {"GET": _metrics} if not tail else None


def leader_address(host: Host, settings: Config) -> str:
    """ "host:port" under which clients reach Marathon's API."""
    return reached_at(settings.listen, settings.hostname, host.address)


async def _leader(call: Call) -> web.Response:
    return answer({"leader": leader_address(call.host, call.settings)})


async def _plugins(_: Call) -> web.Response:
    return answer({"plugins": []})


async def _info(call: Call) -> web.Response:
    view = await call.view()
    leader = leader_address(call.host, call.settings)
    return answer(info_json(call.settings, leader, call.host.cluster_name, view.cluster_id))


def info_json(settings: Config, leader: str, cluster: str, cluster_id: str) -> dict[str, Any]:
    """What old clients read of a Marathon. There is neither Mesos nor ZooKeeper; their members must be there."""
    host, _, port = leader.rpartition(":")
    defaults = settings.defaults
    return {
        "name": "marathon",
        "version": MARATHON_VERSION,
        "buildref": "orlop",
        "elected": True,
        "leader": leader,
        "frameworkId": cluster_id,
        "marathon_config": {
            **dict.fromkeys(_OF_MESOS),
            "checkpoint": True,
            "default_network_name": settings.default_network_name or None,
            "env_vars_prefix": settings.env_vars_prefix or None,
            "executor": "//cmd",
            "failover_timeout": 604800,
            "features": sorted(defaults.features),
            "framework_name": cluster,
            "ha": True,
            "hostname": host,
            "leader_proxy_connection_timeout_ms": 5000,
            "leader_proxy_read_timeout_ms": 10000,
            "local_port_min": settings.local_port_min,
            "local_port_max": settings.local_port_max,
            "maintenance_mode": False,
            "master": "",
            "mesos_bridge_name": defaults.bridge_name,
            "mesos_role": settings.default_role,
            "new_group_enforce_role": "off",
            "webui_url": None,
        },
        "zookeeper_config": {
            "zk": "",
            "zk_max_versions": settings.max_versions,
            "zk_timeout": 10000,
            "zk_connection_timeout": 10000,
            "zk_session_timeout": 10000,
            "zk_compression": False,
            "zk_compression_threshold": None,
            "zk_max_node_size": None,
        },
        "http_config": {"http_port": int(port) if port.isdecimal() else 0, "https_port": None},
    }


async def _ping(call: Call) -> web.Response:
    accepted = call.accepted
    if "text/html" in accepted:
        return web.Response(body=b"pong", content_type="text/html")
    if any(one in ("", "*/*") or one.startswith("text/") for one in accepted):
        return web.Response(body=b"pong", content_type="text/plain")
    if any(one in ("application/json", "application/*") for one in accepted):
        return answer("pong")
    return empty(204)


async def _metrics(call: Call) -> web.Response:
    """The few numbers that cost nothing, in Dropwizard's shape."""
    view = await call.view()
    gauges = {
        "marathon.apps.active.gauge": len(view.objects(root.APP)),
        "marathon.deployments.active.gauge": len(view.objects(root.DEPLOYMENT)),
        "marathon.instances.active.gauge": len(view.live),
        "marathon.instances.running.gauge": sum(
            task.state is TaskState.RUNNING for key in view.live if (task := view.tasks[key])
        ),
    }
    return answer(
        {
            "version": "4.0.0",
            "end": format_utc(view.now.utc_ms),
            "counters": {},
            "gauges": {name: {"value": value} for name, value in gauges.items()},
            "histograms": {},
            "meters": {},
            "timers": {},
        }
    )
