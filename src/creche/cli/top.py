"""`creche top`: the workers of a running project on the whole terminal, kept current, with keys to act on them."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from .board import Board, Wish, keys
from .reaching import SETTINGS, project_file
from .terminal import Terminal

__all__ = ["command"]

PATIENCE = 5.0  # seconds in which a supervisor has to answer
_WAKE = b"\xff"  # among the numbers of signals: a thread has come to its end
_HELP = """Watch the workers of a running project: processor, memory, restarts, and what the chosen one printed last.

\b
↑ ↓ or k j   choose a worker           r   restart it
PgUp PgDn    by pages                  s   stop it, or start it again
l or Enter   its output alone          q   back, and out
"""


@click.command("top", help=_HELP, context_settings=SETTINGS)
@project_file
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="Between looks.",
)
def command(path: Path, interval: float) -> None:
    """See _HELP."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.ClickException(
            "creche top needs a terminal; `creche stats` and `creche ps` go through pipes too"
        )
    try:
        import rich  # noqa: F401 - said before the screen is taken, not in the middle
    except ImportError:
        raise click.ClickException("creche top needs rich: pip install 'creche[tui]'") from None
    from creche.errors import CrecheError
    from creche.supervisor.control import Place
    from creche.supervisor.project import name_of

    try:
        name = name_of(path)
        _Top(Place.of(name), Board(name), interval).run()
    except (CrecheError, OSError) as error:
        raise click.ClickException(str(error)) from None


class _Top:
    def __init__(self, place: Any, board: Board, interval: float) -> None:
        self.place = place
        self.board = board
        self.interval = interval
        self.terminal = Terminal()

    def run(self) -> None:
        """Until a key, a signal, or the project's end, which is an error as it is for `creche ps`."""
        from rich.console import Console
        from rich.live import Live

        self._look()  # before the screen is taken: where nothing runs, a sentence is all there is
        with _signals() as (reader, self._wake), self.terminal.typing():
            console = Console(highlight=False)
            live = Live(
                console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            )
            with live:
                due = time.monotonic() + self.interval
                while True:
                    self._draw(console, live)
                    patience = max(due - time.monotonic(), 0)
                    waited: list[Any] = [0, reader]
                    ready, _, _ = select.select(waited, [], [], patience)
                    if reader in ready and not self._signalled(reader.recv(512), live):
                        return
                    if 0 in ready and not self._typed(os.read(0, 512)):
                        return
                    if time.monotonic() >= due or ready:
                        self._look()
                        due = time.monotonic() + self.interval

    def _ask(self, **request: Any) -> list[dict[str, Any]]:
        from creche.supervisor.control import ask

        return list(ask(self.place, request, patience=PATIENCE))

    def _look(self) -> None:
        try:
            self.board.tell(self._ask(do="stats"))
            if self.board.chosen:
                self.board.log = [told["line"] for told in self._ask(do="logs", names=[self.board.chosen])]
        except TimeoutError:
            self.board.said = f"the supervisor has not answered for {PATIENCE:g} s"

    def _draw(self, console: Any, live: Any) -> None:
        from rich.text import Text

        columns, rows = os.get_terminal_size(1)
        console.size = (columns, rows)  # as the terminal has it now, whatever $COLUMNS said when we began
        live.update(Text("\n").join(self.board.lines(columns, rows)), refresh=True)

    def _typed(self, data: bytes) -> bool:
        """Whether to go on."""
        for key in keys(data):
            wish = self.board.press(key, os.get_terminal_size(1).lines)
            if wish is not None and wish.do == "quit":
                return False
            if wish is not None:
                # stopping takes as long as the worker's grace, and the screen goes on meanwhile
                threading.Thread(target=self._carry_out, args=(wish,), daemon=True).start()
        return bool(data)  # none: the terminal was hung up

    def _carry_out(self, wish: Wish) -> None:
        from creche.errors import CrecheError
        from creche.supervisor.control import ask

        try:
            list(ask(self.place, {"do": wish.do, "names": [wish.name]}))
        except (CrecheError, OSError) as error:
            self.board.said = f"{wish.do} {wish.name}: {error}"
        with contextlib.suppress(OSError):
            self._wake.send(_WAKE)

    def _signalled(self, numbers: bytes, live: Any) -> bool:
        """Whether to go on."""
        for number in numbers:
            if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                return False
            if number == signal.SIGTSTP:  # give the whole terminal back for as long as we stand still
                live.stop()
                self.terminal.stop_ourselves()
                live.start()
        return True


@contextlib.contextmanager
def _signals() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Signals as bytes in a pair of sockets, where `select` sees them beside the keys: (to read, to write)."""
    heard = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP, signal.SIGWINCH)
    reader, writer = socket.socketpair()
    with reader, writer:
        writer.setblocking(False)

        def heard_of(number: int, _frame: object) -> None:
            with contextlib.suppress(BlockingIOError):  # it is full of signals already
                writer.send(bytes([number]))

        before = {number: signal.signal(number, heard_of) for number in heard}
        try:
            yield reader, writer
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
