"""The screen of `creche top` as a value: what it shows in each size, what its keys mean, and that guests can't paint it."""

from __future__ import annotations

from itertools import pairwise

import pytest
from rich.cells import cell_len

from creche.cli.board import Board, Wish, keys
from creche.cli.figures import cells, percent, size, table


def told(name, *, at=10.0, cpu=None, memory=None, state="ready", wanted="up", line=None, pid=7, restarts=0):
    """One worker as the supervisor tells it."""
    stats = None
    if cpu is not None or memory is not None:
        stats = {
            "cpu": {"user": cpu or 0.0, "system": 0.0},
            "memory": {"current": memory, "peak": memory, "limit": 64 << 20},
            "io": {"rbytes": 1 << 20, "wbytes": 0},
            "pids": 3,
            "pressure": {kind: {"some_avg10": 1.6} for kind in ("cpu", "memory", "io")},
        }
    return {
        **{"name": name, "wanted": wanted, "state": state, "pid": pid, "restarts": restarts, "up": 61.0},
        **{"due": None, "status": "", "last": None, "at": at, "stats": stats, "line": line},
    }


def board(*rows, log=(), reading=False):
    made = Board("shop", reading=reading)
    made.tell(list(rows))
    made.log = list(log)
    return made


def screen(made, width=100, height=24):
    return [line.plain for line in made.lines(width, height)]


def test_a_share_of_the_processor_is_what_was_used_between_two_looks():
    one, two = told("a", cpu=1.0), told("a", at=12.0, cpu=1.5)
    assert percent(one, two) == pytest.approx(25.0)
    assert percent(None, two) is None and percent(two, two) is None
    assert percent(one, told("a", at=12.0)) is None
    # another life: its processor time began at nothing
    assert percent(one, told("a", at=12.0, cpu=0.5, pid=8)) == pytest.approx(25.0)


@pytest.mark.parametrize(
    ("count", "text"), [(None, "-"), (0, "0"), (64 << 20, "64M"), (196_608, "192K"), (1_234_567_891, "1.1G")]
)
def test_sizes_fit_their_column(count, text):
    assert size(count) == text


def test_a_line_of_the_table():
    got = cells(told("a", cpu=1.0, memory=1 << 20), told("a", at=11.0, cpu=1.5, memory=2 << 20))
    assert got == ["a", "50.0%", "2M", "2M", "64M", "3", "1M", "0", "2/2/2"]
    lines = table([got, cells(None, told("nothing counts it"))])
    assert lines[1].split() == got and set(lines[2].split()[3:]) == {"-"}


@pytest.mark.parametrize("width", [1, 8, 20, 40, 60, 80, 100, 250])
@pytest.mark.parametrize("height", [1, 2, 4, 10, 24, 60])
@pytest.mark.parametrize("reading", [False, True])
def test_it_fits_every_terminal(width, height, reading):
    rows = [told(f"web.{n}", cpu=n, memory=n << 20, line="宽" * 200) for n in range(40)]
    made = board(*rows, log=["ä宽" * 100] * 50, reading=reading)
    lines = made.lines(width, height)
    assert len(lines) == height
    assert {cell_len(line.plain) for line in lines} == {width}


def test_narrow_terminals_keep_the_name_and_the_state_longest():
    made = board(told("web.1", cpu=1, memory=1 << 20, line="hello"))
    titles = [screen(made, width)[1].split() for width in (100, 60, 40, 26, 14)]
    assert titles[0] == ["NAME", "STATE", "CPU", "MEMORY", "LIMIT", "PIDS", "RESTARTS", "UP", "OUTPUT"]
    assert titles[3:] == [["NAME", "STATE"], ["NAME"]]
    assert all(len(a) > len(b) for a, b in pairwise(titles))


def test_what_a_guest_prints_can_not_move_the_cursor():
    """G8: escapes, newlines and marks that turn a line round, in whatever a guest has named."""
    rude = "\x1b[2J\x1b]0;owned\x07\r\n\u202egnp"
    row = told("web", line=rude)
    row["status"], row["last"] = rude, rude
    for reading in (False, True):
        shown = "".join(screen(board(row, log=[rude], reading=reading)))
        assert shown.isprintable() and "owned" in shown


def test_markup_of_a_guest_is_text():
    assert "[red]x[/red]" in "".join(screen(board(told("web", line="[red]x[/red]"))))


def test_the_chosen_one_stays_in_sight():
    made = board(*(told(f"w.{n}") for n in range(100)))
    for _ in range(70):
        made.press("down", 12)
    assert made.chosen == "w.70"
    assert any(line.startswith("w.70 ") for line in screen(made, 80, 12))
    made.press("page up", 12)
    assert made.chosen == "w.64"
    for _ in range(200):
        made.press("down", 12)
    assert made.chosen == "w.99"


def test_keys_ask_for_what_the_foot_says():
    made = board(told("a"), told("b", wanted="down", state="down"))
    assert made.press("restart", 24) == Wish("restart", "a")
    assert made.press("stop", 24) == Wish("stop", "a") and "s stop" in screen(made)[-1]
    made.press("down", 24)
    assert "s start" in screen(made)[-1]
    assert made.press("stop", 24) == Wish("start", "b") and "asked to start b" in screen(made)[-1]
    assert made.press("back", 24) == Wish("quit")


def test_the_output_alone_and_back():
    made = board(told("a"), log=[f"line {n}" for n in range(50)])
    assert made.press("logs", 10) is None
    assert screen(made, 40, 10)[1].strip() == "line 42" and screen(made, 40, 10)[8].strip() == "line 49"
    made.press("page up", 10)
    assert screen(made, 40, 10)[8].strip() == "line 45"
    assert made.press("back", 10) is None and made.press("back", 10) == Wish("quit")


def test_nobody_is_there_to_be_chosen():
    made = board()
    for key in ("up", "down", "restart", "stop", "logs"):
        assert made.press(key, 24) is None
    assert "0 of 0 ready" in screen(made)[0]
    made.tell([told("new")])
    assert made.chosen == "new"


@pytest.mark.parametrize(
    ("typed", "want"),
    [
        (b"jjk", ["down", "down", "up"]),
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"\x1b[5~\x1b[6~", ["page up", "page down"]),
        (b"\x1b", ["back"]),
        (b"xyz\xff\x00", []),
        (b"\r\n", ["logs", "logs"]),
    ],
)
def test_keys(typed, want):
    assert keys(typed) == want
