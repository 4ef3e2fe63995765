"""Tokens: one readable text that lets a machine join, or a person use the API.

    orlop-join-1-<id>-<secret>-<authority>     orlop-api-1-<id>-<secret>

The last part of a join token is the SHA-256 of the cluster's authority certificate: with it a joining agent knows
whether the server that it reached for the first time is one of this cluster, before it tells the secret. Of the
secret only a hash is stored; it is 128 random bits, so a plain hash is enough.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import re
from typing import Final

import attrs

ID_BYTES: Final = 5
SECRET_BYTES: Final = 16
TOKEN_CHARACTERS_MAX: Final = 200

_DIGITS: Final = "0123456789abcdefghijklmnopqrstuvwxyz"
_ID_DIGITS: Final = 8
_SECRET_DIGITS: Final = 25
_AUTHORITY_DIGITS: Final = 50
_DIGEST_BYTES: Final = 32
_FORM: Final = re.compile(
    rf"orlop-(?:join-1-(?P<join>[0-9a-z]{{{_ID_DIGITS}}})-(?P<join_secret>[0-9a-z]{{{_SECRET_DIGITS}}})"
    rf"-(?P<authority>[0-9a-z]{{{_AUTHORITY_DIGITS}}})"
    rf"|api-1-(?P<api>[0-9a-z]{{{_ID_DIGITS}}})-(?P<api_secret>[0-9a-z]{{{_SECRET_DIGITS}}}))"
)


class InvalidToken(ValueError):
    """The text is no token; it is never repeated in the error."""


class Purpose(enum.StrEnum):
    """What a token is good for."""

    JOIN = "join"
    API = "api"


@attrs.frozen(kw_only=True)
class Token:
    """A token as it is typed. authority: SHA-256 of the authority's certificate, hexadecimal; empty for the API's."""

    purpose: Purpose
    id: str
    secret: str = attrs.field(repr=False)
    authority: str = ""

    @property
    def text(self) -> str:
        """What `parse` reads."""
        parts = ["orlop", self.purpose.value, "1", self.id, self.secret]
        if self.purpose is Purpose.JOIN:
            parts.append(_base36(bytes.fromhex(self.authority), _AUTHORITY_DIGITS))
        return "-".join(parts)

    @property
    def secret_hash(self) -> str:
        """What is stored of the secret."""
        return hashlib.sha256(f"orlop/{self.purpose.value}/{self.id}/{self.secret}".encode()).hexdigest()


@attrs.frozen(kw_only=True)
class StoredToken:
    """What the cluster remembers of a token.

    expires_utc_ms: 0 for never. uses_max: of a join token, how many nodes it lets in. node: of a join token, the only
    node that it is for; that node may come with a new key. revoked: it stays on record, and is good for nothing.
    """

    purpose: Purpose
    secret_hash: str
    note: str = ""
    created_utc_ms: int = 0
    expires_utc_ms: int = 0
    uses_max: int = 1
    uses: int = 0
    node: str = ""
    revoked: bool = False


def make_token(purpose: Purpose, entropy: bytes, authority: str = "") -> Token:
    """A new token. entropy: ID_BYTES + SECRET_BYTES random bytes. authority: see `Token`."""
    assert len(entropy) == ID_BYTES + SECRET_BYTES
    return Token(
        purpose=purpose,
        id=_base36(entropy[:ID_BYTES], _ID_DIGITS),
        secret=_base36(entropy[ID_BYTES:], _SECRET_DIGITS),
        authority=authority,
    )


def parse_token(text: str) -> Token:
    """The token of a text. Raises InvalidToken."""
    found = _FORM.fullmatch(text.strip()[: TOKEN_CHARACTERS_MAX + 1])
    if found is None:
        raise InvalidToken(
            "this is not a token: expected orlop-join-1-… or orlop-api-1-…, whole and in small letters and digits"
        )
    if found["api"]:
        return Token(purpose=Purpose.API, id=found["api"], secret=found["api_secret"])
    number = int(found["authority"], 36)
    if number >= 1 << 8 * _DIGEST_BYTES:
        raise InvalidToken("this is not a token: its last part is damaged")
    authority = number.to_bytes(_DIGEST_BYTES, "big").hex()
    return Token(purpose=Purpose.JOIN, id=found["join"], secret=found["join_secret"], authority=authority)


def wrong_with(stored: StoredToken | None, purpose: Purpose, secret_hash: str, utc_ms: int) -> str | None:
    """Why a token is good for nothing now, in words for its bearer; None when it is good."""
    if stored is None or stored.purpose is not purpose or not hmac.compare_digest(stored.secret_hash, secret_hash):
        return "the token is not known"
    if stored.revoked:
        return "the token was revoked"
    if stored.expires_utc_ms and utc_ms >= stored.expires_utc_ms:
        return "the token has expired"
    return None


def _base36(data: bytes, digits: int) -> str:
    number = int.from_bytes(data, "big")
    text = ""
    for _ in range(digits):
        number, digit = divmod(number, 36)
        text = _DIGITS[digit] + text
    assert number == 0, "the digits are enough for the bytes"
    return text
