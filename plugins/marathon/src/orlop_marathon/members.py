"""What a member of a request may hold: bounds in the metadata of attributes, and attributes that have them.

They are checked where requests are read, never where stored objects are, because what was once accepted must stay
readable.
"""

from __future__ import annotations

import re
from typing import Any, Final

import attrs

from orlop_marathon import paths

#: Keys of attributes' metadata: bounds of numbers and of the length of texts, an expression that a text must match as
#: a whole. In a list they hold for each item.
MINIMUM: Final = "minimum"
MAXIMUM: Final = "maximum"
MIN_LENGTH: Final = "min_length"
MAX_LENGTH: Final = "max_length"
PATTERN: Final = "pattern"
#: In an attribute's metadata: the member is left out of replies while it holds its default (an empty one).
OMITTED_WHEN_EMPTY: Final = "omitted_when_empty"

HIGHEST_PORT: Final = 65535
#: The largest integer member (Marathon's Int).
LARGEST_INTEGER: Final = 2**31 - 1
#: The longest duration that is accepted, in seconds: about 31 years.
LONGEST_DURATION_S: Final = 1_000_000_000

# Of Marathon's RAML types, written so that they cannot be slow on hostile input.
PORT_NAME: Final = re.compile(r"[a-z0-9]+(-+[a-z0-9]+)*")
LONGEST_NAME: Final = 63
#: Metadata of attributes that hold ids of apps and groups.
PATH: Final = {MIN_LENGTH: 1, MAX_LENGTH: paths.LONGEST_PATH, PATTERN: paths.PATTERN}


def seconds(default: float) -> Any:
    """An attribute that holds a duration."""
    return attrs.field(default=default, metadata={MINIMUM: 0, MAXIMUM: LONGEST_DURATION_S})


def count(default: Any, minimum: int = 0, maximum: int = LARGEST_INTEGER) -> Any:
    """An attribute that holds a whole number."""
    return attrs.field(default=default, metadata={MINIMUM: minimum, MAXIMUM: maximum})


def amount(default: float, minimum: float = 0) -> Any:
    """An attribute that holds a number."""
    return attrs.field(default=default, metadata={MINIMUM: minimum, MAXIMUM: LARGEST_INTEGER})


def port_number(default: int | None) -> Any:
    """An attribute that holds a port; 0 leaves it open."""
    return count(default, maximum=HIGHEST_PORT)


def port_name() -> Any:
    """An attribute that holds a port's name, or None."""
    return attrs.field(default=None, metadata={PATTERN: PORT_NAME})


def omitted(default: Any = attrs.NOTHING, factory: Any = None, **more: Any) -> Any:
    """An attribute that is left out of replies while it is empty. more: metadata."""
    metadata = {OMITTED_WHEN_EMPTY: True} | more
    if factory is not None:
        return attrs.field(factory=factory, metadata=metadata)
    return attrs.field(default=default, metadata=metadata)
