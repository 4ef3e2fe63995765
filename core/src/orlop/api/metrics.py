"""`/metrics` for Prometheus: the server's own collectors, and gauges computed from the state at each scrape.

Gauges of a state are never kept up to date in between: a scrape sees one moment, and tasks' changes cost nothing.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

from aiohttp import web
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from orlop.api.documents import amount, foreign_resources, unit, used_resources
from orlop.api.interface import FrameworkStatus
from orlop.api.requests import read_query, server_of
from orlop.api.responses import computed
from orlop.kernel.state import State
from orlop.model.nodes import NodeState
from orlop.model.tasks import TaskState


class StateCollector(Collector):
    """Metrics of one moment. now_utc_ms: of the scrape, for ages."""

    def __init__(
        self,
        state: State,
        statuses: Mapping[str, FrameworkStatus],
        read_only: bool,
        version: str,
        now_utc_ms: int,
    ) -> None:
        self._state = state
        self._statuses = statuses
        self._read_only = read_only
        self._version = version
        self._now_utc_ms = now_utc_ms

    def collect(self) -> Iterator[Metric]:
        yield InfoMetricFamily("orlop_server", "This server", value={"version": self._version})
        yield GaugeMetricFamily("orlop_read_only", "1 while writes are refused", value=float(self._read_only))
        yield GaugeMetricFamily("orlop_state_version", "Batches committed", value=self._state.version)
        yield GaugeMetricFamily("orlop_orphans", "Tasks that run and are not known", value=len(self._state.orphans))
        yield self._tasks()
        yield from self._nodes()
        yield from self._resources()
        yield from self._asks()
        yield from self._frameworks()

    def _tasks(self) -> Metric:
        family = GaugeMetricFamily("orlop_tasks", "Recorded tasks", labels=["framework", "state"])
        counts = Counter((task.framework, task.state) for task in self._state.tasks.values())
        frameworks = sorted(self._statuses.keys() | self._state.frameworks.keys())
        for framework in frameworks:
            for state in TaskState:
                family.add_metric([framework, state.value], counts[framework, state])
        return family

    def _nodes(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("orlop_nodes", "Nodes by state", labels=["state"])
        nodes = list(self._state.nodes())
        counts = Counter(node.state for node in nodes)
        for state in NodeState:
            family.add_metric([state.value], counts[state])
        yield family
        drained = sum(node.drained for node in nodes)
        yield GaugeMetricFamily("orlop_nodes_drained", "Nodes that take no new tasks", value=drained)
        without = GaugeMetricFamily(
            "orlop_nodes_without_runtime", "Ready nodes with a runtime that cannot be used now", labels=["runtime"]
        )
        ready = [node.info for node in nodes if node.state is NodeState.READY]
        for runtime in sorted({name for info in ready for name in (*info.runtimes, *info.unavailable)}):
            without.add_metric([runtime], sum(runtime in info.unavailable for info in ready))
        yield without

    def _resources(self) -> Iterator[Metric]:
        used = used_resources(self._state)
        for name, text, values in (
            ("orlop_resources_total", "Of all ready nodes", self._state.totals),
            ("orlop_resources_used", "Taken by tasks on ready nodes", used),
            ("orlop_resources_foreign", "Taken by other containers on ready nodes", foreign_resources(self._state)),
        ):
            family = GaugeMetricFamily(name, text, labels=["resource", "unit"])
            for resource in sorted(self._state.totals.keys() | used.keys()):
                family.add_metric([resource, unit(resource)], amount(resource, values.get(resource)))
            yield family

    def _asks(self) -> Iterator[Metric]:
        family = GaugeMetricFamily("orlop_asks_waiting", "Tasks that found no place yet", labels=["framework"])
        counts: Counter[str] = Counter()
        for key, members in self._state.waiting.items():
            counts[key.framework] += len(members)
        for framework in sorted(self._statuses.keys() | self._state.frameworks.keys()):
            family.add_metric([framework], counts[framework])
        yield family
        delayed = len(self._state.delayed)
        yield GaugeMetricFamily("orlop_asks_delayed", "Tasks held back by their frameworks", value=delayed)
        # Within a group the oldest ask has the lowest sequence; groups are few.
        oldest = min(
            (self._state.tasks[members[min(members)]].created_utc_ms for members in self._state.waiting.values()),
            default=self._now_utc_ms,
        )
        yield GaugeMetricFamily(
            "orlop_asks_oldest_seconds",
            "Age of the oldest ask that found no place yet, 0 without any",
            value=max(0, self._now_utc_ms - oldest) / 1000,
        )

    def _frameworks(self) -> Iterator[Metric]:
        runs = CounterMetricFamily("orlop_framework_runs", "Runs of the handlers", labels=["framework"])
        failures = CounterMetricFamily("orlop_framework_failures", "Runs that failed", labels=["framework"])
        running = GaugeMetricFamily("orlop_framework_running", "0 while in quarantine or off", labels=["framework"])
        last = GaugeMetricFamily("orlop_framework_last_run_seconds", "Duration of the last run", labels=["framework"])
        for name, status in sorted(self._statuses.items()):
            runs.add_metric([name], status.runs)
            failures.add_metric([name], status.failures)
            running.add_metric([name], float(status.state == "running"))
            last.add_metric([name], status.last_run_ms / 1000)
        yield from (runs, failures, running, last)


async def get_metrics(request: web.Request) -> web.Response:
    read_query(request)
    server = server_of(request)
    state = server.state()
    moment = CollectorRegistry()
    collector = StateCollector(
        state,
        dict(server.framework_status()),
        bool(server.read_only_reason()),
        server.version,
        round(time.time() * 1000),
    )

    def make() -> bytes:
        moment.register(collector)
        return generate_latest(server.metrics) + generate_latest(moment)

    return web.Response(body=await computed(state, make), headers={"Content-Type": CONTENT_TYPE_LATEST})


ROUTES: Final = [web.get("/metrics", get_metrics)]
