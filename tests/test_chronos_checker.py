"""The checker of Chronos' histories: what is right passes, and each kind of wrong history is refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import pytest
from chaos.checker import check
from chaos.chronos_jobs import read_programs
from chaos.evidence import (
    Attempt,
    Evidence,
    Job,
    Kind,
    PowerFailure,
    Run,
)
from chronos_stories import BEGAN, LIMITS, PAUSED, Story, at, order, program, run, skipped
from hypothesis import given
from hypothesis import strategies as st

# --- what is right ---


def test_what_is_right_is_passed() -> None:
    assert Story().reasons() == ""


def test_numbers_are_given() -> None:
    story = Story()
    (verdict,) = check(
        Evidence(
            jobs={"a": story.job},
            orders=tuple(story.orders),
            programs=(*story.programs, attrs.evolve(story.programs[0], start_ms=at(0) + 60, end_ms=at(0) + 2_000)),
            histories={"a": tuple(story.runs)},
            paused_ms=(PAUSED, PAUSED),
            limits=LIMITS,
        )
    )
    assert (verdict.targets, verdict.excused, verdict.surplus, verdict.doubled) == (10, 0, 1, 1)
    assert sorted(verdict.lateness_ms) == [50] * 10 + [60]


def missed_and_collapsed(story: Story) -> None:
    """Nobody decided for 25 s; one later run stands for two due times."""
    late = attrs.evolve(run(4, at(4)), cause="catch-up")
    story.put(skipped(3, at(2), "missed, and one later run stands for all", at(4) + 10, cause="catch-up", count=2))
    story.runs[2:5] = [attrs.evolve(story.runs[3], number=2), attrs.evolve(late, number=3)]
    story.runs[4:] = [attrs.evolve(one, number=number) for number, one in enumerate(story.runs[4:], 4)]
    story.programs = [program(one) for one in story.runs if one.attempts]


def missed_by_more_than_epsilon(story: Story) -> None:
    story.have(epsilon_ms=3_000)
    reason = "missed, and too late to be made up for (PT3S)"
    story.put(skipped(2, at(2), reason, at(2) + 8_000, cause="catch-up"))


def overlap_forbidden(story: Story) -> None:
    story.have(overlap="forbid")
    long = attrs.evolve(story.runs[2].attempts[0], ended_ms=at(3) + 5_000)
    story.put(attrs.evolve(story.runs[2], attempts=(long,), ended_ms=at(3) + 5_010))
    story.put(skipped(3, at(3), "run 2 was still going on", at(3) + 10))
    story.programs.append(program(story.runs[2], end_ms=at(3) + 5_000))


def replaced(story: Story) -> None:
    story.have(overlap="replace")
    stopped = attrs.evolve(story.runs[2].attempts[0], ended_ms=at(3) + 30, outcome="killed", code=None)
    story.put(attrs.evolve(story.runs[2], state="killed", reason="replaced by run 3", attempts=(stopped,)))
    story.programs.append(program(story.runs[2], end_ms=at(3) + 25, stopped=True, code=143))


def tried_again(story: Story) -> None:
    story.have(retries=1, retry_delay_ms=1_000)
    first = attrs.evolve(story.runs[2].attempts[0], outcome="failed", code=3)
    second = attrs.evolve(
        first, task="again", asked_ms=at(2) + 4_000, started_ms=at(2) + 4_050, ended_ms=at(2) + 6_050,
        outcome="finished", code=0,
    )  # fmt: skip
    story.put(attrs.evolve(story.runs[2], attempts=(first, second), ended_ms=at(2) + 6_100))
    story.programs += [program(story.runs[2], 0), program(story.runs[2], 1)]


def lost_with_its_node(story: Story) -> None:
    lost = attrs.evolve(story.runs[2].attempts[0], outcome="lost", code=None, ended_ms=at(2) + 4_000)
    story.put(attrs.evolve(story.runs[2], state="failed", reason="lost", attempts=(lost,)))
    story.programs.append(program(story.runs[2], end_ms=None, code=None))
    story.failures.append(PowerFailure(node="n1", from_ms=at(2) + 500, killed_ms=at(2) + 600, until_ms=at(2) + 9_000))


def lost_and_tried_again(story: Story) -> None:
    lost_with_its_node(story)
    story.have(node_loss="at-least-once", retries=1)
    again = attrs.evolve(
        run(2, at(2)).attempts[0], task="again", node="n2", asked_ms=at(2) + 5_000, started_ms=at(2) + 5_050
    )
    story.runs[2] = attrs.evolve(story.runs[2], state="succeeded", attempts=(story.runs[2].attempts[0], again))
    story.programs.append(program(story.runs[2], 1))


def held_up_by_one_whose_end_nobody_heard_of(story: Story) -> None:
    """Run 2 ended just before the power failed; until its node was given up it was in the way of run 3."""
    lost_with_its_node(story)
    given_up_ms = at(3) + 9_000
    lost = attrs.evolve(story.runs[2].attempts[0], ended_ms=given_up_ms)
    story.runs[2] = attrs.evolve(story.runs[2], attempts=(lost,), ended_ms=given_up_ms)
    late = attrs.evolve(
        run(3, at(3)).attempts[0], node="n2", asked_ms=given_up_ms, started_ms=given_up_ms + 50, ended_ms=given_up_ms
    )
    story.put(attrs.evolve(story.runs[3], attempts=(late,)))
    story.programs[-1] = program(story.runs[2], end_ms=at(2) + 550)
    story.programs.append(program(story.runs[3], end_ms=at(4) - 1))


def by_hand(story: Story) -> None:
    extra = run(10, at(9) + 4_000, cause="manual")
    story.runs.append(extra)
    story.programs.append(program(extra))
    story.orders.append(order(Kind.START, at(9) + 3_995))


def backfilled(story: Story) -> None:
    """Two due times again, after all others."""
    for number, due in ((10, 2), (11, 3)):
        again = run(number, at(9) + (number - 9) * 2_500, cause="backfill")
        story.runs.append(attrs.evolve(again, nominal_ms=at(due)))
        story.programs.append(program(story.runs[number]))
    story.orders.append(order(Kind.BACKFILL, at(9) + 100, stretch_ms=(at(1) + 1, at(3))))


def disabled_for_a_while(story: Story) -> None:
    """Three due times fall into it; the last of them is made up for."""
    story.orders += [order(Kind.DISABLE, at(3) + 5_000), order(Kind.ENABLE, at(6) + 2_000)]
    collapsed = skipped(4, at(4), "missed, and one later run stands for all", at(6) + 2_050, cause="catch-up", count=2)
    made_up = run(5, at(6), cause="catch-up")
    late = attrs.evolve(made_up.attempts[0], asked_ms=at(6) + 2_050, started_ms=at(6) + 2_100, ended_ms=at(6) + 4_100)
    rest = [run(number - 1, at(number)) for number in range(7, 10)]
    story.runs[4:] = [collapsed, attrs.evolve(made_up, attempts=(late,)), *rest]
    story.programs = [program(one) for one in story.runs if one.attempts]


def held_by_the_pause(story: Story) -> None:
    """The last has failed just before it, and another waited for that one."""
    story.have(retries=1, retry_delay_ms=2_000)
    failed = attrs.evolve(story.runs[9].attempts[0], outcome="failed", code=3)
    story.put(attrs.evolve(story.runs[9], state="waiting", ended_ms=None, attempts=(failed,)))
    story.programs.append(program(story.runs[9]))
    extra = run(10, at(9) + 4_000, cause="parent", state="queued", ended_ms=None, attempts=())
    story.runs.append(extra)


RIGHT = (
    missed_and_collapsed, missed_by_more_than_epsilon, overlap_forbidden, replaced, tried_again, lost_with_its_node,
    lost_and_tried_again, held_up_by_one_whose_end_nobody_heard_of, by_hand, backfilled,
    disabled_for_a_while, held_by_the_pause,
)  # fmt: skip


@pytest.mark.parametrize("spoil", RIGHT)
def test_what_policies_allow_is_passed(spoil: Callable[[Story], None]) -> None:
    story = Story()
    spoil(story)
    assert story.reasons() == ""


# --- what is wrong ---


def wrong(reason: str) -> Callable[[Callable[[Story], None]], Callable[[Story], None]]:
    def remember(spoil: Callable[[Story], None]) -> Callable[[Story], None]:
        WRONG.append((spoil, reason))
        return spoil

    return remember


WRONG: list[tuple[Callable[[Story], None], str]] = []


@wrong("acknowledged, and is lost")
def a_lost_job(story: Story) -> None:
    story.deleted = True


@wrong("its deletion was acknowledged, and it is there")
def a_job_that_came_back(story: Story) -> None:
    story.orders.append(order(Kind.DELETE, PAUSED - 100))


@wrong("due at 1030000, and not recorded")
def a_due_time_without_a_word(story: Story) -> None:
    del story.runs[3:], story.programs[3:]


@wrong("due at 1090000, and nothing of its own began until 1095000")
def a_recorded_run_without_a_program(story: Story) -> None:
    del story.programs[9]


@wrong("is recorded as finished, and no program ran")
def a_ghost_of_history(story: Story) -> None:
    del story.programs[9]


@wrong("it did not go on for 15000 ms before everything was paused")
def a_run_that_nothing_held(story: Story) -> None:
    story.put(attrs.evolve(story.runs[8], state="queued", ended_ms=None, attempts=()))
    story.put(attrs.evolve(story.runs[9], state="queued", ended_ms=None, attempts=()))


@wrong("nothing of its own began")
def a_run_that_never_ended(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], end_ms=None)


@wrong("began 7000 ms after it was due")
def a_run_that_was_late(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], start_ms=at(4) + 7_000, end_ms=at(4) + 8_000)


@wrong("ms too early")
def a_run_that_was_early(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], start_ms=at(4) - 1)


@wrong("run 4, attempt 0, was started 2 times")
def a_doubled_program(story: Story) -> None:
    story.programs.append(attrs.evolve(story.programs[4], start_ms=at(4) + 3_000, end_ms=at(4) + 5_000))


@wrong("due at 1040000, and run 2 times: runs [4, 10]")
def two_leaders_that_fire_without_fencing(story: Story) -> None:
    """Each made a run for the same due time."""
    other = run(10, at(4))
    story.runs.append(other)
    story.have(overlap="allow")
    story.programs.append(program(other, node="n2"))


@wrong("ran on n1 and is not recorded")
def a_ghost(story: Story) -> None:
    """What an old leader has started is in nobody's history."""
    story.programs.append(program(run(10, at(4) + 5_000, cause="manual")))


@wrong("1041000 is no due time")
def a_run_at_any_time(story: Story) -> None:
    story.runs.append(run(10, at(4) + 1_000))
    story.programs.append(program(story.runs[10]))


@wrong("by sunshine, which nobody asked for")
def a_cause_that_was_not_given(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], cause="sunshine")


@wrong("by a parent, and it has none")
def a_parent_that_is_none(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], cause="parent")


@wrong("runs are missing in the history")
def a_gap_in_the_history(story: Story) -> None:
    del story.runs[3]


@wrong("runs 4 and 5 overlapped")
def an_overlap(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], end_ms=at(5) + 60)


@wrong("10 runs, and only 9 were asked for")
def one_run_too_many(story: Story) -> None:
    story.have(count=9)


@wrong("1090000 is recorded, and it was due only until 1080000")
def a_due_time_after_the_last(story: Story) -> None:
    """Two were too late, and have used up two of nine."""
    story.have(count=9, epsilon_ms=3_000)
    for number in (2, 3):
        reason = "missed, and too late to be made up for (PT3S)"
        story.put(skipped(number, at(number), reason, at(number) + 8_000, cause="catch-up"))


@wrong("it was not missed")
def not_made_up_for_though_in_time(story: Story) -> None:
    story.have(catch_up="none")
    story.put(skipped(3, at(3), "missed, and missed runs are not made up for", at(3) + 5_000, cause="catch-up"))


@wrong("began 10040 ms after disable")
def a_start_after_disabling(story: Story) -> None:
    story.orders.append(order(Kind.DISABLE, at(8)))


@wrong("was asked for 110 ms after disable")
def a_decision_after_disabling(story: Story) -> None:
    story.orders.append(order(Kind.DISABLE, at(9) - 100))


@wrong("after delete")
def a_start_after_deletion(story: Story) -> None:
    story.orders.append(order(Kind.DELETE, at(4)))
    story.deleted = True


@wrong("1 starts by hand were acknowledged, and are not recorded")
def a_lost_start_by_hand(story: Story) -> None:
    story.orders.append(order(Kind.START, at(5)))


@wrong("1 runs by hand are recorded that nobody asked for")
def a_start_by_nobody(story: Story) -> None:
    by_hand(story)
    story.orders.pop()


@wrong("1 backfills of what was due at 1030000 were acknowledged, and are not recorded")
def a_backfill_that_stopped_halfway(story: Story) -> None:
    backfilled(story)
    del story.runs[11], story.programs[11]


@wrong("1 backfills of what was due at 1030000 are recorded that nobody asked for")
def a_backfill_of_too_much(story: Story) -> None:
    backfilled(story)
    story.orders[-1] = attrs.evolve(story.orders[-1], stretch_ms=(at(2), at(2)))


@wrong("1 backfills of what was due at 1020000 are recorded that nobody asked for")
def a_backfill_that_was_made_twice(story: Story) -> None:
    backfilled(story)
    twice = run(12, at(9) + 7_000, cause="backfill")
    story.runs.append(attrs.evolve(twice, nominal_ms=at(2)))
    story.programs.append(program(story.runs[12]))


@wrong("1020001 is no due time")
def a_backfill_of_any_time(story: Story) -> None:
    backfilled(story)
    story.programs[10] = attrs.evolve(story.programs[10], nominal_ms=at(2) + 1)


@wrong("no later run stands for it")
def collapsed_though_all_were_wanted(story: Story) -> None:
    missed_and_collapsed(story)
    story.have(catch_up="all")


@wrong("no later run stands for it")
def collapsed_before_a_later_one_was_due(story: Story) -> None:
    missed_and_collapsed(story)
    story.runs[2] = attrs.evolve(story.runs[2], ended_ms=at(3) + 5_000)


@wrong("nobody has looked at it for 20051 ms")
def an_outage_that_was_too_long(story: Story) -> None:
    missed_and_collapsed(story)
    story.runs[2] = attrs.evolve(story.runs[2], ended_ms=at(4) + 51)


@wrong("it was not too late")
def skipped_within_epsilon(story: Story) -> None:
    missed_by_more_than_epsilon(story)
    story.have(epsilon_ms=9_000)


@wrong("it was not too late")
def skipped_without_an_epsilon(story: Story) -> None:
    missed_by_more_than_epsilon(story)
    story.have(epsilon_ms=None)


@wrong("nothing was in its way")
def skipped_with_nothing_in_its_way(story: Story) -> None:
    overlap_forbidden(story)
    story.runs[2] = attrs.evolve(story.runs[2], ended_ms=at(3) - 1)


@wrong("nothing was in its way")
def skipped_though_overlap_is_allowed(story: Story) -> None:
    overlap_forbidden(story)
    story.have(overlap="allow")


@wrong("so many did not wait")
def skipped_with_none_waiting(story: Story) -> None:
    story.put(skipped(3, at(3), "1 runs were waiting already", at(3) + 10))


@wrong("that is no reason: ''")
def skipped_without_a_reason(story: Story) -> None:
    story.put(skipped(3, at(3), "", at(3) + 10))


@wrong("nobody has stopped it")
def killed_by_nobody(story: Story) -> None:
    replaced(story)
    story.have(overlap="queue")


@wrong("it was given up after 1 attempts of 2")
def given_up_too_early(story: Story) -> None:
    story.have(retries=1)
    failed = attrs.evolve(story.runs[2].attempts[0], outcome="failed", code=3)
    story.put(attrs.evolve(story.runs[2], state="failed", attempts=(failed,)))
    story.programs.append(program(story.runs[2]))


@wrong("only 0 further attempts were allowed")
def tried_too_often(story: Story) -> None:
    tried_again(story)
    story.have(retries=0)


@wrong("ms too early")
def tried_again_too_early(story: Story) -> None:
    tried_again(story)
    story.have(retry_delay_ms=9_000)


@wrong("after one that was finished there is no other")
def tried_again_after_success(story: Story) -> None:
    tried_again(story)
    first, second = story.runs[2].attempts
    story.runs[2] = attrs.evolve(story.runs[2], attempts=(attrs.evolve(first, outcome="finished", code=0), second))


@wrong("after one that was lost there is no other")
def tried_again_after_a_loss(story: Story) -> None:
    lost_and_tried_again(story)
    story.have(node_loss="at-most-once")


@wrong("it was given up after 1 attempts of 2")
def not_tried_again_after_a_loss(story: Story) -> None:
    lost_with_its_node(story)
    story.have(node_loss="at-least-once", retries=1)


@wrong("is recorded as lost, and n1 was not")
def lost_for_no_reason(story: Story) -> None:
    lost_with_its_node(story)
    story.failures.clear()


@wrong("recorded is code 0, and the program ended with 3")
def another_code(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], code=3)


@wrong("recorded is task")
def another_node(story: Story) -> None:
    story.programs[4] = attrs.evolve(story.programs[4], node="n2")


@wrong("before it was asked for")
def begun_before_it_was_asked_for(story: Story) -> None:
    late = attrs.evolve(story.runs[4].attempts[0], asked_ms=at(4) + 1_000)
    story.runs[4] = attrs.evolve(story.runs[4], attempts=(late,))


@wrong("it never ended")
def left_open(story: Story) -> None:
    story.runs[9] = attrs.evolve(story.runs[9], state="active")


@pytest.mark.parametrize(("spoil", "reason"), WRONG, ids=[spoil.__name__ for spoil, _ in WRONG])
def test_what_is_wrong_is_refused(spoil: Callable[[Story], None], reason: str) -> None:
    story = Story()
    spoil(story)
    assert reason in story.reasons()


# --- children ---


def family(child_due: list[int], parents: dict[str, list[int]], **members: Any) -> str:
    """What is wrong with a child that was due at these times, after parents that succeeded at those."""
    jobs = {"a": Job(name="a", parents=tuple(parents), overlap="allow", **members)}
    histories = {"a": tuple(run(number, at_ms, cause="parent") for number, at_ms in enumerate(child_due))}
    programs = [program(one) for one in histories["a"]]
    for name, ends in parents.items():
        jobs[name] = Job(name=name, start_ms=1, interval_ms=1, overlap="allow")
        histories[name] = tuple(run(number, at_ms - 2_100, cause="manual") for number, at_ms in enumerate(ends))
        programs += [program(one, job=name) for one in histories[name]]
    verdicts = check(
        Evidence(
            jobs=jobs,
            orders=(order(Kind.CREATE, BEGAN),),
            programs=tuple(programs),
            histories=histories,
            paused_ms=(PAUSED, PAUSED),
            limits=LIMITS,
        )
    )
    return "; ".join(next(one.reasons for one in verdicts if one.job == "a"))


def test_a_child_after_its_parents_is_passed() -> None:
    assert family([at(3), at(6)], {"p": [at(1), at(2), at(5)], "q": [at(3), at(6)]}) == ""
    assert family([at(3), at(3)], {"p": [at(3), at(3)]}) == "", "two successes in the same millisecond"
    after = {"p": [at(3), at(4)], "q": [at(2), at(3)]}
    assert family([at(3), at(4)], after) == "", "one in the millisecond in which it was due, and after that"


def test_a_child_after_a_soft_error_without_a_program_is_passed() -> None:
    lost = Attempt(task="t", asked_ms=at(1), ended_ms=at(3), node="n2", outcome="lost")
    parent = Run(number=0, nominal_ms=at(1), cause="manual", state="failed", ended_ms=at(3), attempts=(lost,))
    child = run(0, at(3), cause="parent")
    for soft in (True, False):
        verdicts = check(
            Evidence(
                jobs={"a": Job(name="a", parents=("p",)), "p": Job(name="p", soft_error=soft)},
                orders=(order(Kind.CREATE, BEGAN),),
                programs=(program(child),),
                histories={"a": (child,), "p": (parent,)},
                paused_ms=(PAUSED, PAUSED),
                limits=LIMITS,
            )
        )
        assert bool(verdicts[0].reasons) is not soft


@pytest.mark.parametrize(
    ("due", "parents", "reason"),
    [
        ([at(3), at(4)], {"p": [at(3)]}, "had not succeeded since"),
        ([at(3), at(3)], {"p": [at(3)]}, "had not succeeded since"),
        ([at(2)], {"p": [at(3)]}, "had not succeeded since 0"),
        ([at(3), at(4)], {"p": [at(3), at(4)], "q": [at(2)]}, "q had not succeeded since"),
        ([at(3), at(4)], {"p": [at(3)]}, "p had not ended so often"),
        ([at(3)], {"p": [at(3), at(5)]}, f"all parents had succeeded at {at(5)}, and it was not due"),
        ([at(4)], {"p": [at(2)], "q": [at(3)]}, f"all parents had succeeded at {at(3)}, and it was not due"),
    ],
)
def test_a_child_without_its_parents_is_refused(due: list[int], parents: dict[str, list[int]], reason: str) -> None:
    assert reason in family(due, parents)


# --- any history that is right, and one thing wrong in it ---


@given(st.integers(0, 9), st.sampled_from(["lose", "double", "invent", "forget", "shift", "recode"]))
def test_any_single_fault_is_found(number: int, what: str) -> None:
    story = Story()
    one = story.programs[number]
    match what:
        case "lose":
            del story.programs[number]
        case "double":
            story.programs.append(attrs.evolve(one, node="n2", task="other"))
        case "invent":
            story.programs.append(attrs.evolve(one, run=99, task="other"))
        case "forget":
            del story.runs[number]
        case "shift":
            story.programs[number] = attrs.evolve(one, start_ms=one.start_ms + 6_000, end_ms=one.start_ms + 6_001)
        case "recode":
            story.programs[number] = attrs.evolve(one, code=7)
    assert story.reasons()


# --- the files ---


def test_files_of_programs_are_read() -> None:
    text = (
        "start 100 a/1 0 90 time t1 0\n"
        "start 110 b-x/0 1 80 manual t2 0\n"
        "end 150 a/1 0 90 time t1 3\n"
        "stopped 160 b-x/0 1 80 manual t2 143\n"
        "start 170 a/2 0 165 time t3 0\n"
        "start 180 a/2 0 165 time t3 0\n"
    )
    found = list(read_programs("n1", text))
    ends = [(one.job, one.run, one.attempt, one.start_ms, one.end_ms, one.code, one.stopped) for one in found]
    assert ends == [
        ("a", 1, 0, 100, 150, 3, False),
        ("b-x", 0, 1, 110, 160, 143, True),
        ("a", 2, 0, 170, None, None, False),
        ("a", 2, 0, 180, None, None, False),
    ]
    with pytest.raises(ValueError):
        list(read_programs("n1", "start 100 a/1"))
