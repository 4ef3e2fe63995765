"""What a store may be asked: the checks that all backends share, and the arithmetic of prefixes.

Bad input is the caller's fault and raises ValueError or TypeError, which name what is wrong and what was expected;
a transaction over a store's limits raises StoreRefused, because the limits are the store's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from orlop.store.interface import Compare, Delete, Field, Limits, Put, StoreRefused

#: For the stores that have no small limits of their own.
GENEROUS_LIMITS: Final = Limits(operations=100_000, bytes=64 * 1024 * 1024)

_LAST_CODE_POINT: Final = 0x10FFFF
_SURROGATES: Final = range(0xD800, 0xE000)


def check_transaction(writes: Sequence[Put | Delete], compares: Sequence[Compare], limits: Limits) -> None:
    """Raises ValueError, TypeError for what no store can do, StoreRefused for what is over `limits`."""
    for what, count in (("writes", len(writes)), ("compares", len(compares))):
        if count > limits.operations:
            raise StoreRefused(f"the transaction has {count} {what}, and this store takes {limits.operations}")
    size = sum(_size_of_compare(compare) for compare in compares)
    written: set[str] = set()
    for write in writes:
        if write.key in written:
            raise ValueError(f"the transaction writes {write.key!r} twice")
        written.add(write.key)
        size += _size_of_write(write)
    if size > limits.bytes:
        raise StoreRefused(f"the transaction has {size} bytes, and this store takes {limits.bytes}")


def check_key(key: str) -> int:
    """The key's length in bytes of UTF-8. Raises ValueError, TypeError."""
    if not isinstance(key, str):
        raise TypeError(f"a key is text, got {type(key).__name__}")
    if not key:
        raise ValueError("a key must not be empty")
    if "\0" in key:
        raise ValueError(f"the key {key!r} contains a zero character")
    return check_text(key)


def check_text(text: str) -> int:
    """The length in bytes of UTF-8. Raises ValueError for a lone surrogate, which has none."""
    try:
        return len(text.encode())
    except UnicodeEncodeError as error:
        raise ValueError(f"{text!r} is not valid Unicode text: {error.reason}") from error


def check_range(prefix: str, after: str | None, limit: int | None) -> None:
    """Raises ValueError."""
    check_text(prefix)
    if after is not None:
        check_text(after)
    if limit is not None and limit < 1:
        raise ValueError(f"the limit of a range is at least 1, got {limit}")


def check_revision(revision: int | None) -> None:
    """Raises ValueError."""
    if revision is not None and revision < 1:
        raise ValueError(f"revisions begin at 1, got {revision}")


def check_watch(prefix: str, after_revision: int) -> None:
    """Raises ValueError."""
    check_text(prefix)
    if after_revision < 0:
        raise ValueError(f"a watch begins after revision 0 or a later one, got {after_revision}")


def check_ttl(ttl_s: int) -> None:
    """Raises ValueError."""
    if ttl_s < 1:
        raise ValueError(f"a lease lasts at least 1 second, got {ttl_s}")


def prefix_end(prefix: str) -> str | None:
    """The least text above every text that begins with `prefix`; None if there is none.

    >>> prefix_end("task/")
    'task0'
    """
    head = prefix.rstrip(chr(_LAST_CODE_POINT))
    if not head:
        return None
    following = ord(head[-1]) + 1
    if following in _SURROGATES:
        following = _SURROGATES.stop
    return head[:-1] + chr(following)


def _size_of_write(write: Put | Delete) -> int:
    size = check_key(write.key)
    if isinstance(write, Put):
        if not isinstance(write.value, bytes):
            raise TypeError(f"the value of {write.key!r} must be bytes, got {type(write.value).__name__}")
        size += len(write.value)
    return size


def _size_of_compare(compare: Compare) -> int:
    size = check_key(compare.key)
    wanted = bytes if compare.field is Field.VALUE else int
    if not isinstance(compare.expected, wanted):
        raise TypeError(
            f"comparing the {compare.field} of {compare.key!r} needs {wanted.__name__}, "
            f"got {type(compare.expected).__name__}"
        )
    return size + (len(compare.expected) if isinstance(compare.expected, bytes) else 0)
