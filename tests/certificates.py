"""An authority with a server's and a client's certificate, as files, for tests of TLS. Made anew for each folder."""

from __future__ import annotations

import datetime
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_DAY = datetime.timedelta(days=1)


class Certificates:
    """In the folder: ca.pem, cert.pem, key.pem (a client's, by the names that Docker's client looks for),
    server.pem and server-key.pem (of localhost and 127.0.0.1)."""

    def __init__(self, folder: Path, client: str = "a client") -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.authority, self.cert, self.key = folder / "ca.pem", folder / "cert.pem", folder / "key.pem"
        self.server_cert, self.server_key = folder / "server.pem", folder / "server-key.pem"
        signing = ec.generate_private_key(ec.SECP256R1())
        name = _name("a test's authority")
        extensions: list[x509.ExtensionType] = [x509.BasicConstraints(ca=True, path_length=0)]
        self.authority.write_bytes(_signed(name, name, signing, signing, extensions))
        names = x509.SubjectAlternativeName(
            [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        )
        for subject, cert, key in (("localhost", self.server_cert, self.server_key), (client, self.cert, self.key)):
            own = ec.generate_private_key(ec.SECP256R1())
            cert.write_bytes(_signed(_name(subject), name, own, signing, [names] if subject == "localhost" else []))
            key.write_bytes(
                own.private_bytes(
                    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
                )
            )
            key.chmod(0o600)

    @property
    def named(self) -> dict[str, Path]:
        """A client's files, by the ends of the names of Docker's options (`--tlscacert`)."""
        return {"cacert": self.authority, "cert": self.cert, "key": self.key}

    def server(self, *, clients: bool = False) -> ssl.SSLContext:
        """clients: they need a certificate, too."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.server_cert, self.server_key)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.authority)
        return context

    def client(self, *, certificate: bool = False) -> ssl.SSLContext:
        """certificate: it has one."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if certificate:
            context.load_cert_chain(self.cert, self.key)
        return context


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _signed(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    extensions: list[x509.ExtensionType],
) -> bytes:
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - _DAY).not_valid_after(now + _DAY)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
    return builder.sign(signing, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
