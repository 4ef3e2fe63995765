"""What each start of a container asks, and what it is told. It goes over docker-py's connections, but not through
requests, whose sessions take longer for one call than the engine's own client takes for all of it; nor through
docker-py's reader of events, which looks for the ends of JSON documents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import orjson

from orlop.docker_versions import nearest


def create(client: Any, body: Mapping[str, Any], name: str, platform: str, version: str) -> dict[str, Any]:
    """POST /containers/create; the answer. version: of the API that the body is meant in, brought to the nearest that
    the engine knows; empty: the client's own. Raises as docker-py."""
    version = nearest(version or client.api_version, client.oldest_api_version, client.api_version)
    query = urlencode({"name": name, **({"platform": platform} if platform else {})})
    path = f"/v{version}/containers/create?{query}"
    made: dict[str, Any] = orjson.loads(_call(client, "POST", path, orjson.dumps(body)))
    return made


def start(client: Any, container: str) -> None:
    """POST /containers/ID/start. Raises as docker-py."""
    _call(client, "POST", f"/v{client.api_version}/containers/{container}/start")


def connect(client: Any, container: str, network: str, settings: Mapping[str, Any] | None) -> None:
    """POST /networks/NAME/connect, with an endpoint's settings; None: /disconnect. Raises as docker-py."""
    body = {"Container": container} if settings is None else {"Container": container, "EndpointConfig": settings}
    action = "disconnect" if settings is None else "connect"
    path = f"/v{client.api_version}/networks/{quote(network, safe='')}/{action}"
    _call(client, "POST", path, orjson.dumps(body))


def inspect(client: Any, container: str) -> dict[str, Any]:
    """GET /containers/ID/json; the answer. Raises as docker-py."""
    seen: dict[str, Any] = orjson.loads(_call(client, "GET", f"/v{client.api_version}/containers/{container}/json"))
    return seen


def events(stream: Iterable[bytes | str]) -> Iterator[dict[str, Any]]:
    """Those of `client.events(decode=False)`: engines write one on each line. Raises ConnectionError, and as docker-py.

    stream: in pieces of any size; texts where it is no stream, which docker-py has read to its end.
    """
    rest = b""
    for piece in stream:
        *lines, rest = (rest + (piece.encode() if isinstance(piece, str) else piece)).split(b"\n")
        for line in filter(None, lines):
            try:
                event: dict[str, Any] = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise ConnectionError(f"the engine tells an event that is no JSON: {error}") from error
            yield event


def _call(client: Any, method: str, path: str, body: bytes | None = None) -> bytes:
    """The body of the answer. Raises as docker-py."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    answer = _connections(client).urlopen(method, path, body, headers, retries=False, timeout=client.timeout)
    if answer.status >= 400:
        _raise(client, answer)
    data: bytes = answer.data
    return data


def _connections(client: Any) -> Any:
    """urllib3's pool below docker-py."""
    adapter = client.get_adapter(client.base_url)
    if client.base_url.startswith("http+docker://"):  # a unix socket's
        return adapter.get_connection(client.base_url)
    return adapter.poolmanager.connection_from_url(client.base_url)


def _raise(client: Any, answer: Any) -> None:
    """What docker-py makes of such an answer."""
    import requests

    response = requests.Response()
    response.status_code, response.reason = answer.status, answer.reason
    response._content = answer.data
    client._raise_for_status(response)
