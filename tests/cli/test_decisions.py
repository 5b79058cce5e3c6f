"""The command line's pure decisions as tables: what the container gets as 0, 1 and 2, and exit statuses."""

import errno

import pytest

from creche import CrecheError, Exit, Reason, SpawnError, UnsupportedError
from creche.cli.exits import error_status, exit_status, worth_telling
from creche.cli.terminal import Standard, choose_standard

T, O, C = "terminal", "other", "closed"  # noqa: E741


@pytest.mark.parametrize(
    ("ours", "tty", "interactive", "wanted"),
    [
        ((T, T, T), None, True, Standard(True, "pipe", "pipe", "pipe")),
        ((O, O, O), None, True, Standard(False, "inherit", "inherit", "inherit")),
        ((T, O, T), None, True, Standard(False, "pipe", "inherit", "pipe")),
        ((T, T, O), None, True, Standard(False, "pipe", "pipe", "inherit")),
        ((O, T, T), None, True, Standard(False, "inherit", "pipe", "pipe")),
        ((T, T, T), False, True, Standard(False, "pipe", "pipe", "pipe")),
        ((T, T, T), None, False, Standard(False, "null", "pipe", "pipe")),
        ((O, O, O), None, False, Standard(False, "null", "inherit", "inherit")),
        ((O, O, O), True, True, Standard(True, "pipe", "pipe", "pipe")),
        ((C, C, O), None, True, Standard(False, "null", "null", "inherit")),
    ],
)
def test_how_ours_are_joined(ours, tty, interactive, wanted) -> None:  # type: ignore[no-untyped-def]
    """Files and pipes are handed over, a terminal of ours never is."""
    assert choose_standard(ours, tty=tty, interactive=interactive) == wanted


@pytest.mark.parametrize("tty", [None, True, False])
@pytest.mark.parametrize("interactive", [True, False])
def test_a_terminal_of_ours_is_never_handed_over(tty: bool | None, interactive: bool) -> None:
    """A command that shares it could type for us (TIOCSTI), whatever the options."""
    for ours in ((a, b, c) for a in (T, O, C) for b in (T, O, C) for c in (T, O, C)):
        chosen = choose_standard(ours, tty=tty, interactive=interactive)
        for kind, given in zip(ours, (chosen.stdin, chosen.stdout, chosen.stderr), strict=True):
            assert not (kind == T and given == "inherit")


@pytest.mark.parametrize(
    ("exit", "status", "told"),
    [
        (Exit(0), 0, False),
        (Exit(3), 3, False),
        (Exit(None, 15, Reason.SIGNALED), 143, False),
        (Exit(None, 9, Reason.OOM, limit="limits.memory"), 137, True),
        (Exit(None, 9, Reason.TIMEOUT), 124, True),
        (Exit(None, 31, Reason.SECCOMP), 159, True),
        (Exit(None, 9, Reason.KILLED), 137, True),
        (Exit(None, None, Reason.LOST), 125, True),
    ],
)
def test_exit_statuses(exit: Exit, status: int, told: bool) -> None:
    """The command's own, 128 + N, 124; and a sentence where the number alone would leave people guessing."""
    assert (exit_status(exit), worth_telling(exit)) == (status, told)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SpawnError(field="command", step="exec", errno=errno.ENOENT), 127),
        (SpawnError(field="command", step="exec", errno=errno.EACCES), 126),
        (SpawnError(field="command", step="exec", errno=errno.ENOEXEC), 126),
        (SpawnError(field="cwd", step="chdir", errno=errno.ENOENT), 125),
        (SpawnError(field="mounts[0].source", step="mount", errno=errno.EACCES), 125),
        (UnsupportedError("limits.memory"), 125),
        (CrecheError("used twice"), 125),
    ],
)
def test_our_own_failures(error: CrecheError, status: int) -> None:
    """126 and 127 are about the command alone: a missing cwd or bind source is our 125."""
    assert error_status(error) == status
