"""One D-Bus connection, good for a few calls and signals: jeepney's messages over anyio, on every loop."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.abc
from jeepney import DBusErrorResponse, MatchRule, MessageType, message_bus
from jeepney.auth import BEGIN, AuthenticationError, Authenticator
from jeepney.low_level import HeaderFields, Message, Parser

from ..errors import CgroupError

LONGEST = 1 << 20  # bytes: the answers we ask for are far smaller, and what is longer is nonsense
SECONDS = 5.0  # for everything a connection is opened for; a start of a scope takes some 20 ms

_NAMES = {"method": MessageType.method_return, "error": MessageType.error, "signal": MessageType.signal}


class Bus:
    """A connection that has said Hello. Made by `connected`; every failure is a CgroupError."""

    def __init__(self, stream: anyio.abc.ByteStream, where: str) -> None:
        self._stream = stream
        self._where = where
        self._parser = Parser()
        self._waiting: deque[Message] = deque()
        self._serial = 0
        self._received = 0

    async def start(self, hello: bool) -> None:
        """Authenticate as who we are, and be given a name."""
        authenticator = Authenticator()
        for data in authenticator:
            await self._stream.send(data)
            authenticator.feed(await self._stream.receive(4096))
        await self._stream.send(BEGIN)
        if hello:
            await self.call(message_bus.Hello())

    async def call(self, message: Message) -> tuple[Any, ...]:
        """Make a method call; the body of its reply. Raises CgroupError with the bus's own words for an error."""
        self._serial += 1
        await self._stream.send(message.serialise(serial=self._serial))
        serial = self._serial
        reply = await self._next(lambda m: m.header.fields.get(HeaderFields.reply_serial) == serial)
        if reply.header.message_type is _NAMES["error"]:
            error = DBusErrorResponse(reply)
            said = " ".join(str(part) for part in error.data)
            raise CgroupError(f"{error.name}: {said}", path=self._where)
        return tuple(reply.body)

    async def watch(self, rule: MatchRule) -> None:
        """Ask for the signals that *rule* describes; `signal` reads them."""
        await self.call(message_bus.AddMatch(rule))

    async def signal(self, rule: MatchRule, fits: Callable[[tuple[Any, ...]], bool]) -> tuple[Any, ...]:
        """The body of the next signal that *rule* describes and *fits* accepts; one that has come already counts."""
        found = await self._next(
            lambda m: m.header.message_type is _NAMES["signal"] and rule.matches(m) and fits(tuple(m.body))
        )
        return tuple(found.body)

    async def _next(self, wanted: Callable[[Message], bool]) -> Message:
        for message in self._waiting:
            if wanted(message):
                self._waiting.remove(message)
                return message
        while True:
            message = self._parser.get_next_message()
            if message is None:
                data = await self._stream.receive(4096)
                self._received += len(data)
                if self._received > LONGEST:
                    raise CgroupError(f"D-Bus sent more than {LONGEST} bytes", path=self._where)
                self._parser.add_data(data)
            elif wanted(message):
                return message
            else:
                self._waiting.append(message)


@asynccontextmanager
async def connected(path: str, *, hello: bool = True, seconds: float = SECONDS) -> AsyncIterator[Bus]:
    """A connection to the bus at the socket *path*; a bus that hangs, dies or talks nonsense is a CgroupError."""
    hint = "is the bus well? (busctl status) Without it, start this program with Delegate=yes in its unit"
    try:
        with anyio.fail_after(seconds):
            async with await anyio.connect_unix(path) as stream:
                bus = Bus(stream, path)
                await bus.start(hello)
                yield bus
    except TimeoutError as error:
        raise CgroupError(f"D-Bus did not answer within {seconds:g} s", path=path, hint=hint) from error
    except (anyio.EndOfStream, anyio.BrokenResourceError) as error:
        raise CgroupError("D-Bus closed the connection", path=path, hint=hint) from error
    except AuthenticationError as error:
        raise CgroupError(f"D-Bus does not let us in: {error}", path=path, hint=hint) from error
    except OSError as error:
        raise CgroupError("D-Bus cannot be reached", path=path, errno=error.errno, hint=hint) from error
    except CgroupError:
        raise
    except (
        ValueError,
        LookupError,
        TypeError,
        UnicodeError,
        AttributeError,
    ) as error:  # what a parser stumbles over
        raise CgroupError(f"D-Bus answers nonsense ({error!r})", path=path, hint=hint) from error
