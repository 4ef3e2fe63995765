"""`orlop agent`: this machine as a node of a cluster whose servers are elsewhere.

Its first start finds out whose cluster it is and, where servers ask for it, gets a certificate for a join token. From
then on it starts without any server: what ran goes on, and is reported as soon as one can be reached.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from yarl import URL

import orlop
from orlop.agent.credentials import Credentials
from orlop.agent.records import InUse, NodeIdentity
from orlop.agent.remote import RemoteServers, ServerRefused, Unreachable, WrongCluster
from orlop.agent.renewal import Renewal
from orlop.configuration import Settings
from orlop.processes.exposure import CannotStart
from orlop.processes.node import identity_of, make_agent, open_records
from orlop.processes.server import SWITCH_INTERVAL_S
from orlop.security import authority as signing
from orlop.security.files import UnsafeFile
from orlop.security.tokens import InvalidToken, Purpose, Token, parse_token
from orlop.server import builtin
from orlop.server.plugin_host import PluginHost

log = logging.getLogger(__name__)

FIRST_CONTACT_AGAIN_S = 1.0


def run(settings: Settings, data: Path, *, rejoin: bool = False, announce: Callable[[str], None] = print) -> int:
    """Runs until SIGTERM or SIGINT. Returns the exit code. Raises CannotStart, DocumentError, OSError."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    urls = _urls(settings)
    data = data.absolute()
    data.mkdir(parents=True, exist_ok=True, mode=0o711)  # tasks of other users pass through
    try:
        return asyncio.run(_run(settings, data, urls, rejoin, announce))
    except (InUse, UnsafeFile) as error:
        raise CannotStart(str(error)) from error


def _urls(settings: Settings) -> list[URL]:
    """Raises CannotStart."""
    if not settings.agent.join:
        raise CannotStart("whose node is this? Name the servers: --join URL, or [agent] join")
    urls = [URL(text).origin() for text in settings.agent.join]
    if len({url.scheme for url in urls}) > 1:
        raise CannotStart("the servers of one cluster are all http or all https: [agent] join names both")
    return urls


async def _run(settings: Settings, data: Path, urls: list[URL], rejoin: bool, announce: Callable[[str], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop.set)
    credentials = Credentials(data / "agent" / "tls")
    identity = _identity(data, credentials, rejoin)
    servers = RemoteServers(urls, identity.node_id, credentials)
    stopped = asyncio.create_task(stop.wait())
    try:
        belonging = asyncio.create_task(_belong(servers, identity, credentials, urls[0], settings.agent.token))
        await asyncio.wait({stopped, belonging}, return_when=asyncio.FIRST_COMPLETED)
        if not belonging.done():
            belonging.cancel()
            return 0
        identity = _keep_identity(data, attrs.evolve(identity, cluster_id=belonging.result()))
        settings = await _with_address(settings, urls)
        announce(_welcome(settings, identity, urls))
        await _until(stopped, settings, data, identity, servers, credentials)
        return 0
    finally:
        stopped.cancel()
        await servers.close()


async def _until(
    stopped: asyncio.Task[Any],
    settings: Settings,
    data: Path,
    identity: NodeIdentity,
    servers: RemoteServers,
    credentials: Credentials,
) -> None:
    """The agent, until it is stopped. Raises what it ends with otherwise."""
    plugins = PluginHost(settings, [("orlop", builtin)])
    plugins.load()
    renewal = Renewal(credentials, servers.renew)
    agent = make_agent(settings, data, plugins, identity.cluster_id, servers.connect, servers.dial_stream, renewal.ask)
    running: set[asyncio.Task[Any]] = {
        asyncio.create_task(agent.run()),
        asyncio.create_task(renewal.run()),
    }
    try:
        done, _ = await asyncio.wait({stopped, *running}, return_when=asyncio.FIRST_COMPLETED)
        for task in done & running:
            task.result()
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def _identity(data: Path, credentials: Credentials, rejoin: bool) -> NodeIdentity:
    """Who this node is, and whose, as far as it knows. Raises InUse, UnsafeFile, DocumentError."""
    with contextlib.closing(open_records(data)) as records:
        if rejoin:
            records.leave_cluster()
            credentials.forget()
        identity = identity_of(records)
    certificate = credentials.certificate()
    if certificate is None:
        return identity
    speaks_for = signing.speaks_for(signing.to_der(certificate))
    if speaks_for is None or speaks_for[1] != identity.node_id:
        log.warning("this node's certificate is another node's: it is forgotten")
        credentials.forget()
        return identity
    return identity if identity.cluster_id else attrs.evolve(identity, cluster_id=speaks_for[0])


def _keep_identity(data: Path, identity: NodeIdentity) -> NodeIdentity:
    with contextlib.closing(open_records(data)) as records:
        if records.identity() != identity:
            records.save_identity(identity)
    return identity


async def _belong(
    servers: RemoteServers, identity: NodeIdentity, credentials: Credentials, url: URL, token_text: str
) -> str:
    """The id of the cluster that this node belongs to, once it is known and the node is let in. Raises CannotStart."""
    if url.scheme == "http":
        return identity.cluster_id or await _without_token(servers)
    certificate = credentials.certificate()
    expired = certificate is not None and signing.expires_at(certificate) <= time.time() * 1000
    if certificate is not None and identity.cluster_id and not expired:
        await _join_again(servers, credentials, identity.cluster_id, token_text)
        return identity.cluster_id
    if not token_text:
        why = "this node's certificate has expired" if expired else "these servers ask for a certificate"
        raise CannotStart(f"{why}: give a join token with --token or --token-file (orlop token create makes one)")
    try:
        token = parse_token(token_text)
    except InvalidToken as error:
        raise CannotStart(f"--token: {error}") from None
    if token.purpose is not Purpose.JOIN:
        raise CannotStart("--token: this is a token for the API, not one to join with")
    return await _with_token(servers, token, identity.cluster_id)


async def _join_again(servers: RemoteServers, credentials: Credentials, cluster: str, token_text: str) -> None:
    """With the token that is there, if the certificate is good for nothing: it was taken back, or the token is of an
    authority that this node does not trust, for it was away while its cluster changed to that one.

    Once, and whatever comes of it: what runs here must be looked after.
    """
    try:
        token = parse_token(token_text)
        known = signing.fingerprints(credentials.authority() or b"")
    except ValueError:
        return
    if token.purpose is not Purpose.JOIN:
        return
    try:
        if token.authority not in known:
            why = "its cluster has another authority now"
        elif not await servers.is_admitted():
            why = "its certificate was taken back"
        else:
            return
        await servers.join(token, cluster)
    except (ConnectionError, WrongCluster) as error:
        log.warning("this node has not joined again with its token: %s", error)
    else:
        log.warning("this node has joined again: %s", why)


async def _without_token(servers: RemoteServers) -> str:
    """Asks until a server answers."""
    said = ""
    while True:
        try:
            introduction = await servers.introduce()
        except (Unreachable, ServerRefused) as error:
            if str(error) != said:
                log.warning("no server answers yet: %s", error)
            said = str(error)
            await asyncio.sleep(FIRST_CONTACT_AGAIN_S)
            continue
        return introduction.cluster


async def _with_token(servers: RemoteServers, token: Token, cluster: str) -> str:
    """Joins, as soon as a server answers. Raises CannotStart when it is refused."""
    said = ""
    while True:
        try:
            return await servers.join(token, cluster)
        except WrongCluster as error:
            raise CannotStart(str(error)) from error
        except ServerRefused as error:
            if 400 <= error.status < 500:
                raise CannotStart(f"the server does not let this node in: {error}") from error
            text = str(error)
        except Unreachable as error:
            text = str(error)
        if text != said:
            log.warning("no server lets this node in yet: %s", text)
        said = text
        await asyncio.sleep(FIRST_CONTACT_AGAIN_S)


async def _with_address(settings: Settings, urls: list[URL]) -> Settings:
    """With the address that this machine has on the way to its servers, where none was configured."""
    if settings.agent.address:
        return settings
    address = await asyncio.to_thread(_address_towards, urls[0])
    return attrs.evolve(settings, agent=attrs.evolve(settings.agent, address=address))


def _address_towards(url: URL) -> str:
    """Nothing is sent: connecting a datagram socket only asks the system for a route."""
    try:
        family, kind, protocol, _, target = socket.getaddrinfo(url.host, url.port, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.connect(target)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


def _welcome(settings: Settings, identity: NodeIdentity, urls: list[URL]) -> str:
    name = settings.agent.name or socket.gethostname()
    return (
        f"Orlop {orlop.__version__} agent: node {name!r} ({identity.node_id}) of cluster {identity.cluster_id}\n"
        f"  servers  {', '.join(map(str, urls))}\n"
        "  Ctrl-C stops the agent, and its tasks go on"
    )
