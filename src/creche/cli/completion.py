"""`creche completion`: the script that lets a shell complete our commands and options."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("completion", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes creche's commands, options and their values in SHELL.

    \b
    bash:  eval "$(creche completion bash)"     (in ~/.bashrc)
    zsh:   eval "$(creche completion zsh)"      (in ~/.zshrc, after compinit)
    fish:  creche completion fish > ~/.config/fish/completions/creche.fish
    """
    # click's script for zsh is not for a folder of $fpath: loaded from there, it completes nothing at its second call.
    from click.shell_completion import get_completion_class

    from .main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "creche", "_CRECHE_COMPLETE").source(), nl=False)
