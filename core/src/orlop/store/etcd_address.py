"""Where an etcd is, who asks, and which of its keys are meant: from a URL and the settings beside it.

`etcd://HOST:PORT,HOST:PORT/PREFIX` is in the clear, `etcds://…` uses TLS. The port may be left out (2379), and so may
the prefix: it is then `/orlop/NAME/`, with the name of the cluster, so that several clusters can share one etcd. Keys
may follow as a query, `?ca_file=/etc/orlop/ca.pem&user=orlop`; they override those beside the URL. A password never
stands in a URL, which is shown to people; `password_file` may.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

import attrs

from orlop.store.interface import StoreError

SCHEMES: Final = ("etcd", "etcds")
DEFAULT_PORT: Final = 2379
#: etcd's own.
DEFAULT_QUOTA_BYTES: Final = 2 * 2**30
#: Of UTF-8. The limits of a transaction leave room for so much in front of each key.
PREFIX_BYTES_MAX: Final = 128
ENDPOINTS_MAX: Final = 16
TIMEOUT_S_MIN: Final = 0.1
TIMEOUT_S_MAX: Final = 60.0

_KEYS: Final = ("ca_file", "cert_file", "key_file", "user", "password_file", "timeout_s")


@attrs.frozen(kw_only=True)
class StoreAccess:
    """What a store's URL does not say. cluster: the cluster's name. Files: of PEM certificates and a private key.

    quota_bytes: of each member's file, where the members do not tell (before 3.6).
    timeout_s: how long a call may look for a member that answers, and how long one may take to answer.
    """

    cluster: str = "orlop"
    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""
    user: str = ""
    password: str = attrs.field(default="", repr=False)
    timeout_s: float = 5.0
    quota_bytes: int = DEFAULT_QUOTA_BYTES


@attrs.frozen(kw_only=True)
class EtcdAddress:
    """endpoints: hosts (IPv6 ones in brackets) and ports. prefix: of all keys. tls: `etcds`."""

    endpoints: tuple[tuple[str, int], ...]
    prefix: str
    tls: bool
    access: StoreAccess


def parse_address(url: str, access: StoreAccess) -> EtcdAddress:
    """Raises StoreError, which says what is wrong with the URL or the settings."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _wrong(url, str(error)) from error
    if parts.scheme not in SCHEMES or parts.fragment:
        raise _wrong(url, "expected one like etcd://10.0.0.1:2379,10.0.0.2:2379/prefix")
    if "@" in parts.netloc:
        raise StoreError("the store's URL names a user: give `user` and `password_file` in [store] instead")
    access = _overridden(url, access, parts)
    tls = parts.scheme == "etcds"
    _check(access, tls)
    return EtcdAddress(
        endpoints=_endpoints(url, parts.netloc), prefix=_prefix(url, parts, access), tls=tls, access=access
    )


def _wrong(url: str, why: str) -> StoreError:
    return StoreError(f"the store's URL {url!r}: {why}")


def _overridden(url: str, access: StoreAccess, parts: SplitResult) -> StoreAccess:
    values = dict(parse_qsl(parts.query, keep_blank_values=True))
    if unknown := values.keys() - set(_KEYS):
        raise _wrong(url, f"unknown {', '.join(sorted(unknown))}; there are {', '.join(_KEYS)}")
    changes: dict[str, Any] = {key: value for key, value in values.items() if key in ("user", *_KEYS[:3])}
    if "password_file" in values:
        try:
            changes["password"] = Path(values["password_file"]).read_text().rstrip("\r\n")
        except (OSError, ValueError) as error:
            raise _wrong(url, f"password_file cannot be read: {error}") from error
    if "timeout_s" in values:
        try:
            changes["timeout_s"] = float(values["timeout_s"])
        except ValueError as error:
            raise _wrong(url, f"timeout_s is a number of seconds, got {values['timeout_s']!r}") from error
    return attrs.evolve(access, **changes)


def _check(access: StoreAccess, tls: bool) -> None:
    files = {"ca_file": access.ca_file, "cert_file": access.cert_file, "key_file": access.key_file}
    given = [key for key, file in files.items() if file]
    if not tls and given:
        raise StoreError(f"the store has {', '.join(given)}, and its URL begins with etcd://; TLS needs etcds://")
    if tls and not access.ca_file:
        raise StoreError("etcds:// needs ca_file: the authority that has signed the certificates of etcd's members")
    if bool(access.cert_file) != bool(access.key_file):
        raise StoreError("the store's cert_file and key_file belong together: give both or neither")
    for key, file in files.items():
        if file and not Path(file).is_file():
            raise StoreError(f"the store's {key} {file!r} is not a file")
    if bool(access.user) != bool(access.password):
        raise StoreError("the store's user and password belong together: give both or neither")
    if not TIMEOUT_S_MIN <= access.timeout_s <= TIMEOUT_S_MAX:
        raise StoreError(
            f"the store's timeout_s is {TIMEOUT_S_MIN:g} to {TIMEOUT_S_MAX:g} seconds, got {access.timeout_s:g}"
        )


def _endpoints(url: str, netloc: str) -> tuple[tuple[str, int], ...]:
    found = tuple(_endpoint(url, text) for text in netloc.split(","))
    if len(set(found)) != len(found):
        raise _wrong(url, "names a member twice")
    if len(found) > ENDPOINTS_MAX:
        raise _wrong(url, f"names {len(found)} members; at most {ENDPOINTS_MAX} do")
    return found


def _endpoint(url: str, text: str) -> tuple[str, int]:
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise _wrong(url, f"{text!r} is no HOST:PORT: {error}") from error
    if not host or parts.netloc != text or port == 0:
        raise _wrong(url, f"{text!r} is no HOST:PORT")
    return (f"[{host}]" if ":" in host else host), port or DEFAULT_PORT


def _prefix(url: str, parts: SplitResult, access: StoreAccess) -> str:
    try:
        path = unquote(parts.path, errors="strict").rstrip("/")
    except UnicodeDecodeError as error:
        raise _wrong(url, "the prefix is not UTF-8") from error
    prefix = f"{path or f'/orlop/{access.cluster}'}/"
    if "\0" in prefix or len(prefix.encode()) > PREFIX_BYTES_MAX:
        raise _wrong(url, f"the prefix has at most {PREFIX_BYTES_MAX} bytes and no zero characters")
    return prefix
