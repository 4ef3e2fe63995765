"""For the shell: completion, version."""

from __future__ import annotations

import click


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print a shell's completion script, for: eval "$(orlop completion bash)".

    Names of tasks and nodes are asked of the server, for a second at most.
    """
    from click.shell_completion import get_completion_class

    from orlop.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows all of these shells"
    click.echo(found(cli, {}, "orlop", "_ORLOP_COMPLETE").source())


@click.command()
def version() -> None:
    """Print the version."""
    import orlop

    click.echo(orlop.__version__)
