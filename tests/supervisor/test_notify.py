"""The notify protocol: what is understood, what is passed over, and that nothing a guest sends does harm."""

from __future__ import annotations

import array
import os
import socket

import anyio
import anyio.lowlevel
import pytest
from hypothesis import example, given
from hypothesis import strategies as some
from loop.helpers import others

from creche.spec import Spec
from creche.supervisor.notify import Notices, NotifySocket, parse


def heard(*messages, **before):
    said = Notices(**before)
    for number, message in enumerate(messages, 1):
        said = said.heard(parse(message), float(number))
    return said


def test_the_words_of_sd_notify_are_understood():
    assert heard(b"READY=1\nSTATUS=all well\nMAINPID=7\nERRNO=2").ready
    said = heard(b"READY=1\nSTATUS=all well\nMAINPID=7\nERRNO=2")
    assert (said.status, said.main_pid, said.errno, said.pinged) == ("all well", 7, 2, 1.0)
    assert heard(b"READY=1", b"RELOADING=1").reloading
    assert not heard(b"READY=1", b"RELOADING=1", b"READY=1").reloading
    assert heard(b"STOPPING=1").stopping
    assert heard(b"WATCHDOG=1", b"WATCHDOG=1").pinged == 2.0
    assert heard(b"WATCHDOG=trigger").triggered
    assert heard(b"WATCHDOG_USEC=2500000").watchdog == 2.5
    assert heard(b"EXTEND_TIMEOUT_USEC=3000000").extend == 4.0


def test_requests_are_told_in_a_word_of_our_own():
    """sd_notify(3) asks for "X_" before names that are not its own."""
    assert heard(b"X_CRECHE_REQUESTS=3", b"X_CRECHE_REQUESTS=12").requests == 12
    assert heard(b"X_CRECHE_REQUESTS=-1").requests is heard(b"X_CRECHE_REQUESTS=many").requests is None


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"READY",
        b"READY=2",
        b"WATCHDOG_USEC=-1",
        b"WATCHDOG_USEC=x",
        b"MAINPID=99999999999",
        b"EXTEND_TIMEOUT_USEC=0",
    ],
)
def test_what_is_no_word_of_it_is_passed_over(message):
    assert heard(message) == Notices()


def test_control_characters_of_a_status_do_not_reach_a_terminal():
    assert heard(b"STATUS=a\x1b[2Jb").status == "a�[2Jb"


@given(some.binary(max_size=200))
@example(b"WATCHDOG_USEC=" + b"9" * 200)
@example("STATUS=²\nMAINPID=²\nWATCHDOG_USEC=²".encode())
def test_no_message_does_harm(message):
    heard(message)


async def test_descriptors_that_come_along_are_closed_which_answers_a_barrier():
    notify = NotifySocket.make()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest:
            guest.connect(f"{notify.folder}/n/socket")
            read, write = os.pipe()
            fds = array.array("i", [write, write])
            guest.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
            os.close(write)
            with anyio.fail_after(5):
                assert await notify.receive() == {"BARRIER": "1"}
            assert os.read(read, 1) == b""
            os.close(read)
    finally:
        notify.close()
    assert not os.path.exists(notify.folder)


async def test_one_who_always_has_more_to_say_leaves_others_their_turns():
    notify = NotifySocket.make()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as guest:
            guest.connect(f"{notify.folder}/n/socket")
            async with others() as turns:
                for number in range(100):
                    guest.send(b"STATUS=%d" % number)  # there before it is asked for, so nothing is waited for
                    assert await notify.receive() == {"STATUS": str(number)}
            assert turns.taken > 90
    finally:
        notify.close()


async def test_the_socket_is_given_into_the_container():
    notify = NotifySocket.make()
    try:
        spec = notify.into(Spec(["x"]), 2.0)
        assert (
            spec.env["NOTIFY_SOCKET"] == "/run/creche-notify/socket"
            and spec.env["WATCHDOG_USEC"] == "2000000"
        )
        assert "PATH" in spec.env, "what env=None stands for is kept"
        assert notify.into(Spec(["x"], env={}), None).env == {"NOTIFY_SOCKET": "/run/creche-notify/socket"}
        (bind,) = spec.mounts
        assert bind.readonly and bind.source == f"{notify.folder}/n"
    finally:
        notify.close()
