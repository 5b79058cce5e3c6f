"""Pool(warm=PythonWarm(…)): Python and its imports are paid once, and each run is a fork that is told what to do."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import anyio
import pytest
from loop.helpers import alive, until

from creche import (
    Bind,
    CallError,
    CrecheError,
    ExitError,
    ForkServer,
    Limits,
    Pool,
    PythonWarm,
    Reason,
    SpawnError,
    Spec,
    SpecError,
    Tmpfs,
    WarmError,
)
from creche.warm.calling import words_of_call
from needs import needs

pytestmark = needs("userns")
WARM = PythonWarm(imports=["json", "random", "ssl"])


def double(number: int) -> dict[str, int]:
    return {"double": 2 * number}


def complain(text: str) -> None:
    raise LookupError(text)


def spin() -> None:
    while True:
        pass


def shout(size: int) -> str:
    return "x" * size


def flood(size: int) -> str:
    import sys

    sys.stdout.write("y" * size)
    sys.stdout.flush()
    return "x" * size


def strange() -> object:
    return object()


def leave(status: int) -> None:
    import os

    os._exit(status)


def lie(text: str) -> None:
    import os

    os.write(3, text.encode())
    os._exit(0)


async def test_a_run_is_a_fork_of_what_has_the_imports() -> None:
    ask = "import sys; print('decimal' in sys.modules, sys.argv, __name__)"
    async with Pool(Spec(), size=1, warm=PythonWarm(imports=["decimal"])) as pool:
        result = await pool.run(["python3", "-c", ask, "one"], timeout=20)
        assert (result.stdout, result.stderr) == (b"True ['-c', 'one'] __main__\n", b"") and result.ok
        assert pool._template is not None and alive(pool._template.pid)
        async with pool.acquire() as box:  # the control: what is executed has not
            assert (await box.run(["python3", "-c", ask, "one"])).stdout == b"False ['-c', 'one'] __main__\n"


async def test_what_python_would_be_told_it_is_told() -> None:
    async with Pool(Spec(env={"PATH": "/usr/bin", "MINE": "1"}, cwd="/tmp"), size=1, warm=WARM) as pool:
        async with pool.acquire() as box:
            await box.put("/tmp/program.py", b"import sys, os; print(__file__, sys.argv, sys.path[0], os.getcwd(), os.environ['MINE'], os.environ['YOURS'])")
            result = await box.run_warm(["python3", "/tmp/program.py", "a", "b"], env={"YOURS": "2"})
            assert result.stdout == b"/tmp/program.py ['/tmp/program.py', 'a', 'b'] /tmp /tmp 1 2\n", result.stderr
            with pytest.raises(CrecheError, match="has had its run"):
                await box.run_warm(["python3", "-c", ""])
            assert (await box.run(["cat", "/proc/1/comm"])).ok  # other commands may be executed beside it
        result = await pool.run(["python3"], input=b"import sys\nprint(sys.argv)")
        assert result.stdout == b"['']\n"
        assert (await pool.run(["python3", "-m", "json.tool"], input=b'{"a":1}')).stdout == b'{\n    "a": 1\n}\n'
        assert (await pool.run(["python3", "-c", "import sys; sys.exit(7)"])).exit.code == 7
        failed = await pool.run(["python3", "-c", "1/0"])
        assert failed.exit.code == 1
        assert failed.stderr == b'Traceback (most recent call last):\n  File "<string>", line 1, in <module>\nZeroDivisionError: division by zero\n'
        died = await pool.run(["python3", "-c", "import os; os.kill(os.getpid(), 11)"])
        assert died.exit.reason is Reason.SIGNALED and died.exit.signal == signal.SIGSEGV
        slow = await pool.run(["python3", "-c", "while True: pass"], timeout=0.5)
        assert slow.exit.reason is Reason.TIMEOUT
        loud = await pool.run(["python3", "-c", "while True: print('x' * 9999)"], max_output=1 << 16)
        assert loud.exit.reason is Reason.OUTPUT_LIMIT


async def test_a_function_is_called_with_json_both_ways() -> None:
    async with Pool(Spec(), size=2, warm=WARM) as pool:
        assert await pool.call(double, 21) == {"double": 42}
        assert await pool.call("math:hypot", 3, 4) == 5.0
        with pytest.raises(CallError) as raised:
            await pool.call(complain, "\x1b[31mno")
        assert (raised.value.type, raised.value.message) == ("LookupError", "\x1b[31mno") and "\x1b" not in str(raised.value)
        assert "complain" in (raised.value.traceback or "")
        with pytest.raises(CallError, match="TypeError: Object of type object is not JSON"):
            await pool.call(strange)
        with pytest.raises(CallError, match="max_result"):
            await pool.call(shout, 1 << 16, max_result=1 << 12)
        assert len(await pool.call(shout, 1 << 16)) == 1 << 16
        assert len(await pool.call(flood, 500_000)) == 500_000  # no pipe holds that: it is read while the call lasts, and what is printed too
        with pytest.raises(ExitError) as ended:
            await pool.call(spin, timeout=0.5)
        assert ended.value.exit.reason is Reason.TIMEOUT
        with pytest.raises(ExitError) as ended:
            await pool.call(leave, 3)
        assert ended.value.exit.code == 3
        with pytest.raises(CallError, match="no JSON"):
            await pool.call(leave, 0)
        with pytest.raises(CallError, match="ModuleNotFoundError"):
            await pool.call("no_such_module:f")


@pytest.mark.parametrize("said", ["[1]", '{"error": 5}', "{}", "nothing", "[" * 100_000, '{"value": ' + "9" * 9999 + "}"])
async def test_an_answer_is_a_guests_word(said: str) -> None:
    async with Pool(Spec(), size=1, warm=WARM) as pool:
        with pytest.raises(CallError):
            await pool.call(lie, said)
        with pytest.raises(CallError, match="max_result"):
            await pool.call(lie, '"' + "x" * 5000 + '"', max_result=4096)
        assert await pool.call(lie, '{"value": 1}') == 1  # the control: it is believed where it has the form of one


@pytest.mark.parametrize("name", ["function", "closure", "builtin", "no module", "args", "max_result"])
def test_what_cant_be_sent_is_refused_before_a_container_is_taken(name: str) -> None:
    outer = 1

    def closed() -> int:
        return outer

    calls: dict[str, tuple[Any, tuple[object, ...], int]] = {
        "function": (lambda: 1, (), 4096), "closure": (closed, (), 4096), "builtin": (len, (), 4096), "no module": ("noname", (), 4096),
        "args": (double, (object(),), 4096), "max_result": (double, (1,), 0),
    }  # fmt: skip
    with pytest.raises(SpecError) as refused:
        words_of_call(*calls[name])
    assert refused.value.field == (name if name in ("args", "max_result") else "function")


async def test_a_cold_pool_calls_nothing_and_a_warm_one_runs_its_interpreter_alone() -> None:
    async with Pool(Spec(), size=1) as cold:
        with pytest.raises(CrecheError, match="warm=PythonWarm"):
            await cold.call(double, 1)
    async with Pool(Spec(), size=1, warm=WARM) as pool:
        with pytest.raises(SpecError, match="what is warm is python3"):
            await pool.run(["sh", "-c", "true"])


async def test_a_cancelled_run_is_gone_with_its_container() -> None:
    async with Pool(Spec(), size=1, warm=WARM) as pool:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(pool.call, spin)
            await until(lambda: pool.statistics().leased == 1)
            await anyio.sleep(0.05)
            tasks.cancel_scope.cancel()
        assert await pool.call(double, 1) == {"double": 2}


async def test_a_start_cancelled_anywhere_leaves_nothing() -> None:
    for delay in (0, 0.01, 0.05, 0.1, 0.15, 0.2):  # each wherever it hits; what is left is a failure
        with anyio.move_on_after(delay):
            async with Pool(Spec(), size=2, warm=WARM) as pool:
                await pool.call(double, 1)


async def test_a_template_that_is_killed_is_replaced_and_its_runs_go_on() -> None:
    async with Pool(Spec(), size=1, warm=WARM) as pool:
        assert pool._template is not None
        async with pool.acquire() as box:
            first = pool._template.pid
            os.kill(first, signal.SIGKILL)
            await until(lambda: not alive(first))
            result = await box.run_warm(["python3", "-c", "print('alive')"])
            assert result.stdout == b"alive\n"
        for _ in range(3):
            assert await pool.call(double, 1) == {"double": 2}
        assert pool._template.pid not in (0, first)
        assert pool.statistics().failed == 0


async def test_its_container_killed_is_replaced_too() -> None:
    async with Pool(Spec(), size=1, warm=WARM) as pool:
        await until(lambda: pool.statistics().ready == 1)
        assert pool._template is not None and pool._template._box is not None
        os.kill(pool._template._box.pid, signal.SIGKILL)
        await until(lambda: pool._template is not None and pool._template._box is not None and pool._template._box.exit is not None)
        assert await pool.call(double, 1) == {"double": 2}


async def test_a_template_that_hangs_in_a_fork_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("creche.warm.warm.FORKING", 3.0)
    async with Pool(Spec(), size=1, warm=WARM) as pool:
        assert pool._template is not None
        await until(lambda: pool.statistics().ready == 1)
        os.kill(pool._template.pid, signal.SIGSTOP)
        async with pool.acquire():  # the one that was ready; who comes now waits for the next
            with pytest.raises(WarmError, match="did not fork within"):
                await pool.run(["python3", "-c", ""])
        assert await pool.call(double, 1) == {"double": 2}


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ("raise ValueError('nope')", "ValueError: nope"),
        ("import sys; sys.exit(0)", "SystemExit: 0"),
        ("import threading, time; threading.Thread(target=time.sleep, args=(99,), daemon=True).start()", "started 1 threads"),
        ("import mmap; m = mmap.mmap(-1, 4096)", "all forks could talk by it"),
        ("import os; os.kill(os.getpid(), 9)", "died while it started"),
        ("while True: pass", "took more than 0.5 seconds"),
    ],
)
async def test_imports_that_fail_are_told_with_their_traceback(tmp_path: Path, program: str, says: str) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "broken.py").write_text(program)
    spec = Spec(mounts=[Bind(tmp_path, "/srv/modules", readonly=True)], env={"PATH": "/usr/bin", "PYTHONPATH": "/srv/modules"})
    slow = program.startswith("while")
    async with Pool(spec, size=1, warm=PythonWarm(imports=["broken"], timeout=0.5 if slow else 30)) as pool:
        with pytest.raises(WarmError, match=says) as failed:
            await pool.call(double, 1)
        if "Error" in says:
            assert 'File "/srv/modules/broken.py"' in (failed.value.traceback or "")


async def test_no_python_inside_is_told_as_of_any_command() -> None:
    async with Pool(Spec(), size=1, warm=PythonWarm(python="python9")) as pool:
        with pytest.raises(SpawnError, match="'python9' is not found"):
            await pool.call(double, 1)


@needs("kernel>=6.3")  # the folder may lie on a tmpfs, which can't be idmapped before
async def test_mounts_are_there_in_the_fork(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    (tmp_path / "file").write_text("from the host")
    (tmp_path / "shared").mkdir(mode=0o777)
    (tmp_path / "shared").chmod(0o777)
    spec = Spec(mounts=[Bind(tmp_path, "/srv/data", readonly=True), Tmpfs("/scratch"), Bind(tmp_path / "shared", "/shared")])
    program = "print(open('/srv/data/file').read()); open('/scratch/a', 'w'); open('/shared/b', 'w').write('b')\ntry: open('/srv/data/c', 'w')\nexcept OSError as e: print(e.strerror)"
    async with Pool(spec, size=1, warm=WARM) as pool:
        result = await pool.run(["python3", "-c", program])
        assert result.stdout == b"from the host\nRead-only file system\n", result.stderr
        assert (await pool.run(["python3", "-c", "import os; print(os.listdir('/scratch'), os.listdir('/shared'))"])).stdout == b"[] ['b']\n"
    assert (tmp_path / "shared" / "b").stat().st_uid == os.geteuid()


SERVER = r"""
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <unistd.h>
struct creche_forked { const char *words, *variables; uint64_t words_size, variables_size; };
static long own_fork(void) { return fork(); }
int main(void)
{
	struct creche_forked run;
	void *library = dlopen("/proc/self/fd/4", RTLD_NOW);
	void (*serve)(int, long (*)(void), struct creche_forked *) = library ? dlsym(library, "creche_serve") : 0;
	if (!serve || write(5, "{\"ready\": true}", 15) != 15)
		return 1;
	close(5);
	int loads = 42;
	serve(3, own_fork, &run);
	printf("%s %s %d %d\n", run.words, run.variables, (int)run.words_size, loads);
	return loads++ - 42;
}
"""


@needs("cc")
async def test_a_fork_server_of_somebody_elses(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    subprocess.run(["cc", "-x", "c", "-", "-o", tmp_path / "server", "-ldl"], input=SERVER, text=True, check=True)
    spec = Spec(mounts=[Bind(tmp_path, "/srv/mine", readonly=True)], env={"A": "b"})
    async with Pool(spec, size=1, warm=ForkServer(command=["/srv/mine/server"])) as pool:
        for word in ("one", "two"):
            result = await pool.run([word, "more"])
            assert result.stdout == f"{word} A=b 9 42\n".encode() and result.ok, result
        with pytest.raises(CrecheError, match="no interpreter"):
            await pool.call(double, 1)


@needs("limits")
async def test_a_run_that_is_out_of_memory_is_the_only_one() -> None:
    program = "x = bytearray(300 << 20)"
    async with Pool(Spec(limits=Limits(memory="100M", pids=32)), size=2, warm=WARM) as pool:
        async with pool.acquire() as other:
            bomb = await pool.run(["python3", "-c", program], timeout=20)
            assert bomb.exit.reason is Reason.OOM and bomb.exit.limit == "limits.memory"
            assert (await other.run_warm(["python3", "-c", "print(1)"])).stdout == b"1\n"
        assert pool._template is not None
        first = pool._template.pid
        forks = "import os\ntry:\n    while True: os.fork()\nexcept OSError as e: print(e.strerror, flush=True); os._exit(0)"
        bred = await pool.run(["python3", "-c", forks], timeout=20)
        assert b"Resource temporarily unavailable" in bred.stdout
        assert await pool.call(double, 1) == {"double": 2}
        assert pool._template.pid == first
        assert (await pool.run(["python3", "-c", "pass"])).exit.usage.scope == "command"


def test_what_makes_no_sense_is_refused() -> None:
    for build in (
        lambda: PythonWarm(imports="json"), lambda: PythonWarm(timeout=-1), lambda: PythonWarm(imports=[""]), lambda: PythonWarm(python=""),
        lambda: ForkServer(command=[]), lambda: ForkServer(command="server"), lambda: Pool(Spec(), warm=["json"]), lambda: Pool(Spec(), warm=WARM, reuse="reset"),
    ):  # fmt: skip
        with pytest.raises(SpecError):
            build()
