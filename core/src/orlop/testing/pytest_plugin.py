"""pytest's fixtures for authors of frameworks. pytest finds them wherever Orlop is installed.

    def test_it_keeps_three_copies(orlop_cluster):
        cluster = orlop_cluster(KeepAlive(Config(copies=3)), nodes=2)
        assert len(cluster.running()) == 3

    def test_it_survives_everything(orlop_simulation):
        orlop_simulation(ThreeCopies)  # a `Scenario`, on as many histories as --orlop-seeds says

    def test_it_is_packaged(orlop_plugin):
        (framework,) = orlop_plugin("keepalive", copies=3)  # the installed package, and its `[plugins.keepalive]`

Whoever uses none of them pays for this file alone: it imports what the fixtures need when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from orlop.framework import Framework, NodeFilter, NodeScorer
    from orlop.model.log_entries import LogEntry
    from orlop.testing.harness import Cluster
    from orlop.testing.scenario import Scenario

SEEDS: Final = 20
LOG_ENTRIES_SHOWN: Final = 30
LONGEST_WITHOUT_LEAPS_S: Final = 3_600
IMPURE: Final = (
    "a handler, or the scenario, looks at more than what it is given (a clock, randomness of its own, "
    "what another instance has left)"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("orlop", "Orlop, tests of frameworks")
    group.addoption(
        "--orlop-seeds",
        type=_count,
        metavar="N",
        help=f"how many histories orlop_simulation goes through (default: the ini setting orlop_seeds, or {SEEDS})",
    )
    group.addoption(
        "--orlop-seed",
        type=int,
        action="append",
        metavar="SEED",
        help="only this history, as a failure names it; may be given several times",
    )
    parser.addini("orlop_seeds", "How many histories each orlop_simulation goes through.", default=str(SEEDS))


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError(f"expected a number from 1 on, got {text}")
    return number


class ClusterFactory:
    """Makes clusters for one test, and shows what happened in them if it fails."""

    def __init__(self) -> None:
        self.made: list[Cluster] = []

    def __call__(
        self,
        *frameworks: Framework,
        nodes: int = 3,
        cpus: float = 4,
        mem: str = "8GiB",
        filters: Iterable[NodeFilter] = (),
        scorers: Iterable[NodeScorer] = (),
        check_idempotence: bool = True,
    ) -> Cluster:
        """A cluster with these frameworks and so many nodes n1, n2 ... that has come to rest.

        frameworks: instances, as a server would make them: `KeepAlive(Config(copies=3))`.
        nodes: how many, 0 or more. cpus: of each, 1 is one processor. mem: of each, with its unit, "8GiB".
        filters, scorers: those of your plugin, which take part in placing.
        check_idempotence: run each handler a second time, and fail if it wants something else then.

        Raises NotIdempotent, NeverSettles, and whatever a handler raises.
        """
        from orlop.testing.harness import Cluster

        cluster = Cluster(*frameworks, filters=filters, scorers=scorers, check_idempotence=check_idempotence)
        self.made.append(cluster)
        cluster.add_nodes(nodes, cpus=cpus, mem=mem)
        cluster.settle()
        return cluster

    def report(self) -> str:
        """The end of each cluster's event log."""
        lines = []
        for number, cluster in enumerate(self.made, 1):
            lines.append(f"cluster {number}: {len(cluster.running())} tasks run; the last events (seconds ago, what):")
            lines += [_shown(cluster, entry) for entry in cluster.log[-LOG_ENTRIES_SHOWN:]]
        return "\n".join(lines)


def _shown(cluster: Cluster, entry: LogEntry) -> str:
    """A line of the report. Tasks are called by framework and key, as the author knows them."""
    task = cluster.state.tasks.get(entry.subject)
    subject = f"{task.framework}/{task.key}" if task is not None else entry.subject
    details = ", ".join(f"{name}: {value}" for name, value in entry.details.items() if value not in ("", entry.subject))
    return f"{(cluster.now.utc_ms - entry.utc_ms) / 1000:9.3f} {entry.type} {subject} {details}".rstrip()


class SimulationRunner:
    """Plays scenarios for one test. default_seeds: as the command line or the ini file say."""

    def __init__(self, test: str, default_seeds: Iterable[int], only: Iterable[int]) -> None:
        self._test = test
        self._default_seeds = tuple(default_seeds)
        self._only = tuple(only)

    def __call__(
        self,
        scenario: Callable[[], Scenario],
        *,
        seeds: Iterable[int] | None = None,
        servers: int = 3,
        nodes: int = 5,
        trouble: float = 1.0,
        trouble_s: float = 60.0,
        healing_s: float = 75.0,
        leaps: bool = False,
        begins_utc_ms: int | None = None,
    ) -> None:
        """Plays one history after another, about 0.1 s each; the first that breaks fails the test.

        scenario: the class of a `Scenario`, or what makes one: it is called for each history.
        seeds: which histories; by default the first N, see `--orlop-seeds`. `--orlop-seed` comes before both.
        servers, nodes: how many of each, 1 or more. Raises ValueError without any seed.
        trouble: how much of it; 1 is a few troubles to twenty in a minute, 0 is none.
        trouble_s, healing_s: how long there may be trouble, and how long all is well thereafter, in seconds.
        leaps: time in which nothing is under way costs nothing, so that both may be months; there are troubles then
        that last hours, and servers' clocks that are set wrong. Raises ValueError without it for more than an hour.
        begins_utc_ms: what clocks show at the beginning; by default a day in November 2023.
        """
        if not leaps and trouble_s + healing_s > LONGEST_WITHOUT_LEAPS_S:
            raise ValueError(f"expected leaps=True for a history of more than {LONGEST_WITHOUT_LEAPS_S} s")
        lengths = {"trouble_s": trouble_s, "healing_s": healing_s, "leaps": leaps}
        begins = {} if begins_utc_ms is None else {"begins_utc_ms": begins_utc_ms}

        chosen = self._only or tuple(self._default_seeds if seeds is None else seeds)
        if not chosen:
            raise ValueError("seeds: expected at least one")
        options = {"servers": servers, "nodes": nodes, "trouble": trouble, **lengths, **begins}
        found = self._first_failure(chosen, scenario, **options)
        if found is not None:
            seed, text = found
            pytest.fail(f"{text}\nonce more: pytest '{self._test}' --orlop-seed {seed}", pytrace=False)

    @staticmethod
    def _first_failure(
        seeds: tuple[int, ...], scenario: Callable[[], Scenario], **options: Any
    ) -> tuple[int, str] | None:
        """(seed, what is wrong). The first history is played twice: it must be the same."""
        from orlop.testing.scenario import run_scenario
        from orlop.testing.simulation.world import Broken

        digests: dict[int, str] = {}
        for seed in (*seeds, seeds[0]):
            try:
                digest = run_scenario(seed, scenario, **options)
            except Broken as broken:
                return seed, str(broken)
            if digests.setdefault(seed, digest) != digest:
                return seed, f"seed {seed} gave two different histories: {IMPURE}"
        return None


@pytest.fixture
def orlop_cluster(request: pytest.FixtureRequest) -> Iterator[ClusterFactory]:
    """A function that makes a cluster: the real kernel, your frameworks, simulated nodes, virtual time.

    `orlop_cluster(*frameworks, nodes=3)` gives an `orlop.testing.harness.Cluster` that has come to rest.
    """
    factory = ClusterFactory()
    yield factory
    if factory.made:
        request.node.add_report_section("teardown", "orlop", factory.report())


@pytest.fixture
def orlop_simulation(request: pytest.FixtureRequest) -> SimulationRunner:
    """A function that plays a scenario under faults: `orlop_simulation(MyScenario)`.

    It goes through many histories of three servers and five nodes, in which everything breaks that can; each is that
    of a seed. See `orlop.testing.scenario.Scenario`.
    """
    config = request.config
    count = config.getoption("--orlop-seeds")
    if count is None:
        try:
            count = _count(config.getini("orlop_seeds"))
        except ValueError as error:
            raise pytest.UsageError(f"orlop_seeds: {error}") from error
    return SimulationRunner(request.node.nodeid, range(count), config.getoption("--orlop-seed") or ())


class PluginLoader:
    """Loads installed plugins for one test."""

    def __call__(self, name: str, **settings: Any) -> list[Framework]:
        """New instances of the frameworks of an installed plugin, made as a server makes them.

        name: of its entry point. settings: what stands in `[plugins.NAME]`, checked as there.
        Raises PluginBroken when it is not installed, does not load, or loads with warnings.
        """
        from orlop.testing.plugins import load_frameworks

        return load_frameworks(name, settings)


@pytest.fixture
def orlop_plugin() -> PluginLoader:
    """A function that loads an installed plugin, `orlop_plugin("keepalive", copies=3)`, and gives its frameworks."""
    return PluginLoader()
