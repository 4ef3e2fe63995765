"""Chronos with a fault: the checks of simulated and of real clusters must find it."""

from __future__ import annotations

from typing import Any

import pytest

from orlop_chronos import attending, due_runs, ending, executing, starting
from orlop_chronos.documents import Cause


def every_due_time_twice(patch: pytest.MonkeyPatch) -> None:
    """As two leaders would do without a fence: each makes a run."""
    create = due_runs.create_run

    def twice(desk: Any, record: Any, cause: Cause, *arguments: Any, **members: Any) -> Any:
        if cause is Cause.TIME:
            create(desk, record, cause, *arguments, **members)
        return create(desk, record, cause, *arguments, **members)

    patch.setattr(due_runs, "create_run", twice)


def every_run_that_is_asked_for_twice(patch: pytest.MonkeyPatch) -> None:
    """As if an order were carried out again by the next leader."""
    create = executing.create_run

    def twice(*arguments: Any, **members: Any) -> Any:
        create(*arguments, **members)
        return create(*arguments, **members)

    patch.setattr(executing, "create_run", twice)


def every_other_due_time(patch: pytest.MonkeyPatch) -> None:
    """A due time is passed over without a word."""
    move_on = due_runs._move_on

    def careless(desk: Any, job: Any, due: Any, last: Any, used: int) -> None:
        move_on(desk, job, due, due.following(last) or last, used)

    patch.setattr(due_runs, "_move_on", careless)


def nothing_is_said_of_what_is_passed_over(patch: pytest.MonkeyPatch) -> None:
    """What was missed is not in the history."""
    patch.setattr(due_runs, "_pass_over", lambda *_: None)


def any_parent_will_do(patch: pytest.MonkeyPatch) -> None:
    """A child runs after the first of its parents."""
    patch.setattr(due_runs, "rule_is_met", lambda _rule, _parents, edges: bool(edges))


def nothing_is_in_the_way(patch: pytest.MonkeyPatch) -> None:
    """A run begins while an earlier one goes on."""
    patch.setattr(starting, "_is_in_the_way", lambda *_: False)


def history_is_forgotten(patch: pytest.MonkeyPatch) -> None:
    """Runs that have failed leave no trace."""
    end = ending.end

    def forgetful(desk: Any, record: Any, run: Any, state: Any, reason: str) -> Any:
        ended = end(desk, record, run, state, reason)
        if state is ending.RunState.FAILED:
            desk.delete_run(run.job, run.number)
        return ended

    for module in (attending, starting):
        patch.setattr(module, "end", forgetful)
