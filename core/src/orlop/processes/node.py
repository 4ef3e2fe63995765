"""This machine as a node: who it is, what it offers, and the agent that runs its tasks."""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable
from pathlib import Path

import attrs

import orlop
from orlop.agent.agent import Agent, Connect, DialStream
from orlop.agent.detection import DEFAULT_PORTS, architecture, boot_id, detect_resources, operating_system
from orlop.agent.records import AgentRecords, NodeIdentity
from orlop.agent.runtimes.interface import FetchSettings, Runtime, RuntimeContext
from orlop.agent.spreading import spread
from orlop.configuration import Settings
from orlop.model.messages import RenewCertificate
from orlop.model.nodes import NodeInfo
from orlop.model.ports import PortSet
from orlop.model.resources import Resources, to_units
from orlop.server.plugin_host import PluginHost


def open_records(data: Path) -> AgentRecords:
    """What this node remembers. Raises InUse."""
    return AgentRecords(data / "agent" / "agent.db")


def identity_of(records: AgentRecords) -> NodeIdentity:
    """Who this node is, which is made up at its first start. Raises DocumentError, CannotSave."""
    identity = records.identity()
    if identity is None:
        identity = NodeIdentity(node_id=secrets.token_hex(6))
        records.save_identity(identity)
    return identity


def make_agent(
    settings: Settings,
    data: Path,
    plugins: PluginHost,
    cluster_id: str,
    connect: Connect,
    dial_stream: DialStream | None = None,
    renew: Callable[[RenewCertificate], None] | None = None,
) -> Agent:
    """The agent of this node, its folders made; see `Agent`. Raises InUse, DocumentError."""
    records = open_records(data)
    identity = identity_of(records)
    context = RuntimeContext(
        cluster_id=cluster_id,
        node_id=identity.node_id,
        data=data / "agent",
        tasks=data / "tasks",
        docker=settings.agent.docker,
        fetch=_fetch_settings(settings),
    )
    context.tasks.mkdir(parents=True, exist_ok=True)
    spread(context.tasks)
    wanted = settings.agent.runtimes
    made: list[Runtime] = []
    for _, runtimes in plugins.collect("runtimes", context=context):
        made += [runtime for runtime in runtimes if runtime.name in wanted]
    missing = set(wanted) - {runtime.name for runtime in made}
    info = _node_info(settings, data, identity.node_id)
    return Agent(
        info=attrs.evolve(info, unavailable=dict.fromkeys(missing, "no plugin here offers this runtime")),
        records=records,
        identity=identity,
        context=context,
        runtimes=made,
        connect=connect,
        dial_stream=dial_stream,
        renew=renew,
    )


def _fetch_settings(settings: Settings) -> FetchSettings:
    agent = settings.agent
    return FetchSettings(
        bytes_max=to_units("disk", agent.fetch_max),
        timeout_s=agent.fetch_timeout_s,
        cache_bytes_max=to_units("disk", agent.fetch_cache),
        local=agent.fetch_local,
    )


def _node_info(settings: Settings, data: Path, node_id: str) -> NodeInfo:
    configured = dict(settings.agent.resources)
    ports = PortSet.parse(str(configured.pop("ports", DEFAULT_PORTS)))
    resources = dict(detect_resources(data)) | dict(Resources(**configured))
    return NodeInfo(
        id=node_id,
        name=settings.agent.name or socket.gethostname(),
        address=settings.agent.address or "127.0.0.1",
        resources=Resources.of(resources),
        ports=ports,
        attributes=dict(settings.agent.attributes),
        os=operating_system(),
        arch=architecture(),
        boot_id=boot_id(),
        version=orlop.__version__,
    )
