"""A message of a WebSocket that is recognised by its bytes: when it comes alone, and never in the midst of another."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from orlop.api.frames import FrameFollower, KnownMessage

KNOWN = b'{"v":1,"type":"heartbeat"}'
masks = st.binary(min_size=4, max_size=4)


def frame(data: bytes, mask: bytes, first: int = 0x82) -> bytes:
    """As a client sends it."""
    size = len(data)
    if size < 126:
        head = struct.pack("!BB", first, 0x80 | size)
    elif size < 2**16:
        head = struct.pack("!BBH", first, 0x80 | 126, size)
    else:
        head = struct.pack("!BBQ", first, 0x80 | 127, size)
    return head + mask + bytes(byte ^ mask[place % 4] for place, byte in enumerate(data))


@given(masks, st.sampled_from([KNOWN, b"", b"{}", b"x" * 125, KNOWN[:-1] + b" "]))
def test_it_is_recognised_under_any_mask_and_nothing_else_is(mask: bytes, message: bytes) -> None:
    whole = frame(message, mask)
    assert FrameFollower().is_one(whole)
    assert KnownMessage(KNOWN).is_in(whole) is (message == KNOWN)
    assert not KnownMessage(KNOWN).is_in(frame(message, mask, first=0x81)), "a text is no binary message"
    assert not KnownMessage(KNOWN).is_in(frame(message, mask, first=0x02)), "nor is the beginning of a longer one"


@given(
    st.lists(st.tuples(st.sampled_from([0, 5, 26, 125, 126, 300, 70_000]), masks), min_size=1, max_size=5),
    st.lists(st.integers(min_value=1, max_value=400), max_size=20),
)
def test_where_frames_begin_is_known_however_they_are_cut(frames: list[tuple[int, bytes]], cuts: list[int]) -> None:
    # What is inside a frame looks like frames, to whoever has lost their beginning.
    inside = frame(KNOWN, b"\0\0\0\0")
    sent = [frame((inside * (size // len(inside) + 1))[:size], mask) for size, mask in frames]
    whole = b"".join(sent)
    begins = {sum(map(len, sent[:number])): len(one) for number, one in enumerate(sent)}
    follower, at = FrameFollower(), 0
    for cut in [*cuts, len(whole)]:
        piece = whole[at : at + cut]
        if piece:
            short = len(piece) <= 6 + 125
            assert follower.is_one(piece) is (short and begins.get(at) == len(piece))
        at += len(piece)
    assert follower.is_one(inside), "after whole frames the next one is recognised"
