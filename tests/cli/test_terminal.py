"""`creche run` in a real terminal (tmux): keys, job control, the window's size, and the terminal given back."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.window import Window

from needs import needs

pytestmark = [needs("native", "userns", "tmux"), pytest.mark.slow]


@pytest.fixture
def window(tmp_path: Path) -> Iterator[Window]:
    """A fresh window."""
    opened = Window(tmp_path)
    yield opened
    opened.close()


def inner_shell(window: Window) -> None:
    """Start a bash in a container and wait for its prompt."""
    window.type("creche run -e 'PS1=inner> ' bash --norc --noprofile -i")
    window.until(lambda screen: screen.splitlines()[-1].startswith("inner>"))


def test_it_has_a_terminal_with_our_size_and_type(window: Window) -> None:
    """All three are a terminal, of our window's size, and TERM is ours."""
    window.type(
        "creche run sh -c 'test -t 0 && test -t 1 && test -t 2 && echo size $(stty size) term $TERM tty $(tty)'"
    )
    screen = window.until("tty /dev/pts")
    assert "size 30 100" in screen
    assert "term screen" in screen or "term tmux" in screen


def test_the_window_s_size_follows(window: Window) -> None:
    """SIGWINCH arrives inside, and the new size is there."""
    inner_shell(window)
    window.type("trap 'echo changed to $(stty size)' WINCH; echo waiting")
    window.line("waiting")
    window.resize(77, 21)
    window.type("")
    window.until("changed to 21 77")


def test_ctrl_c_is_the_commands(window: Window) -> None:
    """It interrupts what runs in the container, and not creche."""
    inner_shell(window)
    window.type("echo begun; sleep 1000; echo status $?")
    window.line("begun")
    window.press("C-c")
    window.until(lambda screen: screen.splitlines()[-1].startswith("inner>") and "^C" in screen)
    window.type("echo still $((40+2))")
    window.until("still 42")


def test_job_control_inside(window: Window) -> None:
    """Ctrl-Z, jobs, fg in a shell inside work as in any terminal."""
    inner_shell(window)
    window.type("echo begun; sleep 1000")
    window.line("begun")
    window.press("C-z")
    window.until("Stopped")
    window.type("jobs; fg")
    window.until(lambda screen: screen.rstrip().endswith("sleep 1000"))
    window.press("C-c")
    window.until(lambda screen: screen.splitlines()[-1].startswith("inner>"))


def test_no_complaint_about_job_control(window: Window) -> None:
    """A shell inside has a controlling terminal: bash would say so if not."""
    inner_shell(window)
    assert "no job control" not in window.screen()
    assert "cannot set terminal process group" not in window.screen()


def test_the_terminal_is_given_back_as_it_was(window: Window) -> None:
    """After a raw session the outer shell's modes are the same, whatever the command did."""
    window.type(
        "stty -g > before; creche run sh -c 'stty raw -echo; exit 5'; echo status $?; stty -g > after"
    )
    window.line("status 5")
    window.type("cmp before after && echo the same")
    window.line("the same")


def test_the_terminal_is_given_back_when_we_are_told_to_end(window: Window) -> None:
    """SIGTERM ends the command; the modes are restored on the way out."""
    window.type(
        "stty -g > before; creche run sh -c 'echo begun; exec sleep 1000'; echo status $?; stty -g > after"
    )
    window.line("begun")
    os.kill(window.creche(), signal.SIGTERM)
    window.line("status 143")
    window.type("cmp before after && echo the same")
    window.line("the same")


def test_stopped_from_outside_and_continued(window: Window) -> None:
    """SIGTSTP gives the terminal back to the shell; `fg` puts it back to the command, with what is typed."""
    inner_shell(window)
    os.kill(window.creche(), signal.SIGTSTP)
    window.until("Stopped")
    window.type("echo in the $((1+1))nd shell")
    window.until("in the 2nd shell")
    window.type("fg")
    window.type("echo back $((40+2)) in $PS1")
    window.until("back 42 in inner>")


def test_ctrl_d_ends_the_input(window: Window) -> None:
    """cat in a container ends as it does outside."""
    window.type("creche run sh -c 'echo begun; exec cat'; echo status $?")
    window.line("begun")
    window.type("a line")
    window.until(lambda screen: screen.splitlines().count("a line") == 2)  # the echo, and cat's
    window.press("C-d")
    window.line("status 0")


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("sh -c 'exit 7'", 7),
        ("sh -c 'kill -KILL $$'", 137),
        ("--timeout 0.7 sleep 60", 124),
        ("--no-such-option true", 125),
        ("/etc/passwd", 126),
        ("/no/such/program", 127),
    ],
)
def test_exit_statuses(window: Window, words: str, status: int) -> None:
    """The same as without a terminal, and the terminal is as it was after each."""
    window.type(
        f"stty -g > before; creche run {words}; echo status $?; stty -g | cmp - before && echo the same"
    )
    window.line(f"status {status}")
    window.line("the same")


def test_in_the_background(window: Window) -> None:
    """The terminal is the shell's then: its modes are left alone, and what the command prints comes."""
    window.type("stty -g > before; creche run sh -c 'test -t 1 && echo begun; read x; echo got $x' &")
    window.until(lambda screen: any(line.endswith("begun") for line in screen.splitlines()))  # behind the prompt
    window.type("stty -g | cmp - before && echo the same")
    window.line("the same")
    window.type("fg")
    window.until(lambda screen: screen.splitlines()[-1].startswith("creche run"))
    window.type("a word")
    window.line("got a word")
    window.until(lambda screen: screen.endswith("outer>"))
    window.type("stty -g | cmp - before && echo still the same")
    window.line("still the same")


class TestWithoutATerminalOfItsOwn:
    """--no-tty on a terminal: our own line discipline turns keys into signals, and we hand those on."""

    def test_ctrl_c_ends_the_command(self, window: Window) -> None:
        """SIGINT to the command is 130, as outside."""
        window.type("creche run --no-tty sh -c 'echo begun; exec sleep 1000'; echo status $?")
        window.line("begun")
        window.press("C-c")
        window.until("^Cstatus 130")

    def test_ctrl_z_stops_all_of_it(self, window: Window) -> None:
        """Everything in the container stands still, and goes on with fg."""
        counting = "echo begun; i=0; while :; do i=$((i+1)); echo $i > /tmp/n; done"
        window.type(f"mkdir -m 777 shared; creche run --no-tty -v $PWD/shared:/tmp sh -c '{counting}'")
        window.line("begun")
        window.press("C-z")
        window.until("Stopped")
        window.type('a=$(cat shared/n); sleep 0.3; test "$a" = "$(cat shared/n)" && echo stands still')
        window.line("stands still")
        window.type("fg")
        before = (window.folder / "shared/n").read_text()
        window.until(lambda _: (window.folder / "shared/n").read_text() not in (before, ""))
        window.press("C-c")
        window.until(lambda screen: screen.endswith("outer>"))

    def test_input_by_lines(self, window: Window) -> None:
        """What is typed arrives when Enter is pressed, and its end too."""
        window.type("creche run --no-tty sh -c 'echo begun; exec cat'; echo status $?")
        window.line("begun")
        window.type("a line")
        window.until(lambda screen: screen.splitlines().count("a line") == 2)
        window.press("C-d")
        window.line("status 0")


def test_a_pipe_beside_a_terminal(window: Window) -> None:
    """`creche run … | cat` has no terminal, and our own terminal is not handed in as its input."""
    window.type("creche run sh -c 'test -t 1 || echo no tty; test -t 0 || echo no input tty' | cat")
    window.until("no input tty")
