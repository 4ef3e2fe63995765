"""Who may speak to an API without authentication, and what never shows in an answer."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.api.cluster import without_password
from orlop.api.documents import amount, moment
from orlop.api.guard import is_loopback, refusal


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:5050", "api.localhost:1", "127.0.0.1", "127.8.9.1:80", "[::1]:5050", "[::ffff:127.0.0.1]"],
)
def test_names_and_addresses_of_this_machine_are_served(host: str) -> None:
    assert refusal([host], None, [], "127.0.0.1") is None


@pytest.mark.parametrize(
    "host",
    ["", "evil.example", "localhost.evil.example", "10.0.0.1:5050", "0.0.0.0", "127.0.0.1.nip.io", "[::2]", "[::1",
     "evil.example@localhost", "localhost@evil.example", "localhost/evil", "localhost:99999", "localhost?a", "a b"],
)  # fmt: skip
def test_other_hosts_are_refused(host: str) -> None:
    assert "Host" in (refusal([host], None, [], "127.0.0.1") or "")


@pytest.mark.parametrize("hosts", [[], ["localhost", "localhost"], ["localhost", "evil.example"]])
def test_exactly_one_host_is_needed(hosts: list[str]) -> None:
    assert refusal(hosts, None, [], None) == "a request needs exactly one Host header"


def test_only_the_apis_own_page_may_ask() -> None:
    assert refusal(["localhost:5050"], "http://localhost:5050", [], None) is None
    for origin in (
        "http://localhost:3000",
        "http://localhost",
        "null",
        "http://evil.example",
        "file://",
        "http://[",
        "",
    ):
        assert "page" in (refusal(["localhost:5050"], origin, [], None) or ""), origin


@pytest.mark.parametrize("header", ["forwarded", "x-forwarded-for", "x-forwarded-host", "via", "x-real-ip"])
def test_forwarded_requests_are_refused(header: str) -> None:
    assert header in (refusal(["localhost"], None, ["host", header], None) or "")


def test_other_machines_are_refused_whatever_they_say() -> None:
    assert "192.0.2.7" in (refusal(["localhost"], None, [], "192.0.2.7") or "")


@given(st.text(), st.none() | st.text())
def test_the_guard_never_fails(host: str, origin: str | None) -> None:
    why = refusal([host], origin, [], None)
    assert why is not None or is_loopback(host.rpartition(":")[0] or host) or is_loopback(host)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite:///var/lib/orlop/state.db", "sqlite:///var/lib/orlop/state.db"),
        ("etcd://root:secret@10.0.0.1:2379", "etcd://10.0.0.1:2379"),
        ("etcd://root:secret@10.0.0.1:2379,10.0.0.2:2379/a", "etcd://10.0.0.1:2379,10.0.0.2:2379/a"),
        ("memory://", "memory://"),
    ],
)
def test_passwords_of_stores_are_not_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown


def test_moments_and_amounts() -> None:
    assert moment(1_700_000_000_123) == "2023-11-14T22:13:20.123Z"
    assert moment(0) is None
    assert moment(None) is None
    assert moment(10**18) is None
    assert amount("cpus", 500) == 0.5
    assert amount("mem", 2**25) == 2**25
    assert amount("mem", 2**70) == 2**63 - 1
