"""What nodes were rated, remembered beyond a batch."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final, TypeVar

from orlop.kernel.placement import Check, Score
from orlop.kernel.sizes import Size, Sizes
from orlop.kernel.state import Candidate

_K = TypeVar("_K")
_V = TypeVar("_V")

#: Of so many different sets of callables, each for as many nodes as there are.
RATINGS_REMEMBERED: Final = 16
CALLABLES_REMEMBERED: Final = 1_000
#: Scores whose values of the nodes' sizes are remembered.
SIZE_SCORES_REMEMBERED: Final = 64
NODES_REMEMBERED: Final = 20_000


def let_pass(checks: Iterable[Check], candidate: Candidate) -> bool:
    """Do all of them?"""
    try:
        for check in checks:
            if check(candidate) is not None:
                return False
    except Exception:  # noqa: BLE001  (a plugin's filter that raises refuses)
        return False
    return True


def total_of(parts: Iterable[float]) -> float:
    """One after the other: Python's own `sum` may round otherwise in another version."""
    total = 0.0
    for part in parts:
        total += part
    return total


def weighted_sum(scores: Iterable[tuple[float, Score]], candidate: Candidate) -> float:
    return total_of(part_of(one, candidate) for one in scores)


def part_of(one: tuple[float, Score], candidate: Candidate) -> float:
    weight, score = one
    try:
        return weight * score(candidate)
    except Exception:  # noqa: BLE001  (a scorer that raises counts as zero)
        return 0.0


class _Latest(OrderedDict[_K, _V]):
    """What was asked for lately."""

    def __init__(self, at_most: int) -> None:
        super().__init__()
        self._at_most = at_most

    def of(self, key: _K, make: Callable[[], _V]) -> _V:
        """The value that there is, or else the one made."""
        found = self.get(key)
        if found is None:
            found = self[key] = make()
            if len(self) > self._at_most:
                self.popitem(last=False)
        else:
            self.move_to_end(key)
        return found


class RatingMemory:
    """What nodes were rated, for callables that filters and scorers gave before.

    They depend on the candidate alone, and a candidate is the same object while nothing changes on its node, so this
    is a memory of pure functions: what is decided does not depend on it. Most asks bring the same few callables (does
    it fit, how full is the node), and at most one or two of their own, which are asked each time.
    """

    def __init__(self) -> None:
        #: Callables by identity, the latest ones last.
        self._seen: OrderedDict[int, Check | Score] = OrderedDict()
        # The callables are kept with what they said, so that no other one gets the identity of any of them.
        self._known: _Latest[tuple[Any, ...], tuple[dict[str, _Rating], tuple[Any, ...]]] = _Latest(RATINGS_REMEMBERED)
        self._passing: _Latest[tuple[int, ...], tuple[dict[str, _Passing], tuple[Check, ...]]] = _Latest(
            RATINGS_REMEMBERED
        )
        self._of_sizes: _Latest[Score, dict[Size, float]] = _Latest(SIZE_SCORES_REMEMBERED)
        self.sizes = Sizes()

    def divide(
        self, checks: Sequence[Check], scores: Sequence[tuple[float, Score]]
    ) -> tuple[list[Check], Common | None]:
        """The checks that were not seen before, and all else; no else when no score was seen before."""
        rare = [check for check in checks if not self._note(check)]
        rare_scores = frozenset(place for place, (_, score) in enumerate(scores) if not self._note(score))
        if len(rare_scores) == len(scores):
            return list(checks), None
        rare_ids = frozenset(map(id, rare))
        common = [check for check in checks if id(check) not in rare_ids]
        key = (
            *map(id, common),
            None,
            *(None if place in rare_scores else (weight, id(score)) for place, (weight, score) in enumerate(scores)),
        )
        kept = (*common, *(score for place, (_, score) in enumerate(scores) if place not in rare_scores))
        known, _ = self._known.of(key, lambda: ({}, kept))
        return rare, Common(common, scores, rare_scores, known)

    def passing(self, checks: Sequence[Check]) -> dict[str, _Passing]:
        """For the caller to keep: by node, whether all of these checks let it pass."""
        known, _ = self._passing.of(tuple(map(id, checks)), lambda: ({}, tuple(checks)))
        if len(known) >= NODES_REMEMBERED:
            known.clear()
        return known

    def of_sizes(self, score: Score) -> dict[Size, float]:
        """For the caller to keep: what the score says of each size, those included that are gone."""
        known: dict[Size, float] = self._of_sizes.of(score, dict)
        if len(known) > 2 * len(self.sizes.all) + RATINGS_REMEMBERED:
            known.clear()
        return known

    def _note(self, one: Check | Score) -> bool:
        """Was it seen before?"""
        if id(one) in self._seen:
            self._seen.move_to_end(id(one))
            return True
        self._seen[id(one)] = one
        if len(self._seen) > CALLABLES_REMEMBERED:
            self._seen.popitem(last=False)
        return False


_Passing = tuple[Candidate, bool]
_Rating = tuple[Candidate, float | None, tuple[float, ...]]


class Common:
    """Checks and scores that many asks share, and what they said of each node.

    rare: places of scores that are asked each time. The sum is taken in the scorers' order, so that it is the same to
    the last bit whatever is remembered.
    """

    __slots__ = ("_checks", "_known", "_rare", "_scores")

    def __init__(
        self,
        checks: Sequence[Check],
        scores: Sequence[tuple[float, Score]],
        rare: frozenset[int],
        known: dict[str, _Rating],
    ) -> None:
        self._checks = checks
        self._scores = scores
        self._rare = rare
        self._known = known

    def rate(self, candidate: Candidate) -> float | None:
        node_id = candidate.node.info.id
        known = self._known.get(node_id)
        if known is None or known[0] is not candidate:
            if len(self._known) >= NODES_REMEMBERED:
                self._known.clear()
            known = self._known[node_id] = candidate, *self._rate(candidate)
        if not self._rare or known[1] is None:
            return known[1]
        both = enumerate(zip(self._scores, known[2], strict=True))
        return total_of(part_of(one, candidate) if place in self._rare else part for place, (one, part) in both)

    def _rate(self, candidate: Candidate) -> tuple[float | None, tuple[float, ...]]:
        """What the common scores give together, None for a node that is refused, and each part of it."""
        if not let_pass(self._checks, candidate):
            return None, ()
        parts = tuple(0.0 if place in self._rare else part_of(one, candidate) for place, one in enumerate(self._scores))
        return total_of(parts), parts
