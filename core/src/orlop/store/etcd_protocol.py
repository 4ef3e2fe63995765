"""etcd's protocol: the messages, the methods, and one member's connection. The only module that imports `etcd3`.

Theory of operation: the package etcd3 (0.12.0, its last release) brings everything that is needed to speak to etcd, but
its message modules were generated for a protobuf that is long gone, and they cannot be imported with a present one. So
they are never run. The descriptions of the messages that they contain are read out of their source, and the message
classes are made from these, in a pool of their own, which cannot clash with anybody else's `kv.proto`. Then `etcd3`
is imported on top of them.

The descriptions are those of etcd 3.3. Fields of later servers that are used here are added by name and number: a
server that does not know one ignores it, and what it does not send reads as empty.
"""

from __future__ import annotations

import ast
import importlib.util
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import attrs
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor_pb2 import FieldDescriptorProto, FileDescriptorProto

#: In the order in which they depend on one another.
_MESSAGE_MODULES: Final = ("kv_pb2", "auth_pb2", "rpc_pb2")

#: (message, field, number, type, repeated), known to servers from 3.4 on, the last of StatusResponse from 3.6 on.
_LATER_FIELDS: Final = (
    ("WatchCreateRequest", "fragment", 8, FieldDescriptorProto.TYPE_BOOL, False),
    ("WatchResponse", "fragment", 7, FieldDescriptorProto.TYPE_BOOL, False),
    ("StatusResponse", "errors", 8, FieldDescriptorProto.TYPE_STRING, True),
    ("StatusResponse", "dbSizeInUse", 9, FieldDescriptorProto.TYPE_INT64, False),
    ("StatusResponse", "isLearner", 10, FieldDescriptorProto.TYPE_BOOL, False),
    ("StatusResponse", "dbSizeQuota", 12, FieldDescriptorProto.TYPE_INT64, False),
    ("Member", "isLearner", 5, FieldDescriptorProto.TYPE_BOOL, False),
)

#: A gRPC client pings an idle peer no more often than etcd allows (every 5 s), and gives it this long to answer.
_PING_EVERY_MS: Final = 6_000
_PING_TIMEOUT_MS: Final = 3_000

_CHANNEL_OPTIONS: Final = (
    # What may be sent is limited by the store before, and by etcd; a long listing is larger than gRPC's usual 4 MiB.
    ("grpc.max_send_message_length", -1),
    ("grpc.max_receive_message_length", -1),
    # A frozen peer keeps its sockets open; only pings tell. Without the third option the kernel's patience counts.
    # While no call is under way there are none: etcd closes connections that are pinged for nothing.
    ("grpc.keepalive_time_ms", _PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.http2.ping_timeout_ms", _PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 0),
    ("grpc.http2.max_pings_without_data", 0),
    # Back quickly after an outage.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    # No connection is shared with another store of the same process, and so neither is its back-off.
    ("grpc.use_local_subchannel_pool", 1),
    # etcd is reached directly, whatever the environment says about proxies for the web.
    ("grpc.enable_http_proxy", 0),
    ("grpc.service_config_disable_resolution", 1),
)


def _description(source: Path) -> FileDescriptorProto:
    """The description of messages in a generated module, read from its text. Raises ImportError."""
    for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb":
            literal = node.value.args[0] if isinstance(node.value, ast.Call) else node.value
            content = ast.literal_eval(literal)
            return FileDescriptorProto.FromString(content if isinstance(content, bytes) else content.encode("latin1"))
    raise ImportError(f"{source} describes no messages: this is not the etcd3 that Orlop knows")


def _add_later_fields(file: FileDescriptorProto) -> None:
    messages = {message.name: message for message in file.message_type}
    for message, name, number, kind, repeated in _LATER_FIELDS:
        if message in messages and all(field.number != number for field in messages[message].field):
            label = FieldDescriptorProto.LABEL_REPEATED if repeated else FieldDescriptorProto.LABEL_OPTIONAL
            messages[message].field.add(name=name, number=number, type=kind, label=label)


def _install_messages() -> None:
    """Puts working message modules where etcd3 looks for its own. Raises ImportError."""
    found = importlib.util.find_spec("etcd3")
    if found is None or found.origin is None:
        raise ImportError("the package etcd3 is not installed")
    pool = descriptor_pool.DescriptorPool()
    for name in _MESSAGE_MODULES:
        description = _description(Path(found.origin).parent / "etcdrpc" / f"{name}.py")
        _add_later_fields(description)
        pool.AddSerializedFile(description.SerializeToString())
        file = pool.FindFileByName(description.name)
        module = types.ModuleType(f"etcd3.etcdrpc.{name}")
        for message, descriptor in file.message_types_by_name.items():
            setattr(module, message, message_factory.GetMessageClass(descriptor))
        for enumeration in file.enum_types_by_name.values():
            for value in enumeration.values:
                setattr(module, value.name, value.number)
        sys.modules[module.__name__] = module


_install_messages()

import etcd3  # noqa: E402 - only now it can be imported

#: The messages, by the names that etcd's `rpc.proto` gives them.
messages: Final[Any] = etcd3.etcdrpc
DELETED: Final[int] = sys.modules["etcd3.etcdrpc.kv_pb2"].Event.DELETE


@attrs.frozen
class Method:
    """One method of etcd. idempotent: doing it twice is the same as doing it once."""

    name: str
    of: Callable[[Any], Any] = attrs.field(repr=False)
    idempotent: bool = False


RANGE: Final = Method("Range", lambda client: client.kvstub.Range, idempotent=True)
TXN: Final = Method("Txn", lambda client: client.kvstub.Txn)
#: A transaction without writes.
COMPARE: Final = Method("Txn", lambda client: client.kvstub.Txn, idempotent=True)
COMPACT: Final = Method("Compact", lambda client: client.kvstub.Compact)
#: With an id of the client's choice; a second one says that the lease exists.
LEASE_GRANT: Final = Method("LeaseGrant", lambda client: client.leasestub.LeaseGrant, idempotent=True)
LEASE_REVOKE: Final = Method("LeaseRevoke", lambda client: client.leasestub.LeaseRevoke, idempotent=True)
#: By its definition a stream both ways. With one request and one answer it looks no different, and gRPC does not start
#: two threads for it each time.
LEASE_KEEP_ALIVE: Final = Method(
    "LeaseKeepAlive",
    lambda client: client.channel.unary_unary(
        "/etcdserverpb.Lease/LeaseKeepAlive",
        request_serializer=messages.LeaseKeepAliveRequest.SerializeToString,
        response_deserializer=messages.LeaseKeepAliveResponse.FromString,
    ),
    idempotent=True,
)
AUTHENTICATE: Final = Method(
    "Authenticate", lambda client: messages.AuthStub(client.channel).Authenticate, idempotent=True
)
MEMBERS: Final = Method("MemberList", lambda client: client.clusterstub.MemberList, idempotent=True)
STATUS: Final = Method("Status", lambda client: client.maintenancestub.Status, idempotent=True)
ALARM: Final = Method("Alarm", lambda client: client.maintenancestub.Alarm, idempotent=True)
DEFRAGMENT: Final = Method("Defragment", lambda client: client.maintenancestub.Defragment, idempotent=True)
WATCH: Final = Method("Watch", lambda client: _OneRequest(messages.WatchStub(client.channel).Watch), idempotent=True)


def connect(host: str, port: int, ca_file: str, cert_file: str, key_file: str) -> Any:
    """The client of one member, not connected yet. Without `ca_file`: in the clear. Raises OSError."""
    return etcd3.client(
        host=host,
        port=port,
        ca_cert=ca_file or None,
        cert_cert=cert_file or None,
        cert_key=key_file or None,
        grpc_options=_CHANNEL_OPTIONS,
    )


@attrs.frozen
class _OneRequest:
    """A method with a stream of requests, sent just one."""

    _method: Callable[..., Any]

    def __call__(self, request: Any, timeout: float | None, metadata: Iterable[tuple[str, str]]) -> Any:
        return self._method(iter([request]), timeout=timeout, metadata=metadata)
