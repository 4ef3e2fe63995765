"""Orlop with a fault, as a program: `python tests/chaos/planted.py FAULT server …`. What a checker is worth shows here.

Besides these, the faults that are planted in the simulator (`planted_faults`).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))

sys.path.insert(0, str(Path(__file__).parents[2] / "plugins" / "chronos" / "tests"))

import planted_faults
import planted_in_chronos
from planted_faults import Plant

FAULTS: Final[dict[str, Plant]] = {
    **planted_faults.FAULTS,
    **{
        plant.__name__: plant
        for plant in (
            planted_in_chronos.every_due_time_twice,
            planted_in_chronos.every_other_due_time,
            planted_in_chronos.any_parent_will_do,
            planted_in_chronos.nothing_is_in_the_way,
            planted_in_chronos.history_is_forgotten,
        )
    },
}


def program(fault: str) -> tuple[str, ...]:
    """What Orlop is started from, after Python's own name. Empty: Orlop as it is."""
    return (str(Path(__file__)), fault) if fault else ("-m", "orlop")


def main(run: Callable[[], Any]) -> None:
    FAULTS[sys.argv.pop(1)](pytest.MonkeyPatch())
    run()


if __name__ == "__main__":
    from orlop.cli.main import main as orlop

    main(orlop)
