"""The Docker API on a server of the cluster: what the plugin's routes are made of."""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from aiohttp import web

from orlop.framework import NotAvailable
from orlop_swarm.engines.interface import Connection, Dial, EngineUnavailable
from orlop_swarm.engines.pool import EnginePool
from orlop_swarm.http import recurring
from orlop_swarm.http.application import make_application
from orlop_swarm.http.balancing import Balancer
from orlop_swarm.http.finding import Owners
from orlop_swarm.http.keeping import NetworkKeeper
from orlop_swarm.http.kernel_containers import KernelContainers
from orlop_swarm.http.looking import Looking
from orlop_swarm.http.overview import KernelOverview
from orlop_swarm.http.remembering import Everywhere
from orlop_swarm.http.services import Services
from orlop_swarm.http.versions import Versions
from orlop_swarm.http.volume_places import VolumePlaces
from orlop_swarm.settings import Config

if TYPE_CHECKING:
    from orlop.server.routing import Host


def application(host: Host, settings: Config) -> web.Application:
    """The whole API over the cluster's nodes."""
    pool = EnginePool(host.nodes, lambda node, name: _dial(host, node, name))
    images = Everywhere()
    volumes = VolumePlaces()
    looking = Looking(images, volumes)
    containers = KernelContainers(host, pool, looking, settings)
    services = Services(
        pool=pool,
        owners=Owners(pool, containers),
        containers=containers,
        versions=Versions(pool),
        overview=KernelOverview(
            host.candidates, settings, name=host.cluster_name, version=host.version, address=host.address
        ),
        balancing=Balancer(host, pool, looking, settings),
        names=settings.names,
        images=images,
        volumes=volumes,
    )
    made = make_application(services)
    made.cleanup_ctx.append(recurring.beside(NetworkKeeper(pool, lambda: _heard(host)).look, "networks"))
    made.cleanup_ctx.append(recurring.beside(lambda: volumes.look(pool), "volumes"))
    return made


def _heard(host: Host) -> Set[str]:
    """Ids of the nodes whose agents have found this server. Raises NotAvailable."""
    return {candidate.node.id for candidate in host.candidates() if candidate.heard}


def _dial(host: Host, node: str, name: str) -> Dial:
    async def dial() -> Connection:
        try:
            return await host.open_engine(node)
        except NotAvailable as error:
            raise EngineUnavailable(name, str(error)) from error

    return dial
