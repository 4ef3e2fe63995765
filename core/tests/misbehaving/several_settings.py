import attrs

from orlop.framework import Framework
from orlop.hookspecs import hookimpl


@attrs.frozen
class First:
    a: int = 0


@attrs.frozen
class Second:
    b: int = 0


class One(Framework):
    name = "one"
    config = First


class Two(Framework):
    name = "two"
    config = Second


@hookimpl
def frameworks():
    return [One, Two]
