"""What one call of the handler works with: the stored documents, and its own changes on top of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Final, TypeVar

from orlop.framework import Action, Delete, Put, View
from orlop_chronos import documents
from orlop_chronos.documents import Children, Control, JobRecord, Progress, Run, job_and_number, run_id
from orlop_chronos.settings import Config

T = TypeVar("T")
_DELETED: Final = object()
#: What one call of the handler does, about: a change counts for so many open runs that are looked at. On any machine
#: that is well under the time that a handler has, and enough for a thousand jobs that are due on one second.
WORK_MAX: Final = 150_000
WORK_OF_A_CHANGE: Final = 40


class Desk:
    """Reads see what was written before. `actions` are the changes, each document once, and all else to be done.

    extra: actions that are not changes of documents, in their order. touched: jobs whose documents were changed.
    told: (child, parent's run) for each child that was told of a parent's end and may be due by it.
    is_full: enough was done for one call; what is left is for the next one.
    """

    def __init__(self, view: View, settings: Config) -> None:
        self.view = view
        self.settings = settings
        self.now_ms = view.now.utc_ms
        self.extra: list[Action] = []
        self.touched: set[str] = set()
        self.told: list[tuple[str, str]] = []
        self._looks = 0
        self._stored: dict[str, Mapping[str, Any]] = {}
        self._changes: dict[tuple[str, str], Any] = {}
        self._run_numbers: dict[str, list[int]] | None = None
        self._put_runs: dict[str, set[int]] = {}

    @property
    def is_full(self) -> bool:
        return self._looks + WORK_OF_A_CHANGE * (len(self._changes) + len(self.extra)) >= WORK_MAX

    def _get(self, kind: str, key: str) -> Any:
        changed = self._changes.get((kind, key))
        if changed is not None:
            return None if changed is _DELETED else changed
        return self.stored(kind).get(key)

    def stored(self, kind: str) -> Mapping[str, Any]:
        """The documents of a kind as they were before."""
        if kind not in self._stored:
            self._stored[kind] = self.view.objects(kind)
        return self._stored[kind]

    def job(self, name: str) -> JobRecord | None:
        found: JobRecord | None = self._get(documents.JOB, name)
        return found

    def progress(self, name: str) -> Progress:
        return self._get(documents.PROGRESS, name) or Progress()

    def run(self, name: str, number: int) -> Run | None:
        found: Run | None = self._get(documents.RUN, run_id(name, number))
        return found

    def run_numbers(self, name: str) -> list[int]:
        """Of all runs of the job that there are, in order."""
        progress = self.progress(name)
        numbers: Collection[int] = range(progress.oldest_run, progress.next_run)
        if len(numbers) > len(self.stored(documents.RUN)):
            # Behind a run that goes on for long there are gaps, which can be longer than all that there is.
            numbers = sorted({*self._stored_run_numbers(name), *self._put_runs.get(name, ())})
        return [number for number in numbers if self.run(name, number) is not None]

    def _stored_run_numbers(self, name: str) -> Collection[int]:
        if self._run_numbers is None:
            self._run_numbers = {}
            for key in self.stored(documents.RUN):
                job, number = job_and_number(key)
                self._run_numbers.setdefault(job, []).append(number)
        return self._run_numbers.get(name, ())

    def open_runs(self, name: str) -> Iterator[Run]:
        """In the order of their numbers."""
        for number in self.progress(name).open_runs:
            self._looks += 1
            run = self.run(name, number)
            if run is not None:
                yield run

    def children(self, name: str) -> tuple[str, ...]:
        """Names of the jobs that have this one for a parent."""
        found: Children | None = self._get(documents.CHILDREN, name)
        return found.names if found is not None else ()

    @property
    def paused(self) -> bool:
        control: Control | None = self._get(documents.CONTROL, documents.CLUSTER)
        return control is not None and control.paused

    def put_job(self, name: str, record: JobRecord) -> None:
        self._put(documents.JOB, name, record, name)

    def put_progress(self, name: str, progress: Progress) -> None:
        self._put(documents.PROGRESS, name, progress, name)

    def put_run(self, run: Run) -> None:
        self._put_runs.setdefault(run.job, set()).add(run.number)
        self._put(documents.RUN, run.id, run, run.job)

    def put_children(self, name: str, children: Iterable[str]) -> None:
        names = tuple(sorted(set(children)))
        self._put(documents.CHILDREN, name, Children(names=names) if names else _DELETED, "")

    def put_control(self, control: Control) -> None:
        self._put(documents.CONTROL, documents.CLUSTER, control, "")

    def delete_job(self, name: str) -> None:
        """With all that is known of it."""
        for number in self.run_numbers(name):
            self.delete_run(name, number)
        self._put(documents.PROGRESS, name, _DELETED, name)
        self._put(documents.JOB, name, _DELETED, name)

    def delete_run(self, name: str, number: int) -> None:
        self._put(documents.RUN, run_id(name, number), _DELETED, name)

    def put(self, kind: str, key: str, value: Any) -> None:
        """Any other document."""
        self._put(kind, key, value, "")

    def delete(self, kind: str, key: str) -> None:
        self._put(kind, key, _DELETED, "")

    def _put(self, kind: str, key: str, value: Any, job: str) -> None:
        known = self._get(kind, key)
        if known == value or (known is None and value is _DELETED):
            return
        self._changes[kind, key] = value
        if job:
            self.touched.add(job)

    def do(self, *actions: Action) -> None:
        self.extra += actions

    def actions(self) -> list[Action]:
        """All of it, for the kernel."""
        changes: list[Action] = []
        for (kind, key), value in self._changes.items():
            if value is not _DELETED:
                changes.append(Put(kind, key, value))
            elif key in self.stored(kind):
                changes.append(Delete(kind, key))
        return [*changes, *self.extra]
