"""What a program finds when it begins: its arguments, environment, place, identity, limits and signals."""

from __future__ import annotations

import os
import resource
import signal
from pathlib import Path

import pytest
from loop.helpers import python, shell

import creche
from creche import Container, Security, SpawnError, Spec
from needs import needs

pytestmark = needs("native", "userns")

INIT = pytest.mark.parametrize("init", [True, False])


async def out(command, **fields):
    result = await creche.run(command, **fields)
    assert result.ok, result
    return result.stdout


@INIT
async def test_arguments_are_exact(init):
    odd = [b"a b", b"", b"'\"$x`", b"\n", b"\xff\xfe", "h\u00e9".encode(), b"-", b"x" * 100_000]
    command = ["python3", "-S", "-c", "import os, sys; print([os.fsencode(a) for a in sys.argv[1:]])", *odd]
    assert (await out(command, init=init)).strip() == repr(odd).encode()


async def test_paths_are_arguments():
    assert await out(["echo", Path("/a/b"), "c"]) == b"/a/b c\n"


async def test_arguments_larger_than_a_message():
    """A Plan that does not fit the socket travels as a sealed memfd."""
    many = [str(number) for number in range(20_000)]
    assert await out(["sh", "-c", 'echo $#', "sh", *many]) == b"20000\n"
    async with Container(Spec()) as box:
        assert (await box.run(["sh", "-c", 'echo $#', "sh", *many])).stdout == b"20000\n"
    with pytest.raises(SpawnError) as caught:
        await creche.run(["true", *["x" * 100_000] * 100], rlimits={"stack": 1 << 20})  # execve(2): a quarter of the stack's limit
    assert caught.value.errno == 7


@INIT
async def test_the_environment_is_exact(init):
    wanted = {b"A": b"1", b"EMPTY": b"", b"ODD": b"\xff =\n", b"PATH": b"/usr/bin"}
    printed = await out(["env", "-0"], env=wanted, init=init)
    assert sorted(printed.split(b"\0")[:-1]) == sorted(b"%s=%s" % item for item in wanted.items())


async def test_the_default_environment_is_path_home_and_lang():
    names = [line.split(b"=")[0] for line in (await out(["env"])).split()]
    assert sorted(names) == [b"HOME", b"LANG", b"PATH"]


async def test_an_empty_environment_is_empty():
    assert await out(["/usr/bin/env"], env={}) == b""


async def test_variables_are_inherited_by_name(monkeypatch):
    monkeypatch.setenv("CRECHE_A", "1")
    monkeypatch.setenv("CRECHE_B", "2")
    lines = (await out(["env"], inherit_env=["CRECHE_A", "CRECHE_ABSENT"])).split()
    assert b"CRECHE_A=1" in lines and not any(line.startswith((b"CRECHE_B", b"CRECHE_ABSENT")) for line in lines)


async def test_the_command_is_found_on_the_containers_path(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert await out(["echo", "x"]) == b"x\n"
    with pytest.raises(SpawnError) as caught:
        await creche.run(["echo", "x"], env={"PATH": "/nowhere"})
    assert (caught.value.field, caught.value.errno) == ("command", 2)


async def test_scripts_have_their_interpreter():
    script = creche.File("/opt/creche-script", b"#!/bin/sh -e\necho $0 $1\n", mode=0o755)
    assert await out(["/opt/creche-script", "x"], mounts=[creche.Tmpfs("/opt"), script]) == b"/opt/creche-script x\n"


@INIT
async def test_cwd(init):
    assert await out(["pwd"], init=init) == b"/\n"
    assert await out(["pwd"], cwd="/usr/bin", init=init) == b"/usr/bin\n"


@INIT
@pytest.mark.parametrize(("cwd", "errno"), [("/no/such", 2), ("/etc/passwd", 20)])
async def test_a_cwd_that_is_none_is_fatal(init, cwd, errno):
    with pytest.raises(SpawnError) as caught:
        await creche.run(["true"], cwd=cwd, init=init)
    assert (caught.value.field, caught.value.errno) == ("cwd", errno)
    assert cwd in str(caught.value)


async def test_users_are_looked_up_inside():
    assert await out(shell("id -u; id -g"), user="root") == b"0\n0\n"
    if os.geteuid() == 0:
        passwd = creche.File("/etc/passwd", b"root:x:0:0::/root:/bin/sh\ninner:x:1234:2345::/inner:/bin/sh\n")
        group = creche.File("/etc/group", b"root:x:0:\ninner:x:2345:\nmore:x:3456:x,inner\n")
        fields = {"mounts": [passwd, group]}
        assert await out(shell("id -u; id -g; id -G; echo $HOME"), user="inner", **fields) == b"1234\n2345\n2345 3456\n/inner\n"
        assert await out(shell("id -u; id -g"), user="inner:more", **fields) == b"1234\n3456\n"
        assert await out(shell("id -u; id -g"), user="77:88", **fields) == b"77\n88\n"
        async with Container(Spec(**fields)) as box:
            assert (await box.run(shell("id -u; id -g; echo $HOME"), user="inner")).stdout == b"1234\n2345\n/inner\n"
            assert (await box.run(["id", "-u"])).stdout == b"0\n"
        for user in ("nobody-here", "inner:nothing"):
            with pytest.raises(creche.SpecError) as caught:
                await creche.run(["true"], user=user, **fields)
            assert caught.value.field == "user"


@INIT
async def test_rlimits(init):
    text = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_FSIZE), r.getrlimit(r.RLIMIT_CORE))"
    limits = {"nofile": (64, 128), "fsize": 12345}
    printed = await out(python(text), rlimits=limits, init=init)
    core = (1, 1) if resource.getrlimit(resource.RLIMIT_CORE)[1] != 0 else (0, 0)
    assert printed.decode().strip() == f"(64, 128) (12345, 12345) {core}"
    async with Container(Spec(init=True)) as box:
        assert (await box.run(python(text), rlimits=limits)).stdout == printed


@INIT
async def test_umask_and_nice(init):
    assert await out(shell("umask"), init=init) == b"0022\n"
    assert await out(shell("umask; nice"), umask=0o077, nice=7, init=init) == b"0077\n%d\n" % 7
    async with Container(Spec(umask=0o077, nice=7)) as box:
        assert (await box.run(shell("umask; nice"))).stdout == b"0077\n7\n"
        assert (await box.run(shell("umask; nice"), umask=0o007, nice=9)).stdout == b"0007\n9\n"


@INIT
async def test_oom_score_adj(init):
    assert await out(["cat", "/proc/self/oom_score_adj"], oom_score_adj=500, init=init) == b"500\n"


@INIT
async def test_signals_are_as_for_a_fresh_program(init):
    """Python ignores SIGPIPE and SIGXFSZ, and this test a few more and blocks some: nothing of that leaks in."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGUSR1, signal.SIGHUP, signal.SIGTERM)}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2, signal.SIGINT])
    try:
        command = ["grep", "-E", "Sig(Blk|Ign)", "/proc/self/status"]
        fresh = b"SigBlk:\t0000000000000000\nSigIgn:\t0000000000000000\n"
        assert await out(command, init=init) == fresh
        async with Container(Spec()) as box:
            assert (await box.run(command)).stdout == fresh
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        for number, handler in before.items():
            signal.signal(number, handler)


async def test_sigpipe_kills_as_it_should():
    assert await out(["bash", "-c", "yes | head -n 1; echo ${PIPESTATUS[0]}"]) == b"y\n141\n"


@INIT
async def test_the_parent_is_unseen(init):
    text = "import os; print(os.getpid(), os.getppid(), os.getpgid(0) == os.getsid(0) == os.getpid())"
    printed = (await out(python(text), init=init)).split()
    assert printed == ([b"2", b"1", b"True"] if init else [b"1", b"0", b"True"])


async def test_names():
    assert await out(["uname", "-n"], hostname="inside") == b"inside\n"
    assert await out(["cat", "/proc/sys/kernel/domainname"], domainname="domain") == b"domain\n"
    async with Container(Spec(name="named")) as box:
        assert box.id.startswith("named-")


async def test_without_a_filter_and_with_one():
    text = shell("grep Seccomp: /proc/self/status")
    assert await out(text) == b"Seccomp:\t2\n"
    assert (await out(text, security=Security(seccomp=None))).split()[1] in (b"0", b"2")
