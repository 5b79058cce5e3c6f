"""What a warm pool's template is, and each of its forks: handed as text to the container's own Python (3.8 or later), without creche."""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import sys
import traceback
import types
from typing import Any

CHANNEL, LIBRARY, NEWS = 3, 4, 5  # descriptors of the template
ANSWER = 3  # a descriptor of a fork that is to call a function
CALL = "call()"  # instead of a program's name


class Forked(ctypes.Structure):
    """struct creche_forked of native/fork.h."""

    _fields_ = (
        ("words", ctypes.c_void_p), ("variables", ctypes.c_void_p), ("words_size", ctypes.c_uint64), ("variables_size", ctypes.c_uint64),
    )  # fmt: skip


def fork() -> int:
    """Python's own fork, for the library: what it raises must not be taken for the child's 0, as ctypes would."""
    try:
        return os.fork()
    except OSError as error:
        return -(error.errno or 1)
    except BaseException:  # noqa: BLE001 - a hook of somebody's before the fork
        return -1


def serve(imports: list[str]) -> tuple[list[str], dict[str, str]]:
    """Be the template; returns in each fork, with its words and variables."""
    news: dict[str, Any] = {"ready": True}
    library: Any = None
    try:
        for name in imports:
            importlib.import_module(name)
        library = ctypes.PyDLL(f"/proc/self/fd/{LIBRARY}")
    except BaseException as error:  # noqa: BLE001 - a module may raise anything, SystemExit too
        news = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    with open(NEWS, "w", encoding="utf-8", errors="replace") as file:
        json.dump(news, file)
    if "error" in news:
        os._exit(1)
    os.close(LIBRARY)
    gc.collect()
    gc.freeze()  # a collection in a fork would copy every page
    run = Forked()
    library.creche_serve(CHANNEL, ctypes.PYFUNCTYPE(ctypes.c_long)(fork), ctypes.byref(run))
    words = _strings(run.words, run.words_size)
    return words, dict(item.split("=", 1) for item in _strings(run.variables, run.variables_size))


def _strings(at: Any, size: int) -> list[str]:
    return [os.fsdecode(item) for item in ctypes.string_at(at, size).split(b"\0")[:-1]]


def renew(variables: dict[str, str]) -> None:
    """What a fresh interpreter would have of its own."""
    os.environ.clear()
    os.environ.update(variables)
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stdout = sys.__stdout__ = open(1, "w", encoding="utf-8", errors="surrogateescape", closefd=False)  # type: ignore[misc]  # noqa: SIM115
    sys.stderr = sys.__stderr__ = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False, buffering=1)  # type: ignore[misc]  # noqa: SIM115
    if "numpy.random" in sys.modules:  # `random` has seen the fork
        sys.modules["numpy.random"].seed()
    if "ssl" in sys.modules:  # OpenSSL tells a fork by its number (fork.c); what else may be in its place need not
        sys.modules["ssl"].RAND_add(os.urandom(32), 32.0)


def main_module() -> dict[str, Any]:
    """A fresh __main__."""
    module = sys.modules["__main__"] = types.ModuleType("__main__")
    return module.__dict__


def program(words: list[str]) -> None:
    """As ``python3`` would be told by these words."""
    rest = words[1:]
    if rest[:1] == ["-m"] and len(rest) > 1:
        import runpy

        sys.argv[:] = rest[1:]
        runpy.run_module(rest[1], run_name="__main__", alter_sys=True)
        return
    if rest[:1] == ["-c"] and len(rest) > 1:
        source, name, arguments = rest[1].encode("utf-8", "surrogateescape"), "<string>", ["-c", *rest[2:]]
    elif not rest or rest[0] == "-":
        source, name, arguments = sys.stdin.buffer.read(), "<stdin>", rest or [""]
    else:
        with open(rest[0], "rb") as file:
            source, name, arguments = file.read(), rest[0], rest
        sys.path[0] = os.path.dirname(os.path.realpath(name))
    sys.argv[:] = arguments
    scope = main_module()
    if rest[:1] == [name]:
        scope["__file__"] = name
    exec(compile(source, name, "exec"), scope)  # nosec B102: a guest's own program, in its container


def call(name: str, source: str, arguments: str, most: int) -> None:
    """Call a function and write what it gives as JSON: one of `source`, or where that is empty of a module: "module:name"."""
    try:
        if source:
            scope = main_module()
            exec(compile(source, "<function>", "exec"), scope)  # nosec B102: a guest's own program, in its container
            function = scope[name]
        else:
            module, _, name = name.partition(":")
            function = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
        answer = json.dumps({"value": function(*json.loads(arguments))})
        if len(answer) > most:
            answer = json.dumps({"error": f"it returned {len(answer)} bytes of JSON, more than max_result allows"})
    except BaseException as error:  # noqa: BLE001 - whatever the function raises is the answer
        said = traceback.format_exc()
        answer = json.dumps({"type": type(error).__qualname__, "error": str(error)[: most // 16], "traceback": said[-(most // 16) :]})
    with open(ANSWER, "w", encoding="ascii") as file:
        file.write(answer)


def main() -> None:
    """The template, and then a fork of it."""
    words, variables = serve(json.loads(sys.argv[1]))
    renew(variables)
    if words[0] == CALL:
        call(words[1], words[2], words[3], int(words[4]))
        return
    try:
        program(words)
    except (SystemExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001 - told as Python does, without the lines of ours
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename == main.__code__.co_filename and trace.tb_frame.f_globals is globals():
            trace = trace.tb_next
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


if __name__ == "__main__":
    main()
