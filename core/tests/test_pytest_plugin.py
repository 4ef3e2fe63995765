"""The fixtures for authors, as pytest finds them: each test here runs a pytest of its own."""

from __future__ import annotations

import pytest

FRAMEWORK = '''
import random
import attrs
from orlop.framework import Ask, Framework, Kill, Process, Resources
from orlop.testing.scenario import Scenario


class KeepAlive(Framework):
    name = "keepalive"

    def reconcile(self, view):
        wanted = {f"copy-{number}" for number in range(self.settings)}
        for key in sorted(wanted - view.live.keys()):
            yield Ask(key, run=Process("sleep 1000"), needs=Resources(cpus=0.1, mem="32MiB"))
        for key in sorted(view.live.keys() - wanted):
            yield Kill(key)


class Forgetful(KeepAlive):
    """Knows its own tasks from memory, which a new leader does not have."""

    def __init__(self, settings=None):
        super().__init__(settings)
        self.asked = set()

    def reconcile(self, view):
        self.asked &= view.live.keys()
        for _ in range(self.settings - len(self.asked)):
            key = str(view.unique(str(len(self.asked))))
            self.asked.add(key)
            yield Ask(key, run=Process("sleep 1000"), needs=Resources(cpus=0.1, mem="32MiB"))


class Copies(Scenario):
    framework = KeepAlive
    played = []

    def frameworks(self):
        return [self.framework(3)]

    def check_end(self, cluster):
        self.played.append(cluster.time_s)
        assert len(cluster.running("keepalive")) == 3
'''


@pytest.fixture
def author(pytester: pytest.Pytester) -> pytest.Pytester:
    """A folder with a framework in it."""
    pytester.makepyfile(framework=FRAMEWORK)
    return pytester


def run(author: pytest.Pytester, *arguments: str) -> pytest.RunResult:
    return author.runpytest_subprocess("-p", "no:cacheprovider", "-p", "no:randomly", *arguments)


def test_a_start_of_pytest_imports_nothing_of_orlop_but_the_plugin(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        import sys

        def test_nothing():
            found = sorted(name for name in sys.modules if name.split(".")[0] == "orlop")
            assert found == ["orlop", "orlop.testing", "orlop.testing.pytest_plugin"]
            assert not {"aiohttp", "attrs", "grpc", "asyncio"} & {*sys.modules}
        """
    )
    run(pytester).assert_outcomes(passed=1)


def test_a_cluster_has_come_to_rest_and_its_log_is_shown_when_the_test_fails(author: pytest.Pytester) -> None:
    author.makepyfile(
        """
        from framework import KeepAlive

        def test_good(orlop_cluster):
            cluster = orlop_cluster(KeepAlive(2), nodes=2, cpus=1, mem="1GiB")
            assert {task.node for task in cluster.running()} == {"n1", "n2"}
            assert orlop_cluster(KeepAlive(2)).nodes.keys() == {"n1", "n2", "n3"}

        def test_bad(orlop_cluster):
            cluster = orlop_cluster(KeepAlive(2), nodes=1)
            cluster.advance(5)
            cluster.lose_node("n1")
            assert len(cluster.running()) == 2
        """
    )
    result = run(author)
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ["*Captured orlop teardown*", "cluster 1: 0 tasks run*", "* 5.000 task.placed keepalive/copy-0 node: n1"]
    )
    assert result.stdout.str().count("cluster 1:") == 1, "only of the test that failed"


def test_filters_and_nodes_of_other_kinds_take_part(author: pytest.Pytester) -> None:
    author.makepyfile(
        """
        from framework import KeepAlive

        class OnlyZone:
            name = "zone"

            def prepare(self, request, view):
                return lambda candidate: None if "zone" in candidate.node.info.attributes else "no zone"

        def test_filter(orlop_cluster):
            cluster = orlop_cluster(KeepAlive(2), filters=[OnlyZone()])
            assert len(cluster.pending()) == 2
            assert str(cluster.explain(cluster.pending()[0])) == "0 of 3 nodes fit: no zone (3)"
            cluster.add_node("other", zone="z1")
            cluster.settle()
            assert {task.node for task in cluster.running()} == {"other"}
            assert cluster.pending() == []
        """
    )
    run(author).assert_outcomes(passed=1)


@pytest.mark.parametrize(
    ("arguments", "setting", "played"),
    [
        ((), "", 21),
        (("--orlop-seeds", "3"), "", 4),
        ((), "orlop_seeds = 2", 3),
        (("--orlop-seeds=1",), "orlop_seeds = 2", 2),
    ],
)
def test_how_many_histories_are_played(
    author: pytest.Pytester, arguments: tuple[str, ...], setting: str, played: int
) -> None:
    author.makeini(f"[pytest]\n{setting}")
    author.makepyfile(
        f"""
        from framework import Copies

        def test_played(orlop_simulation):
            orlop_simulation(Copies, trouble=0.2)
            assert len(Copies.played) == {played}
            assert min(Copies.played) > 60
        """
    )
    run(author, *arguments).assert_outcomes(passed=1)


def test_a_test_names_its_seeds_and_the_command_line_comes_before_it(author: pytest.Pytester) -> None:
    author.makepyfile(
        """
        from framework import Copies

        class Noted(Copies):
            seeds = []

            def commands(self, chance):
                self.seeds.append(chance.random())
                return ()

        def test_played(orlop_simulation, request):
            orlop_simulation(Noted, seeds=[7, 9])
            assert len(set(Noted.seeds)) == (1 if request.config.getoption("--orlop-seed") else 2)
        """
    )
    run(author).assert_outcomes(passed=1)
    run(author, "--orlop-seed", "7").assert_outcomes(passed=1)


def test_a_framework_that_starts_too_many_after_a_change_of_leader_is_found_and_found_again(
    author: pytest.Pytester,
) -> None:
    author.makepyfile(
        """
        import pytest
        from framework import Copies, Forgetful

        class Planted(Copies):
            framework = Forgetful

        def test_quietly(orlop_cluster):
            assert len(orlop_cluster(Forgetful(3)).running()) == 3

        def test_under_faults(orlop_simulation):
            orlop_simulation(Planted)
        """
    )
    result = run(author)
    result.assert_outcomes(passed=1, failed=1)
    text = result.stdout.str()
    result.stdout.fnmatch_lines(
        [
            "seed *: AssertionError*",
            "at *framework.py:*: assert len(cluster.running(*",
            "the shortest list of troubles*",
            "  *[0-9].[0-9]* *(*)",
            "the end of its history*",
            "* leads from version *",
            "once more: pytest '*::test_under_faults' --orlop-seed *",
        ]
    )
    assert "During handling" not in text
    seed = text.split("--orlop-seed ")[1].split()[0]
    again = run(author, "--orlop-seed", seed, "-k", "under_faults")
    again.assert_outcomes(failed=1, deselected=1)
    assert f"seed {seed}: AssertionError" in again.stdout.str()


def test_a_handler_that_is_not_pure_is_found(author: pytest.Pytester) -> None:
    author.makepyfile(
        """
        import random
        from framework import Copies, KeepAlive
        from orlop.framework import Ask, Process

        class Impure(KeepAlive):
            def reconcile(self, view):
                for _ in range(3 - len(view.live)):
                    yield Ask(f"copy-{random.random()}", run=Process("x"))

        class Played(Copies):
            framework = Impure

        def test_pure(orlop_simulation):
            orlop_simulation(Played, trouble=0, seeds=[1])
        """
    )
    result = run(author)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["seed 1 gave two different histories: a handler*"])


def test_numbers_that_make_no_sense_are_refused(author: pytest.Pytester) -> None:
    author.makepyfile("def test_it(orlop_simulation): orlop_simulation(None, seeds=[])")
    refused = run(author, "--orlop-seeds", "0")
    assert refused.ret == pytest.ExitCode.USAGE_ERROR
    refused.stderr.fnmatch_lines(["*--orlop-seeds*"])
    result = run(author, "-o", "orlop_seeds=many")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*orlop_seeds*many*"])
    result = run(author)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: seeds: expected at least one"])
    author.makepyfile("def test_it(orlop_simulation): orlop_simulation(None, trouble_s=3600)")
    result = run(author)
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*ValueError: expected leaps=True*"])
