"""Sends each line of standard input through the plug-ins of a folder, each of which runs in a container of its own.

echo 'hello, world' | python examples/plugin_host examples/plugin_host/plugins
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import anyio
from host import LIMITS, PluginError, PluginHost
from interface import TextPlugin

from creche import CrecheError, Limits


async def main(given: argparse.Namespace) -> None:
    """Lines in, what each plug-in makes of them out."""
    files = {path.stem: path for path in sorted(given.folder.glob("*.py"))}
    limits = Limits() if given.no_limits else LIMITS
    async with PluginHost(files, TextPlugin, limits=limits) as host:
        async for line in anyio.wrap_file(sys.stdin):
            for name in host.names:
                try:
                    made = await host.call(name, "transform", line.rstrip("\n"), timeout=given.timeout)
                    print(f"{name}: {made.encode('unicode_escape').decode()}", flush=True)
                except PluginError as error:
                    print(str(error).encode("unicode_escape").decode(), file=sys.stderr)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="plugin_host", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="its .py files are the plug-ins")
    parser.add_argument("-t", "--timeout", type=float, default=5.0, help="seconds for each call (default: 5)")
    parser.add_argument("--no-limits", action="store_true", help="for machines without control groups")
    parsed = parser.parse_args()
    if not sorted(parsed.folder.glob("*.py")):
        parser.error(f"{parsed.folder}: there is no plug-in in it: give a folder with .py files")
    try:
        anyio.run(main, parsed)
    except CrecheError as error:
        sys.exit(
            f"plugin_host: {error}\nplugin_host: `creche doctor` tells more; --no-limits does without control groups"
        )
    except KeyboardInterrupt:
        sys.exit(130)
