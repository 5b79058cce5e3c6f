"""`creche completion`: the script that lets a shell complete our commands and options."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command("completion", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the script that completes creche's commands and options in SHELL.

    \b
    bash:  creche completion bash > ~/.local/share/bash-completion/completions/creche
    zsh:   creche completion zsh > ~/.zfunc/_creche        (with ~/.zfunc in $fpath)
    fish:  creche completion fish > ~/.config/fish/completions/creche.fish
    """
    from click.shell_completion import get_completion_class

    from .main import cli

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(cli, {}, "creche", "_CRECHE_COMPLETE").source(), nl=False)
