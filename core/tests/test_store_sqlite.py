"""The SQLite store's own promises: what survives a crash, a full disk, an I/O error, and who may open the file."""

import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from stored import value_of, values_put

from orlop.store import sqlite_file
from orlop.store.interface import Change, Compacted, Delete, Entry, OutcomeUnknown, Put, StoreError, StoreRefused
from orlop.store.sqlite import COMPACTED_AT_ONCE, SqliteStore

DEADLINE_S = 60.0
DISK_BYTES = 4 * 1024 * 1024


def put(store: SqliteStore, key: str, value: bytes = b"", lease: int = 0) -> int:
    return store.transact([Put(key, value, lease)]).revision


def revision_of(store: SqliteStore) -> int:
    return store.range("", limit=1).revision


def put_until_refused(store: SqliteStore, key: str, number: int, value_bytes: int) -> tuple[int, StoreRefused]:
    """Puts number + 1, number + 2, ...; the last that was taken, and why the next was not."""
    try:
        while True:
            put(store, key, b"%d" % (number + 1) + bytes(value_bytes))
            number += 1
    except StoreRefused as refusal:
        return number, refusal


def rows(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]


@contextmanager
def program(text: str, *arguments: object) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program with pipes, killed at the end."""
    command = [sys.executable, "-c", text, *map(str, arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(SqliteStore(tmp_path / "store.db")) as opened:
        yield opened


class TestCrash:
    WRITER = """
import itertools, os, sys
from orlop.store.interface import Delete, Put
from orlop.store.sqlite import SqliteStore

store = SqliteStore(sys.argv[1])
for number in itertools.count(int(sys.argv[2])):
    value = b"%d" % number + bytes(500)
    writes = [Put(f"key/{n}", value) for n in range(20)] + [Put(f"mark/{number}", b""), Delete(f"mark/{number - 1}")]
    revision = store.transact(writes).revision
    os.write(1, b"%d %d\\n" % (number, revision))
    if number % 50 == 49:
        store.compact(revision - 10)
"""

    def test_what_was_acknowledged_survives_kill_9(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        chance = random.Random(20)
        number = 0
        for _ in range(10):
            with program(self.WRITER, path, number + 1) as writer:
                assert writer.stdout is not None
                lines = [writer.stdout.readline() for _ in range(chance.randrange(1, 80))]
                time.sleep(chance.random() / 300)  # anywhere within a commit
                writer.send_signal(signal.SIGKILL)
                lines += writer.stdout.readlines()
            acknowledged, revision = map(int, lines[-1].split())
            number = self.check_whole(path, acknowledged, revision)

    def check_whole(self, path: Path, acknowledged: int, revision: int) -> int:
        """The number of the last transaction that is there, all of it."""
        with closing(SqliteStore(path)) as store:
            entries = store.range("key/").entries
            numbers = {int(entry.value.rstrip(b"\0")) for entry in entries}
            assert len(entries) == 20
            assert len(numbers) == 1
            number = numbers.pop()
            assert number - acknowledged in (0, 1)  # one more may have been cut off between its commit and its answer
            assert revision_of(store) == revision + number - acknowledged
            assert [entry.key for entry in store.range("mark/").entries] == [f"mark/{number}"]
            assert [entry.key for entry in store.range("mark/", revision=revision).entries] == [f"mark/{acknowledged}"]
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return number

    def test_each_commit_is_synced(self, store: SqliteStore) -> None:
        assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL


class TestReopening:
    def test_everything_but_leases_is_there_again(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        with closing(SqliteStore(path)) as store:
            first = put(store, "a", b"1")
            second = put(store, "a", b"2")
            put(store, "b", b"3")
            third = store.transact([Delete("b")]).revision
            store.compact(second)
        with closing(SqliteStore(path)) as store:
            assert revision_of(store) == third
            assert store.range("").entries == (Entry("a", b"2", first, second, 2),)
            assert [entry.key for entry in store.range("", revision=third - 1).entries] == ["a", "b"]
            with pytest.raises(Compacted):
                store.get("a", revision=first)
            watch = store.watch("", after_revision=third - 1)
            assert watch.next(0) == (Change("b", None, third),)
            assert put(store, "c") == third + 1

    def test_leases_end_with_their_process(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        with closing(SqliteStore(path)) as store:
            lease = store.lease(3600)
            put(store, "kept")
            before = put(store, "held", b"", lease.id)
        with closing(SqliteStore(path)) as store:
            assert [entry.key for entry in store.range("").entries] == ["kept"]
            assert revision_of(store) == before + 1
            with pytest.raises(StoreRefused):
                put(store, "held", b"", lease.id)

    def test_it_is_for_its_owner_only(self, tmp_path: Path, store: SqliteStore) -> None:
        put(store, "a")
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == dict.fromkeys(["store.db", "store.db-wal", "store.db-shm", "store.db.lock"], 0o600)


class TestOpening:
    HOLDER = """
import sys
from orlop.store.sqlite import SqliteStore
store = SqliteStore(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""

    def test_only_one_process_at_a_time(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        with program(self.HOLDER, path) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"open\n"
            with pytest.raises(StoreError, match=rf"in use by process {holder.pid}\b"):
                SqliteStore(path)
            holder.kill()
            holder.wait(DEADLINE_S)
            SqliteStore(path).close()

    def test_not_twice_in_one_process_either(self, tmp_path: Path, store: SqliteStore) -> None:
        with pytest.raises(StoreError, match=rf"in use by process {os.getpid()}\b"):
            SqliteStore(tmp_path / "store.db")

    def test_a_newer_schema_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "store.db"
        SqliteStore(path).close()
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 7")
        content = path.read_bytes()
        for _ in range(2):  # the first refusal has let go of the lock
            with pytest.raises(StoreError, match=rf"version 7.*up to {sqlite_file.SCHEMA_VERSION}: upgrade"):
                SqliteStore(path)
        assert path.read_bytes() == content

    def test_something_else_is_refused_and_left_alone(self, tmp_path: Path) -> None:
        text, foreign = tmp_path / "text", tmp_path / "foreign.db"
        text.write_text("a text, and long enough for SQLite to look at it" * 100)
        with closing(sqlite3.connect(foreign)) as connection:
            connection.execute("CREATE TABLE songs (title TEXT)")
        for path, why in ((text, "not a database"), (foreign, "something else")):
            content = path.read_bytes()
            with pytest.raises(StoreError, match=why):
                SqliteStore(path)
            assert path.read_bytes() == content

    def test_where_no_file_can_be(self, tmp_path: Path) -> None:
        (tmp_path / "folder").mkdir()
        for path in (tmp_path / "missing" / "store.db", tmp_path / "folder"):
            with pytest.raises(StoreError, match=str(path)):
                SqliteStore(path)


class TestConcurrency:
    def test_a_commit_does_not_wait_for_a_listing_which_does_not_see_it(self, store: SqliteStore) -> None:
        before = put(store, "a")

        def read(reader: sqlite3.Connection) -> tuple[int, int]:
            seen = reader.execute("SELECT revision FROM position").fetchone()[0]
            put(store, "b")
            return seen, reader.execute("SELECT count(*) FROM latest").fetchone()[0]

        assert store._read(read) == (before, 1)
        assert revision_of(store) == before + 1


class TestCompaction:
    def test_it_removes_what_cannot_be_seen_however_much(self, tmp_path: Path, store: SqliteStore) -> None:
        path = tmp_path / "store.db"
        count = COMPACTED_AT_ONCE + 1
        keys = [f"{number:05}" for number in range(count)]
        store.transact([Put(key, b"1") for key in keys])
        second = store.transact([Put(key, b"2") for key in keys]).revision
        third = store.transact([Delete(keys[0])]).revision
        assert rows(path, "history") == 2 * count + 1
        store.compact(second)
        assert rows(path, "history") == count + 1
        store.compact(third)
        assert rows(path, "history") == count - 1
        assert rows(path, "garbage") == 0
        assert len(store.range("", revision=third).entries) == count - 1

    def test_what_one_left_over_the_next_removes(
        self, tmp_path: Path, store: SqliteStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        put(store, "a", b"1")
        second = put(store, "a", b"2")
        third = put(store, "a", b"3")

        def fail(revision: int) -> int:
            raise StoreRefused("no space")

        with monkeypatch.context() as patch:
            patch.setattr(store, "_remove_garbage", fail)
            store.compact(second)
        assert "no space" in caplog.text
        assert rows(tmp_path / "store.db", "history") == 3
        store.compact(third)
        assert rows(tmp_path / "store.db", "history") == 1


class Disk:
    """A small disk of its own, of which some is taken by a file that can go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as file:
            for size in (4096, 1):
                try:
                    while True:
                        file.write(bytes(size))
                except OSError:
                    pass

    def free(self) -> None:
        self._ballast.unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "orlop-test", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
    if mounted.returncode:
        pytest.skip(f"needs the right to mount a small tmpfs: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", str(folder)], check=True)


class TestFullDisk:
    @pytest.mark.parametrize("value_bytes", [10, 500, 100_000])
    def test_it_refuses_reads_on_and_recovers_by_itself(self, disk: Disk, value_bytes: int) -> None:
        path = disk.folder / "store.db"
        number = 0
        with closing(SqliteStore(path)) as store:
            put(store, "a", b"0")
            for _ in range(5):
                disk.fill()
                number, refusal = put_until_refused(store, "a", number, value_bytes)
                assert "full" in str(refusal)
                revision = revision_of(store)
                assert int(value_of(store, "a").rstrip(b"\0")) == number
                assert revision == number + 2
                disk.free()
                number += 1
                assert put(store, "a", b"%d" % number) == revision + 1
                store.compact(revision)
        with closing(SqliteStore(path)) as store:
            assert value_of(store, "a") == b"%d" % number
            assert revision_of(store) == number + 2

    def test_leases_end_late(self, disk: Disk) -> None:
        now = [0.0]
        with closing(SqliteStore(disk.folder / "store.db", clock=lambda: now[0])) as store:
            lease = store.lease(5)
            put(store, "held", b"", lease.id)
            disk.fill()
            put_until_refused(store, "other", 0, 500)
            now[0] = 6.0
            assert store.get("held") is not None
            with pytest.raises(StoreError, match="full"):
                lease.keep_alive()
            with pytest.raises(StoreRefused, match="full"):
                put(store, "other")
            watch = store.watch("held", after_revision=revision_of(store))
            disk.free()
            assert [change.entry for change in watch.next(DEADLINE_S)] == [None]
            assert store.get("held") is None
            assert not lease.keep_alive()


class FailingCommit:
    """A connection whose next COMMIT ends in an I/O error, before or after it was done; `broken`: nothing works."""

    def __init__(self, connection: sqlite3.Connection, *, applied: bool) -> None:
        self._connection = connection
        self._applied = applied
        self._armed = True
        self.broken = False

    def execute(self, statement: str, *parameters):
        if self.broken:
            raise self._error()
        if statement == "COMMIT" and self._armed:
            self._armed = False
            self.broken = True
            if self._applied:
                self._connection.execute(statement)
            raise self._error()
        return self._connection.execute(statement, *parameters)

    @staticmethod
    def _error() -> sqlite3.OperationalError:
        error = sqlite3.OperationalError("disk I/O error")
        error.sqlite_errorcode, error.sqlite_errorname = sqlite3.SQLITE_IOERR_FSYNC, "SQLITE_IOERR_FSYNC"
        return error

    def __getattr__(self, name: str):
        return getattr(self._connection, name)


class TestInputOutputError:
    @pytest.mark.parametrize("applied", [True, False])
    def test_an_unknown_outcome_is_settled_before_anything_else_is_answered(
        self, store: SqliteStore, applied: bool
    ) -> None:
        before = put(store, "a", b"1")
        watch = store.watch("", after_revision=before)
        failing = FailingCommit(store._writer, applied=applied)
        store._writer = failing  # type: ignore[assignment]  # it stands for a connection
        with pytest.raises(OutcomeUnknown, match="IOERR_FSYNC"):
            put(store, "a", b"2")
        with pytest.raises(StoreError, match="outcome is unknown"):
            store.get("a")
        with pytest.raises(StoreError, match="outcome is unknown"):
            watch.next(0)
        with pytest.raises(StoreRefused, match="outcome is unknown"):
            put(store, "a", b"3")
        failing.broken = False
        assert value_of(store, "a") == (b"2" if applied else b"1")
        assert revision_of(store) == before + applied
        assert values_put(watch.next(0)) == ([b"2"] if applied else [])
        assert put(store, "a", b"4") == before + applied + 1

    LIMITED = """
import resource, sys
from orlop.store.interface import OutcomeUnknown, Put
from orlop.store.sqlite import SqliteStore

store = SqliteStore(sys.argv[1])
before = store.transact([Put("a", b"1")]).revision
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
try:
    store.transact([Put("a", bytes(200_000))])
except OutcomeUnknown as error:
    print(error)
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
assert store.get("a").value == b"1"
assert store.transact([Put("a", b"2")]).revision == before + 1
store.close()
"""

    def test_a_write_error_of_the_system(self, tmp_path: Path) -> None:
        """The kernel refuses to let the log grow: SQLite reports an I/O error, as for a broken disk."""
        path = tmp_path / "store.db"
        with program(self.LIMITED, path) as limited:
            output, _ = limited.communicate(timeout=DEADLINE_S)
        assert limited.returncode == 0
        assert b"SQLITE_IOERR_WRITE" in output
        with closing(SqliteStore(path)) as store:
            assert value_of(store, "a") == b"2"
