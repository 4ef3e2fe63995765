"""What a node shows to its cluster's servers, and by what it knows them: three small files in its data folder.

The private key is made here and never leaves. The certificate speaks for this node; the authority's certificate tells
which servers are the cluster's. Whatever server this authority has issued a server's certificate for is one of the
cluster, under whatever name or address it was reached; so agents do not compare names.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

from orlop.model.messages import RenewCertificate
from orlop.security import authority as signing
from orlop.security.files import read_private, write_private

_KEY: Final = "key.pem"
_CERTIFICATE: Final = "certificate.pem"
_AUTHORITY: Final = "authority.pem"


class Credentials:
    """The files in `folder`. All methods block for a moment. Raise UnsafeFile, OSError."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def key(self, entropy: bytes) -> bytes:
        """The private key, PEM; made of `entropy` where there is none."""
        known = read_private(self._folder / _KEY)
        if known is not None:
            return known
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        made = signing.make_key(entropy)
        write_private(self._folder / _KEY, made)
        return made

    def certificate(self) -> bytes | None:
        """PEM; None before the node has joined."""
        return read_private(self._folder / _CERTIFICATE)

    def authority(self) -> bytes | None:
        """Those that are trusted, PEM; None before the node has joined."""
        return read_private(self._folder / _AUTHORITY)

    def shall_change(self, wish: RenewCertificate) -> bool:
        """Is the certificate, or what this node trusts, other than it shall be?"""
        certificate, authorities = self.certificate(), self.authority()
        if certificate is None or authorities is None:
            return False
        trusted = signing.fingerprints(authorities)
        return set(trusted) != set(wish.trusted) or signing.issuer_among(certificate, authorities) != wish.issuer

    def keep(self, certificate: bytes, authority: bytes) -> None:
        """After a join or a renewal. authority: all that are trusted, PEM.

        What is trusted is on disk before the certificate is. Raises ValueError when that is not of this key and of one
        of these authorities.
        """
        key = read_private(self._folder / _KEY)
        if key is None or not signing.belongs(key, certificate) or not signing.signed_by(certificate, authority):
            raise ValueError("the server's answer holds no certificate of this node's key and of its own authority")
        write_private(self._folder / _AUTHORITY, authority)
        write_private(self._folder / _CERTIFICATE, certificate)

    def forget(self) -> None:
        """The node leaves its cluster: what it had from it goes, its key too."""
        for name in (_CERTIFICATE, _AUTHORITY, _KEY):
            (self._folder / name).unlink(missing_ok=True)

    def context(self) -> ssl.SSLContext:
        """For connections to the cluster's servers, with the node's certificate."""
        authority = self.authority()
        assert authority is not None, "the node has joined"
        context = trusting(authority)
        context.load_cert_chain(self._folder / _CERTIFICATE, self._folder / _KEY)
        return context


def trusting(authority: bytes) -> ssl.SSLContext:
    """For connections to servers of these authorities (PEM), without a certificate of one's own."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.check_hostname = False  # see the module
    context.load_verify_locations(cadata=authority.decode())
    return context


def not_yet_trusting() -> ssl.SSLContext:
    """For the one question before anything is known: which authority is yours? Nothing secret may be sent on it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
