"""Tokens and nodes as committed state: each token admits as many nodes as it says, whatever races."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.framework import Changed, Refused
from orlop.kernel.events import FrameworkActions
from orlop.security.tokens import Purpose, StoredToken, make_token
from orlop.server import admission
from orlop.server.admission import (
    Admission,
    AdmitLocal,
    AdmittedNode,
    CreateToken,
    ExpelNode,
    KeepAuthority,
    NoteAccess,
    RedeemToken,
    RevokeToken,
    StoredAuthority,
)
from orlop.server.framework_run import Command
from orlop.testing.harness import Cluster

DAY_S = 86_400
TOKEN = make_token(Purpose.JOIN, bytes(range(21)), "ab" * 32)


def make_cluster(**token: Any) -> Cluster:
    """With one join token, kept under TOKEN's id."""
    cluster = Cluster(Admission())
    stored = StoredToken(
        purpose=Purpose.JOIN, secret_hash=TOKEN.secret_hash, created_utc_ms=cluster.now.utc_ms, **token
    )
    cluster.command("orlop", CreateToken(id=TOKEN.id, token=stored, by="alice"))
    return cluster


def redeem(cluster: Cluster, node: str = "n1", key: str = "k1", secret_hash: str = TOKEN.secret_hash) -> AdmittedNode:
    answer = cluster.command("orlop", RedeemToken(id=TOKEN.id, secret_hash=secret_hash, node=node, key=key))
    assert isinstance(answer, AdmittedNode)
    return answer


def refused(cluster: Cluster, **arguments: str) -> str:
    before = cluster.state.framework("orlop").objects
    with pytest.raises(Refused) as caught:
        redeem(cluster, **arguments)
    assert cluster.state.framework("orlop").objects == before
    return str(caught.value)


def test_a_token_admits_one_node_and_no_second() -> None:
    cluster = make_cluster()
    assert redeem(cluster).key == "k1"
    assert admission.admitted_node(cluster.state, "n1") == AdmittedNode(
        key="k1", token=TOKEN.id, joined_utc_ms=cluster.now.utc_ms
    )
    assert refused(cluster, node="n2", key="k2") == "the token was used before"
    assert [entry.type for entry in cluster.log] == ["orlop.token.created", "orlop.node.joined"]


def test_a_lost_answer_is_given_again_without_counting() -> None:
    cluster = make_cluster()
    first = redeem(cluster)
    cluster.advance(5)
    assert redeem(cluster) == first
    assert "used before" in refused(cluster, node="n1", key="other")


def test_two_nodes_that_race_in_one_run_do_not_both_win() -> None:
    cluster = make_cluster()
    runner = cluster._runners["orlop"]
    commands = [
        Command(token=node, value=RedeemToken(id=TOKEN.id, secret_hash=TOKEN.secret_hash, node=node, key=node))
        for node in ("a", "b")
    ]
    result = runner.run(cluster.state, Changed(), commands, cluster.now, "x")
    assert result.refusals.keys() == {"b"}
    assert isinstance(result.actions, FrameworkActions)
    assert result.actions.replies.keys() == {"a"}


def test_wrong_revoked_and_expired_tokens() -> None:
    cluster = make_cluster(expires_utc_ms=make_cluster().now.utc_ms + 60_000, uses_max=5)
    assert refused(cluster, secret_hash="00") == "the token is not known"
    with pytest.raises(Refused, match="not known"):
        cluster.command("orlop", RedeemToken(id="nothere0", secret_hash=TOKEN.secret_hash, node="n", key="k"))
    redeem(cluster)
    cluster.advance(60)
    assert refused(cluster, node="n2") == "the token has expired"
    assert cluster.command("orlop", RevokeToken(id=TOKEN.id, by="alice")) is True
    assert cluster.command("orlop", RevokeToken(id=TOKEN.id, by="alice")) is False
    assert refused(cluster, node="n2") == "the token was revoked"
    with pytest.raises(Refused, match="no token x"):
        cluster.command("orlop", RevokeToken(id="x", by="alice"))


def test_a_node_may_come_again_with_its_key_and_nobody_with_another() -> None:
    cluster = make_cluster(uses_max=3)
    redeem(cluster)
    again = make_token(Purpose.JOIN, bytes(range(1, 22)), "ab" * 32)
    stored = StoredToken(purpose=Purpose.JOIN, secret_hash=again.secret_hash)
    cluster.command("orlop", CreateToken(id=again.id, token=stored, by="alice"))
    assert "another key" in refused(cluster, node="n1", key="thief")
    cluster.command("orlop", RedeemToken(id=again.id, secret_hash=again.secret_hash, node="n1", key="k1"))
    found = admission.admitted_node(cluster.state, "n1")
    assert found is not None
    assert found.token == again.id


def test_a_token_for_one_node_lets_it_change_its_key_and_nobody_else_in() -> None:
    cluster = make_cluster(node="n1")
    assert "for node n1 only" in refused(cluster, node="n2")
    cluster.command("orlop", AdmitLocal(node="n1"))
    assert redeem(cluster, node="n1", key="new").key == "new"


def test_nobody_joins_as_the_servers_own_node() -> None:
    cluster = make_cluster()
    cluster.command("orlop", AdmitLocal(node="n1"))
    assert "another key" in refused(cluster, node="n1", key="k1")


def test_the_first_authority_counts() -> None:
    cluster = Cluster(Admission())
    first, second = (StoredAuthority(certificate=name, sealed_key="x") for name in ("first", "second"))
    assert cluster.command("orlop", KeepAuthority(authority=first)) == first
    assert cluster.command("orlop", KeepAuthority(authority=second)) == first
    cluster.restart(Admission())
    assert admission.stored_authorities(cluster.state) == {"ca": first}


def test_the_same_token_twice_is_one_and_another_of_its_id_is_refused() -> None:
    cluster = make_cluster()
    stored = admission.stored_token(cluster.state, TOKEN.id)
    assert stored is not None
    cluster.command("orlop", CreateToken(id=TOKEN.id, token=stored, by="alice"))
    with pytest.raises(Refused, match="already"):
        cluster.command("orlop", CreateToken(id=TOKEN.id, token=attrs.evolve(stored, uses_max=9), by="alice"))


def test_spent_join_tokens_are_forgotten_and_the_apis_are_not() -> None:
    cluster = make_cluster(expires_utc_ms=make_cluster().now.utc_ms + 3_600_000)
    api = StoredToken(purpose=Purpose.API, secret_hash="h", note="admin")
    cluster.command("orlop", CreateToken(id="admin", token=api, by="server"))
    cluster.command("orlop", RevokeToken(id="admin", by="alice"))
    cluster.advance(6 * DAY_S)
    cluster.command("orlop", NoteAccess(type="exec", subject="t1", by="alice"))
    assert set(admission.stored_tokens(cluster.state)) == {TOKEN.id, "admin"}
    cluster.advance(2 * DAY_S)
    cluster.command("orlop", NoteAccess(type="exec", subject="t1", by="alice"))
    assert set(admission.stored_tokens(cluster.state)) == {"admin"}


def test_an_expelled_node_is_not_admitted_any_more() -> None:
    cluster = make_cluster()
    redeem(cluster)
    assert cluster.command("orlop", ExpelNode(node="n1", by="alice")) is True
    assert cluster.command("orlop", ExpelNode(node="n1", by="alice")) is False
    assert admission.admitted_node(cluster.state, "n1") is None


def test_everything_survives_a_restart() -> None:
    cluster = make_cluster(uses_max=2, node="")
    redeem(cluster)
    before = cluster.state.framework("orlop").objects
    cluster.restart(Admission())
    assert cluster.state.framework("orlop").objects == before
    redeem(cluster, node="n2", key="k2")
    assert "used up" in refused(cluster, node="n3", key="k3")


def test_what_is_no_command_is_refused() -> None:
    with pytest.raises(Refused, match="not a command"):
        Cluster(Admission()).command("orlop", "open sesame")


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(["a", "b", "c", "d"]), st.sampled_from(["k1", "k2"])), max_size=12),
)
def test_a_token_never_admits_more_than_it_says(uses_max: int, attempts: list[tuple[str, str]]) -> None:
    cluster = make_cluster(uses_max=uses_max)
    admitted: dict[str, str] = {}
    for node, key in attempts:
        try:
            redeem(cluster, node, key)
        except Refused:
            continue
        assert admitted.setdefault(node, key) == key, "a node's key changed"
    assert len(admitted) <= uses_max
    assert len(admitted) == min(uses_max, len({node for node, _ in attempts}))
