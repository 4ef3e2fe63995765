"""The calls that each start of a container makes. They go over docker-py's connections, but not through requests, whose
sessions take longer for one call than the engine's own client takes for all of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import orjson

from orlop.docker_versions import nearest


def create(client: Any, body: Mapping[str, Any], name: str, platform: str, version: str) -> dict[str, Any]:
    """POST /containers/create; the answer. version: of the API that the body is meant in, brought to the nearest that
    the engine knows; empty: the client's own. Raises as docker-py."""
    version = nearest(version or client.api_version, client.oldest_api_version, client.api_version)
    query = urlencode({"name": name, **({"platform": platform} if platform else {})})
    made: dict[str, Any] = orjson.loads(_post(client, f"/v{version}/containers/create?{query}", orjson.dumps(body)))
    return made


def start(client: Any, container: str) -> None:
    """POST /containers/ID/start. Raises as docker-py."""
    _post(client, f"/v{client.api_version}/containers/{container}/start")


def _post(client: Any, path: str, body: bytes | None = None) -> bytes:
    """The body of the answer. Raises as docker-py."""
    headers = {"Content-Type": "application/json"} if body is not None else {}
    answer = _connections(client).urlopen("POST", path, body, headers, retries=False, timeout=client.timeout)
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
