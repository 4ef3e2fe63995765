"""Between the store's keys and etcd's: a prefix in front, text in UTF-8, whose order is that of code points."""

from __future__ import annotations

from typing import Any

import attrs

from orlop.store.etcd_protocol import messages
from orlop.store.interface import Compare, Delete, Entry, Field, Put

_TARGETS = {
    Field.VALUE: (messages.Compare.VALUE, "value"),
    Field.CREATE_REVISION: (messages.Compare.CREATE, "create_revision"),
    Field.MOD_REVISION: (messages.Compare.MOD, "mod_revision"),
    Field.VERSION: (messages.Compare.VERSION, "version"),
}


@attrs.frozen
class KeySpace:
    """The keys of one cluster. root: what stands before each of them."""

    root: bytes

    def key(self, key: str) -> bytes:
        """As etcd knows it."""
        return self.root + key.encode()

    def name(self, key: bytes) -> str:
        """As the store knows it. Raises UnicodeDecodeError for a key that something else has put here."""
        return key[len(self.root) :].decode()

    def span(self, prefix: str) -> tuple[bytes, bytes]:
        """From and up to what etcd's keys with this prefix go."""
        start = self.key(prefix)
        # The last byte of UTF-8 text is never 255.
        return start, start[:-1] + bytes([start[-1] + 1])

    def entry(self, kv: Any) -> Entry:
        """From etcd's record of a key. Raises UnicodeDecodeError."""
        return Entry(self.name(kv.key), kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)

    def compare(self, compare: Compare) -> Any:
        """As etcd is asked."""
        target, field = _TARGETS[compare.field]
        return messages.Compare(
            key=self.key(compare.key), target=target, result=messages.Compare.EQUAL, **{field: compare.expected}
        )

    def operation(self, write: Put | Delete) -> Any:
        """As etcd is told."""
        if isinstance(write, Put):
            put = messages.PutRequest(key=self.key(write.key), value=write.value, lease=write.lease)
            return messages.RequestOp(request_put=put)
        return messages.RequestOp(request_delete_range=messages.DeleteRangeRequest(key=self.key(write.key)))
