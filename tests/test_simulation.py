"""Simulated clusters: nothing breaks on many seeds, and planted faults are found on the seeds that are known to find
them. `make soak SEEDS=10000` looks at more."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import pytest
from planted_faults import FAULTS

from orlop.testing.simulation.plan import Operation, Shape, make_plan
from orlop.testing.simulation.simulation import Simulation, simulate
from orlop.testing.simulation.workloads import MixedWorkload
from orlop.testing.simulation.world import Broken

SEEDS = 300
SEEDS_SEARCHED = 1_000
PARTS = 20
#: Seeds that found something once. What they found is in the commit that added them.
FOUND_ONCE = (17, 25, 28, 128, 162, 592, 635, 1506, 5304)

#: Fault → seeds that find it, of the first 1,000 (`python tests/soak.py 1000 --plant FAULT`).
FINDS = {
    "no_epoch_compare_in_the_store": (115, 116, 263),
    "no_epoch_compare_on_the_node": (3, 696),
    "effects_before_the_commit": (0, 1),
    "no_resync": (0, 1, 5),
    "no_check_on_return": (7, 20, 32),
}


@pytest.mark.parametrize("part", range(PARTS))
def test_nothing_breaks(part: int) -> None:
    for seed in range(part, SEEDS, PARTS):
        simulate(seed, MixedWorkload)


@pytest.mark.parametrize("seed", range(1_000_000, 1_000_015))
def test_nothing_breaks_in_great_trouble(seed: int) -> None:
    simulate(seed, MixedWorkload, trouble=3.0)


@pytest.mark.parametrize("seed", FOUND_ONCE)
def test_what_was_found_once_stays_mended(seed: int) -> None:
    simulate(seed, MixedWorkload)


@pytest.mark.parametrize("fault", FAULTS)
def test_the_net_catches_planted_faults(fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in FINDS[fault]:
        simulate(seed, MixedWorkload)
    FAULTS[fault](monkeypatch)
    found = []
    for seed in FINDS[fault]:
        try:
            simulate(seed, MixedWorkload, shrink=False)
        except Broken:
            found.append(seed)
    assert found, f"none of the seeds that are known to find it does; look for others among {SEEDS_SEARCHED}"


def test_the_same_seed_gives_the_same_history_byte_for_byte() -> None:
    script = (
        "from orlop.testing.simulation.simulation import simulate\n"
        "from orlop.testing.simulation.workloads import MixedWorkload\n"
        "print(*(simulate(seed, MixedWorkload) for seed in (3, 4, 5)))"
    )
    outputs = set()
    for hash_seed in ("0", "1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        outputs.add(
            subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, check=True).stdout
        )
    (output,) = outputs
    digests = output.split()
    assert len(set(digests)) == 3
    assert all(len(digest) == 2 * hashlib.sha256().digest_size for digest in digests)


def test_a_failure_is_shrunk_to_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a failure that one operation causes is that operation, and the text can be read."""
    original = Simulation.do_skew_clock

    def breaks(self: Simulation, name: str, skew_ms: int) -> None:
        original(self, name, skew_ms)
        raise Broken("a clock was skewed")

    monkeypatch.setattr(Simulation, "do_skew_clock", breaks)
    seed = next(
        seed
        for seed in range(1_000)
        if any(one.what == "skew_clock" for one in make_plan(seed, Shape(), MixedWorkload().operation))
    )
    with pytest.raises(Broken) as failed:
        simulate(seed, MixedWorkload)
    text = str(failed.value)
    assert text.startswith(f"seed {seed}: a clock was skewed\nplan:\n")
    plan = text.split("plan:\n")[1].split("the end of its history:")[0].strip().splitlines()
    assert len(plan) == 1
    assert "skew_clock" in plan[0]


def test_a_plan_can_be_written_by_hand() -> None:
    plan = (
        Operation(5_000, "command", ("services", ("web", 3, 1))),
        Operation(20_000, "crash_machine", ("node0", True, 5_000)),
        Operation(40_000, "kill_leader", (10_000,)),
    )
    simulation = Simulation(1, MixedWorkload(), plan, Shape(servers=3, nodes=4))
    simulation.run()
    assert len(simulation.witness.running) == 3
