"""One source of events in a process of its own. Its journal says what it asked for and what it was promised.

    invoke   it is about to hand the event over: from here on it may arrive
    kept     `Publisher.publish` has returned: from here on it must arrive
    receipt  the appliance has said that it is safe: from here on it must be there, whatever happens

Modes: `spool` is the client for integrators; `raw` is a client of MQTT that sends again what has no receipt; `http`
posts NDJSON until it is answered 201.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

#: What no contract can read. It must be kept as it is, and receipted by the name that its sender gave it.
POISON = [
    b'{"text": "half', b"\xff\xfe\x00{", b"[1, 2]", b'{"text": "a\\u0000b"}', b'{"text": NaN}', b'{"a": 1, "a": 2}',
    b'{"text": "\\ud800"}', b'{"seconds": 1e400}', b'{"n": ' + b"9" * 5_000 + b"}", b"[" * 90_000, b"",
]  # fmt: skip

_WORDS = ["สายพานหยุดเอง", "มอเตอร์ร้อน", "ลมรั่ว", "belt slips", "sensor dirty", "แผงควบคุมดับ"]


def event(source: str, number: int, dice: random.Random) -> tuple[str, dict[str, Any]]:
    """Class and body of one event: mostly what makes no case, some alarms that fold, some reports of their own."""
    throw = dice.random()
    if throw < 0.6:
        return "camera", {"kind": "motion", "score": round(dice.random(), 3)}
    if throw < 0.85:
        level = "critical" if throw > 0.84 else "error"
        return "system", {
            "kind": "log",
            "level": level,
            "component": dice.choice(["plc", "drive"]),
            "message": f"E{number}",
        }
    return "report", {"kind": "report", "text": f"{dice.choice(_WORDS)} {source} {number}"}


class Journal:
    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def write(self, what: str, identity: str, **more: Any) -> None:
        # One call a line, nothing buffered: a killed process has said all that it had said.
        line = json.dumps({"e": what, "id": identity, "at": time.time(), **more}, ensure_ascii=False)
        os.write(self._descriptor, line.encode() + b"\n")


def read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    whole = path.read_bytes()
    # Without its newline the last line was torn off by a kill.
    return [json.loads(line) for line in whole[: whole.rfind(b"\n") + 1].splitlines()]


def _pace(options: dict[str, Any]) -> Any:
    """The numbers of the events to send, at their rate; without a count until somebody puts up the stop file."""
    done = sum(entry["e"] == "invoke" for entry in read(Path(options["journal"])))
    stop = Path(options["journal"] + ".stop")
    number, due = done, time.monotonic()
    while not stop.exists() and (not options["count"] or number < options["count"]):
        yield number
        number += 1
        due = max(due + 1 / options["rate"], time.monotonic() - 0.5)
        time.sleep(max(0.0, due - time.monotonic()))


def _time() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _spool(options: dict[str, Any], journal: Journal) -> None:
    from edge import publisher

    if options["variant"] == "unsynced-spool":
        publisher.os = _Unsynced()  # type: ignore[attr-defined]
    _record_syncs(Path(options["journal"] + ".synced"))
    client = publisher.Publisher(
        options["broker"], options["place"], options["source"], options["spool"], resend_after=2.0
    )
    told = {entry["id"] for entry in read(Path(options["journal"])) if entry["e"] == "receipt"}
    mine = {entry["id"] for entry in read(Path(options["journal"])) if entry["e"] == "kept"} - told
    dice = random.Random(options["seed"])

    def note() -> None:
        waiting = set(client.waiting())
        for identity in sorted(mine - waiting):
            mine.discard(identity)
            journal.write("receipt", identity)

    for number in _pace(options):
        identity = f"{options['source']}-{number}"
        event_class, body = event(options["source"], number, dice)
        body |= {"id": identity, "time": _time()}
        journal.write("invoke", identity, event_class=event_class, body=body)
        client.publish(event_class, body)
        journal.write("kept", identity)
        mine.add(identity)
        note()
    while client.waiting():
        time.sleep(0.05)
    note()
    client.close()


class _Unsynced:
    """The module os, with a disk that is never told to write."""

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fdatasync(self, descriptor: int) -> None:
        pass

    def fsync(self, descriptor: int) -> None:
        pass


def _record_syncs(journal: Path) -> None:
    """Write down how much of each file is on disk. A power cut may take everything behind that."""
    descriptor = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    real = os.fdatasync

    def fdatasync(file: int) -> None:
        real(file)
        line = json.dumps([Path(f"/proc/self/fd/{file}").readlink().name, os.fstat(file).st_size])
        os.write(descriptor, line.encode() + b"\n")

    os.fdatasync = fdatasync  # type: ignore[assignment]


class _Raw:
    """A client of MQTT of its own making, with what has no receipt in memory."""

    def __init__(self, options: dict[str, Any], journal: Journal) -> None:
        import paho.mqtt.client as paho
        from paho.mqtt.enums import CallbackAPIVersion

        self._journal = journal
        self._trusting = options["variant"] == "trust-puback"
        self._lock = threading.Lock()
        self._flying: dict[int, str] = {}
        self.messages: dict[str, tuple[str, bytes]] = {}
        self.open: dict[str, None] = {}
        source, levels = options["source"], options["place"].split("/")
        self._client = paho.Client(CallbackAPIVersion.VERSION2, client_id=f"lab-{source}", protocol=paho.MQTTv5)
        self._client.on_message = self._receipt
        self._client.on_publish = self._puback
        self._client.on_connect = lambda client, *_: client.subscribe(f"{levels[0]}/{levels[1]}/andon/receipt/{source}")
        self._client.reconnect_delay_set(1, 1)
        host, _, port = options["broker"].rpartition("/")[2].partition(":")
        self._client.connect_async(host, int(port), keepalive=5)
        self._client.loop_start()

    def add(self, identity: str, topic: str, payload: bytes) -> None:
        with self._lock:
            self.messages[identity] = (topic, payload)
            self.open[identity] = None

    def send(self, identity: str) -> None:
        from paho.mqtt.packettypes import PacketTypes
        from paho.mqtt.properties import Properties

        properties = Properties(PacketTypes.PUBLISH)
        properties.UserProperty = [("id", identity)]
        with self._lock:
            sent = self._client.publish(*self.messages[identity], qos=1, properties=properties)
            self._flying[sent.mid] = identity

    def late(self) -> list[str]:
        with self._lock:
            return sorted(self.open)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _settled(self, identity: str) -> None:
        with self._lock:
            if identity in self.open:
                del self.open[identity]
                self._journal.write("receipt", identity)

    def _receipt(self, _client: Any, _data: Any, message: Any) -> None:
        for identity in json.loads(message.payload)["ids"]:
            self._settled(identity)

    def _puback(self, _client: Any, _data: Any, mid: int, _reason: Any, _properties: Any) -> None:
        if self._trusting:
            self._settled(self._flying.get(mid, ""))


def _raw(options: dict[str, Any], journal: Journal) -> None:
    source, place = options["source"], options["place"]
    client = _Raw(options, journal)
    dice = random.Random(options["seed"])
    shuffled: list[str] = []
    again = time.monotonic() + 2
    for number in _pace(options):
        identity = f"{source}-{number}"
        poison = options["poison"] and number % 8 == 5
        if poison:
            event_class, payload = "report", POISON[number // 8 % len(POISON)]
        else:
            event_class, body = event(source, number, dice)
            body |= {"pad": "x" * options["pad"]} if options["pad"] else {}
            # Odd spacing: what is stored must be these bytes, not what somebody understood of them.
            spaced = json.dumps({**body, "id": identity, "sequence": number, "time": _time()}, ensure_ascii=False)
            payload = spaced.replace(", ", " ,  ", 1).encode()
        journal.write(
            "invoke", identity, event_class=event_class, sha=hashlib.sha256(payload).hexdigest(), poison=poison
        )
        client.add(identity, f"{place}/{event_class}/{source}", payload)
        if not options["disorder"]:
            client.send(identity)
        else:
            # Everything twice, and in any order.
            shuffled += [identity, identity]
            if len(shuffled) >= 40:
                dice.shuffle(shuffled)
                for each in shuffled:
                    client.send(each)
                shuffled.clear()
        if time.monotonic() > again:
            again = time.monotonic() + 2
            late = client.late()
            dice.shuffle(late)
            for each in late:
                client.send(each)
    while late := client.late():
        for each in late:
            client.send(each)
        time.sleep(1)
    client.close()


def _http(options: dict[str, Any], journal: Journal) -> None:
    import httpx

    dice = random.Random(options["seed"])
    with httpx.Client(
        base_url=options["web"], headers={"Authorization": f"Bearer {options['token']}"}, timeout=4, trust_env=False
    ) as client:
        batch: list[tuple[str, bytes]] = []
        for number in _pace(options):
            identity = f"{options['source']}-{number}"
            body = {"kind": "motion", "score": round(dice.random(), 3), "id": identity, "sequence": number}
            payload = json.dumps({**body, "time": _time()}).encode()
            journal.write("invoke", identity, event_class="camera", sha=hashlib.sha256(payload).hexdigest())
            batch.append((identity, payload))
            if len(batch) == 5 or number + 1 == options["count"]:
                _post(client, options, batch, journal)
                batch = []


def _post(client: Any, options: dict[str, Any], batch: list[tuple[str, bytes]], journal: Journal) -> None:
    import httpx

    topic = f"{options['place']}/camera/{options['source']}"
    while True:
        try:
            answer = client.post(
                "/api/v1/events", params={"topic": topic}, content=b"\n".join(payload for _, payload in batch),
                headers={"Content-Type": "application/x-ndjson"},
            )  # fmt: skip
            if answer.status_code == 201:
                for (identity, _), item in zip(batch, answer.json(), strict=True):
                    assert item["stored"], item
                    assert item["id"] == identity, item
                    journal.write("receipt", identity)
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.3)


def main() -> None:
    options = json.loads(sys.argv[1])
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    journal = Journal(Path(options["journal"]))
    {"spool": _spool, "raw": _raw, "http": _http}[options["mode"]](options, journal)


if __name__ == "__main__":
    main()
