"""The labelled month through a real appliance: MQTT in, all five collections out, every row accounted for.

    python bench/plant_month.py [--days 30] [--seed 1] [--write]

One client publishes the month in its order, as fast as receipts come back. Meanwhile the worker is killed several times
and the power is cut once (kill -9 of everything); what has no receipt is sent again, as a spool would. At the end every
event is held against the database, the findings against the labels, and each collection against its source rows.
`--write` puts the tables into docs/analytics.md.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import OrderedDict
from datetime import timedelta
from pathlib import Path

import paho.mqtt.client as paho
import psycopg
from intake import ROOT, Appliance, client, subscribed
from month import FIRST, compared, write

from edge.simulation.month import Month, MonthEvent

MARKS = ("<!-- month: begin -->", "<!-- month: end -->")
#: Events that are out without a receipt at most.
WINDOW = 2_000
#: Shares of the month after which the worker is killed, and after which everything is.
WORKER_DIES, POWER_FAILS = (0.15, 0.3, 0.7, 0.85), 0.5


class Sender:
    """Publishes in order and keeps what has no receipt yet, as the spool of `edge.publisher` does."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.waiting: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
        self.sent = 0
        self.again = 0
        self._changed = threading.Condition()
        self._connect()

    def _connect(self) -> None:
        self._receipts = client(self.port, "month-receipts")
        self._receipts.on_message = self._receipt
        subscribed(self._receipts, "andon/month/andon/receipt/+", 1)
        self._client = client(self.port, "month-sender")
        self._client.loop_start()

    def _receipt(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        with self._changed:
            for identity in json.loads(message.payload)["ids"]:
                self.waiting.pop(identity, None)
            self._changed.notify_all()

    def send(self, event: MonthEvent, sequence: int) -> None:
        topic = f"andon/{event.topic}"
        payload = json.dumps({**event.body, "sequence": sequence}, ensure_ascii=False).encode()
        with self._changed:
            self._room(WINDOW)
            self.waiting[event.body["id"]] = (topic, payload)
        self.sent += 1
        self._client.publish(topic, payload, qos=1)

    def _room(self, most: int) -> None:
        if not self._changed.wait_for(lambda: len(self.waiting) < most, timeout=120):
            raise SystemExit(f"{len(self.waiting)} events got no receipt within 120 s.")

    def reconnect(self) -> None:
        """After a power cut: send what has no receipt once more, in its order."""
        for each in (self._receipts, self._client):
            each.loop_stop()
        self._connect()
        with self._changed:
            left = list(self.waiting.values())
        self.again += len(left)
        for topic, payload in left:
            self._client.publish(topic, payload, qos=1)

    def finish(self) -> None:
        with self._changed:
            self._room(1)
        for each in (self._receipts, self._client):
            each.disconnect()
            each.loop_stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/analytics.md")
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="edge-month-", dir=os.environ.get("EDGE_BENCH_DIR")))
    folder.chmod(0o711)
    try:
        lines = run(Month(FIRST, given.days, given.seed), folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print("\n".join(lines))
    if given.write:
        write(lines, MARKS)


def run(month: Month, folder: Path) -> list[str]:
    plant = folder / "plant.toml"
    plant.write_text(month.plant(), "utf-8")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def appliance_() -> Appliance:
        return Appliance(folder, plant, EDGE__BROKER__PORT=port, EDGE__LOG__LEVEL="warning")

    appliance = appliance_()
    try:
        documents = sorted(path for path in (ROOT / "etc/sample/knowledge").iterdir() if path.suffix != ".toml")
        edge(appliance, "knowledge", "add", *map(str, documents))
        sender, sequences = Sender(int(port)), dict[str, int]()
        total, kills = len(month), [int(len(month) * share) for share in WORKER_DIES]
        started = time.monotonic()
        killed = 0
        for number, event in enumerate(month, 1):
            if number in kills:
                for pid in appliance.parts("worker"):
                    os.kill(pid, signal.SIGKILL)
                    killed += 1
            if number == int(total * POWER_FAILS):
                say(started, f"power cut after {number:,} events: {appliance.cut_power()} processes killed")
                appliance = appliance_()
                sender.reconnect()
            if number % 20_000 == 0:
                say(started, f"{number:,} of {total:,} sent, {appliance.waiting()[0]:,} to be understood")
            source = event.topic.rpartition("/")[2]
            sequences[source] = sequences.get(source, 0) + 1
            sender.send(event, sequences[source])
        sender.finish()
        receipted = time.monotonic() - started
        say(started, "all receipted")
        while (left := appliance.waiting()[0]) > 0:
            say(started, f"{left:,} to be understood")
            time.sleep(10)
        appliance.drained(3_600)
        understood = time.monotonic() - started
        # Sessions are made some 15 seconds after the last event of their shift, and are found by then.
        time.sleep(40)
        appliance.drained(3_600)
        last = FIRST + timedelta(days=month.days)
        for job in (("behaviors", "--since", str(FIRST), "--until", str(last)), ("etl",)):
            print(edge(appliance, "etl", "run", *job), flush=True)
            for pid in appliance.parts("worker"):
                os.kill(pid, signal.SIGKILL)
                killed += 1
            appliance.drained(3_600)
        print(edge(appliance, "reconcile", "--dry-run"), flush=True)
        account = edge(appliance, "etl", "account", "--json")
        lines = told(month, appliance, account, killed, sender.again, receipted, understood)
    finally:
        appliance.close()
    return lines


def told(
    month: Month, appliance: Appliance, account: str, killed: int, again: int, receipted: float, understood: float
) -> list[str]:
    """Hold everything against what was sent; raises SystemExit for what is missing or double."""
    with psycopg.connect(appliance.dsn) as connection:
        stored = connection.execute("SELECT source, event_id, state FROM inbox").fetchall()
        found = connection.execute("SELECT zone_id, type, at FROM finding ORDER BY at, id").fetchall()
        sessions, cycles, cut, cases = (
            connection.execute(f"SELECT count({what}").fetchone()[0]  # type: ignore[index]
            for what in (
                "*) FROM work_session", "index_number) FROM work_cycle",
                "*) FROM work_cycle WHERE index_number IS NULL", "*) FROM cases",
            )
        )  # fmt: skip
        pieces = sum(event.body["kind"] == "index" for event in month)
    sent = {(event.topic.rpartition("/")[2], event.body["id"]) for event in month}
    names = [(source, event_id) for source, event_id, _ in stored]
    if len(names) != len(set(names)) or set(names) != sent:
        raise SystemExit(
            f"{len(sent)} events were sent and {len(set(names))} of {len(names)} rows stored: "
            f"{len(sent - set(names))} are missing, {len(set(names) - sent)} were never sent."
        )
    if bad := sum(state != "done" for _, _, state in stored):
        raise SystemExit(f"{bad} events were not understood.")
    if cycles != pieces:
        raise SystemExit(f"{pieces} pieces were told of and {cycles} work cycles made.")
    said = (
        f"{len(sent):,} events published over MQTT in their order: all receipted after {receipted:,.0f} s "
        f"({len(sent) / receipted:,.0f} a second), all understood and found after {understood:,.0f} s. Meanwhile kill -9 of "
        f"the worker {killed} times and of everything once, after which {again:,} events without a receipt were sent again. "
        f"In PostgreSQL: each event once, none in quarantine; {sessions:,} sessions with {cycles:,} work cycles (the number "
        f"of pieces told of) and {cut:,} that the end of a shift cut off; {len(found):,} findings in {cases:,} cases."
    )
    lines = [
        said,
        "",
        "| collection | source rows | points | waiting | failed | left over |",
        "|---|---|---|---|---|---|",
    ]
    for row in json.loads(account):
        lines.append(
            f"| `{row['collection']}` | {row['rows']:,} | {row['points']:,} | {row['pending']} | {row['failed']} "
            f"| {row['left_over']} |"
        )
        if (row["rows"], 0, 0, 0) != (row["points"], row["pending"], row["failed"], row["left_over"]):
            raise SystemExit(f"The account of {row['collection']} does not add up: {row}")
    return [*lines, "", "What its detectors found, held against the labels as above:", "", *compared(month, found)]


def edge(appliance: Appliance, *words: str) -> str:
    """The command beside the running appliance; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "edge", *words],
        env=appliance.env, capture_output=True, text=True, timeout=3_600, check=False,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(f"edge {' '.join(words)} ended with {done.returncode}: {done.stderr[-2_000:]}")
    return done.stdout.strip()


def say(started: float, words: str) -> None:
    print(f"[{time.monotonic() - started:6.0f} s] {words}", flush=True)


if __name__ == "__main__":
    main()
