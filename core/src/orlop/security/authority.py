"""The cluster's own certificate authority: EC P-256, one per cluster, made at its first start with authentication; for
a while two, while one takes the other's place (`server/rotation.py`).

It issues two kinds of certificates and nothing else. An agent's names the node for which it speaks, and is good as a
client's only; a server's names the hosts and addresses under which it is reached, and is good as a server's only. So
no agent can pass for a server, and whoever trusts this authority for servers need not know their names.

Keys and certificates are PEM. Times are UTC milliseconds.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Final

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

KEY_ENTROPY_BYTES: Final = 48
SERIAL_BYTES: Final = 16
AUTHORITY_DAYS: Final = 3650
CERTIFICATE_DAYS: Final = 90
#: Clocks of a cluster differ; a fresh certificate must be good on all of them.
BACKDATED: Final = timedelta(hours=1)
#: A certificate is renewed after this part of its life.
RENEWED_AFTER: Final = 2 / 3

_URI: Final = "orlop://{cluster}/node/{node}"
_NODE_URI: Final = re.compile(r"orlop://(?P<cluster>[^/]+)/node/(?P<node>[^/]+)")
_CURVE_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


class InvalidRequest(ValueError):
    """A certificate request that cannot be signed; the text says why."""


@attrs.frozen(kw_only=True)
class Authority:
    """certificate: of the authority. key: its private key, which is only ever stored sealed."""

    cluster_id: str
    certificate: bytes
    key: bytes = attrs.field(repr=False)


@attrs.frozen(kw_only=True)
class Authorities:
    """Those that a server knows. current: of servers' certificates. next: takes its place, and issues agents' already.

    former: certificate of one whose place was taken, and which is trusted for a while still.
    """

    current: Authority
    next: Authority | None = None
    former: bytes | None = None

    @property
    def for_agents(self) -> Authority:
        """Issues agents' certificates."""
        return self.next or self.current

    @property
    def trusted(self) -> bytes:
        """All their certificates, PEM, the one of servers' certificates first."""
        others = (self.next.certificate if self.next is not None else None, self.former)
        return b"".join([self.current.certificate, *(one for one in others if one is not None)])


def make_key(entropy: bytes) -> bytes:
    """A private key. entropy: KEY_ENTROPY_BYTES random bytes."""
    assert len(entropy) == KEY_ENTROPY_BYTES
    scalar = int.from_bytes(entropy, "big") % (_CURVE_ORDER - 1) + 1
    return ec.derive_private_key(scalar, ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def make_authority(cluster_id: str, key: bytes, serial: bytes, utc_ms: int) -> Authority:
    """A new authority, which signs its own certificate. serial: SERIAL_BYTES random bytes."""
    private = _private(key)
    name = _name(cluster_id, "authority")
    identifier = x509.SubjectKeyIdentifier.from_public_key(private.public_key())
    builder = _builder(name, name, private.public_key(), serial, utc_ms, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    builder = builder.add_extension(identifier, critical=False)
    return Authority(cluster_id=cluster_id, certificate=_signed(builder, private), key=key)


def make_request(key: bytes, node_id: str) -> bytes:
    """What an agent sends to get its certificate: its public key, and the proof that it has the private one."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, node_id)]))
    return builder.sign(_private(key), hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def issue_agent(authority: Authority, request: bytes, node_id: str, serial: bytes, utc_ms: int) -> bytes:
    """The certificate of a node. Only the public key of the request counts. Raises InvalidRequest."""
    uri = x509.UniformResourceIdentifier(_URI.format(cluster=authority.cluster_id, node=node_id))
    builder = _builder(
        _name(authority.cluster_id, node_id), _issuer(authority), _requested(request), serial, utc_ms, CERTIFICATE_DAYS
    )
    return _issued(authority, builder, [uri], ExtendedKeyUsageOID.CLIENT_AUTH)


def issue_server(authority: Authority, key: bytes, names: Iterable[str], serial: bytes, utc_ms: int) -> bytes:
    """The certificate of a server with this private key. names: host names and addresses, at least one."""
    builder = _builder(
        _name(authority.cluster_id, "server"),
        _issuer(authority),
        _private(key).public_key(),
        serial,
        utc_ms,
        CERTIFICATE_DAYS,
    )
    return _issued(authority, builder, [_general_name(name) for name in names], ExtendedKeyUsageOID.SERVER_AUTH)


def request_fingerprint(request: bytes) -> str:
    """SHA-256 of the public key in a request, hexadecimal: by it a node is known again. Raises InvalidRequest."""
    return _fingerprint_of_key(_requested(request))


def fingerprint(certificate: bytes) -> str:
    """SHA-256 of a certificate (PEM), hexadecimal: what a join token holds of the authority's. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate).fingerprint(hashes.SHA256()).hex()


def fingerprints(certificates: bytes) -> tuple[str, ...]:
    """Of each of these certificates (PEM), in order. Raises ValueError."""
    return tuple(one.fingerprint(hashes.SHA256()).hex() for one in x509.load_pem_x509_certificates(certificates))


def first_of(certificates: bytes) -> bytes:
    """The first of these certificates (PEM). Raises ValueError."""
    return x509.load_pem_x509_certificates(certificates)[0].public_bytes(serialization.Encoding.PEM)


def issuer_among(certificate: bytes, authorities: bytes) -> str | None:
    """The fingerprint of the authority that has issued this certificate; None for a stranger's. All PEM."""
    try:
        found = x509.load_pem_x509_certificate(certificate)
        known = x509.load_pem_x509_certificates(authorities)
    except ValueError:
        return None
    for authority in known:
        try:
            found.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return authority.fingerprint(hashes.SHA256()).hex()
    return None


def node_of(certificate: bytes, cluster_id: str) -> str | None:
    """The node that a certificate (DER, its signature checked already) speaks for in this cluster; else None."""
    found = speaks_for(certificate)
    return found[1] if found is not None and found[0] == cluster_id else None


def speaks_for(certificate: bytes) -> tuple[str, str] | None:
    """(cluster, node) of an agent's certificate (DER); None for any other."""
    try:
        found = x509.load_der_x509_certificate(certificate)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return None
    uris = [match for uri in _uris(names) if (match := _NODE_URI.fullmatch(uri))]
    return (uris[0]["cluster"], uris[0]["node"]) if len(uris) == 1 else None


def key_fingerprint_of(certificate: bytes) -> str:
    """SHA-256 of the public key of a certificate (DER), hexadecimal; as `request_fingerprint`."""
    return _fingerprint_of_key(x509.load_der_x509_certificate(certificate).public_key())


def to_der(certificate: bytes) -> bytes:
    """A PEM certificate as DER. Raises ValueError."""
    return x509.load_pem_x509_certificate(certificate).public_bytes(serialization.Encoding.DER)


def to_pem(certificate: bytes) -> bytes:
    """A DER certificate as PEM. Raises ValueError."""
    return x509.load_der_x509_certificate(certificate).public_bytes(serialization.Encoding.PEM)


def names_of(certificate: bytes) -> set[str]:
    """Host names and addresses in a server's certificate (PEM). Raises ValueError."""
    found = x509.load_pem_x509_certificate(certificate)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {
        *names.get_values_for_type(x509.DNSName),
        *map(str, names.get_values_for_type(x509.IPAddress)),
    }


def renew_at(certificate: bytes, part: float = RENEWED_AFTER) -> int:
    """When this certificate (PEM) has lived this part of its life: time for a new one. Raises ValueError."""
    found = x509.load_pem_x509_certificate(certificate)
    begins, ends = found.not_valid_before_utc.timestamp(), found.not_valid_after_utc.timestamp()
    return round((begins + (ends - begins) * part) * 1000)


def expires_at(certificate: bytes) -> int:
    """When this certificate (PEM) ends. Raises ValueError."""
    return renew_at(certificate, part=1)


def signed_by(certificate: bytes, authority_certificate: bytes) -> bool:
    """Is this certificate (PEM) of that authority, or of one of several?"""
    return issuer_among(certificate, authority_certificate) is not None


def belongs(key: bytes, certificate: bytes) -> bool:
    """Is this the private key of that certificate (both PEM)?"""
    try:
        public = x509.load_pem_x509_certificate(certificate).public_key()
        return _fingerprint_of_key(public) == _fingerprint_of_key(_private(key).public_key())
    except ValueError:
        return False


def _uris(names: x509.SubjectAlternativeName) -> list[str]:
    found: list[str] = names.get_values_for_type(x509.UniformResourceIdentifier)
    return found


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    private = serialization.load_pem_private_key(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("expected a key of an elliptic curve")
    return private


def _requested(request: bytes) -> ec.EllipticCurvePublicKey:
    try:
        found = x509.load_pem_x509_csr(request)
        valid, public = found.is_signature_valid, found.public_key()
    except Exception as error:
        raise InvalidRequest("the certificate request cannot be read: expected PEM") from error
    if not valid:
        raise InvalidRequest("the certificate request is not signed with its own key")
    if not isinstance(public, ec.EllipticCurvePublicKey) or public.curve.name != "secp256r1":
        raise InvalidRequest("the certificate request is for another kind of key than EC P-256")
    return public


def _fingerprint_of_key(public: object) -> str:
    assert hasattr(public, "public_bytes")
    digest = hashes.Hash(hashes.SHA256())
    digest.update(public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo))
    return digest.finalize().hex()


def _issuer(authority: Authority) -> x509.Name:
    return x509.load_pem_x509_certificate(authority.certificate).subject


def _name(cluster_id: str, common: str) -> x509.Name:
    organisation = x509.NameAttribute(NameOID.ORGANIZATION_NAME, f"Orlop cluster {cluster_id}"[:64])
    return x509.Name([organisation, x509.NameAttribute(NameOID.COMMON_NAME, common[:64])])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name, issuer: x509.Name, public: ec.EllipticCurvePublicKey, serial: bytes, utc_ms: int, days: int
) -> x509.CertificateBuilder:
    assert len(serial) == SERIAL_BYTES
    now = datetime.fromtimestamp(utc_ms // 1000, UTC)
    builder = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(public)
    # positive, and never zero, as the standard asks
    builder = builder.serial_number(int.from_bytes(serial, "big") >> 1 | 1)
    return builder.not_valid_before(now - BACKDATED).not_valid_after(now + timedelta(days=days))


def _issued(
    authority: Authority, builder: x509.CertificateBuilder, names: list[x509.GeneralName], usage: x509.ObjectIdentifier
) -> bytes:
    private = _private(authority.key)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key())
    builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
    builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return _signed(builder.add_extension(identifier, critical=False), private)


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _signed(builder: x509.CertificateBuilder, private: ec.EllipticCurvePrivateKey) -> bytes:
    return builder.sign(private, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
