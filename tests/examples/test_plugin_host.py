"""examples/plugin_host: typed calls, and hostile plug-ins that hurt neither the host nor the others."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import pytest

import creche
from creche import Limits
from creche.supervisor import ChildReady
from needs import missing, needs

pytestmark = [needs("native", "userns"), pytest.mark.slow]

EXAMPLE = Path(__file__).parents[2] / "examples" / "plugin_host"
CGROUPS = missing("limits") is None
PATIENCE = 60.0
GOOD = "def transform(text): return text[::-1]\ndef measure(text): return {'length': len(text)}\n"


@pytest.fixture(scope="module")
def example() -> Iterator[tuple[ModuleType, ModuleType]]:
    """The example's modules; `frames` is a name of another example's too, so they do not stay."""
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield importlib.import_module("host"), importlib.import_module("interface")
    finally:
        sys.path.remove(str(EXAMPLE))
        for name in ("host", "interface", "frames"):
            sys.modules.pop(name, None)


def hosting(example: tuple[ModuleType, ModuleType], folder: Path, **sources: str) -> Any:
    """A PluginHost of these plug-ins."""
    files = {}
    for name, source in sources.items():
        files[name] = folder / f"{name}.py"
        files[name].write_text(source)
    host, interface = example
    limits = host.LIMITS if CGROUPS else Limits()
    return host.PluginHost(files, interface.TextPlugin, limits=limits)


async def test_calls_are_typed_on_both_sides(example: Any, tmp_path: Path) -> None:
    wrong = "def transform(text): return 7\ndef measure(text): return {'a': 'b'}\ndef title(): 1 / 0\n"
    async with hosting(example, tmp_path, good=GOOD, wrong=wrong) as host:
        assert await host.call("good", "transform", "abc") == "cba"
        assert await host.call("good", "measure", "abc") == {"length": 3}
        with pytest.raises(TypeError, match="transform takes str"):
            await host.call("good", "transform", 7)
        with pytest.raises(ValueError, match="at most"):
            await host.call("good", "transform", "x" * 100_000)
        with pytest.raises(KeyError):
            await host.call("good", "__import__", "os")
        with pytest.raises(example[0].PluginError, match="has no function title") as caught:
            await host.call("good", "title")
        assert not caught.value.replaced
        with pytest.raises(example[0].PluginError, match="ZeroDivisionError") as caught:
            await host.call("wrong", "title")
        assert not caught.value.replaced
        for method in ("transform", "measure"):
            with pytest.raises(example[0].PluginError, match="of another type") as caught:
                await host.call("wrong", method, "x")
            assert caught.value.replaced


FRAME = "import os\ndef frame(body): return len(body).to_bytes(4, 'big') + body\ndef write(data):\n    while data: data = data[os.write(3, data):]\n"
HOSTILE = {
    "a huge answer": ("def attack(): return 'x' * 1_000_000\n", "at most"),
    "a length of four gigabytes": (FRAME + "def attack(): write(b'\\xff' * 4)\n", "at most"),
    "nonsense": (FRAME + "def attack(): write(frame(b'hello'))\n", "no JSON"),
    "JSON that is deep": (FRAME + "def attack(): write(frame(b'[' * 60_000))\n", "no JSON"),
    "a number without end": (FRAME + "def attack(): write(frame(b'9' * 60_000))\n", "no JSON"),
    "a list": (FRAME + "def attack(): write(frame(b'[]'))\n", "no JSON object"),
    "an answer to another question": (FRAME + "def attack(): write(frame(b'{\"id\": 99, \"value\": \"x\"}'))\n", "no question"),
    "no answer": ("def attack():\n    while True: pass\n", "no answer"),
    "half an answer": (FRAME + "import time\ndef attack(): write(b'\\0\\0\\1\\0half'); time.sleep(1000)\n", "no answer"),
    "its own end": ("import os\ndef attack(): os._exit(3)\n", "closed its end"),
    "a crash": ("import ctypes\ndef attack(): ctypes.string_at(8)\n", "closed its end"),
    "a flood of output": ("def attack():\n    while True: print('x' * 10_000)\n", "no answer"),
}  # fmt: skip


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("anyio_backend", ["asyncio", "trio"])
async def test_a_hostile_plugin_is_replaced_and_the_others_never_notice(
    example: Any, tmp_path: Path, attack: str, anyio_backend: str
) -> None:
    source, word = HOSTILE[attack]
    source += "def transform(text): return attack() if text == 'attack' else text\n"
    async with hosting(example, tmp_path, good=GOOD, bad=source) as host, anyio.create_task_group() as tasks:
        await host.supervisor.wait_ready()
        before = host.supervisor["good"].pid
        answers: list[str] = []

        async def ask_on() -> None:
            while True:
                answers.append(await host.call("good", "transform", "abc", timeout=20))
                await anyio.sleep(0.01)

        tasks.start_soon(ask_on)
        with pytest.raises(example[0].PluginError, match=word) as caught:
            await host.call("bad", "transform", "attack", timeout=1.0 if word == "no answer" else 20)
        assert caught.value.replaced
        assert await host.call("bad", "transform", "well again", timeout=20) == "well again"
        seen = len(answers)
        while len(answers) < seen + 3:
            await anyio.sleep(0.01)
        assert set(answers) == {"cba"} and host.supervisor["good"].pid == before
        tasks.cancel_scope.cancel()


async def test_one_that_stands_still_while_nobody_calls_is_found_out(example: Any, tmp_path: Path) -> None:
    async with hosting(example, tmp_path, good=GOOD) as host:
        await host.supervisor.wait_ready()
        os.kill(host.supervisor["good"].pid, signal.SIGSTOP)
        seen = 0
        with anyio.fail_after(PATIENCE):
            async for event in host.supervisor.events():
                seen += isinstance(event, ChildReady)
                if seen:
                    break
        assert await host.call("good", "transform", "abc") == "cba"


async def test_one_that_never_starts_harms_nobody(example: Any, tmp_path: Path) -> None:
    async with hosting(example, tmp_path, good=GOOD, bad="while True: pass", worse="1 / 0") as host:
        assert await host.call("good", "transform", "abc", timeout=20) == "cba"
        for name in ("bad", "worse"):
            with pytest.raises(example[0].PluginError):
                await host.call(name, "transform", "abc", timeout=0.5)
        assert await host.call("good", "transform", "abc", timeout=20) == "cba"


async def test_it_can_start_nothing_and_reach_nobody(example: Any, tmp_path: Path) -> None:
    source = (
        "import os, socket\n"
        "def tried(function):\n"
        "    try: function()\n"
        "    except OSError as error: return error.errno\n"
        "    return 0\n"
        "def measure(text): return {'fork': tried(os.fork), 'socket': tried(socket.socket),\n"
        "    'host': tried(lambda: os.stat(text)), 'fds': len(os.listdir('/proc/self/fd'))}\n"
    )
    async with hosting(example, tmp_path, bad=source) as host:
        told = await host.call("bad", "measure", str(tmp_path))
        assert told == {"fork": 1, "socket": 1, "host": 2, "fds": 5}, "0 to 3, and the listing itself"
    control = await creche.run(["python3", "-c", source + "print(measure('/usr'), flush=True)"], timeout=20)
    assert b"'fork': 0, 'socket': 0, 'host': 0" in control.stdout, (
        "the control: with the default filter it can"
    )


@needs("limits")
async def test_memory_is_bounded(example: Any, tmp_path: Path) -> None:
    source = "def transform(text):\n    held = []\n    while True: held.append(bytearray(b'x' * (1 << 20)))\n"
    async with hosting(example, tmp_path, bad=source) as host:
        with pytest.raises(example[0].PluginError, match="closed its end"):
            await host.call("bad", "transform", "x", timeout=30)


def test_the_program_of_the_example() -> None:
    limits = [] if CGROUPS else ["--no-limits"]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(EXAMPLE / "plugins"), *limits],
        input="hello big world\n", capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "shout: HELLO BIG WORLD!\nwords: world big hello\n"


def test_no_place_for_limits_is_refused_unless_asked_otherwise(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), str(EXAMPLE / "plugins")],
        input="x\n", capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**os.environ, "CRECHE_CGROUP": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 1 and "--no-limits" in done.stderr and "Traceback" not in done.stderr, (
        done.stderr
    )
