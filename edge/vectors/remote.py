"""One process owns the embedded engine, the others reach it over a Unix socket: `StoreHost` there, `RemoteStore` here."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from edge.errors import EdgeError, Rejected, Stop, Unavailable
from edge.vectors import wire
from edge.vectors.catalogue import Collection
from edge.vectors.embedded import EmbeddedStore
from edge.vectors.model import (
    Closing,
    FacetCount,
    Filter,
    Hit,
    Point,
    SearchRequest,
    Stats,
    VectorStore,
    Versions,
    checked_ids,
    checked_payload,
    checked_points,
)

log = logging.getLogger(__name__)

_METHODS = frozenset(
    {
        *("ensure", "build_beside", "switch", "versions", "drop"),
        *("upsert", "delete", "set_payload"),
        *("search", "search_many", "get", "scroll_ids", "count", "facet", "stats", "describe"),
        *("optimize", "snapshot", "restore"),
    }
)
_SLOW = frozenset({"optimize", "snapshot", "restore"})
_ERRORS: Mapping[str, type[EdgeError]] = {error.__name__: error for error in (Unavailable, Rejected, Stop)}

# Far below the frame limit for 768-d points, and short enough for others to get their turn in between.
_UPSERT_BATCH = 256
_ID_BATCH = 1000
_LONGEST_PATH = 107


class StopEvent(Protocol):
    """threading.Event or multiprocessing's, whichever the caller stops things with."""

    def is_set(self) -> bool: ...


class StoreHost:
    """Serves `store`, which it owns from now on, on the Unix socket `socket_path` (mode 0600, in a private directory).

    Only processes of the same user are answered. At most `max_connections` are served at once, each with one request at
    a time of at most `max_bytes`; a peer that starts a message and does not finish it within `stall_s` is dropped.
    """

    def __init__(
        self,
        store: VectorStore,
        socket_path: Path,
        *,
        max_connections: int = 64,
        max_bytes: int = wire.DEFAULT_MAX_BYTES,
        stall_s: float = 30.0,
    ) -> None:
        self._store = store
        self._path = Path(socket_path)
        self._max_bytes = max_bytes
        self._stall_s = stall_s
        self._max_connections = max_connections
        self._connections: dict[socket.socket, threading.Thread] = {}
        self._lock = threading.Lock()

    def serve_forever(self, stop_event: StopEvent) -> None:
        """Answers until `stop_event` is set, lets running requests finish, then closes the store.

        Raises Stop where the socket cannot be made, Unavailable where another host answers on it.
        """
        try:
            listener = self._listen()
            try:
                while not stop_event.is_set():
                    try:
                        connection, _ = listener.accept()
                    except TimeoutError:
                        continue
                    self._admit(connection)
            finally:
                self._path.unlink(missing_ok=True)
                listener.close()
                if isinstance(self._store, EmbeddedStore):
                    self._store.stop_optimizing()
                self._drain()
        finally:
            self._store.close()

    def _listen(self) -> socket.socket:
        if len(os.fsencode(self._path)) > _LONGEST_PATH:
            raise Stop(f"The socket path {self._path} is longer than {_LONGEST_PATH} bytes; shorten data.dir.")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            if stat.S_IMODE(self._path.parent.stat().st_mode) & 0o022:
                raise Stop(f"Others may write to {self._path.parent}, so no socket is put there; make it mode 0700.")
            if self._answers():
                raise Unavailable(f"Another vector host already answers on {self._path}; stop it first.")
            self._path.unlink(missing_ok=True)
            listener.bind(str(self._path))
            self._path.chmod(0o600)
            listener.listen(self._max_connections)
            listener.settimeout(0.2)
        except OSError as error:
            listener.close()
            raise Stop(f"The vector host cannot listen on {self._path} ({error}); see data.dir.") from error
        except EdgeError:
            listener.close()
            raise
        return listener

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(1.0)
            try:
                probe.connect(str(self._path))
            except OSError:
                return False
            return True

    def _admit(self, connection: socket.socket) -> None:
        try:
            if _peer_uid(connection) != os.getuid():
                log.warning("A process of another user was turned away from the vector host.")
                connection.close()
                return
            with self._lock:
                if len(self._connections) < self._max_connections:
                    thread = threading.Thread(target=self._serve, args=(connection,), name="vector-host", daemon=True)
                    self._connections[connection] = thread
                    thread.start()
                    return
            busy = wire.encode(_failure(Unavailable("The vector host serves as many connections as it may; retry.")))
            wire.send(connection, busy, time.monotonic() + 1.0)
            connection.close()
        except (OSError, wire.Lost):
            connection.close()

    def _serve(self, connection: socket.socket) -> None:
        try:
            while True:
                # A client may keep its connection idle for as long as it likes; a message once begun may not stall.
                connection.settimeout(None)
                if not connection.recv(1, socket.MSG_PEEK):
                    return
                try:
                    request = wire.receive(connection, time.monotonic() + self._stall_s, self._max_bytes)
                    answer = self._answer(request)
                except Rejected as error:
                    answer = wire.encode(_failure(error))
                wire.send(connection, answer, time.monotonic() + self._stall_s)
        except (OSError, wire.Lost):
            pass
        except wire.Malformed as error:
            log.warning("A malformed message was dropped by the vector host: %s.", error)
        finally:
            connection.close()
            with self._lock:
                self._connections.pop(connection, None)

    def _answer(self, request: Any) -> bytes:
        try:
            method, arguments = request["method"], request["arguments"]
            if method not in _METHODS:
                raise Rejected(f"The vector host does not know the request {method!r}.")
            for name in ("target", "source"):
                if name in arguments:
                    arguments[name] = Path(arguments[name])
            return wire.encode({"answer": getattr(self._store, method)(**arguments)}, self._max_bytes)
        except EdgeError as error:
            return wire.encode(_failure(error))
        except Exception as error:
            log.exception("The vector host failed at a request.")
            return wire.encode(_failure(Unavailable(f"The vector host failed: {type(error).__name__}: {error}.")))

    def _drain(self) -> None:
        with self._lock:
            left = dict(self._connections)
        for connection in left:
            # Wakes the threads that wait for a request; one that works can still send its answer.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RD)
        deadline = time.monotonic() + self._stall_s
        for thread in left.values():
            thread.join(max(0.0, deadline - time.monotonic()))


class RemoteStore(Closing):
    """The VectorStore another process of this appliance hosts on `socket_path`. Safe to share between threads.

    A request waits at most `timeout_s` (`slow_timeout_s` for optimize, snapshot and restore), turn-taking included: at
    most `pool_size` run at once. A lost host raises Unavailable; the next call connects anew.
    """

    def __init__(
        self,
        socket_path: Path,
        *,
        timeout_s: float = 30.0,
        slow_timeout_s: float = 7200.0,
        pool_size: int = 8,
        max_bytes: int = wire.DEFAULT_MAX_BYTES,
    ) -> None:
        self._path = Path(socket_path)
        self._timeout_s = timeout_s
        self._slow_timeout_s = slow_timeout_s
        self._max_bytes = max_bytes
        self._turns = threading.BoundedSemaphore(pool_size)
        self._lock = threading.Lock()
        self._idle: list[socket.socket] = []
        self._pid = os.getpid()
        self._closed = False

    def wait(self, timeout_s: float) -> None:
        """Returns once the host answers. Raises Unavailable when it has not within `timeout_s`."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                self._call("versions", name="knowledge_base")
                return
            except Unavailable:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.05)

    # --- versions ---------------------------------------------------------------------------------------------------

    def ensure(self, collection: Collection, *, fingerprint: str) -> str:
        return str(self._call("ensure", collection=collection, fingerprint=fingerprint))

    def build_beside(self, collection: Collection, *, fingerprint: str) -> str:
        return str(self._call("build_beside", collection=collection, fingerprint=fingerprint))

    def switch(self, name: str, *, fingerprint: str) -> None:
        self._call("switch", name=name, fingerprint=fingerprint)

    def versions(self, name: str) -> Versions:
        found: Versions = self._call("versions", name=name)
        return found

    def drop(self, name: str, *, fingerprint: str) -> None:
        self._call("drop", name=name, fingerprint=fingerprint)

    # --- writing ----------------------------------------------------------------------------------------------------

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        # Checked here as a whole, because the host sees one batch at a time and must not write half of a bad list.
        checked = checked_points(points, self.describe(name)[0])
        for start in range(0, len(checked), _UPSERT_BATCH):
            self._upsert(name, checked[start : start + _UPSERT_BATCH])

    def _upsert(self, name: str, points: list[Point]) -> None:
        try:
            frame = self._frame("upsert", name=name, points=points)
        except Rejected:
            if len(points) == 1:
                raise
            middle = len(points) // 2
            self._upsert(name, points[:middle])
            self._upsert(name, points[middle:])
            return
        self._exchange("upsert", frame)

    def delete(self, name: str, ids: Iterable[UUID]) -> None:
        for part in _parts(checked_ids(ids)) or [[]]:
            self._call("delete", name=name, ids=part)

    def set_payload(self, name: str, ids: Iterable[UUID], payload: Mapping[str, Any]) -> list[UUID]:
        values = checked_payload(payload, "The payload to set")
        missing: list[UUID] = []
        for part in _parts(checked_ids(ids)) or [[]]:
            missing += self._call("set_payload", name=name, ids=part, payload=values)
        return missing

    # --- reading ----------------------------------------------------------------------------------------------------

    def search(self, name: str, request: SearchRequest) -> list[Hit]:
        found: list[Hit] = self._call("search", name=name, request=request)
        return found

    def search_many(self, name: str, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        found: list[list[Hit]] = self._call("search_many", name=name, requests=list(requests))
        return found

    def get(self, name: str, ids: Iterable[UUID], *, with_vectors: bool | Sequence[str] = False) -> list[Point]:
        found: list[Point] = []
        named = with_vectors if isinstance(with_vectors, bool) else list(with_vectors)
        for part in _parts(checked_ids(ids)) or [[]]:
            found += self._call("get", name=name, ids=part, with_vectors=named)
        return found

    def scroll_ids(self, name: str, after: UUID | None = None, limit: int = 1000) -> list[UUID]:
        found: list[UUID] = self._call("scroll_ids", name=name, after=after, limit=limit)
        return found

    def count(self, name: str, filter: Filter | None = None) -> int:
        return int(self._call("count", name=name, filter=filter))

    def facet(self, name: str, key: str, filter: Filter | None = None, limit: int = 100) -> list[FacetCount]:
        found: list[FacetCount] = self._call("facet", name=name, key=key, filter=filter, limit=limit)
        return found

    def stats(self, name: str) -> Stats:
        found: Stats = self._call("stats", name=name)
        return found

    def describe(self, name: str) -> tuple[Collection, str]:
        found: tuple[Collection, str] = self._call("describe", name=name)
        return found

    # --- upkeep -----------------------------------------------------------------------------------------------------

    def optimize(self, name: str) -> bool:
        return bool(self._call("optimize", name=name))

    def snapshot(self, target: Path) -> None:
        self._call("snapshot", target=str(Path(target).absolute()))

    def restore(self, source: Path) -> None:
        self._call("restore", source=str(Path(source).absolute()))

    def close(self) -> None:
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _call(self, method: str, **arguments: object) -> Any:
        return self._exchange(method, self._frame(method, **arguments))

    def _frame(self, method: str, **arguments: object) -> bytes:
        return wire.encode({"method": method, "arguments": arguments}, self._max_bytes)

    def _exchange(self, method: str, frame: bytes) -> Any:
        limit = self._slow_timeout_s if method in _SLOW else self._timeout_s
        deadline = time.monotonic() + limit
        if not self._turns.acquire(timeout=limit):
            raise Unavailable(f"All connections to the vector host were busy for {limit:g} s; retry.")
        try:
            connection = self._connection(deadline)
            try:
                wire.send(connection, frame, deadline)
                reply = wire.receive(connection, deadline, self._max_bytes)
            except (wire.Lost, wire.Malformed) as error:
                connection.close()
                raise self._unreachable(str(error)) from error
            except BaseException:
                # Interrupted halfway: what comes next on this connection would answer the wrong question.
                connection.close()
                raise
            with self._lock:
                keep = not self._closed and self._pid == os.getpid()
                if keep:
                    self._idle.append(connection)
            if not keep:
                connection.close()
        finally:
            self._turns.release()
        if "error" in reply:
            kind, sentence = reply["error"]
            raise _ERRORS.get(kind, Unavailable)(sentence)
        return reply["answer"]

    def _connection(self, deadline: float) -> socket.socket:
        while True:
            with self._lock:
                if self._closed:
                    raise Unavailable("The vector store is closed.")
                if self._pid != os.getpid():
                    # After a fork the parent's connections are not ours to speak on.
                    self._idle, self._pid = [], os.getpid()
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self._connect(deadline)
            if _is_quiet(connection):
                return connection
            connection.close()

    def _connect(self, deadline: float) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(max(0.01, deadline - time.monotonic()))
            connection.connect(str(self._path))
            uid = _peer_uid(connection)
        except OSError as error:
            connection.close()
            raise self._unreachable(error.strerror or str(error)) from error
        if uid != os.getuid():
            connection.close()
            raise Stop(f"A process of another user answers on {self._path}; nothing is sent to it. See data.dir.")
        return connection

    def _unreachable(self, reason: str) -> Unavailable:
        return Unavailable(
            f"The vector host at {self._path} does not answer ({reason}). It is retried; if this lasts, check that the "
            "process that owns data.dir runs, or set vectors.url."
        )


def _failure(error: EdgeError) -> dict[str, list[str]]:
    kind = next((name for name, known in _ERRORS.items() if isinstance(error, known)), Unavailable.__name__)
    return {"error": [kind, str(error)]}


def _parts(ids: Sequence[UUID]) -> list[list[UUID]]:
    return [list(ids[start : start + _ID_BATCH]) for start in range(0, len(ids), _ID_BATCH)]


def _peer_uid(connection: socket.socket) -> int:
    credentials = struct.Struct("3i")
    _, uid, _ = credentials.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size))
    return int(uid)


def _is_quiet(connection: socket.socket) -> bool:
    """Whether an idle connection is still usable: its peer has neither hung up nor said anything unasked."""
    try:
        connection.setblocking(False)
        connection.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
