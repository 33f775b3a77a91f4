"""A TCP proxy that can cut, delay, stall and half-close what goes through it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Coroutine
from typing import Any


class Proxy:
    """Listens on a port of 127.0.0.1 and passes everything on to `target`: (host, port), or the path of a socket."""

    def __init__(self, target: tuple[str, int] | str) -> None:
        self._target = target
        self._delay = 0.0
        self._refusing = False
        self._flow = asyncio.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self._server = self._ask(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self._call(self._flow.set)
        self.port: int = self._server.sockets[0].getsockname()[1]

    def delay(self, seconds: float) -> None:
        """From now on every piece of data waits so long on its way, in both directions."""
        self._delay = seconds

    def stall(self) -> None:
        """Nothing passes, and nobody is told: a cable that was pulled."""
        self._call(self._flow.clear)

    def resume(self) -> None:
        self._refusing = False
        self._delay = 0.0
        self._call(self._flow.set)

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; with `refuse` also those that come, until `resume`."""
        self._refusing = refuse
        self._call(lambda: [writer.transport.abort() for writer in tuple(self._writers)])

    def half_close(self) -> None:
        """Tell both ends that the other will send no more, and keep the connections open."""

        def end(writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                writer.write_eof()

        self._call(lambda: [end(writer) for writer in tuple(self._writers)])

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.sleep(0)

        self.cut()
        self._ask(end())
        self._call(self._loop.stop)
        self._thread.join(5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._refusing:
            writer.transport.abort()
            return
        try:
            if isinstance(self._target, str):
                there, back = await asyncio.open_unix_connection(self._target)
            else:
                there, back = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, back}
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(there, writer))
        finally:
            self._writers -= {writer, back}
            for end in (writer, back):
                end.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # After a half-close nothing can be written any more; what arrives then goes nowhere.
        with contextlib.suppress(OSError, RuntimeError):
            while data := await reader.read(65_536):
                if self._delay:
                    await asyncio.sleep(self._delay)
                await self._flow.wait()
                writer.write(data)
                await writer.drain()
            writer.write_eof()

    def _ask(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, act: Any) -> None:
        self._loop.call_soon_threadsafe(act)
