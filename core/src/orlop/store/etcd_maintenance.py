"""What an operator does to an etcd: look at its members, give back space, take back the alarm.

etcd keeps what was deleted or overwritten until it is compacted; the space is then free inside the file, and each
member's file becomes smaller only by being defragmented, during which that member serves nobody. Once a file has
reached the quota etcd raises the alarm NOSPACE and refuses what needs space, until the alarm is taken back.

With authentication on, defragmenting needs a user with the role root.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import attrs
import grpc

from orlop.store import etcd_protocol as protocol
from orlop.store.etcd_errors import EtcdRefused, code_of, details_of, is_about_compaction, judge
from orlop.store.etcd_members import Member, Members
from orlop.store.etcd_protocol import messages
from orlop.store.interface import StoreError

DEFRAGMENTED_WITHIN_S: Final = 300.0
COMPACTED_WITHIN_S: Final = 300.0


@attrs.frozen(kw_only=True)
class MemberStatus:
    """One member that the store's URL names. error: why the rest is not known; empty when it is.

    id: etcd's own. size_bytes: of its file; used_bytes: of what is in it. quota_bytes: 0 when the member does not tell
    (servers tell from 3.6 on). revision: the last it has applied. problems: what it says about itself.
    """

    endpoint: str
    error: str = ""
    id: int = 0
    version: str = ""
    leads: bool = False
    revision: int = 0
    size_bytes: int = 0
    used_bytes: int = 0
    quota_bytes: int = 0
    problems: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class KnownMember:
    """One member as the members know each other. name: empty until it has started."""

    id: int
    name: str
    client_urls: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Alarm:
    """Raised by the member `member_id`. kind: `NOSPACE`, `CORRUPT`, or a number that is not known here."""

    member_id: int
    kind: str


_ALARMS: Final = {messages.NOSPACE: "NOSPACE", messages.CORRUPT: "CORRUPT"}


class EtcdMaintenance:
    """Methods raise StoreError."""

    def __init__(self, members: Members) -> None:
        self._members = members

    def status(self) -> tuple[MemberStatus, ...]:
        """Of each member that the URL names, in its order. One that cannot be asked has an `error`."""
        return tuple(self._status_of(member) for member in self._members.all)

    def members(self) -> tuple[KnownMember, ...]:
        """All there are, also those that the URL does not name."""
        answer = self._members.ask(protocol.MEMBERS, messages.MemberListRequest(), needs_leader=False)
        return tuple(
            KnownMember(id=member.ID, name=member.name, client_urls=tuple(member.clientURLs))
            for member in answer.members
        )

    def alarms(self) -> tuple[Alarm, ...]:
        """Those that are raised."""
        request = messages.AlarmRequest(action=messages.AlarmRequest.GET)
        answer = self._members.ask(protocol.ALARM, request)
        return tuple(
            Alarm(member_id=alarm.memberID, kind=_ALARMS.get(alarm.alarm, str(alarm.alarm))) for alarm in answer.alarms
        )

    def disarm(self) -> int:
        """Takes back NOSPACE; of how many members. etcd raises it again when a file still is too large."""
        raised = [alarm.member_id for alarm in self.alarms() if alarm.kind == "NOSPACE"]
        for member_id in raised:
            self._members.ask(
                protocol.ALARM,
                messages.AlarmRequest(
                    action=messages.AlarmRequest.DEACTIVATE, memberID=member_id, alarm=messages.NOSPACE
                ),
            )
        return len(raised)

    def compact(self, revision: int) -> None:
        """As the store's `compact`, but it returns when the space is free. Already compacted is as good."""
        request = messages.CompactionRequest(revision=revision, physical=True)
        member = self._members.usable()
        try:
            member.ask(protocol.COMPACT, request, COMPACTED_WITHIN_S)
        except grpc.RpcError as error:
            refused = EtcdRefused(judge(error).text, code_of(error), details_of(error))
            if not is_about_compaction(refused):
                raise StoreError(f"etcd member {member.name} has not compacted: {refused}") from error

    def defragment(self) -> Iterator[MemberStatus]:
        """One member after the other, the leader last; each one's status after it. This store asks others meanwhile.

        Nothing else is done when one cannot be defragmented: StoreError says which, and why.
        """
        for before in sorted(self.status(), key=lambda status: (status.leads, status.endpoint)):
            if before.error:
                raise StoreError(f"etcd member {before.endpoint} cannot be defragmented: {before.error}")
            member = self._named(before.endpoint)
            self._members.leave(member)
            self._defragment(member)
            yield self._status_of(member)

    def _defragment(self, member: Member) -> None:
        try:
            member.authenticate(self._members.timeout_s)
            member.ask(protocol.DEFRAGMENT, messages.DefragmentRequest(), DEFRAGMENTED_WITHIN_S)
        except grpc.RpcError as error:
            raise StoreError(f"etcd member {member.name} cannot be defragmented: {judge(error).text}") from error

    def _status_of(self, member: Member) -> MemberStatus:
        self._members.require_open()
        try:
            status: Any = self._members.check(member, self._members.timeout_s)
        except grpc.RpcError as error:
            return MemberStatus(endpoint=member.name, error=judge(error).text)
        except StoreError as error:
            return MemberStatus(endpoint=member.name, error=str(error))
        return MemberStatus(
            endpoint=member.name,
            id=status.header.member_id,
            version=status.version,
            leads=status.leader == status.header.member_id,
            revision=status.header.revision,
            size_bytes=status.dbSize,
            used_bytes=status.dbSizeInUse,
            quota_bytes=status.dbSizeQuota,
            problems=tuple(status.errors),
        )

    def _named(self, endpoint: str) -> Member:
        return next(member for member in self._members.all if member.name == endpoint)
