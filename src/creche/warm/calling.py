"""A Python function as a warm run: its source and its arguments go in, what it gives comes out as bounded JSON."""

from __future__ import annotations

import inspect
import json
import os
import textwrap
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from ..communicate import Collector
from ..errors import CallError, SpecError
from ..running import run_in
from ..spec.checks import Whole
from ..streams import ReceiveStream
from .template import ANSWER, CALL

if TYPE_CHECKING:
    from .forked import Forked

__all__ = ["called", "words_of_call"]

_MOST = 64 << 20


def words_of_call(function: Callable[..., Any] | str, arguments: tuple[Any, ...], max_result: int) -> tuple[str, ...]:
    """What the forked interpreter is told. Raises SpecError for what can't be sent."""
    Whole(1024, _MOST, "a number of bytes, 1024 at least")(max_result, "max_result")
    try:
        sent = json.dumps(arguments)
    except (TypeError, ValueError, RecursionError) as error:
        raise SpecError("args", arguments, f"they are sent as JSON: {error}") from None
    if isinstance(function, str):
        module, _, name = function.partition(":")
        if not module or not name:
            raise SpecError("function", function, 'give a function, or "module:name" of one that is there inside')
        return CALL, function, "", sent, str(max_result)
    if not inspect.isfunction(function) or function.__name__ == "<lambda>":
        raise SpecError("function", function, 'give one that def made, or "module:name"')
    if function.__closure__:
        raise SpecError("function", function, "its source is sent, and that of what it closes over is not: pass that as arguments")
    try:
        source = textwrap.dedent(inspect.getsource(function))
    except (OSError, TypeError):
        raise SpecError("function", function, 'its source is not to be found: give "module:name"') from None
    return CALL, function.__name__, source, sent, str(max_result)


async def called(box: Forked, words: tuple[str, ...], max_result: int, options: dict[str, Any]) -> Any:
    """Call it in this container. Raises CallError for what it raises, ExitError where it died or was killed."""
    read, write = os.pipe2(os.O_CLOEXEC)
    stream = ReceiveStream(read)
    answer = Collector(stream, max_result, lambda: None)
    try:
        result = await run_in(
            box, partial(box._tell, sources={ANSWER: write}), words, options.pop("input", None), options.pop("timeout", None), options.pop("max_output", 1 << 20),
            options.pop("on_overflow", "kill"), False, {**options, "pass_fds": (ANSWER,)}, (answer,),
        )  # fmt: skip
    finally:
        os.close(write)
        stream.close()
    result.check()
    if answer.truncated:
        raise CallError(f"it returned more than {max_result} bytes (max_result)")
    try:
        said = json.loads(answer.result())
    except (ValueError, RecursionError):
        raise CallError("it returned no JSON") from None
    if not isinstance(said, dict) or ("value" not in said and not isinstance(said.get("error"), str)):
        raise CallError("it returned no answer of ours")
    if "value" in said:
        return said["value"]
    kind, trace = said.get("type"), said.get("traceback")
    raise CallError(said["error"], kind if isinstance(kind, str) else None, trace if isinstance(trace, str) else None)
