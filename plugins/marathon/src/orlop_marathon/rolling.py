"""The arithmetic of a rolling restart: how many old instances to kill now, how many new ones to start now.

Marathon computes a first wave and then reacts to events: each new healthy instance kills one old one, each old one
that is gone opens a start. Here the same course is computed from what is there at any moment, so that it can be
taken up after a restart in the middle, and asking twice about the same moment gives nothing the second time.

Source: Marathon 1.11, `TaskReplaceActor.computeRestartStrategy`. Where Marathon would wait for ever although nothing
is under way (old instances that will never be healthy fill the capacity), one step beyond is allowed: see `Bounds`.
"""

from __future__ import annotations

import math
from fractions import Fraction

import attrs

from orlop_marathon.model import App


@attrs.frozen(kw_only=True)
class Bounds:
    """What a restart of `instances` (1 or more) must keep to.

    minimum_healthy: so many healthy instances are never reduced by our own kills.
    maximum: so many instances, old and new, there may be at a time; one more when `forced` and the restart must go
    on. forced: no room between both bounds, so a normal app gets one instance more, a resident one goes one below.
    """

    instances: int
    minimum_healthy: int
    maximum: int
    resident: bool = False

    @property
    def forced(self) -> bool:
        return self.minimum_healthy == self.maximum


def bounds(app: App) -> Bounds:
    """The bounds that the app's upgrade strategy sets. The shares are taken as decimals: ceil(10 × 0.7) is 7."""
    strategy = app.upgrade_strategy
    least = Fraction(str(strategy.minimum_health_capacity))
    most = Fraction(str(strategy.maximum_over_capacity))
    return Bounds(
        instances=app.instances,
        minimum_healthy=math.ceil(app.instances * least),
        maximum=math.floor(app.instances * (1 + most)),
        resident=app.resident,
    )


@attrs.frozen(kw_only=True)
class Situation:
    """How many instances there are.

    old_ready, old_unready: of outdated configuration and not being killed; ready is running and healthy.
    leaving_ready, leaving_unready: outdated, being killed, not gone; by what they were when they were chosen.
    new: with the new configuration, not being killed, ready or not. new_ready: those that are ready.
    """

    old_ready: int = 0
    old_unready: int = 0
    leaving_ready: int = 0
    leaving_unready: int = 0
    new: int = 0
    new_ready: int = 0

    @property
    def old(self) -> int:
        return self.old_ready + self.old_unready

    @property
    def leaving(self) -> int:
        return self.leaving_ready + self.leaving_unready

    @property
    def healthy(self) -> int:
        return self.old_ready + self.new_ready

    @property
    def stuck(self) -> bool:
        """Is nothing under way whose end could change anything?"""
        return not self.leaving and self.new == self.new_ready


def kills(limit: Bounds, now: Situation) -> int:
    """How many old instances to kill now, unready ones first.

    Ready ones are killed only while more than `minimum_healthy` instances are healthy. Unready ones that are not
    needed to make up the minimum even if they got well are killed as well; Marathon leaves these to luck.
    """
    spare = now.healthy - limit.minimum_healthy
    if limit.forced and limit.resident and now.healthy >= limit.maximum:
        spare += 1
    surplus = now.old - limit.instances
    hopeless = 0
    if spare <= 0:
        needed = max(0, limit.minimum_healthy - now.new_ready)
        hopeless = min(now.old_unready, now.old - needed)
        if limit.forced and limit.resident and now.stuck and now.old + now.new >= limit.maximum:
            hopeless = max(hopeless, min(1, now.old_unready))
    return min(now.old, max(0, spare - now.leaving_unready, surplus, hopeless))


def starts(limit: Bounds, now: Situation, gone: int = 0) -> int:
    """How many new instances to start now. Those being killed still take their place.

    now: before the kills that go with it. gone: how many of these end at once (nothing had been placed).
    """
    total = now.old + now.leaving + now.new - gone
    maximum = limit.maximum
    if limit.forced and not limit.resident and (now.healthy >= maximum or (total >= maximum and now.stuck)):
        maximum += 1
    return max(0, min(limit.instances - now.new, maximum - total))
