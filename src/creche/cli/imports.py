"""`creche import`: a Procfile or a supervisord.conf as a creche.toml, on the standard output."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command("import", context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("path", type=click.Path(path_type=Path, dir_okay=False, exists=True))
def command(path: Path) -> None:
    """Print the project that a Procfile or a supervisord.conf (*.conf, *.ini) describes.

    \b
    creche import Procfile > creche.toml
    creche up
    """
    from creche.errors import CrecheError
    from creche.supervisor.imports import from_procfile, from_supervisord

    convert = from_supervisord if path.suffix in {".conf", ".ini"} else from_procfile
    try:
        click.echo(convert(path.read_text(), path.resolve().parent), nl=False)
    except (CrecheError, ValueError, OSError) as error:
        raise click.ClickException(str(error)) from None
