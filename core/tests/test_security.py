"""Sealing, the authority, tokens, secret files."""

import base64
import os
import ssl
import stat
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop.security import authority as ca
from orlop.security.authority import InvalidRequest
from orlop.security.files import UnsafeFile, read_or_make_key, read_private, write_private
from orlop.security.sealing import CannotUnseal, seal, unseal
from orlop.security.tokens import InvalidToken, Purpose, StoredToken, make_token, parse_token, wrong_with

DAY_MS = 86_400_000
NOW_MS = 1_800_000_000_000
KEY, OTHER_KEY = b"k" * 32, b"o" * 32


def entropy(number: int, count: int) -> bytes:
    return bytes((number + position) % 256 for position in range(count))


def key(number: int) -> bytes:
    return ca.make_key(entropy(number, ca.KEY_ENTROPY_BYTES))


def serial(number: int) -> bytes:
    return entropy(number, ca.SERIAL_BYTES)


AUTHORITY = ca.make_authority("c1", key(1), serial(1), NOW_MS)
FOREIGN = ca.make_authority("c1", key(2), serial(2), NOW_MS)


# --- sealing ---


@given(st.binary(max_size=200), st.text(max_size=10), st.binary(min_size=12, max_size=12))
def test_what_is_sealed_can_be_unsealed(secret: bytes, purpose: str, nonce: bytes) -> None:
    assert unseal(KEY, purpose, seal(KEY, purpose, secret, nonce)) == secret


@given(st.integers(0, 1000), st.integers(1, 255))
def test_a_changed_byte_is_found(position: int, change: int) -> None:
    data = bytearray(base64.b64decode(seal(KEY, "the authority's key", b"secret", b"n" * 12)))
    data[position % len(data)] ^= change
    with pytest.raises(CannotUnseal):
        unseal(KEY, "the authority's key", base64.b64encode(data).decode())


@given(st.text(max_size=80))
def test_rubbish_cannot_be_unsealed(text: str) -> None:
    with pytest.raises(CannotUnseal):
        unseal(KEY, "it", text)


def test_a_seal_is_bound_to_its_key_and_its_purpose() -> None:
    sealed = seal(KEY, "one", b"secret", b"n" * 12)
    assert b"secret" not in base64.b64decode(sealed)
    with pytest.raises(CannotUnseal, match="another cluster key"):
        unseal(OTHER_KEY, "one", sealed)
    with pytest.raises(CannotUnseal, match="another purpose"):
        unseal(KEY, "two", sealed)


# --- the authority ---


def agent_certificate(node: str = "n1", authority: ca.Authority = AUTHORITY) -> bytes:
    return ca.issue_agent(authority, ca.make_request(key(9), node), node, serial(9), NOW_MS)


def test_an_agents_certificate_names_its_node_in_its_cluster_only() -> None:
    der = ca.to_der(agent_certificate("n1"))
    assert ca.node_of(der, "c1") == "n1"
    assert ca.node_of(der, "c2") is None
    assert ca.node_of(ca.to_der(AUTHORITY.certificate), "c1") is None
    assert ca.node_of(ca.to_der(ca.issue_server(AUTHORITY, key(3), ["a"], serial(3), NOW_MS)), "c1") is None
    assert ca.node_of(b"rubbish", "c1") is None


def test_the_name_in_a_request_does_not_count() -> None:
    request = ca.make_request(key(9), "someone-else")
    certificate = ca.issue_agent(AUTHORITY, request, "n1", serial(9), NOW_MS)
    assert ca.node_of(ca.to_der(certificate), "c1") == "n1"
    assert ca.key_fingerprint_of(ca.to_der(certificate)) == ca.request_fingerprint(request)


def test_certificates_know_their_authority_and_their_key() -> None:
    certificate = agent_certificate()
    assert ca.signed_by(certificate, AUTHORITY.certificate)
    assert not ca.signed_by(certificate, FOREIGN.certificate)
    assert not ca.signed_by(b"rubbish", AUTHORITY.certificate)
    assert ca.belongs(key(9), certificate)
    assert not ca.belongs(key(8), certificate)
    assert ca.fingerprint(AUTHORITY.certificate) != ca.fingerprint(FOREIGN.certificate)


def test_certificates_are_renewed_after_two_thirds_of_their_life() -> None:
    certificate = agent_certificate()
    assert ca.expires_at(certificate) == NOW_MS + 90 * DAY_MS
    assert 59 * DAY_MS < ca.renew_at(certificate) - NOW_MS < 61 * DAY_MS


def test_a_servers_certificate_has_names_and_addresses() -> None:
    names = ["orlop.example", "localhost", "10.1.2.3", "::1"]
    certificate = ca.issue_server(AUTHORITY, key(3), names, serial(3), NOW_MS)
    assert ca.names_of(certificate) == set(names)


@pytest.mark.parametrize("request_", [b"", b"rubbish", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n", b"\xff" * 99])
def test_a_request_that_is_none_is_refused(request_: bytes) -> None:
    with pytest.raises(InvalidRequest):
        ca.issue_agent(AUTHORITY, request_, "n1", serial(1), NOW_MS)


def test_a_request_must_be_signed_with_its_own_key() -> None:
    request = ca.make_request(key(9), "n1")
    lines = request.splitlines()
    data = bytearray(base64.b64decode(b"".join(lines[1:-1])))
    data[-1] ^= 1  # in the signature
    broken = lines[0] + b"\n" + base64.encodebytes(data) + lines[-1] + b"\n"
    with pytest.raises(InvalidRequest):
        ca.request_fingerprint(broken)


def test_the_same_entropy_gives_the_same_key() -> None:
    assert key(5) == key(5) != key(6)
    assert ca.make_key(b"\0" * ca.KEY_ENTROPY_BYTES).startswith(b"-----BEGIN PRIVATE KEY-----")
    assert ca.make_key(b"\xff" * ca.KEY_ENTROPY_BYTES).startswith(b"-----BEGIN PRIVATE KEY-----")


def test_keys_do_not_show() -> None:
    assert "PRIVATE" not in repr(AUTHORITY)


def shake_hands(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> tuple[bytes | None, str]:
    """The client's certificate as the server sees it, after a handshake in memory. Raises ssl.SSLError."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    serving = server.wrap_bio(to_server, to_client, server_side=True)
    asking = client.wrap_bio(to_client, to_server, server_hostname=name)
    done = set()
    for _ in range(10):
        for end in (asking, serving):
            try:
                end.do_handshake()
                done.add(end)
            except ssl.SSLWantReadError:
                continue
    assert len(done) == 2
    return serving.getpeercert(binary_form=True), str(serving.version())


def contexts(
    folder: Path, server_certificate: bytes, client_certificate: bytes | None
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    trusted = AUTHORITY.certificate.decode()
    (folder / "server.pem").write_bytes(server_certificate + key(3))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem")
    server.load_verify_locations(cadata=trusted)
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.load_verify_locations(cadata=trusted)
    if client_certificate is not None:
        (folder / "client.pem").write_bytes(client_certificate + key(9))
        client.load_cert_chain(folder / "client.pem")
    return server, client


@pytest.fixture
def good_today(monkeypatch: pytest.MonkeyPatch) -> int:
    """TLS looks at the machine's clock, so these certificates are made by it."""
    import time

    return time.time_ns() // 1_000_000


def test_tls_accepts_what_the_authority_issued(tmp_path: Path, good_today: int) -> None:
    authority = ca.make_authority("c1", key(1), serial(1), good_today)
    server_certificate = ca.issue_server(authority, key(3), ["orlop.example", "127.0.0.1"], serial(3), good_today)
    agent = ca.issue_agent(authority, ca.make_request(key(9), "n1"), "n1", serial(9), good_today)
    server, client = contexts(tmp_path, server_certificate, agent)
    for context in (server, client):
        context.load_verify_locations(cadata=authority.certificate.decode())
    for name in ("orlop.example", "127.0.0.1"):
        seen, version = shake_hands(server, client, name)
        assert seen is not None
        assert ca.node_of(seen, "c1") == "n1"
        assert version == "TLSv1.3"
    with pytest.raises(ssl.SSLCertVerificationError, match=r"other\.example"):
        shake_hands(server, client, "other.example")


def test_tls_refuses_a_foreign_authority_and_an_agent_that_plays_the_server(tmp_path: Path, good_today: int) -> None:
    authority = ca.make_authority("c1", key(1), serial(1), good_today)
    foreign = ca.make_authority("c1", key(2), serial(2), good_today)
    trusted = authority.certificate.decode()
    agent_as_server = ca.issue_agent(authority, ca.make_request(key(3), "n1"), "n1", serial(3), good_today)
    server, client = contexts(tmp_path, agent_as_server, None)
    client.load_verify_locations(cadata=trusted)
    client.check_hostname = False
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        shake_hands(server, client, "x")
    strangers = ca.issue_agent(foreign, ca.make_request(key(9), "n1"), "n1", serial(9), good_today)
    good = ca.issue_server(authority, key(3), ["x"], serial(3), good_today)
    server, client = contexts(tmp_path, good, strangers)
    for context in (server, client):
        context.load_verify_locations(cadata=trusted)
    with pytest.raises(ssl.SSLError):
        shake_hands(server, client, "x")


# --- tokens ---

ENTROPY = st.binary(min_size=21, max_size=21)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)


@given(ENTROPY, DIGESTS)
def test_tokens_are_read_as_they_were_made(random: bytes, digest: str) -> None:
    for token in (make_token(Purpose.JOIN, random, digest), make_token(Purpose.API, random)):
        assert parse_token(token.text) == token
        assert parse_token(f" {token.text}\n") == token


@given(st.text(max_size=150) | st.from_regex(r"orlop-(join|api)-1-[0-9a-z-]{5,120}", fullmatch=True))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        parse_token(text)
    except InvalidToken as error:
        assert len(text) < 30 or text not in str(error)


def test_a_digest_beyond_256_bits_is_damage() -> None:
    with pytest.raises(InvalidToken, match="damaged"):
        parse_token("orlop-join-1-" + "a" * 8 + "-" + "b" * 25 + "-" + "z" * 50)


TOKEN = make_token(Purpose.JOIN, bytes(21), "ab" * 32)
STORED = StoredToken(purpose=Purpose.JOIN, secret_hash=TOKEN.secret_hash, expires_utc_ms=NOW_MS)


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        (None, "not known"),
        (attrs.evolve(STORED, purpose=Purpose.API), "not known"),
        (attrs.evolve(STORED, secret_hash="00"), "not known"),
        (attrs.evolve(STORED, revoked=True), "revoked"),
        (attrs.evolve(STORED, expires_utc_ms=NOW_MS - 1), "expired"),
        (attrs.evolve(STORED, expires_utc_ms=NOW_MS - 1, revoked=True), "revoked"),
    ],
)
def test_what_can_be_wrong_with_a_token(stored: StoredToken | None, why: str) -> None:
    assert why in (wrong_with(stored, Purpose.JOIN, TOKEN.secret_hash, NOW_MS - 1) or "")


def test_secrets_do_not_show() -> None:
    token = make_token(Purpose.JOIN, bytes(range(21)), "ab" * 32)
    assert token.secret in token.text
    assert token.secret not in repr(token)
    assert token.secret not in repr(StoredToken(purpose=Purpose.JOIN, secret_hash=token.secret_hash))


def test_a_good_token_and_the_moment_of_its_end() -> None:
    assert wrong_with(STORED, Purpose.JOIN, TOKEN.secret_hash, NOW_MS - 1) is None
    assert wrong_with(attrs.evolve(STORED, expires_utc_ms=0), Purpose.JOIN, TOKEN.secret_hash, 2**60) is None
    assert wrong_with(STORED, Purpose.JOIN, TOKEN.secret_hash, NOW_MS) == "the token has expired"


# --- files ---


def test_a_key_is_made_once_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    assert read_or_make_key(path, KEY) == KEY
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_make_key(path, OTHER_KEY) == KEY
    assert [file.name for file in tmp_path.iterdir()] == ["cluster.key"]


def test_a_key_that_others_can_read_or_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cluster.key"
    read_or_make_key(path, KEY)
    path.chmod(0o640)
    with pytest.raises(UnsafeFile, match="chmod 600"):
        read_or_make_key(path, KEY)
    write_private(path, b"short\n")
    with pytest.raises(UnsafeFile, match="32 bytes"):
        read_or_make_key(path, KEY)
    path.unlink()
    path.mkdir(mode=0o700)
    with pytest.raises((UnsafeFile, IsADirectoryError)):
        read_or_make_key(path, KEY)


def test_a_file_is_private_whatever_the_umask_and_its_predecessor(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text("old")
    path.chmod(0o666)
    before = os.umask(0)
    try:
        write_private(path, b"new")
    finally:
        os.umask(before)
    assert read_private(path) == b"new"
    assert read_private(tmp_path / "absent") is None
