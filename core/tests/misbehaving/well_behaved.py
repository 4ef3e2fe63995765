import attrs
import click

from orlop.framework import Framework
from orlop.hookspecs import hookimpl


@attrs.frozen
class Config:
    copies: int = attrs.field(default=0, validator=attrs.validators.ge(0))
    password: str = ""


class Idle(Framework):
    name = "idle"
    config = Config

    def reconcile(self, view):
        return ()


@hookimpl
def frameworks():
    return [Idle]


@hookimpl
def stores():
    return {"nowhere": lambda url: None}


@hookimpl
def commands():
    @click.command()
    def behave():
        """Behaves well."""
        click.echo("well")

    return [behave]
