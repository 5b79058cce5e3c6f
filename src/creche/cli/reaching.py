"""What the commands share that reach a running `creche up`: which project, how it is asked, how its words are shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from creche.units import escaped

__all__ = ["SETTINGS", "asked", "project_file", "safe"]

SETTINGS: dict[str, Any] = {"help_option_names": ["-h", "--help"]}
project_file = click.option(
    "-f", "--file", "path", default="creche.toml", type=click.Path(path_type=Path), help="The project."
)


def asked(path: Path, *, instead: str = "", **request: Any) -> Iterator[dict[str, Any]]:
    """Ask the supervisor of the project, and give its answers. *instead*: what else to give where there is no project."""
    from creche.errors import CrecheError
    from creche.supervisor.control import Place, ask
    from creche.supervisor.project import name_of

    if not path.exists():
        raise click.ClickException(f"there is no project {escaped(str(path))} here: give its file by --file{instead}")
    try:
        yield from ask(Place.of(name_of(path)), request)
    except (CrecheError, OSError) as error:
        raise click.ClickException(str(error)) from None


def safe(text: str) -> str:
    """What a guest said, so that a terminal shows it and does not obey it."""
    return escaped(text, len(text) * 4 + 16)[1:-1]
