"""The etcd store on a real etcd: what the conformance suite does not ask of every store."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import grpc
import pytest
from etcd_members import EtcdCluster, EtcdFactory, Tls
from ports import free_port
from running import wait_until
from stored import value_of, values_put

from orlop.store.etcd import LIMITS, PAGE_KEYS, EtcdStore
from orlop.store.etcd_address import StoreAccess, parse_address
from orlop.store.etcd_errors import Cure, judge
from orlop.store.interface import (
    Change,
    Compacted,
    Compare,
    Delete,
    Field,
    Limits,
    Put,
    StoreError,
    StoreRefused,
    Watch,
)

DEADLINE_S = 20.0
TIMEOUT_S = 3.0
#: What a call may take: its search for a member, an attempt of its own, and a busy machine.
BOUND_S = 2 * TIMEOUT_S + 3

ACCESS = StoreAccess(timeout_s=TIMEOUT_S)
Opener = Callable[..., EtcdStore]


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens stores that are closed with the test: of a cluster or a URL, with settings beside it."""
    stores: list[EtcdStore] = []

    def open_one(at: EtcdCluster | str, prefix: str = "", **settings: Any) -> EtcdStore:
        url = at if isinstance(at, str) else at.url(prefix or f"test-{time.monotonic_ns()}")
        stores.append(EtcdStore(parse_address(url, attrs.evolve(ACCESS, **settings))))
        return stores[-1]

    yield open_one
    for store in stores:
        store.close()


def put(store: EtcdStore, key: str, value: bytes = b"") -> int:
    return store.transact([Put(key, value)]).revision


def seen_by(watch: Watch, count: int) -> list[Change]:
    """The next changes, that many."""
    found: list[Change] = []
    deadline = time.monotonic() + DEADLINE_S
    while len(found) < count and time.monotonic() < deadline:
        found += watch.next(1)
    return found


class TestPrefix:
    def test_clusters_on_one_etcd_do_not_see_one_another(self, etcd: EtcdCluster, opened: Opener) -> None:
        blue, bluer = opened(etcd, "blue"), opened(etcd, "blue2")
        start = bluer.range("").revision
        watch = bluer.watch("", after_revision=start)
        put(blue, "a", b"blue")
        put(bluer, "a", b"bluer")
        assert (value_of(blue, "a"), value_of(bluer, "a")) == (b"blue", b"bluer")
        assert [entry.key for entry in blue.range("").entries] == ["a"]
        assert values_put(seen_by(watch, 1)) == [b"bluer"]
        assert watch.next(0) == ()

    def test_the_default_is_the_clusters_name(self, etcd: EtcdCluster, opened: Opener) -> None:
        put(opened(etcd.url(), cluster="red"), "a", b"1")
        assert value_of(opened(etcd, "orlop/red"), "a") == b"1"

    def test_what_another_program_has_put_there_is_an_error_that_names_it(
        self, etcd: EtcdCluster, opened: Opener
    ) -> None:
        store = opened(etcd, "foreign")
        other = opened(etcd, "foreign2")
        watch = store.watch("", after_revision=store.range("").revision)
        other._keys = attrs.evolve(other._keys, root=b"/foreign/\xff")
        put(other, "key")
        with pytest.raises(StoreError, match="is no text"):
            store.range("")
        with pytest.raises(StoreError, match="failed"):
            watch.next(DEADLINE_S)


class TestSizes:
    def test_as_large_as_the_limits_allow(self, etcd: EtcdCluster, opened: Opener) -> None:
        """With the longest prefix, and all operations used: etcd's own limit is not reached."""
        store = opened(etcd, "p" * 126)
        keys = [f"{number:04}" for number in range(LIMITS.operations)]
        size = (LIMITS.bytes - 2 * 4 * len(keys)) // len(keys)
        writes = [Put(key, bytes(size)) for key in keys]
        compares = [Compare(key, Field.VERSION, 0) for key in keys]
        assert store.transact(writes, compares).applied
        assert {len(entry.value) for entry in store.range("").entries} == {size}

    def test_one_value_as_large_as_the_limits_allow(self, etcd: EtcdCluster, opened: Opener) -> None:
        store = opened(etcd)
        value = bytes(LIMITS.bytes - 1)
        put(store, "a", value)
        assert value_of(store, "a") == value
        assert not store.transact([], [Compare("a", Field.VALUE, value[1:])]).applied

    def test_what_etcd_itself_finds_too_large_is_refused(self, etcd: EtcdCluster, opened: Opener) -> None:
        store = opened(etcd)
        store.limits = Limits(operations=1000, bytes=2**30)
        before = put(store, "a")
        for writes in (
            [Put("b", bytes(1_600_000))],  # refused by etcd
            [Put("b", bytes(4_000_000))],  # by its gRPC
            [Put(f"{number}", b"") for number in range(129)],
        ):
            with pytest.raises(StoreRefused):
                store.transact(writes)
        assert put(store, "a") == before + 1

    def test_listings_and_watches_of_many_megabytes(self, etcd: EtcdCluster, opened: Opener) -> None:
        """More than gRPC's usual 4 MiB in all, and more than etcd's 1.5 MiB in one piece of a watch."""
        store = opened(etcd)
        start = store.range("").revision
        for batch in range(8):
            store.transact([Put(f"{batch}/{number}", bytes([batch]) * 140_000) for number in range(10)])
        assert sum(len(entry.value) for entry in store.range("").entries) == 8 * 10 * 140_000
        watch = store.watch("", after_revision=start)
        for batch in range(8):
            changes = watch.next(DEADLINE_S)
            assert [change.key for change in changes] == [f"{batch}/{number}" for number in range(10)]
            assert set(values_put(changes)) == {bytes([batch]) * 140_000}

    def test_a_listing_of_several_pages_is_of_one_revision(self, etcd: EtcdCluster, opened: Opener) -> None:
        store = opened(etcd)
        count = PAGE_KEYS + 300
        for first in range(0, count, 128):
            store.transact([Put(f"{number:06}", b"old") for number in range(first, min(first + 128, count))])
        done = threading.Event()

        def rewrite() -> None:
            while not done.is_set():
                store.transact([Put("000000", b"new"), Put(f"{count - 1:06}", b"new")])
                store.transact([Put("000000", b"old"), Put(f"{count - 1:06}", b"old")])

        writer = threading.Thread(target=rewrite)
        writer.start()
        try:
            for _ in range(5):
                entries = store.range("").entries
                assert len(entries) == count
                assert entries[0].value == entries[-1].value
            assert len(store.range("", limit=PAGE_KEYS + 1).entries) == PAGE_KEYS + 1
            assert store.range("", limit=PAGE_KEYS + 1).more
        finally:
            done.set()
            writer.join(DEADLINE_S)


class TestCompaction:
    def test_a_deletion_at_the_compacted_revision_is_not_missed_in_silence(
        self, etcd: EtcdCluster, opened: Opener
    ) -> None:
        """etcd itself would serve this watch, without the deletion."""
        writing, watching = opened(etcd, "tombstones"), opened(etcd, "tombstones")
        before = put(writing, "a")
        deleted = writing.transact([Delete("a")]).revision
        put(writing, "b")
        writing.maintenance.compact(deleted)
        watch = watching.watch("", after_revision=before)
        with pytest.raises(Compacted) as gone:
            watch.next(DEADLINE_S)
        assert gone.value.oldest == deleted

    def test_by_another_program(self, etcd: EtcdCluster, opened: Opener) -> None:
        store = opened(etcd)
        first = put(store, "a")
        second = put(store, "a")
        etcd.ctl("compaction", str(second))
        with pytest.raises(Compacted) as gone:
            store.get("a", revision=first)
        assert (gone.value.revision, gone.value.oldest) == (first, second)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    return Tls(tmp_path_factory.mktemp("certificates"), require_client=True)


@pytest.fixture(scope="module")
def secured(etcds: EtcdFactory, tls: Tls) -> EtcdCluster:
    return etcds.cluster(tls=tls)


class TestTls:
    def test_with_a_clients_certificate(self, secured: EtcdCluster, tls: Tls, opened: Opener) -> None:
        files = {"ca_file": str(tls.ca_file), "cert_file": str(tls.cert_file), "key_file": str(tls.key_file)}
        store = opened(secured.url(), **files)
        put(store, "a", b"1")
        assert value_of(store, "a") == b"1"
        assert value_of(opened(secured.url(**files)), "a") == b"1"

    def test_whoever_has_none_is_not_served_and_told_so_in_time(
        self, secured: EtcdCluster, tls: Tls, opened: Opener, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.mkdir()
        stranger = Tls(other)
        files = {"cert_file": str(tls.cert_file), "key_file": str(tls.key_file)}
        for store in (
            opened(secured.url(), ca_file=str(tls.ca_file)),
            opened(secured.url(), ca_file=str(stranger.ca_file), **files),
            opened(secured.url().replace("etcds:", "etcd:")),
        ):
            began = time.monotonic()
            with pytest.raises(StoreError, match=secured.members[0].endpoint):
                store.get("a")
            with pytest.raises(StoreRefused):
                store.transact([Put("a", b"")])
            assert time.monotonic() - began < 2 * BOUND_S


@pytest.fixture(scope="module")
def guarded(etcds: EtcdFactory) -> EtcdCluster:
    """Its tokens are forgotten after 1 second."""
    cluster = etcds.cluster(1, "--auth-token-ttl", "1")
    for command in (
        "user add root:secret",
        "user add captain:ahoy",
        "role add ship",
        "role grant-permission ship readwrite /ship/ --prefix",
        "user grant-role captain ship",
        "auth enable",
    ):
        cluster.ctl(*command.split())
    return cluster


@pytest.fixture
def captain(guarded: EtcdCluster, opened: Opener) -> EtcdStore:
    return opened(guarded.url("ship"), user="captain", password="ahoy")


class TestAuthentication:
    def test_tokens_are_renewed(self, guarded: EtcdCluster, opened: Opener) -> None:
        stores = [opened(guarded.url("ship"), user="captain", password="ahoy") for _ in range(4)]
        reader, writer, watcher, leaser = stores
        lease = leaser.lease(60)
        revision = put(reader, "a")
        watch = writer.watch("", after_revision=revision)
        tokens = [token_of(store) for store in stores]
        wait_until(lambda: all(is_forgotten(reader, token) for token in tokens), "tokens to be forgotten", DEADLINE_S)
        assert reader.get("a") is not None
        assert writer.transact([Put("a", b"2")]).revision == revision + 1
        assert [change.revision for change in seen_by(watcher.watch("", after_revision=revision), 1)] == [revision + 1]
        assert [change.revision for change in seen_by(watch, 1)] == [revision + 1]
        assert lease.keep_alive()
        assert not set(map(token_of, stores[:3])) & set(tokens)

    def test_a_restarted_member_has_forgotten_them(self, guarded: EtcdCluster, captain: EtcdStore) -> None:
        put(captain, "a", b"1")
        watch = captain.watch("", after_revision=captain.range("").revision)
        guarded.members[0].kill()
        guarded.members[0].start()
        revision = put(captain, "a", b"2")
        assert [change.revision for change in seen_by(watch, 1)] == [revision]

    def test_who_may_not(self, guarded: EtcdCluster, opened: Opener) -> None:
        for store, why in (
            (opened(guarded.url("ship")), "asks for a user"),
            (opened(guarded.url("ship"), user="captain", password="wrong"), "does not know this user and password"),
            (opened(guarded.url("elsewhere"), user="captain", password="ahoy"), "has no permission"),
        ):
            with pytest.raises(StoreError, match=why):
                store.get("a")
            with pytest.raises(StoreRefused, match=why):
                store.transact([Put("a", b"")])

    def test_a_watch_that_may_not_says_so(self, guarded: EtcdCluster, opened: Opener) -> None:
        watch = opened(guarded.url("elsewhere"), user="captain", password="ahoy").watch("", after_revision=1)
        with pytest.raises(StoreError, match="permission"):
            seen_by(watch, 1)

    def test_maintenance_needs_root(self, guarded: EtcdCluster, captain: EtcdStore, opened: Opener) -> None:
        assert not captain.maintenance.status()[0].error
        with pytest.raises(StoreError, match="needs the role root"):
            list(captain.maintenance.defragment())
        root = opened(guarded.url("ship"), user="root", password="secret")
        assert [status.endpoint for status in root.maintenance.defragment()] == [guarded.members[0].endpoint]

    def test_a_user_for_an_etcd_that_asks_for_none(self, etcd: EtcdCluster, opened: Opener) -> None:
        store = opened(etcd, user="captain", password="ahoy")
        put(store, "a", b"1")
        assert value_of(store, "a") == b"1"


def token_of(store: EtcdStore) -> str:
    store.range("", limit=1)
    return store.members.all[0]._token


def is_forgotten(store: EtcdStore, token: str) -> bool:
    """Whether etcd knows the token no more. To be asked prolongs its life, so it is left alone before."""
    time.sleep(1.5)
    stub = store.members.all[0]._client.kvstub
    try:
        stub.Range(store._look(), timeout=DEADLINE_S, metadata=(("token", token),))
    except grpc.RpcError as error:
        return judge(error).cure is Cure.AUTHENTICATE
    return False


class TestSpace:
    def test_full_refused_made_room_and_on_it_goes(self, etcds: EtcdFactory, opened: Opener) -> None:
        etcd = etcds.cluster(1, "--quota-backend-bytes", str(4 * 1024 * 1024))
        store = opened(etcd)
        lease = store.lease(60)
        held = store.transact([Put("held", b"", lease.id)]).revision
        watch = store.watch("", after_revision=held)
        written: list[int] = []

        def fill() -> None:
            for number in range(100):
                put(store, "big", bytes([number]) * 500_000)
                written.append(number)

        with pytest.raises(StoreRefused, match="etcd is full"):
            fill()
        assert value_of(store, "big") == bytes([written[-1]]) * 500_000
        assert [value[0] for value in values_put(seen_by(watch, len(written)))] == written
        assert [alarm.kind for alarm in store.maintenance.alarms()] == ["NOSPACE"]
        assert "NOSPACE" in " ".join(store.maintenance.status()[0].problems)

        assert lease.keep_alive()
        with pytest.raises(StoreRefused):
            store.lease(60)
        assert store.transact([Delete("big")]).applied

        now = store.range("").revision
        store.maintenance.compact(now)
        store.maintenance.compact(now)
        before = store.maintenance.status()[0]
        (after,) = store.maintenance.defragment()
        assert after.size_bytes < before.size_bytes
        assert store.maintenance.disarm() == 1
        assert store.maintenance.alarms() == ()
        assert put(store, "big", b"again") == now + 1


class TestMaintenance:
    def test_status_tells_of_members_that_cannot_be_asked(self, etcd: EtcdCluster, opened: Opener) -> None:
        absent = f"127.0.0.1:{free_port()}"
        store = opened(f"{etcd.url()[:-1]},{absent}/p")
        here, gone = store.maintenance.status()
        assert (here.endpoint, here.error, here.leads) == (etcd.members[0].endpoint, "", True)
        assert here.version.startswith("3.")
        assert here.size_bytes >= here.used_bytes > 0
        assert (gone.endpoint, "refused" in gone.error) == (absent, True)
        (known,) = store.maintenance.members()
        assert (known.id, known.name) == (here.id, etcd.members[0].name)
        with pytest.raises(StoreError, match=absent):
            list(store.maintenance.defragment())

    def test_members_of_different_etcds_are_not_mixed(
        self, etcd: EtcdCluster, etcds: EtcdFactory, opened: Opener
    ) -> None:
        other = etcds.cluster()
        mixed = opened(f"{etcd.url()[:-1]},{other.members[0].endpoint}/mixed")
        put(mixed, "a", b"1")
        used = mixed.members.current
        stranger = next(member for member in mixed.members.all if member is not used)
        mixed.members.leave(used)
        assert value_of(mixed, "a") == b"1"
        assert mixed.members.current is used
        errors = {status.endpoint: status.error for status in mixed.maintenance.status()}
        assert "another etcd" in errors[stranger.name]


class TestClosing:
    def test_no_thread_is_left(self, etcd: EtcdCluster) -> None:
        store = EtcdStore(parse_address(etcd.url("threads"), ACCESS))
        put(store, "a")
        store.close()  # what gRPC starts once for the process is started now
        before = set(threading.enumerate())
        for _ in range(3):
            store = EtcdStore(parse_address(etcd.url("threads"), ACCESS))
            revision = put(store, "a")
            watches = [store.watch("", after_revision=revision) for _ in range(5)]
            put(store, "a")
            assert [len(seen_by(watch, 1)) for watch in watches] == [1] * 5
            watches[0].close()
            store.close()
        wait_until(lambda: set(threading.enumerate()) <= before, "threads to end", DEADLINE_S)

    def test_calls_under_way_end(self, etcds: EtcdFactory) -> None:
        """In a store of a frozen member, whose calls would take their whole time."""
        etcd = etcds.cluster()
        store = EtcdStore(parse_address(etcd.url(), attrs.evolve(ACCESS, timeout_s=60)))
        put(store, "a")
        failures: list[StoreError] = []

        def call(what: Callable[[], object]) -> None:
            try:
                what()
            except StoreError as error:
                failures.append(error)

        etcd.members[0].freeze()
        try:
            calls = (lambda: store.get("a"), lambda: store.transact([Put("a", b"")]))
            threads = [threading.Thread(target=call, args=(what,)) for what in calls]
            for thread in threads:
                thread.start()
            wait_until(lambda: len(store.members.all) == 1 and all(t.is_alive() for t in threads), "calls", 5)
            store.close()
            for thread in threads:
                thread.join(DEADLINE_S)
            assert len(failures) == 2
        finally:
            etcd.members[0].thaw()


class TestAddress:
    def test_all_that_a_url_says(self, tmp_path: Path) -> None:
        ca, password = tmp_path / "ca.pem", tmp_path / "password"
        ca.write_text("certificate")
        password.write_text("secret\n")
        address = parse_address(
            f"etcds://a,b:1,[::1]:3/lab%20/blue?ca_file={ca}&user=me&password_file={password}&timeout_s=2.5",
            StoreAccess(cluster="ignored", user="other", password="other"),
        )
        assert address.endpoints == (("a", 2379), ("b", 1), ("[::1]", 3))
        assert (address.prefix, address.tls) == ("/lab /blue/", True)
        access = address.access
        assert (access.ca_file, access.user, access.password, access.timeout_s) == (str(ca), "me", "secret", 2.5)
        assert "secret" not in repr(address)

    @pytest.mark.parametrize(
        ("url", "why"),
        [
            ("etcd://", "no HOST:PORT"),
            ("etcd://a:x", "no HOST:PORT"),
            ("etcd://a:0", "no HOST:PORT"),
            ("etcd://a:70000", "no HOST:PORT"),
            ("etcd://a,,b", "no HOST:PORT"),
            ("etcd://a,a:2379", "twice"),
            ("etcd://" + ",".join(f"h{number}" for number in range(17)), "at most 16"),
            ("etcd://me:secret@a", "password_file"),
            ("etcd://a/" + "p" * 127, "at most 128 bytes"),
            ("etcd://a/%00", "zero"),
            ("etcd://a/%ff", "not UTF-8"),
            ("etcd://a#b", "expected one like"),
            ("etcd://[::1", "Invalid"),
            ("etcd://a?ca_fil=x", "unknown ca_fil"),
            ("etcd://a?ca_file=/x", "TLS needs etcds"),
            ("etcds://a", "needs ca_file"),
            ("etcds://a?ca_file=/nowhere", "not a file"),
            (f"etcds://a?ca_file={__file__}&cert_file={__file__}", "belong together"),
            ("etcd://a?user=me", "belong together"),
            ("etcd://a?password_file=/nowhere", "cannot be read"),
            ("etcd://a?timeout_s=soon", "number of seconds"),
            ("etcd://a?timeout_s=0", "0.1 to 60"),
            ("etcd://a?timeout_s=nan", "0.1 to 60"),
        ],
    )
    def test_what_is_wrong_with_one(self, url: str, why: str) -> None:
        with pytest.raises(StoreError, match=why) as error:
            parse_address(url, StoreAccess())
        assert "secret" not in str(error.value)

    def test_settings_that_are_gone_when_they_are_needed(self, tmp_path: Path) -> None:
        ca = tmp_path / "ca.pem"
        ca.write_text("certificate")
        store = EtcdStore(parse_address("etcds://127.0.0.1/x", StoreAccess(ca_file=str(ca))))
        ca.unlink()
        with pytest.raises(StoreRefused, match=r"ca\.pem cannot be read"):
            store.transact([Put("a", b"")])
        store.close()


class Failed(grpc.RpcError, grpc.Call):
    """As gRPC raises it."""

    def __init__(self, code: str, details: str) -> None:
        self._code, self._details = grpc.StatusCode[code], details

    def code(self):
        return self._code

    def details(self):
        return self._details

    initial_metadata = trailing_metadata = is_active = time_remaining = cancel = add_callback = None


class TestErrors:
    """Those that no test can bring about at will."""

    @pytest.mark.parametrize(
        ("code", "details"),
        [
            ("UNAVAILABLE", "Socket closed"),
            ("UNAVAILABLE", "GOAWAY received"),
            ("UNAVAILABLE", "etcdserver: request timed out"),
            ("UNAVAILABLE", "etcdserver: request timed out, possibly due to previous leader failure"),
            ("UNAVAILABLE", "etcdserver: leader changed"),
            ("UNAVAILABLE", "etcdserver: server stopped"),
            ("DEADLINE_EXCEEDED", "Deadline Exceeded"),
            ("CANCELLED", "Channel closed!"),
            ("INTERNAL", ""),
            ("UNKNOWN", "raft proposal dropped"),
            ("RESOURCE_EXHAUSTED", "CLIENT: Received message larger than max (5 vs. 4)"),
        ],
    )
    def test_what_leaves_a_write_in_doubt(self, code: grpc.StatusCode, details: str) -> None:
        verdict = judge(Failed(code, details))
        assert (verdict.surely_not_applied, verdict.cure) == (False, Cure.ELSEWHERE)
        assert verdict.text

    @pytest.mark.parametrize(
        ("code", "details", "cure"),
        [
            ("RESOURCE_EXHAUSTED", "etcdserver: too many requests", Cure.LATER),
            ("UNAVAILABLE", "etcdserver: rpc not supported for learner", Cure.ELSEWHERE),
            ("INVALID_ARGUMENT", "etcdserver: revision of auth store is old", Cure.AUTHENTICATE),
            ("UNKNOWN", "auth: invalid auth token", Cure.AUTHENTICATE),
            ("DATA_LOSS", "etcdserver: corrupt cluster", Cure.NONE),
        ],
    )
    def test_what_was_surely_not_applied(self, code: grpc.StatusCode, details: str, cure: Cure) -> None:
        verdict = judge(Failed(code, details))
        assert (verdict.surely_not_applied, verdict.cure) == (True, cure)


def test_the_messages_are_made_with_the_fast_protobuf():
    from google.protobuf.internal import api_implementation

    from orlop.store.etcd_protocol import messages

    assert api_implementation.Type() != "python"
    request = messages.WatchCreateRequest(key=b"a", fragment=True)
    assert messages.WatchCreateRequest.FromString(request.SerializeToString()).fragment


def test_only_one_module_imports_etcd3():
    root = Path(__file__).parents[1] / "src" / "orlop"
    importing = [path.name for path in root.rglob("*.py") if "import etcd3" in path.read_text()]
    assert importing == ["etcd_protocol.py"]
