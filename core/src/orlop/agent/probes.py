"""Health probes of the tasks that run on this node.

Theory of operation. `observe` is the pure counter: one result and one observation give the next result, and
`worth_reporting` says whether the control plane should hear of it. The `ProbeRunner` is the shell: for each probe
of each running task it has one asyncio task that waits, asks and counts, one question at a time. What comes out
is a report; nothing is ever killed here, so that no trouble of the control plane can turn into killed tasks.

Only what says something about the task is an observation. A runtime that does not know the task (it is just
ending) or cannot reach its engine says nothing, and is not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import ssl
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final

import attrs

from orlop.model.clock import Now
from orlop.model.messages import Assignment
from orlop.model.tasks import Probe, ProbeKind, ProbeResult

if TYPE_CHECKING:
    import aiohttp

_log = logging.getLogger(__name__)

PROBES_AT_ONCE_MAX: Final = 256
#: Marathon 1.11: the first check comes after min(intervalSeconds, 5 s).
FIRST_DELAY_MAX_MS: Final = 5_000
INTERVAL_MIN_MS: Final = 100
CAUSE_MAX_CHARACTERS: Final = 200


def observe(result: ProbeResult, *, success: bool, cause: str, now_utc_ms: int, grace_over: bool) -> ProbeResult:
    """The next result. Marathon 1.11: failures before the first success do not count within the grace period."""
    if success:
        first = now_utc_ms if result.first_success_utc_ms is None else result.first_success_utc_ms
        return attrs.evolve(
            result,
            alive=True,
            consecutive_failures=0,
            first_success_utc_ms=first,
            last_success_utc_ms=now_utc_ms,
        )
    if not grace_over and result.first_success_utc_ms is None:
        return result
    return attrs.evolve(
        result,
        alive=False,
        consecutive_failures=result.consecutive_failures + 1,
        last_failure_utc_ms=now_utc_ms,
        last_failure_cause=cause[:CAUSE_MAX_CHARACTERS],
    )


def worth_reporting(before: ProbeResult, after: ProbeResult, report_after: int) -> bool:
    """A change of `alive`, and each failure up to the count at which a framework acts; no mere success."""
    if before.alive is not after.alive:
        return True
    return before.consecutive_failures < after.consecutive_failures <= report_after


def first_delay_ms(probe: Probe) -> int:
    """Between the start of the task, or of this agent, and the first question."""
    return probe.delay_ms or min(probe.interval_ms, FIRST_DELAY_MAX_MS)


@attrs.frozen
class Observation:
    success: bool
    cause: str = ""


@attrs.define(eq=False)
class _Watch:
    """The probes of one incarnation. address: the node's. own_addresses: the task's.

    grace_ends_ms: per probe, on the monotonic clock.
    """

    assignment: Assignment
    incarnation: int
    address: str
    own_addresses: tuple[str, ...]
    results: list[ProbeResult]
    grace_ends_ms: list[int]
    loops: list[asyncio.Task[None]] = attrs.field(factory=list)


RunCommand = Callable[[str, str, float], Awaitable[tuple[int, str]]]
ReportProbes = Callable[[str, int, tuple[ProbeResult, ...]], None]


class ProbeRunner:
    """Runs the probes of running tasks on the event loop; see the module.

    report: gets the task, its incarnation and the results of all its probes. run_command: as a runtime's.
    clock: the two clocks of this node.
    """

    def __init__(self, report: ReportProbes, run_command: RunCommand, clock: Callable[[], Now]) -> None:
        self._report = report
        self._run_command = run_command
        self._clock = clock
        self._watches: dict[str, _Watch] = {}
        self._ended: set[asyncio.Task[None]] = set()
        self._slots = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._session: aiohttp.ClientSession | None = None

    def start(
        self,
        assignment: Assignment,
        incarnation: int,
        started_utc_ms: int,
        address: str = "127.0.0.1",
        known: tuple[ProbeResult, ...] = (),
        own_addresses: tuple[str, ...] = (),
    ) -> None:
        """Probes a running task from now on; of one that is probed already, only its addresses are news.

        address: where its ports are. known: the results before this agent was restarted; they are counted on.
        own_addresses: of the task's own network.
        """
        watched = self._watches.get(assignment.task)
        if watched is not None and watched.incarnation == incarnation:
            watched.own_addresses = own_addresses
            return
        self.stop(assignment.task)
        probes = assignment.spec.probes
        now = self._clock()
        age_ms = max(0, now.utc_ms - started_utc_ms)
        watch = _Watch(
            assignment=assignment,
            incarnation=incarnation,
            address=address,
            own_addresses=own_addresses,
            results=list(known) if len(known) == len(probes) else [ProbeResult() for _ in probes],
            grace_ends_ms=[now.monotonic_ms + max(0, probe.grace_ms - age_ms) for probe in probes],
        )
        watch.loops = [
            asyncio.get_running_loop().create_task(self._loop(watch, index, probe))
            for index, probe in enumerate(probes)
        ]
        self._watches[assignment.task] = watch

    def stop(self, task: str) -> None:
        """No report of this task follows. Unknown tasks are ignored."""
        watch = self._watches.pop(task, None)
        for loop in watch.loops if watch else ():
            loop.cancel()
            self._ended.add(loop)
            loop.add_done_callback(self._ended.discard)

    async def close(self) -> None:
        """Stops all probes and closes what they have opened."""
        for task in list(self._watches):
            self.stop(task)
        await asyncio.gather(*self._ended, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    async def _loop(self, watch: _Watch, index: int, probe: Probe) -> None:
        await asyncio.sleep(first_delay_ms(probe) / 1000)
        while True:
            asked_ms = self._clock().monotonic_ms
            async with self._slots:
                seen = await self._ask(watch, probe)
            if seen is not None:
                self._count(watch, index, probe, seen)
            spent_ms = self._clock().monotonic_ms - asked_ms
            await asyncio.sleep(max(INTERVAL_MIN_MS, probe.interval_ms - spent_ms) / 1000)

    def _count(self, watch: _Watch, index: int, probe: Probe, seen: Observation) -> None:
        now, before = self._clock(), watch.results[index]
        after = observe(
            before,
            success=seen.success,
            cause=seen.cause,
            now_utc_ms=now.utc_ms,
            grace_over=now.monotonic_ms >= watch.grace_ends_ms[index],
        )
        watch.results[index] = after
        if worth_reporting(before, after, probe.report_after):
            self._report(watch.assignment.task, watch.incarnation, tuple(watch.results))

    async def _ask(self, watch: _Watch, probe: Probe) -> Observation | None:
        """None when nothing can be said of the task."""
        timeout_s = probe.timeout_ms / 1000
        try:
            if probe.kind is ProbeKind.COMMAND:
                return await self._command(watch, probe, timeout_s)
            port = _port_of(probe, watch.assignment.ports)
            if port is None:
                return Observation(False, f"the task has no port with index {probe.port_index or 0}")
            address = _address_of(probe, watch)
            if address is None:
                return Observation(False, "the task has no address of its own")
            if probe.kind is ProbeKind.TCP:
                return await _tcp(address, port, timeout_s)
            return await self._http(address, port, probe, timeout_s)
        except TimeoutError:
            return Observation(False, f"no answer within {timeout_s:g} s")
        except Exception:  # noqa: BLE001 - a bug in one probe must not end it for good
            _log.exception("a probe of task %s cannot be run", watch.assignment.task)
            return None

    async def _command(self, watch: _Watch, probe: Probe, timeout_s: float) -> Observation | None:
        try:
            code, output = await self._run_command(watch.assignment.task, probe.command, timeout_s)
        except (LookupError, ConnectionError) as error:
            _log.debug("a probe of task %s says nothing: %s", watch.assignment.task, error)
            return None
        return Observation(code == 0, " ".join(f"exit code {code}: {output}".split()).removesuffix(":"))

    async def _http(self, address: str, port: int, probe: Probe, timeout_s: float) -> Observation | None:
        import aiohttp  # not before there is something to ask
        import yarl

        if self._session is None:
            connector = aiohttp.TCPConnector(limit=PROBES_AT_ONCE_MAX, force_close=True, ssl=False)
            self._session = aiohttp.ClientSession(connector=connector)
        host = f"[{address}]" if ":" in address else address
        url = yarl.URL(f"{probe.kind}://{host}:{port}/{probe.path.removeprefix('/')}")
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.get(url, allow_redirects=False, timeout=timeout) as answer:
                if probe.ignore_1xx and 100 <= answer.status < 200:
                    return None
                return Observation(200 <= answer.status < 400, f"{answer.status} {answer.reason}")
        except aiohttp.ClientConnectorError as error:
            return _no_connection(address, port, error.os_error)
        except aiohttp.ClientError as error:
            return Observation(False, str(error) or type(error).__name__)


def _port_of(probe: Probe, ports: tuple[int, ...]) -> int | None:
    if probe.port is not None:
        return probe.port
    index = probe.port_index or 0
    return ports[index] if 0 <= index < len(ports) else None


def _address_of(probe: Probe, watch: _Watch) -> str | None:
    if not probe.own_address:
        return watch.address
    return next((one for one in watch.own_addresses if (":" in one) == probe.ipv6), None)


def _no_connection(address: str, port: int, error: OSError) -> Observation:
    """In the system's words (`Connection refused`), where asyncio and aiohttp have others of their own."""
    reason = str(error) if error.errno is None or isinstance(error, ssl.SSLError) else os.strerror(error.errno)
    return Observation(False, f"cannot connect to {address}:{port}: {reason}")


async def _tcp(address: str, port: int, timeout_s: float) -> Observation:
    try:
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address, port)
    except TimeoutError:
        raise
    except OSError as error:
        return _no_connection(address, port, error)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
    return Observation(True)
