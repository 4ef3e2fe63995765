"""Health probes: the counter as a pure function, the runner against real servers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from orlop.agent.probes import (
    CAUSE_MAX_CHARACTERS,
    ProbeRunner,
    first_delay_ms,
    observe,
    worth_reporting,
)
from orlop.model.clock import Now
from orlop.model.messages import Assignment
from orlop.model.tasks import Desired, Probe, ProbeKind, ProbeResult, Spec

WITHIN_S = 30.0

observations = st.lists(st.tuples(st.booleans(), st.booleans()), max_size=30)


def count(seen: list[tuple[bool, bool]], report_after: int = 3) -> tuple[ProbeResult, list[ProbeResult]]:
    """The last result and what was reported; each observation is (success, grace over)."""
    result, reported = ProbeResult(), []
    for at, (success, grace_over) in enumerate(seen):
        after = observe(result, success=success, cause="c", now_utc_ms=at, grace_over=grace_over)
        if worth_reporting(result, after, report_after):
            reported.append(after)
        result = after
    return result, reported


@given(observations)
def test_the_result_agrees_with_the_history(seen: list[tuple[bool, bool]]) -> None:
    result, _ = count(seen)
    successes = [at for at, (success, _) in enumerate(seen) if success]
    counted = [
        at
        for at, (success, grace_over) in enumerate(seen)
        if not success and (grace_over or (successes and successes[0] < at))
    ]
    since_success = [at for at in counted if not successes or at > successes[-1]]
    assert result.first_success_utc_ms == (successes[0] if successes else None)
    assert result.last_success_utc_ms == (successes[-1] if successes else None)
    assert result.last_failure_utc_ms == (counted[-1] if counted else None)
    assert result.consecutive_failures == len(since_success)
    assert result.alive == (None if not successes and not counted else not since_success)


@given(observations, st.integers(0, 5))
def test_reports_are_few_and_enough(seen: list[tuple[bool, bool]], report_after: int) -> None:
    result, reported = count(seen, report_after)
    last = reported[-1] if reported else ProbeResult()
    assert last.alive == result.alive
    assert last.consecutive_failures == min(result.consecutive_failures, max(report_after, 1))
    for before, after in itertools.pairwise(reported):
        assert (before.alive, before.consecutive_failures) != (after.alive, after.consecutive_failures)


def test_a_cause_is_bounded() -> None:
    after = observe(ProbeResult(), success=False, cause="x" * 1000, now_utc_ms=1, grace_over=True)
    assert len(after.last_failure_cause) == CAUSE_MAX_CHARACTERS


@pytest.mark.parametrize(
    ("interval", "delay", "expected"), [(10_000, 0, 5_000), (2_000, 0, 2_000), (2_000, 15_000, 15_000)]
)
def test_the_first_delay(interval: int, delay: int, expected: int) -> None:
    assert first_delay_ms(Probe(kind=ProbeKind.TCP, interval_ms=interval, delay_ms=delay)) == expected


def clock() -> Now:
    return Now(time.time_ns() // 1_000_000, time.monotonic_ns() // 1_000_000)


@attrs.define
class Bench:
    """A runner, what it reported, and the answers of its commands."""

    reports: list[tuple[str, int, tuple[ProbeResult, ...]]] = attrs.field(factory=list)
    commands: list[tuple[str, str, float]] = attrs.field(factory=list)
    answers: list[tuple[int, str] | Exception] = attrs.field(factory=list)
    news: asyncio.Event = attrs.field(factory=asyncio.Event)
    runner: ProbeRunner = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.runner = ProbeRunner(self.hear, self.run_command, clock)

    def hear(self, task: str, incarnation: int, results: tuple[ProbeResult, ...]) -> None:
        self.reports.append((task, incarnation, results))
        self.news.set()

    async def run_command(self, task: str, command: str, timeout_s: float) -> tuple[int, str]:
        self.commands.append((task, command, timeout_s))
        self.news.set()
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def until(self, condition: Callable[[], Any]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():
                self.news.clear()
                await self.news.wait()

    async def first(self, *probes: Probe, ports: tuple[int, ...] = (), **options: Any) -> ProbeResult:
        """The first result that is reported of the first probe."""
        self.runner.start(assignment(*probes, ports=ports), 1, clock().utc_ms, **options)
        await self.until(lambda: self.reports)
        return self.reports[0][2][0]


@contextlib.asynccontextmanager
async def bench() -> AsyncIterator[Bench]:
    made = Bench()
    try:
        yield made
    finally:
        await made.runner.close()


def assignment(*probes: Probe, ports: tuple[int, ...] = (), task: str = "t") -> Assignment:
    spec = Spec(runtime="process", payload={}, probes=probes)
    return Assignment(task=task, framework="f", key="k", name="n", spec=spec, desired=Desired.RUNNING, ports=ports)


def probe(kind: ProbeKind, **options: Any) -> Probe:
    return Probe(kind=kind, **{"interval_ms": 100, "delay_ms": 1, "timeout_ms": 5_000, **options})


@contextlib.asynccontextmanager
async def server(answers: dict[str, int], tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """The port of a real HTTP server that answers each path with a status; 0 hangs."""

    async def answer(request: web.Request) -> web.Response:
        status = answers.get(request.path_qs, 404)
        if status == 0:
            await asyncio.Event().wait()
        headers = {"Location": "/nowhere"} if 300 <= status < 400 else {}
        return web.Response(status=status, headers=headers)

    application = web.Application()
    application.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(application, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


async def test_a_probe_of_the_tasks_own_address() -> None:
    async with server({"/": 200}) as port:
        inside = probe(ProbeKind.HTTP, port=port, own_address=True)
        nowhere = "127.9.9.9"  # nobody listens there
        async with bench() as made:
            seen = await made.first(inside, address=nowhere, own_addresses=("::1", "127.0.0.1"))
            assert seen.alive
        async with bench() as made:
            seen = await made.first(probe(ProbeKind.TCP, port=port), address=nowhere, own_addresses=("127.0.0.1",))
            assert not seen.alive
        async with bench() as made:
            sixth = attrs.evolve(inside, ipv6=True)
            seen = await made.first(sixth, own_addresses=("127.0.0.1",))
            assert (seen.alive, seen.last_failure_cause) == (False, "the task has no address of its own")
            made.runner.start(assignment(inside), 2, clock().utc_ms, own_addresses=())
            await made.until(lambda: any(two == 2 and not rows[0].alive for _, two, rows in made.reports))
            made.runner.start(assignment(inside), 2, clock().utc_ms, own_addresses=("127.0.0.1",))
            await made.until(lambda: any(two == 2 and rows[0].alive for _, two, rows in made.reports))


@pytest.mark.parametrize(
    ("status", "alive"), [(200, True), (204, True), (302, True), (399, True), (400, False), (503, False)]
)
async def test_http_status(status: int, alive: bool) -> None:
    async with server({"/health?a=b": status}) as port, bench() as made:
        result = await made.first(probe(ProbeKind.HTTP, path="/health?a=b", port_index=1), ports=(1, port))
        assert result.alive is alive
        assert result.consecutive_failures == (0 if alive else 1)
        assert alive or result.last_failure_cause.startswith(f"{status} ")


async def test_http_timeout_and_refusal() -> None:
    async with server({"/hangs": 0}) as port, bench() as made:
        result = await made.first(probe(ProbeKind.HTTP, path="/hangs", port=port, timeout_ms=200))
        assert (result.alive, result.last_failure_cause) == (False, "no answer within 0.2 s")
    for kind in (ProbeKind.HTTP, ProbeKind.TCP):
        async with bench() as made:
            result = await made.first(probe(kind, port=port))
            refused = f"cannot connect to 127.0.0.1:{port}: Connection refused"
            assert (result.alive, result.last_failure_cause) == (False, refused)


async def test_https_of_what_does_not_speak_it() -> None:
    async with server({"/": 200}) as port, bench() as made:
        result = await made.first(probe(ProbeKind.HTTPS, port=port))
        assert result.last_failure_cause.startswith(f"cannot connect to 127.0.0.1:{port}: [SSL: ")


async def test_a_probe_without_its_port_says_so() -> None:
    async with bench() as made:
        result = await made.first(probe(ProbeKind.TCP, port_index=2), ports=(1,))
        assert result.last_failure_cause == "the task has no port with index 2"


async def test_https_with_a_certificate_of_its_own(tmp_path: Path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=elsewhere", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(certificate)]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    async with server({"/": 200}, context) as port, bench() as made:
        assert (await made.first(probe(ProbeKind.HTTPS, port=port))).alive is True


@pytest.mark.parametrize("ignored", [False, True])
async def test_http_1xx(ignored: bool) -> None:
    answered = asyncio.Event()
    asked = 0

    async def switch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        asked += 1
        await reader.readuntil(b"\r\n\r\n")
        status = b"101 Switching Protocols" if asked < 3 else b"200 OK"
        writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n")
        writer.close()
        answered.set()

    async with await asyncio.start_server(switch, "127.0.0.1", 0) as listening, bench() as made:
        port = listening.sockets[0].getsockname()[1]
        result = await made.first(probe(ProbeKind.HTTP, port=port, ignore_1xx=ignored))
        assert result.alive is ignored
        assert asked == (3 if ignored else 1)


async def test_tcp() -> None:
    async def accept(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as listening, bench() as made:
        port = listening.sockets[0].getsockname()[1]
        assert (await made.first(probe(ProbeKind.TCP), ports=(port,), address="127.0.0.1")).alive is True


async def test_commands_are_counted_and_reported_up_to_the_limit() -> None:
    async with bench() as made:
        made.answers = [(0, ""), (0, ""), (1, "not\nwell"), (1, ""), TimeoutError(), (1, ""), (1, ""), (0, "")]
        made.runner.start(assignment(probe(ProbeKind.COMMAND, command="check", report_after=2)), 7, clock().utc_ms)
        await made.until(lambda: len(made.commands) > 8)
        assert {(task, incarnation) for task, incarnation, _ in made.reports} == {("t", 7)}
        results = [results[0] for _, _, results in made.reports]
        assert [(each.alive, each.consecutive_failures) for each in results] == [
            (True, 0), (False, 1), (False, 2), (True, 0)
        ]  # fmt: skip
        assert results[1].last_failure_cause == "exit code 1: not well"
        assert made.commands[0] == ("t", "check", 5.0)


async def test_what_says_nothing_of_the_task_is_not_counted() -> None:
    async with bench() as made:
        made.answers = [LookupError("no such task"), ConnectionError("engine away"), (1, ""), (0, "")]
        await made.first(probe(ProbeKind.COMMAND, command="check"))
        assert made.reports[0][2][0].consecutive_failures == 1
        assert len(made.commands) == 3


async def test_grace_is_counted_from_the_start_of_the_task() -> None:
    young, old = clock().utc_ms, clock().utc_ms - 60_000
    async with bench() as made:
        made.answers = [(1, "")]
        one = probe(ProbeKind.COMMAND, command="check", grace_ms=30_000)
        made.runner.start(assignment(one, task="young"), 1, young)
        await made.until(lambda: len(made.commands) >= 3)
        assert made.reports == []
        made.runner.start(assignment(one, task="old"), 1, old)
        await made.until(lambda: made.reports)
        assert made.reports[0][0] == "old"


async def test_known_results_are_counted_on_and_a_new_incarnation_starts_afresh() -> None:
    known = ProbeResult(alive=False, consecutive_failures=1, last_failure_utc_ms=1)
    async with bench() as made:
        made.answers = [(1, "")]
        one = assignment(probe(ProbeKind.COMMAND, command="check", report_after=2))
        made.runner.start(one, 1, 0, known=(known,))
        await made.until(lambda: made.reports)
        assert made.reports[0][2][0].consecutive_failures == 2
        made.reports.clear()
        made.runner.start(one, 1, 0)
        made.runner.start(one, 2, 0)
        await made.until(lambda: made.reports)
        assert made.reports[0][1:] == (2, (attrs.evolve(made.reports[0][2][0], consecutive_failures=1),))


async def test_nothing_is_reported_after_stop_and_one_probe_waits_for_itself() -> None:
    async with bench() as made:
        release = asyncio.Event()
        running = 0

        async def slow(_task: str, _command: str, _timeout_s: float) -> tuple[int, str]:
            nonlocal running
            running += 1
            made.news.set()
            await release.wait()
            return 1, ""

        runner = ProbeRunner(made.hear, slow, clock)
        runner.start(assignment(probe(ProbeKind.COMMAND, command="check")), 1, 0)
        await made.until(lambda: running)
        await asyncio.sleep(0.3)  # three intervals
        assert running == 1
        runner.stop("t")
        release.set()
        await runner.close()
        assert made.reports == []
