"""Marathon's API over HTTP for tests: real kernel, real framework, real server; the nodes are simulated."""

from __future__ import annotations

from typing import Any

from served_api import ServedApi

from orlop.testing.harness import Cluster
from orlop_marathon.framework import Marathon
from orlop_marathon.http import application
from orlop_marathon.settings import Config


class Server(ServedApi):
    """The API, and calls of it."""

    def __init__(self, config: Config) -> None:
        cluster = Cluster(Marathon(config), check_idempotence=False)
        cluster.add_node("n1", cpus=64, mem="64GiB", zone="z1")
        cluster.add_node("n2", cpus=64, mem="64GiB")
        cluster.settle()
        super().__init__(cluster, lambda host: application(host, config))

    def ok(self, method: str, path: str, body: Any = None, status: int = 200, **options: Any) -> Any:
        response = self.call(method, path, body, **options)
        assert response.status_code == status, (response.status_code, response.text)
        return response.json() if response.content else None

    def stored(self) -> dict[str, bytes]:
        """Everything that is stored but the kernel's own bookkeeping."""
        return self.on_loop(
            lambda cluster: {key: value for key, value in cluster.documents.items() if "objects/" in key}
        )

    def reset(self) -> None:
        assert self.call("DELETE", "/v2/groups", params={"force": "true"}).status_code == 200
        self.on_loop(lambda cluster: None)
