"""How a container of the `docker` runtime is made and started; see `docker`."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import Callable
from typing import Any, Final

from orlop.agent.fetching import CannotFetch, Fetching
from orlop.agent.runtimes import docker_container as container_json
from orlop.agent.runtimes import docker_sandbox
from orlop.agent.runtimes.docker_access import Access
from orlop.agent.runtimes.docker_container import Creation
from orlop.agent.runtimes.docker_engine import BACKOFF_FIRST_S, BACKOFF_LAST_S, pull
from orlop.agent.runtimes.docker_errors import EngineLost, EngineRefused
from orlop.agent.runtimes.docker_record import Record
from orlop.agent.runtimes.interface import InvalidPayload, Launch, Phase, Report, RuntimeContext
from orlop.model.tasks import Exit, Outcome

_log = logging.getLogger(__name__)

STARTS_AT_ONCE: Final = 8
#: A container that is just being removed holds its name for a moment.
NAME_FREE_WITHIN_S: Final = 30.0
NAME_POLL_S: Final = 0.1
#: How engines refuse a name that is taken.
CONFLICT: Final = 409
#: How engines refuse to connect what is connected.
FORBIDDEN: Final = 403
WAITING_FOR_ENGINE: Final = "waiting for the Docker Engine"
NEVER_STARTED: Final = "killed before it was started"


class _Abandoned(Exception):
    """The start was called off before the engine was asked to start the container."""


class _NameTaken(Exception):
    """The name is, or soon will be, free again. The text is for who waits in vain, and status the engine's."""

    def __init__(self, text: str, status: int = 0) -> None:
        super().__init__(text)
        self.status = status


class Starting:
    """Of one engine's containers. Whatever is learned about a task is reported.

    is_stopping: has the task of this id been told to end?
    """

    def __init__(
        self,
        context: RuntimeContext,
        engine: Access,
        report: Callable[[Record, Report], None],
        is_stopping: Callable[[str], bool],
    ) -> None:
        self._context = context
        self._engine = engine
        self._report = report
        self._is_stopping = is_stopping
        self._fetching = Fetching(context)
        self._pulls: dict[str, asyncio.Future[None]] = {}
        self._slots = asyncio.Semaphore(STARTS_AT_ONCE)

    def engine_lost(self) -> None:
        """Pulls that are under way have failed."""
        self._pulls.clear()

    async def start(self, record: Record, launch: Launch) -> None:
        """Until it runs, has ended, or is prepared, as is wanted; holds the record's lock meanwhile."""
        async with record.lock:
            ended: Exit | None = None
            refusal = ""
            try:
                creation = container_json.creation_of(launch, self._context)
                if creation.artefacts:
                    await self._fetch(record, creation)
                await self._start_until_known(record, creation)
            except (InvalidPayload, CannotFetch, EngineRefused) as error:
                ended = Exit(outcome=Outcome.ERROR, reason=str(error))
                if isinstance(error, EngineRefused) and error.status and launch.assignment.spec.policies.keep_ended:
                    refusal = str(error.status)
            except _Abandoned:
                ended = Exit(outcome=Outcome.KILLED, reason=NEVER_STARTED)
            finally:
                record.starting = False
            if ended is not None:
                self._emit(record, Phase.ENDED, exit=ended, message=refusal)

    async def _fetch(self, record: Record, creation: Creation) -> None:
        """Its artefacts. Raises CannotFetch, _Abandoned."""
        progress = functools.partial(self._emit_progress, record)
        try:
            into = await asyncio.to_thread(docker_sandbox.begin, creation.sandbox)
            if into is not None:
                await self._unless_abandoned(record, self._fetching.fetch(creation.artefacts, into, None, progress))
                await asyncio.to_thread(docker_sandbox.finish, creation.sandbox)
        except OSError as error:
            raise CannotFetch(f"this node cannot prepare the task: {error}") from error

    async def _start_until_known(self, record: Record, creation: Creation) -> None:
        backoff_s = BACKOFF_FIRST_S
        asked = False
        while True:
            try:
                if not self._engine.connected.is_set():
                    self._emit(record, Phase.PREPARING, message=WAITING_FOR_ENGINE)
                    await self._unless_abandoned(record, self._engine.connected.wait(), asked=asked)
                if record.abandoned.is_set():
                    await self._engine.discard(creation.name, record.identity)
                    raise _Abandoned
                asked = True
                await self._start_once(record, creation)
                return
            except EngineLost as error:
                _log.info("starting %s: %s", record.task, error)
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_LAST_S)

    async def _start_once(self, record: Record, creation: Creation) -> None:
        to_pull, pulled = creation.pull == "always", creation.pull == "never"
        deadline = time.monotonic() + NAME_FREE_WITHIN_S
        while True:
            if to_pull:
                await self._pull(record, creation.image)
                to_pull, pulled = False, True
            try:
                # What is created is started before the next one is created: the engine is fastest with a mixture.
                async with self._slots:
                    await self._create_and_start(record, creation)
                return
            except EngineRefused as error:
                if not error.no_image or pulled:
                    raise
                to_pull = True
            except _NameTaken as taken:
                if time.monotonic() > deadline:
                    raise EngineRefused(str(taken), taken.status) from taken
                if record.abandoned.is_set():
                    raise _Abandoned from None
                await asyncio.sleep(NAME_POLL_S)

    async def _create_and_start(self, record: Record, creation: Creation) -> None:
        """Raises EngineRefused, EngineLost, _NameTaken, _Abandoned."""
        made = await self._create_or_adopt(record, creation)
        if made is None:
            return
        container, warnings = made
        record.container = container
        if record.abandoned.is_set():
            await self._engine.discard(container, record.identity)
            raise _Abandoned
        try:
            await self._join(container, creation)
        except EngineRefused:
            await self._engine.discard(container, record.identity)
            raise
        if creation.prepared_only:
            self._emit(record, Phase.PREPARED, external_id=container, message="\n".join(warnings))
            return
        self._emit(record, Phase.STARTING, external_id=container)
        record.undisturbed = creation.stays_ended and not creation.kept
        try:
            await self._engine.calls.start(container)
        except EngineRefused as error:
            if creation.kept:
                exit_ = Exit(outcome=Outcome.FAILED, reason=str(error))
                self._emit(record, Phase.ENDED, exit=exit_, external_id=container, remains=True)
                return
            await self._engine.discard(container, record.identity)
            raise
        if not creation.own_network:
            self._emit(record, Phase.RUNNING)

    async def _join(self, container: str, creation: Creation) -> None:
        """Its further networks: an engine takes one at the creation. Raises EngineRefused, EngineLost."""
        for name, settings in creation.networks.items():
            try:
                await self._engine.calls.connect(container, name, settings)
            except EngineRefused as error:
                if settings is not None and error.status != FORBIDDEN:  # it is there already
                    raise
                _log.info("network %s of %s: %s", name, container, error)

    async def _create_or_adopt(self, record: Record, creation: Creation) -> tuple[str, list[str]] | None:
        """The id of a container that is to be started, and the engine's warnings; None when an adopted one has been
        reported."""
        body = creation.body
        if creation.shares_are_cpus:
            about = await self._engine.call(self._engine.pools.control, "info")
            body = container_json.scaled_shares(body, about["NCPU"])
        try:
            made = await self._engine.calls.create(body, creation.name, creation.platform, creation.version)
            return str(made["Id"]), made.get("Warnings") or []
        except EngineRefused as error:
            if error.status != CONFLICT:
                raise
            adopted = await self._adopt(record, creation.name, str(error) if creation.kept else "")
            return (adopted, []) if adopted is not None else None

    async def _adopt(self, record: Record, name: str, refusal: str) -> str | None:
        """As `_create_or_adopt`. refusal: the engine's, if it is to be passed on when the name is not this task's."""
        try:
            inspected = await self._engine.calls.inspect(name)
        except EngineRefused as error:
            raise _NameTaken(f"the name {name} is not free") from error
        there = container_json.identity_of(inspected["Config"].get("Labels"), self._context)
        if there is None or there.task != record.task:
            text = refusal or f"the name {name} is taken by a container that is not of this task"
            status = CONFLICT if refusal else 0
            if there is not None and (not inspected["State"]["Running"] or self._is_stopping(there.task)):
                raise _NameTaken(text, status)  # its task has ended, or will, and then it is put aside
            raise EngineRefused(text, status)
        seen = container_json.report_of(inspected, there)
        if seen is None:
            raise _NameTaken(f"the name {name} is not free")
        if there == record.identity:
            record.container = inspected["Id"]
            if seen.phase is Phase.PREPARING:
                return record.container
            self._report(record, seen)
            return None
        if seen.phase is Phase.RUNNING:
            raise EngineRefused(f"incarnation {there.incarnation} of this task still runs in {name}")
        await self._engine.keep(inspected["Id"], there)
        raise _NameTaken(f"the name {name} is not free")

    async def _pull(self, record: Record, image: str) -> None:
        """Tasks that want the same image wait for one pull. Raises EngineRefused, EngineLost, _Abandoned."""
        self._emit(record, Phase.PREPARING, message=f"pulling {image}")
        pulling = self._pulls.get(image)
        if pulling is None:
            loop = asyncio.get_running_loop()

            def progress(message: str) -> None:
                loop.call_soon_threadsafe(self._on_progress, record, message)

            pulling = loop.run_in_executor(self._engine.pools.pull, pull, self._engine.client, image, progress)
            self._pulls[image] = pulling
            pulling.add_done_callback(lambda done: self._pulled(image, done))
        await self._unless_abandoned(record, self._engine.unless_lost(pulling))

    def _pulled(self, image: str, done: asyncio.Future[None]) -> None:
        if self._pulls.get(image) is done:
            del self._pulls[image]
        if not done.cancelled():
            done.exception()  # seen by those who still wait, if any

    def _on_progress(self, record: Record, message: str) -> None:
        if record.starting and record.phase is Phase.PREPARING:
            self._emit(record, Phase.PREPARING, message=message)

    async def _unless_abandoned(self, record: Record, waited: Any, *, asked: bool = False) -> None:
        """Waits; raises _Abandoned when the start is called off first.

        asked: the engine may have acted already, so that being called off has to wait for it.
        """
        wait = asyncio.ensure_future(waited)
        off = asyncio.ensure_future(record.abandoned.wait())
        try:
            await asyncio.wait((wait,) if asked else (wait, off), return_when=asyncio.FIRST_COMPLETED)
            if not wait.done():
                raise _Abandoned
            await wait
        finally:
            wait.cancel()
            off.cancel()

    def _emit_progress(self, record: Record, message: str) -> None:
        self._emit(record, Phase.PREPARING, message=message)

    def _emit(self, record: Record, phase: Phase, **members: Any) -> None:
        self._report(record, record.saying(phase, **members))
