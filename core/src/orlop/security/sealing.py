"""Sealing: what is stored and must stay secret, such as the authority's key, is encrypted with the cluster key.

The cluster key is a file on each server, never in the store nor in a backup. What is sealed is bound to a purpose, so
that nobody who can write to the store can put one secret in another's place. AES-256-GCM; the sealed form begins with
its version and a mark of the key, which tells a wrong key from a damaged secret.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
_VERSION: Final = 1
_MARK_BYTES: Final = 4
_TAG_BYTES: Final = 16
_HEAD_BYTES: Final = 1 + _MARK_BYTES + NONCE_BYTES


class CannotUnseal(ValueError):
    """The text says why: another key, another version, or damage."""


def seal(key: bytes, purpose: str, secret: bytes, nonce: bytes) -> str:
    """A text for `unseal` with the same key and purpose. nonce: NONCE_BYTES random ones, never used twice."""
    assert len(key) == KEY_BYTES
    assert len(nonce) == NONCE_BYTES
    head = bytes([_VERSION]) + _mark(key) + nonce
    return base64.b64encode(head + AESGCM(key).encrypt(nonce, secret, _bound_to(purpose))).decode()


def unseal(key: bytes, purpose: str, sealed: str) -> bytes:
    """What was sealed. Raises CannotUnseal."""
    try:
        data = base64.b64decode(sealed, validate=True)
    except (ValueError, binascii.Error):
        raise CannotUnseal(f"{purpose} is damaged") from None
    if len(data) < _HEAD_BYTES + _TAG_BYTES:
        raise CannotUnseal(f"{purpose} is damaged")
    if data[0] != _VERSION:
        raise CannotUnseal(f"{purpose} is sealed in version {data[0]}, and this program knows version {_VERSION}")
    if data[1 : 1 + _MARK_BYTES] != _mark(key):
        raise CannotUnseal(f"{purpose} is sealed with another cluster key than this server's")
    try:
        nonce = data[1 + _MARK_BYTES : _HEAD_BYTES]
        return AESGCM(key).decrypt(nonce, data[_HEAD_BYTES:], _bound_to(purpose))
    except InvalidTag:
        raise CannotUnseal(f"{purpose} is damaged, or was sealed for another purpose") from None


def _mark(key: bytes) -> bytes:
    return hashlib.sha256(b"orlop cluster key" + key).digest()[:_MARK_BYTES]


def _bound_to(purpose: str) -> bytes:
    return f"orlop/{_VERSION}/{purpose}".encode()
