"""What waits for a node's records to be on disk, for as long as they cannot be written: full disks last for days."""

from __future__ import annotations

from collections.abc import Iterable

from orlop.agent import decisions
from orlop.agent.records import AgentRecords
from orlop.agent.task_record import TaskRecord
from orlop.model.messages import Epoch
from orlop.model.tasks import Status


class Unsaved:
    """Documents that are to be written, in one transaction. What cannot be written now waits for the next one."""

    def __init__(self) -> None:
        self._saved: dict[str, TaskRecord] = {}
        self._dropped: dict[str, None] = {}
        self._epoch: Epoch | None = None

    def add(self, effects: Iterable[decisions.Effect]) -> None:
        for effect in effects:
            match effect:
                case decisions.Save():
                    self._saved[effect.record.assignment.task] = effect.record
                    self._dropped.pop(effect.record.assignment.task, None)
                case decisions.Drop():
                    self._saved.pop(effect.task, None)
                    self._dropped[effect.task] = None
                case decisions.SaveEpoch():
                    self._epoch = effect.epoch

    def save(self, records: AgentRecords) -> None:
        """Raises CannotSave."""
        if self._saved or self._dropped or self._epoch is not None:
            records.save(self._saved.values(), self._dropped, self._epoch)
            self._saved, self._dropped, self._epoch = {}, {}, None


class Held:
    """What must not happen before the records that it follows from are on disk: starts, removals, and what the server
    is told. Signals need not wait: they can only be sent again.

    Of each task no more than the newest status of each run, the last start and the last removal are held, in their
    order, for statuses are told again and again until the server has them.
    """

    def __init__(self) -> None:
        self._statuses: dict[tuple[str, int], Status] = {}
        self._works: dict[tuple[type, str], decisions.Start | decisions.Remove] = {}

    def hold(self, effects: Iterable[decisions.Effect]) -> list[decisions.Effect]:
        """Those that need not wait."""
        others: list[decisions.Effect] = []
        for effect in effects:
            match effect:
                case decisions.Tell():
                    self._statuses |= {(status.task, status.incarnation): status for status in effect.statuses}
                case decisions.Start():
                    self._hold_work(effect.assignment.task, effect)
                case decisions.Remove():
                    self._hold_work(effect.task, effect)
                case _:
                    others.append(effect)
        return others

    def _hold_work(self, task: str, work: decisions.Start | decisions.Remove) -> None:
        self._works.pop((type(work), task), None)
        self._works[type(work), task] = work

    def take(self) -> list[decisions.Effect]:
        """What has been held, which is held no longer."""
        statuses, works = self._statuses, self._works
        self._statuses, self._works = {}, {}
        told = [decisions.Tell(tuple(statuses.values()))] if statuses else []
        return [*works.values(), *told]
