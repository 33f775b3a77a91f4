"""Publish events to an Andon Edge appliance so that none of them is lost. Needs nothing but paho-mqtt.

    with Publisher("mqtt://127.0.0.1:1883", "andon/demo/assembly/line-1/cell-1", "cam-asm-1", "/var/spool/cam-asm-1") as it:
        it.publish("camera", {"kind": "idle", "seconds": 400})

When `publish` returns, the event is on this machine's disk. A thread sends it, and sends it again, until the appliance
says by a receipt that it has committed it: a killed process, a restarted broker or a night without network cost time,
not events. The appliance recognises what it gets twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import random
import select
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

__all__ = ["PublishError", "Publisher", "SpoolFull"]

#: Events sent before the receipt of the first of them has come.
_WINDOW = 200

#: Seconds between two attempts to reach the broker, and between two sendings of one event: doubled up to the second.
_RECONNECT = (0.5, 30.0)
_RESEND_MOST = 60.0

_CLASSES = ("camera", "worker", "system", "report")


class PublishError(Exception):
    """The event was not taken: it is wrong, or the spool cannot be written. The message says what to do."""


class SpoolFull(PublishError):
    """The disk space set aside is used by events that wait for their receipts. Try again when the appliance answers."""


@dataclass(slots=True)
class _Segment:
    """One append-only file of records; deleted once all of them are receipted and a newer file carries the count on."""

    path: Path
    descriptor: int
    size: int = 0
    waiting: int = 0


@dataclass(slots=True)
class _Entry:
    """One event that waits for its receipt. Its bytes stay on disk."""

    sequence: int
    id: str
    segment: _Segment
    offset: int
    length: int
    attempts: int = 0
    due: float = 0.0


@dataclass(frozen=True, slots=True)
class _Record:
    sequence: int
    id: str
    topic: str
    payload: str


class _Spool:
    """Events on disk, in files named by the first sequence number in them. Not thread-safe: its owner locks.

    Every start opens a new file and never writes to an old one, so that what a crash tore off can only be the end of a
    file, and was never promised to anybody.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self._folder = folder
        self._most = most
        self._segment_bytes = max(16_384, min(1_048_576, most // 8))
        self._tail: _Segment | None = None
        self._segments: list[_Segment] = []
        self.waiting: dict[int, _Entry] = {}
        self.by_id: dict[str, list[int]] = {}
        self.damaged = 0
        self.next = 1
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_CREAT | os.O_RDWR, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                os.close(self._lock)
                raise PublishError(f"The spool {folder} is used by another process; each needs its own.") from error
            self.name = self._named()
            for path in sorted(folder.glob("*.events")):
                if path.stem.isdigit():
                    self._load(path)
            # The newest file stays, even if all of it is receipted: it carries the count over a restart.
            self._tidy(keep=self._segments[-1:])
        except OSError as error:
            raise PublishError(f"The spool {folder} cannot be used: {error.strerror}.") from error

    @property
    def bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def append(self, topic: str, identity: str, payload: str) -> None:
        """On disk when this returns. Raises `SpoolFull` or `PublishError`, and then the event may be sent or not."""
        line = _line(_Record(self.next, identity, topic, payload))
        try:
            if self.bytes + len(line) > self._most and self._tail and not self._tail.waiting:
                self._turn_over()
            if self.bytes + len(line) > self._most:
                raise SpoolFull(
                    f"The spool {self._folder} is full: {len(self.waiting)} events ({self.bytes} bytes) wait for their "
                    f"receipts, and {self._most} bytes are allowed. Is the appliance running?"
                )
            if self._tail is None or self._tail.size >= self._segment_bytes:
                self._turn_over()
            tail = self._tail
            assert tail is not None
            _write(tail.descriptor, line)
            os.fdatasync(tail.descriptor)
        except OSError as error:
            # Part of the line may stand there, or all of it: that file gets no more, and the number is used up.
            self._tail = None
            self.next += 1
            raise PublishError(f"The spool {self._folder} cannot be written: {error.strerror}.") from error
        self._add(_Entry(self.next, identity, tail, tail.size, len(line)))
        tail.size += len(line)
        self.next += 1

    def read(self, entry: _Entry) -> _Record | None:
        """None for bytes that are no longer what was written."""
        line = os.pread(entry.segment.descriptor, entry.length, entry.offset)
        return _record(line)

    def done(self, identity: str) -> int:
        """Forget an event. Returns how many there were of this id."""
        found = self.by_id.pop(identity, [])
        for sequence in found:
            self.waiting.pop(sequence).segment.waiting -= 1
        if found:
            self._tidy(keep=self._segments[-1:])
        return len(found)

    def damage(self, entry: _Entry) -> None:
        self.damaged += 1
        self.done(entry.id)

    def close(self) -> None:
        if self._segments and self._segments[-1].size and not self._segments[-1].waiting:
            # What is receipted is not sent again at the next start. After a crash it is, and folds.
            with contextlib.suppress(OSError):
                self._turn_over()
        for segment in self._segments:
            os.close(segment.descriptor)
        self._segments.clear()
        os.close(self._lock)

    def _named(self) -> str:
        """The spool's own name, part of every id: numbers begin again in a new spool, ids must not."""
        path = self._folder / "name"
        with contextlib.suppress(FileNotFoundError):
            if name := path.read_text("ascii").strip():
                return name
        name = os.urandom(6).hex()
        fresh = path.with_suffix(".new")
        descriptor = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
        try:
            _write(descriptor, name.encode())
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        fresh.replace(path)
        _sync(self._folder)
        return name

    def _load(self, path: Path) -> None:
        segment = _Segment(path, os.open(path, os.O_RDWR))
        self._segments.append(segment)
        self.next = max(self.next, int(path.stem))
        offset, bad = 0, 0
        for line in path.read_bytes().splitlines(keepends=True):
            record = _record(line)
            if record is None:
                bad += 1
            else:
                # What is wrong in front of a good record was not torn off by a crash.
                self.damaged += bad
                bad = 0
                self._add(_Entry(record.sequence, record.id, segment, offset, len(line)))
                self.next = max(self.next, record.sequence + 1)
            offset += len(line)
        segment.size = offset

    def _add(self, entry: _Entry) -> None:
        self.waiting[entry.sequence] = entry
        self.by_id.setdefault(entry.id, []).append(entry.sequence)
        entry.segment.waiting += 1

    def _turn_over(self) -> None:
        path = self._folder / f"{self.next:020d}.events"
        # A file of this name holds no whole record, else the count would have gone on.
        for segment in [each for each in self._segments if each.path == path]:
            os.close(segment.descriptor)
            self._segments.remove(segment)
        self._tail = _Segment(path, os.open(path, os.O_CREAT | os.O_TRUNC | os.O_RDWR, 0o600))
        self._segments.append(self._tail)
        _sync(self._folder)
        self._tidy(keep=[self._tail])

    def _tidy(self, keep: list[_Segment]) -> None:
        for segment in [each for each in self._segments if not each.waiting and each not in keep]:
            os.close(segment.descriptor)
            segment.path.unlink(missing_ok=True)
            self._segments.remove(segment)


class _Lost(Exception):
    """The connection is gone or never was; the message is for people."""


@dataclass(slots=True)
class _Link:
    """What one connection has told so far."""

    connected: bool = False
    subscribed: bool = False
    inflight: int = 20
    flying: int = 0
    refused: str = ""
    receipts: list[str] = field(default_factory=list)


class Publisher:
    """Sends the events of one source. Thread-safe; one process at a time may use one `spool` folder.

    `broker`: mqtt://host:1883, or mqtts://host:8883 with TLS. `place`: root/site/area/line/cell of the plant. `source`:
    the last level of the topic. `max_bytes` bounds the spool on disk, `max_event_bytes` one event, `resend_after` is
    how many seconds the first receipt is waited for.
    """

    def __init__(
        self,
        broker: str,
        place: str,
        source: str,
        spool: str | Path,
        *,
        username: str = "",
        password: str = "",
        ca_file: str | Path | None = None,
        cert_file: str | Path | None = None,
        key_file: str | Path | None = None,
        max_bytes: int = 67_108_864,
        max_event_bytes: int = 262_144,
        resend_after: float = 5.0,
    ) -> None:
        parts = place.split("/")
        if len(parts) != 5 or not all(parts) or not source or set(place + source) & set("+#\x00") or "/" in source:
            raise PublishError(
                f"The place {place!r} and source {source!r} are not root/site/area/line/cell and a name."
            )
        address = urlsplit(broker)
        if address.scheme not in ("mqtt", "mqtts") or not address.hostname:
            raise PublishError(f"The broker {broker!r} is not of the form mqtt://host:port or mqtts://host:port.")
        self._tls: ssl.SSLContext | None = None
        if address.scheme == "mqtts":
            try:
                self._tls = ssl.create_default_context(cafile=ca_file)
                if cert_file:
                    self._tls.load_cert_chain(cert_file, key_file)
            except (OSError, ValueError) as error:
                raise PublishError(f"The TLS files for {broker} cannot be used: {error}.") from error
        self._host, self._port = address.hostname, address.port or (8883 if self._tls else 1883)
        self._username, self._password = username, password
        self._place, self._source = place, source
        self._receipts = f"{parts[0]}/{parts[1]}/andon/receipt/{quote(source, safe='')}"
        self._max_event_bytes = max_event_bytes
        self._resend_after = resend_after
        self._changed = threading.Condition()
        self._spool = _Spool(Path(spool), max_bytes)
        self._receipted = 0
        self._problem = ""
        self._closing = False
        self._bell, self._ear = socket.socketpair()
        self._bell.setblocking(False)
        self._ear.setblocking(False)
        self._thread = threading.Thread(target=self._run, name=f"publisher-{source}", daemon=True)
        self._thread.start()

    def publish(self, event_class: str, event: Mapping[str, Any]) -> str:
        """Keep one event until the appliance has it. Returns its id; from then on nothing but the disk can lose it.

        `event` holds the kind and its fields; `id` and `time` are filled in where they are missing. Raises
        `PublishError` for what is no event, `SpoolFull` when the space is used up.
        """
        if event_class not in _CLASSES:
            raise PublishError(f"The class {event_class!r} is not known; known are {', '.join(_CLASSES)}.")
        if reserved := {"source", "sequence"} & set(event):
            raise PublishError(f"The field {min(reserved)} is set by the publisher; leave it out.")
        given = event.get("id")
        if given is not None and (not isinstance(given, str) or not 1 <= len(given.strip()) <= 200):
            raise PublishError("The id of an event is a text of 1 to 200 characters.")
        topic = f"{self._place}/{event_class}/{self._source}"
        with self._changed:
            if self._closing:
                raise PublishError("This publisher is closed.")
            sequence = self._spool.next
            identity = given.strip() if given else f"{self._spool.name}-{sequence}"
            body = {"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "schema": 1, **event}
            try:
                payload = json.dumps(
                    {**body, "id": identity, "sequence": sequence}, ensure_ascii=False, allow_nan=False
                )
                size = len(payload.encode())
            except (TypeError, ValueError, RecursionError) as error:
                raise PublishError(f"The event cannot be written as JSON: {error}.") from error
            if size > self._max_event_bytes:
                raise PublishError(f"The event has {size} bytes; at most {self._max_event_bytes} are allowed.")
            self._spool.append(topic, identity, payload)
        self._ring()
        return identity

    def waiting(self) -> list[str]:
        """The ids that have no receipt yet, oldest first."""
        with self._changed:
            return [entry.id for entry in self._spool.waiting.values()]

    @property
    def receipted(self) -> int:
        """How many events got their receipt since this publisher was opened."""
        with self._changed:
            return self._receipted

    @property
    def damaged(self) -> int:
        """How many records of the spool were found to be not what had been written: the disk has lost them."""
        with self._changed:
            return self._spool.damaged

    @property
    def problem(self) -> str:
        """Why events do not arrive at this moment, in words; empty when nothing is known to be wrong."""
        with self._changed:
            return self._problem

    def wait(self, timeout: float) -> bool:
        """Wait until every event has its receipt. False after `timeout` seconds."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._spool.waiting, timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Wait up to `timeout` seconds for receipts, then end. What has none stays in the spool for the next time."""
        if not self._closing:
            self.wait(timeout)
            with self._changed:
                self._closing = True
            self._ring()
            self._thread.join(15)
            if self._thread.is_alive():
                # A name server that does not answer holds it; it ends with the process, and until then it needs these.
                return
            self._spool.close()
            self._bell.close()
            self._ear.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ring(self) -> None:
        # Full means that it rings already; closed means that nobody listens any more.
        with contextlib.suppress(OSError):
            self._bell.send(b"x")

    # --- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        delay = _RECONNECT[0]
        while not self._closing:
            try:
                with self._connected() as (client, link):
                    delay = _RECONNECT[0]
                    self._say("")
                    self._deliver(client, link)
            except _Lost as error:
                self._say(str(error))
            except Exception as error:  # noqa: BLE001 - the thread must outlive whatever a network can bring
                self._say(f"The broker at {self._host}:{self._port} cannot be used: {error}.")
            until = time.monotonic() + delay * random.uniform(0.5, 1.0)  # noqa: S311 - so that a plant's cameras do not all come back at once
            while not self._closing and (left := until - time.monotonic()) > 0:
                self._listen(left)
            delay = min(delay * 2, _RECONNECT[1])

    def _say(self, problem: str) -> None:
        with self._changed:
            self._problem = problem

    @contextlib.contextmanager
    def _connected(self) -> Iterator[tuple[paho.Client, _Link]]:
        link = _Link()
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"andon-{self._spool.name}", protocol=paho.MQTTv5)
        if self._username:
            client.username_pw_set(self._username, self._password or None)
        if self._tls:
            client.tls_set_context(self._tls)
        client.connect_timeout = 5.0
        client.on_socket_open = lambda _client, _data, open_: _at_once(open_)
        # What the broker can bear is known after the greeting only, and then paho takes no other number: see `_send`.
        client.max_inflight_messages_set(65_535)
        client.on_connect = lambda _client, _data, _flags, reason, properties: _greeted(link, reason, properties)
        client.on_subscribe = lambda _client, _data, _mid, reasons, _properties: self._granted(link, reasons)
        client.on_publish = lambda _client, _data, _mid, reason, _properties: self._taken(link, reason)
        client.on_message = lambda _client, _data, message: link.receipts.extend(_ids(message.payload))
        try:
            client.connect(self._host, self._port, keepalive=15, clean_start=True)
            self._until(client, link, lambda: link.connected)
            client.subscribe(self._receipts, qos=1)
            self._until(client, link, lambda: link.subscribed)
            yield client, link
        except OSError as error:
            raise _Lost(f"The broker at {self._host}:{self._port} does not answer: {error}.") from error
        finally:
            client.disconnect()
            # A connection the broker never answered is not closed by the library.
            if (left := client.socket()) is not None:
                left.close()

    def _until(self, client: paho.Client, link: _Link, reached: Any) -> None:
        deadline = time.monotonic() + 5
        while not reached():
            if self._closing:
                raise _Lost("This publisher is closed.")
            if time.monotonic() > deadline:
                raise _Lost(f"The broker at {self._host}:{self._port} does not answer.")
            self._turn(client, 0.2)
            if link.refused:
                raise _Lost(link.refused)

    def _deliver(self, client: paho.Client, link: _Link) -> None:
        with self._changed:
            for entry in self._spool.waiting.values():
                entry.due = 0.0
        while not self._closing:
            pause = self._send(client, link)
            self._turn(client, pause)
            if link.receipts:
                told, link.receipts = link.receipts, []
                with self._changed:
                    self._problem = ""
                    self._receipted += sum(self._spool.done(identity) for identity in told)
                    self._changed.notify_all()

    def _send(self, client: paho.Client, link: _Link) -> float:
        """Send what is due. Returns the seconds until there is more to send."""
        now = time.monotonic()
        pause = 1.0
        ready: list[tuple[_Entry, _Record]] = []
        with self._changed:
            oldest = [entry for _, entry in zip(range(_WINDOW), self._spool.waiting.values(), strict=False)]
            for entry in oldest:
                if entry.due > now:
                    pause = min(pause, entry.due - now)
                    continue
                if link.flying + len(ready) >= link.inflight:
                    # The broker's next acknowledgement ends the wait.
                    break
                record = self._spool.read(entry)
                if record is None:
                    self._spool.damage(entry)
                    self._changed.notify_all()
                    continue
                entry.attempts += 1
                entry.due = now + min(self._resend_after * 2 ** min(entry.attempts - 1, 10), _RESEND_MOST)
                ready.append((entry, record))
        for _, record in ready:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            # So that even a payload the appliance cannot read gets its receipt.
            properties.UserProperty = [("id", record.id)]
            properties.ContentType = "application/json"
            client.publish(record.topic, record.payload.encode(), qos=1, properties=properties)
            link.flying += 1
        return pause

    def _turn(self, client: paho.Client, timeout: float) -> None:
        """Let the connection work for up to `timeout` seconds; the bell ends the wait."""
        connection = client.socket()
        if connection is None:
            raise _Lost(f"The connection to the broker at {self._host}:{self._port} was lost.")
        # TLS keeps what it has read already out of sight of select.
        pending = getattr(connection, "pending", None)
        if pending is not None and pending():
            timeout = 0
        writing = [connection] if client.want_write() else []
        readable, writable, _ = select.select([connection, self._ear], writing, [], max(0.0, timeout))
        if self._ear in readable:
            self._hush()
        codes = []
        if connection in readable or (pending is not None and pending()):
            codes.append(client.loop_read())
        if connection in writable and client.socket() is not None:
            codes.append(client.loop_write())
        codes.append(client.loop_misc())
        if any(code != MQTTErrorCode.MQTT_ERR_SUCCESS for code in codes):
            raise _Lost(f"The connection to the broker at {self._host}:{self._port} was lost.")

    def _listen(self, timeout: float) -> None:
        readable, _, _ = select.select([self._ear], [], [], timeout)
        if readable:
            self._hush()
            # New events do not shorten the pause before the next attempt.
            time.sleep(0.01)

    def _hush(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._ear.recv(4_096)

    def _granted(self, link: _Link, reasons: list[Any]) -> None:
        if any(getattr(reason, "is_failure", False) for reason in reasons):
            link.refused = f"The broker does not let this client read its receipts ({self._receipts}): {reasons[0]}."
        link.subscribed = True

    def _taken(self, link: _Link, reason: Any) -> None:
        link.flying -= 1
        if getattr(reason, "is_failure", False):
            self._say(f"The broker refuses the events of {self._source}: {reason}.")
        elif getattr(reason, "value", 0) == 16:
            self._say("Nobody listens at the broker: is the appliance connected to it?")


def _greeted(link: _Link, reason: Any, properties: Any) -> None:
    if getattr(reason, "is_failure", False):
        link.refused = f"The broker refuses this client: {reason}."
    link.inflight = min(_WINDOW, getattr(properties, "ReceiveMaximum", None) or _WINDOW)
    link.connected = True


def _at_once(connection: Any) -> None:
    """No packet waits for the acknowledgement of the one before it (Nagle's algorithm): that takes 40 ms."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _ids(payload: bytes | bytearray) -> list[str]:
    """The ids of a receipt; none of what is no receipt."""
    try:
        told = json.loads(payload)
        return [identity for identity in told["ids"] if isinstance(identity, str)]
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def _line(record: _Record) -> bytes:
    body = json.dumps([record.sequence, record.id, record.topic, record.payload], ensure_ascii=False).encode()
    return b"%08x %s\n" % (zlib.crc32(body), body)


def _record(line: bytes) -> _Record | None:
    checksum, _, body = line.partition(b" ")
    if not body.endswith(b"\n") or checksum != b"%08x" % zlib.crc32(body[:-1]):
        return None
    try:
        return _Record(*json.loads(body))
    except (ValueError, TypeError, RecursionError):
        return None


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
