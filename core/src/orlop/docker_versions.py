"""Versions of the Engine API, such as "1.41"."""

from __future__ import annotations


def number(version: str) -> tuple[int, int] | None:
    """To be compared; None for what is no version."""
    major, _, minor = version.partition(".")
    return (int(major), int(minor)) if major.isdecimal() and minor.isdecimal() else None


def nearest(version: str, oldest: str, newest: str) -> str:
    """The version itself, where an engine that speaks all from `oldest` to `newest` knows it, or else one of these.

    What is no version is left as it is; a bound that is none is not known, and does not count.
    """
    wanted, first, last = map(number, (version, oldest, newest))
    if wanted is None:
        return version
    if first is not None and wanted < first:
        version, wanted = oldest, first
    return newest if last is not None and wanted > last else version
