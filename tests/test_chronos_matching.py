"""Which runs serve which due times, against trying everything."""

from __future__ import annotations

import itertools

from chaos.matching import Window, match
from hypothesis import given
from hypothesis import strategies as st


def best(windows: list[Window], starts: list[int]) -> int:
    """Slow and obvious: of all ways to give starts to windows, the one that serves most."""
    longest = 0
    for chosen in itertools.permutations([*range(len(starts)), *([None] * len(windows))], len(windows)):
        fits = sum(
            index is not None and window.target_ms <= starts[index] <= window.until_ms
            for window, index in zip(windows, chosen, strict=True)
        )
        longest = max(longest, fits)
    return longest


windows_of_any_length = st.lists(
    st.builds(lambda at, length: Window(at, at + length), st.integers(0, 9), st.integers(0, 6)), max_size=4
)


@given(windows_of_any_length, st.lists(st.integers(0, 14), max_size=4))
def test_as_many_windows_are_served_as_can_be(windows: list[Window], starts: list[int]) -> None:
    found = match(windows, starts)
    assert len(set(found.values())) == len(found)
    for index, start in found.items():
        assert windows[index].target_ms <= starts[start] <= windows[index].until_ms
    assert len(found) == best(windows, starts)
