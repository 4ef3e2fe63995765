"""One authority takes another one's place: what is decided, on virtual time."""

from __future__ import annotations

from typing import Final

import pytest

from orlop.framework import Refused
from orlop.security import authority as signing
from orlop.security.tokens import Purpose, StoredToken, make_token
from orlop.server import admission
from orlop.server.admission import Admission, AdmitLocal, CreateToken, ExpelNode, KeepAuthority, RedeemToken
from orlop.server.rotation import (
    CURRENT,
    FORMER,
    NEXT,
    HurryRotation,
    NoteCertificate,
    RotateAuthority,
    Rotation,
    StoredAuthority,
)
from orlop.testing.harness import Cluster

HOUR_S: Final = 3_600
NOW_MS: Final = 1_800_000_000_000


def authority(number: int) -> StoredAuthority:
    key = signing.make_key(bytes([number]) * signing.KEY_ENTROPY_BYTES)
    made = signing.make_authority("c1", key, bytes([number]) * signing.SERIAL_BYTES, NOW_MS)
    return StoredAuthority(certificate=made.certificate.decode(), sealed_key=f"sealed {number}")


OLD, NEW, NEWER = authority(1), authority(2), authority(3)


def of(one: StoredAuthority) -> str:
    return signing.fingerprint(one.certificate.encode())


def token(number: int) -> tuple[str, StoredToken]:
    made = make_token(Purpose.JOIN, bytes(range(number, number + 21)), "ab" * 32)
    return made.id, StoredToken(purpose=Purpose.JOIN, secret_hash=made.secret_hash, uses_max=5)


def make_cluster(*nodes: str) -> Cluster:
    """With an authority, and nodes that have joined."""
    cluster = Cluster(Admission())
    cluster.command("orlop", KeepAuthority(authority=OLD))
    cluster.command("orlop", AdmitLocal(node="its-own"))
    token_id, stored = token(1)
    cluster.command("orlop", CreateToken(id=token_id, token=stored, by="alice"))
    for node in nodes:
        redeem = RedeemToken(id=token_id, secret_hash=stored.secret_hash, node=node, key=f"key of {node}")
        cluster.command("orlop", redeem)
    return cluster


def rotate(cluster: Cluster, *, after_s: int = 0, within_s: int = 24 * HOUR_S, keep_s: int = HOUR_S) -> Rotation:
    wanted = RotateAuthority(
        authority=NEW, after_ms=1000 * after_s, within_ms=1000 * within_s, keep_ms=1000 * keep_s, by="alice"
    )
    begun = cluster.command("orlop", wanted)
    assert isinstance(begun, Rotation)
    return begun


def shows(cluster: Cluster, node: str, one: StoredAuthority = NEW) -> None:
    cluster.command("orlop", NoteCertificate(node=node, authority=of(one)))


def authorities(cluster: Cluster) -> dict[str, StoredAuthority]:
    return admission.stored_authorities(cluster.state)


def waiting(cluster: Cluster) -> list[str]:
    found = admission.rotation_under_way(cluster.state)
    assert found is not None
    return found[1]


SPREADING = {CURRENT: OLD, NEXT: NEW}
KEEPING = {CURRENT: NEW, FORMER: OLD}
DONE = {CURRENT: NEW}


def test_servers_change_when_the_last_node_has_shown_its_new_certificate() -> None:
    cluster = make_cluster("n1", "n2")
    rotate(cluster)
    assert authorities(cluster) == SPREADING
    assert waiting(cluster) == ["n1", "n2"], "a server's own node needs no certificate"
    shows(cluster, "n1")
    shows(cluster, "n2", OLD)
    assert authorities(cluster) == SPREADING
    assert waiting(cluster) == ["n2"]
    shows(cluster, "n2")
    assert authorities(cluster) == KEEPING
    cluster.advance(HOUR_S - 1)
    assert authorities(cluster) == KEEPING
    cluster.advance(2)
    assert authorities(cluster) == DONE
    assert admission.rotation_under_way(cluster.state) is None
    said = [entry.type for entry in cluster.log if entry.type.startswith("orlop.authority")]
    assert said == [f"orlop.authority.{one}" for one in ("made", "spreading", "changed", "dropped")]


def test_servers_change_no_sooner_than_was_said() -> None:
    cluster = make_cluster("n1")
    rotate(cluster, after_s=HOUR_S)
    shows(cluster, "n1")
    assert waiting(cluster) == []
    cluster.advance(HOUR_S - 1)
    assert authorities(cluster) == SPREADING
    cluster.advance(2)
    assert authorities(cluster) == KEEPING


def test_servers_change_in_time_whoever_is_away_and_say_whom_they_left_behind() -> None:
    cluster = make_cluster("n1", "n2")
    rotate(cluster, after_s=HOUR_S, within_s=2 * HOUR_S)
    shows(cluster, "n1")
    cluster.advance(2 * HOUR_S - 1)
    assert authorities(cluster) == SPREADING
    cluster.advance(2)
    assert authorities(cluster) == KEEPING
    (changed,) = [entry for entry in cluster.log if entry.type == "orlop.authority.changed"]
    assert changed.details == {"left_behind": "n2"}


def test_a_node_that_is_expelled_is_not_waited_for() -> None:
    cluster = make_cluster("n1", "lost")
    rotate(cluster)
    shows(cluster, "n1")
    assert authorities(cluster) == SPREADING
    cluster.command("orlop", ExpelNode(node="lost", by="alice"))
    assert authorities(cluster) == KEEPING


def test_a_cluster_without_agents_waits_for_nobody() -> None:
    cluster = make_cluster()
    rotate(cluster)
    assert authorities(cluster) == KEEPING


def test_a_rotation_goes_on_at_the_next_leader() -> None:
    cluster = make_cluster("n1")
    rotate(cluster, within_s=2 * HOUR_S)
    cluster.restart(Admission())
    assert authorities(cluster) == SPREADING
    cluster.advance(2 * HOUR_S + 1)
    assert authorities(cluster) == KEEPING
    cluster.restart(Admission())
    cluster.advance(HOUR_S + 1)
    assert authorities(cluster) == DONE


def test_an_operator_may_end_each_wait() -> None:
    cluster = make_cluster("n1", "n2")
    with pytest.raises(Refused, match="no rotation"):
        cluster.command("orlop", HurryRotation(by="alice"))
    rotate(cluster, after_s=HOUR_S)
    cluster.command("orlop", HurryRotation(by="alice"))
    assert authorities(cluster) == KEEPING
    cluster.command("orlop", HurryRotation(by="alice"))
    assert authorities(cluster) == DONE


def test_tokens_to_join_with_end_when_servers_change_and_others_do_not() -> None:
    cluster = make_cluster("n1")
    cluster.command("orlop", CreateToken(id="admin", token=StoredToken(purpose=Purpose.API, secret_hash="h"), by="x"))
    rotate(cluster)
    assert not any(one.revoked for one in admission.stored_tokens(cluster.state).values())
    shows(cluster, "n1")
    revoked = {token_id: one.revoked for token_id, one in admission.stored_tokens(cluster.state).items()}
    assert revoked == {token(1)[0]: True, "admin": False}
    token_id, stored = token(2)
    cluster.command("orlop", CreateToken(id=token_id, token=stored, by="alice"))
    cluster.advance(2 * HOUR_S)
    found = admission.stored_token(cluster.state, token_id)
    assert found is not None
    assert not found.revoked, "it names the new authority"


def test_there_is_one_rotation_at_a_time_and_none_without_an_authority() -> None:
    cluster = make_cluster("n1")
    rotate(cluster)
    with pytest.raises(Refused, match="under way already"):
        rotate(cluster)
    cluster.command("orlop", HurryRotation(by="alice"))
    with pytest.raises(Refused, match="under way already"):
        rotate(cluster)
    with pytest.raises(Refused, match="no authority"):
        rotate(Cluster(Admission()))


def test_a_second_rotation_waits_for_all_again() -> None:
    cluster = make_cluster("n1")
    rotate(cluster, keep_s=0)
    shows(cluster, "n1")
    cluster.advance(1)
    assert authorities(cluster) == DONE
    again = RotateAuthority(authority=NEWER, after_ms=0, within_ms=HOUR_S * 1000, keep_ms=0, by="alice")
    cluster.command("orlop", again)
    assert waiting(cluster) == ["n1"]
    shows(cluster, "n1", NEWER)
    cluster.advance(1)
    assert authorities(cluster) == {CURRENT: NEWER}


def test_a_certificate_of_somebody_unknown_changes_nothing() -> None:
    cluster = make_cluster("n1")
    before = cluster.state.framework("orlop").objects
    shows(cluster, "stranger")
    assert cluster.state.framework("orlop").objects == before
