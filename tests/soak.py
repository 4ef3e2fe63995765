"""`python tests/soak.py SEEDS [FIRST]`: simulates so many clusters, in a process for each processor.

Prints a line for every seed that breaks, with the shortest history found, and ends with 1 if there was one. With
`--plant FAULT` it looks for seeds that find a planted fault, and stops at the first few; `--only chronos-months` plays
that alone.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "chronos" / "tests"))
sys.path.insert(0, str(Path(__file__).parents[1] / "plugins" / "swarm" / "tests"))

from marathon_workload import MarathonWorkload
from minute_of_cron import Cron
from months_of_cron import play_months
from planted_faults import FAULTS
from pool_of_containers import Containers

from orlop.testing.scenario import run_scenario
from orlop.testing.simulation.histories import simulate
from orlop.testing.simulation.simulation import Workload
from orlop.testing.simulation.workloads import MixedWorkload

CHUNK: Final = 50
FINDS_WANTED: Final = 3
TROUBLES: Final = (1.0, 1.0, 2.0, 4.0)


def _cron(seed: int, trouble: float) -> None:
    run_scenario(seed, Cron, trouble=trouble)


def _swarm(seed: int, trouble: float) -> None:
    run_scenario(seed, Containers, trouble=trouble)


def _months(seed: int, trouble: float) -> None:
    play_months(seed, trouble=trouble / 2, shrink=True)


def _playing(workload: Callable[[], Workload]) -> Callable[[int, float], object]:
    return lambda seed, trouble: simulate(seed, workload, trouble=trouble)


#: Most seeds have the mixed workload, which is the quickest to find something in the kernel.
PLAYS: Final[dict[str, tuple[int, Callable[[int, float], object]]]] = {
    "mixed": (3, _playing(MixedWorkload)),
    "marathon": (1, _playing(MarathonWorkload)),
    "chronos": (1, _cron),
    "chronos-months": (1, _months),
    "swarm": (1, _swarm),
}


def run(first: int, count: int, plant: str | None, only: str | None) -> list[tuple[int, str]]:
    """Seeds that broke, and how. only: what is played, the key of one of `PLAYS`."""
    turns = [name for name, (often, _) in PLAYS.items() for _ in range(often)] if only is None else [only]
    broken = []
    with pytest.MonkeyPatch.context() as patch:
        if plant is not None:
            FAULTS[plant](patch)
        for seed in range(first, first + count):
            name, trouble = turns[seed // len(TROUBLES) % len(turns)], TROUBLES[seed % len(TROUBLES)]
            try:
                if plant is None:
                    PLAYS[name][1](seed, trouble)
                else:
                    simulate(seed, MixedWorkload, shrink=False)
            except AssertionError as error:
                broken.append((seed, f"{name}, trouble {trouble:g}: {error}"))
    return broken


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("seeds", type=int)
    parser.add_argument("first", type=int, nargs="?", default=0)
    parser.add_argument("--plant", choices=FAULTS)
    parser.add_argument("--only", choices=PLAYS, help="of what is played in turn")
    options = parser.parse_args()
    began = time.monotonic()
    found = 0
    with concurrent.futures.ProcessPoolExecutor(os.cpu_count()) as pool:
        parts = [
            pool.submit(run, first, min(CHUNK, options.first + options.seeds - first), options.plant, options.only)
            for first in range(options.first, options.first + options.seeds, CHUNK)
        ]
        for part in parts:
            for seed, how in part.result():
                found += 1
                print(how if options.plant is None else f"{seed}: {how.splitlines()[0]}", flush=True)
            if options.plant is not None and found >= FINDS_WANTED:
                pool.shutdown(cancel_futures=True)
                break
    print(f"{options.seeds} seeds from {options.first}: {found} broke; {time.monotonic() - began:.0f} s")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
