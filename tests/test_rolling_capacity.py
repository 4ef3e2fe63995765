"""Rolling upgrades of real processes keep the promised capacity at every moment, whatever the strategy.

Each instance notes when it began to answer, when it stopped, and when it ended; from that the numbers of healthy and
of running instances are known for every moment, not for samples only. Notes alone could lie, so a prober asks all
instances over HTTP meanwhile, and no answer may contradict them. Orlop is not asked for any of it.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import math
import sys
import threading
import time
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import attrs
import pytest
from running import RunningOrlop, wait_until

pytestmark = pytest.mark.real

#: (instances, minimumHealthCapacity, maximumOverCapacity)
STRATEGIES: Final = (
    (3, 0.5, 0.0), (4, 0.5, 0.25), (3, 1.0, 0.34), (2, 0.0, 0.0), (5, 0.8, 0.2), (2, 1.0, 0.0), (3, 0.67, 0.0),
)  # fmt: skip

# It is slow to get ready and slow to go. Times are of the monotonic clock, which is the same for all processes; the
# start is when the process was made, which is before its first line runs. The kernel tells it in ticks of 10 ms,
# rounded down; the end of the tick is taken, since Orlop replaces an instance within less than one.
SERVER: Final = """
import os, signal, socket, sys, time
folder, release = sys.argv[1], os.environ["RELEASE"]
notes = os.open(f"{folder}/{os.getpid()}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(what, at=None):
    os.write(notes, f"{what} {time.monotonic_ns() if at is None else at}\\n".encode())
with open("/proc/self/stat") as stat:
    ticks = int(stat.read().rpartition(")")[2].split()[19])
os.write(notes, f"app {os.environ['MARATHON_APP_ID']} {os.environ['PORT0']} {release}\\n".encode())
note("made", min((ticks + 1) * 1_000_000_000 // os.sysconf("SC_CLK_TCK"), time.monotonic_ns()))
time.sleep(os.getpid() % 7 / 10)
listening = socket.socket()
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
def leave(*_):
    note("down")
    listening.close()
    time.sleep(os.getpid() % 5 / 10)
    note("gone")
    os._exit(0)
signal.signal(signal.SIGTERM, leave)
listening.bind(("127.0.0.1", int(os.environ["PORT0"])))
listening.listen(64)
note("up")
while True:
    connection, _ = listening.accept()
    with connection:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.0 200 OK\\r\\n\\r\\n" + release.encode())
"""


@attrs.frozen
class Instance:
    """What an instance has noted of itself. Times are monotonic, in nanoseconds; None is not yet."""

    app: str
    port: int
    release: str
    made_ns: int
    up_ns: int | None
    down_ns: int | None
    gone_ns: int | None


def read_notes(folder: Path) -> list[Instance]:
    """Of all instances that have noted their start."""
    found = []
    for file in folder.iterdir():
        rows = {words[0]: words[1:] for line in file.read_text().splitlines() if (words := line.split())}
        if "made" in rows:
            app, port, release = rows["app"]
            times = {name: int(rows[name][0]) if name in rows else None for name in ("up", "down", "gone")}
            found.append(
                Instance(app, int(port), release, int(rows["made"][0]), times["up"], times["down"], times["gone"])
            )
    return found


@attrs.frozen
class Answer:
    """What a prober saw of a port, sometime between two moments."""

    port: int
    began_ns: int
    ended_ns: int
    answered: bool


class Prober(threading.Thread):
    """Asks every instance that there ever was, over and over."""

    def __init__(self, folder: Path) -> None:
        super().__init__(daemon=True)
        self._folder = folder
        self._done = threading.Event()
        self.answers: list[Answer] = []

    def run(self) -> None:
        while not self._done.is_set():
            for instance in read_notes(self._folder):
                self._ask(instance.port)

    def _ask(self, port: int) -> None:
        began_ns = time.monotonic_ns()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
            try:
                connection.request("GET", "/")
                answered = connection.getresponse().status == 200
            except (OSError, http.client.HTTPException):
                answered = False
        self.answers.append(Answer(port, began_ns, time.monotonic_ns(), answered))

    def stop(self) -> list[Answer]:
        self._done.set()
        self.join(60)
        assert not self.is_alive()
        return self.answers


def contradicted(answers: Iterable[Answer], instances: list[Instance]) -> list[Answer]:
    """Answers that cannot be, if the notes are true. A port is of one instance after another."""

    def whole(answer: Answer, one: Instance) -> bool:
        down_ns = one.down_ns or answer.ended_ns + 1
        return one.up_ns is not None and one.up_ns <= answer.began_ns and answer.ended_ns < down_ns

    def at_all(answer: Answer, one: Instance) -> bool:
        gone_ns = one.gone_ns or answer.ended_ns
        return one.made_ns <= answer.ended_ns and answer.began_ns <= gone_ns

    wrong = []
    for answer in answers:
        owners = [one for one in instances if one.port == answer.port]
        refused_by_a_healthy_one = not answer.answered and any(whole(answer, one) for one in owners)
        given_by_nobody = answer.answered and not any(at_all(answer, one) for one in owners)
        if refused_by_a_healthy_one or given_by_nobody:
            wrong.append(answer)
    return wrong


def extremes(spans: Iterable[tuple[int | None, int | None]], begin_ns: int, end_ns: int) -> tuple[int, int]:
    """The lowest and the highest number of spans that overlap, at any moment from `begin_ns` to `end_ns`."""
    changes = []
    for first_ns, last_ns in spans:
        if first_ns is not None:
            changes += [(first_ns, 1), (last_ns if last_ns is not None else end_ns + 1, -1)]
    count, seen = 0, []
    changes.sort()
    for (at_ns, change), (next_ns, _) in itertools.pairwise([*changes, (end_ns + 1, 0)]):
        count += change
        if next_ns > begin_ns and at_ns <= end_ns and next_ns > at_ns:
            seen.append(count)
    return min(seen), max(seen)


def test_extremes_are_of_every_moment() -> None:
    spans = [(0, 10), (0, 20), (10, None), (15, 16), (None, None)]
    assert extremes(spans, 5, 30) == (1, 3)
    assert extremes(spans, 11, 14) == (2, 2)


def name_of(strategy: tuple[int, float, float]) -> str:
    return "-".join(str(value).replace(".", "") for value in strategy)


def definition(strategy: tuple[int, float, float], command: str, release: str) -> dict[str, Any]:
    instances, minimum, over = strategy
    check = {"protocol": "HTTP", "portIndex": 0, "intervalSeconds": 1, "gracePeriodSeconds": 120, "timeoutSeconds": 30}
    return {
        "id": name_of(strategy),
        "cmd": command,
        "env": {"RELEASE": release},
        "cpus": 0.01,
        "mem": 32,
        "instances": instances,
        "healthChecks": [check],
        "upgradeStrategy": {"minimumHealthCapacity": minimum, "maximumOverCapacity": over},
        "taskKillGracePeriodSeconds": 30,
    }


def promised(strategy: tuple[int, float, float]) -> tuple[int, int]:
    """Marathon's arithmetic: the fewest healthy and the most running instances; one more where there is no room."""
    instances, minimum, over = strategy
    least = math.ceil(instances * Fraction(str(minimum)))
    most = math.floor(instances * (1 + Fraction(str(over))))
    return least, most + (least == most)


@pytest.mark.parametrize("interrupted", [False, True], ids=["undisturbed", "killed-meanwhile"])
def test_upgrades_keep_the_promised_capacity(tmp_path: Path, interrupted: bool) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    script = tmp_path / "server.py"
    script.write_text(SERVER)
    command = f"exec {sys.executable} -S {script} {notes}"
    orlop = RunningOrlop(tmp_path)

    def put(release: str) -> None:
        apps = [definition(strategy, command, release) for strategy in STRATEGIES]
        orlop.call("PUT", "/v2/groups/roll", {"apps": apps})

    try:
        orlop.start()
        put("1")
        orlop.wait_deployed(120)
        prober = Prober(notes)
        prober.start()
        begin_ns = time.monotonic_ns()
        put("2")
        if interrupted:
            wait_until(lambda: any(one.release == "2" and one.up_ns for one in read_notes(notes)), "it is under way")
            orlop.kill()
            orlop.start()
        orlop.wait_deployed(240)
        wait_until(lambda: all(one.gone_ns for one in read_notes(notes) if one.release == "1"), "the old have gone")
        end_ns = time.monotonic_ns()
        answers = prober.stop()
    finally:
        orlop.close()

    instances = read_notes(notes)
    assert not contradicted(answers, instances)
    assert sum(answer.answered for answer in answers) > len(instances), "the prober had something to see"
    for strategy in STRATEGIES:
        mine = [one for one in instances if one.app == f"/roll/{name_of(strategy)}"]
        assert sum(one.release == "2" and one.up_ns is not None for one in mine) == strategy[0], mine
        least, most = promised(strategy)
        fewest_healthy, _ = extremes(((one.up_ns, one.down_ns) for one in mine), begin_ns, end_ns)
        _, most_running = extremes(((one.made_ns, one.gone_ns) for one in mine), begin_ns, end_ns)
        assert fewest_healthy >= least, (strategy, fewest_healthy, mine)
        assert most_running <= most, (strategy, most_running, mine)
