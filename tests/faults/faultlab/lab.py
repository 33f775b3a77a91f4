"""An appliance under test, the sources that send to it, and the look at what became of their events."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import psutil
import psycopg
from psycopg.conninfo import make_conninfo

from edge import config
from edge.analytics import Interpreter
from edge.cases import COLLECTION
from edge.config import resources
from edge.contract import Limits
from edge.db import Database, migrate
from edge.errors import EdgeError
from edge.indexing import Reconciliation, reconcile
from edge.intake.inbox import Arrival, store
from edge.plant import load_plant
from edge.vectors import RemoteStore
from faultlab import entry
from faultlab.checker import Found, Sent, Stored, check
from faultlab.sender import read

_HERE = Path(__file__).parent

#: Seconds within which the appliance must be ready again once a fault is over, and within which it must start. Generous,
#: for a machine that does other work as well; what it took stands in the table.
READY_WITHIN, START_WITHIN = 90.0, 150.0


class Red(Exception):
    """Something that must hold did not. The message says what."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(check: Callable[[], Any], within: float, what: str) -> Any:
    """The first true answer; what raises meanwhile counts as not yet."""
    deadline = time.monotonic() + within
    last: object = None
    while time.monotonic() < deadline:
        try:
            if answer := check():
                return answer
            last = answer
        except (httpx.HTTPError, OSError, psycopg.Error, KeyError, ValueError, psutil.Error, EdgeError) as error:
            last = error
        time.sleep(0.05)
    raise Red(f"not within {within:.0f} s: {what} ({last!r})"[:400])


class Sender:
    """A source in a process of its own. `count` None: until it is told to stop."""

    def __init__(self, lab: Lab, source: str, mode: str, count: int | None, **options: Any) -> None:
        self.source = source
        self.place = str(options.pop("place", "andon/demo/assembly/line-2/cell-1"))
        self._lab = lab
        self.folder = lab.folder / "senders" / source
        self.folder.mkdir(parents=True)
        self.journal = self.folder / "journal.ndjson"
        self.options = {
            "mode": mode, "source": source, "place": self.place, "journal": str(self.journal),
            "spool": str(self.folder / "spool"), "count": count, "rate": 25.0, "seed": f"{lab.seed}/{source}",
            "variant": "", "poison": False, "pad": 0, "disorder": False, "broker": lab.broker, "web": lab.web,
            "token": lab.token, **options,
        }  # fmt: skip
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> Self:
        with (self.folder / "out.txt").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(_HERE / "sender.py"), json.dumps(self.options)], stdout=out, stderr=out
            )
        return self

    def entries(self) -> list[dict[str, Any]]:
        return read(self.journal)

    def sent(self) -> Sent:
        return Sent.of(self.source, self.place, self.entries())

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait(10)

    def stop_sending(self) -> None:
        Path(f"{self.journal}.stop").touch()

    def ended(self) -> bool:
        """True once every event has its receipt. Raises `Red` when the process failed."""
        assert self.process is not None
        status = self.process.poll()
        if status not in (None, 0):
            said = (self.folder / "out.txt").read_text("utf-8", "replace").strip().splitlines()
            raise Red(f"the sender {self.source} ended with status {status}: {said[-1] if said else ''}")
        return status == 0


class Lab:
    """One appliance on fresh data, a context manager. `settings` are EDGE__… variables, `variant` makes it a broken one."""

    def __init__(
        self, name: str, seed: int, *, variant: str = "", data: Path | None = None, env: dict[str, str] | None = None,
        **settings: str,
    ) -> None:  # fmt: skip
        self.name = name
        self.seed = seed
        self.dice = random.Random(f"{seed}/{name}")
        memory = Path("/dev/shm")
        roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2 * 2**30
        self.folder = Path(tempfile.mkdtemp(prefix="fl-", dir=memory if roomy and data is None else None))
        self.data = data or self.folder / "data"
        self.points = self.folder / "points"
        self.points.mkdir()
        self._port = free_port()
        self._variant = variant
        self.process: subprocess.Popen[bytes] | None = None
        self.senders: list[Sender] = []
        self.pulse: Sender
        self.faults: list[str] = []
        self.seconds_to_ready: float | None = None
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self._port}", timeout=5, trust_env=False)
        self.straight = ""
        self.dsn = settings.get("EDGE__DATABASE__DSN", "")
        self.broker = settings.get("EDGE__BROKER__URL", "")
        self.env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("EDGE__")},
            # What is compared in the end must not depend on how long the run took.
            "EDGE__ANALYTICS__ESCALATE_MINUTES": "0",
            "EDGE__DATA__DIR": str(self.data), "EDGE__WEB__PORT": str(self._port), "FAULTLAB_DIR": str(self.points),
            "FAULTLAB_VARIANT": variant, **settings, **(env or {}),
        }  # fmt: skip
        self._closing = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for sender in self.senders:
            if sender.process and sender.process.poll() is None:
                sender.kill()
        if self.process and self.process.poll() is None:
            with contextlib.suppress(psutil.Error):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    with contextlib.suppress(psutil.Error):
                        child.resume()
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.http.close()
        self._closing.close()
        if kind is None:
            shutil.rmtree(self.folder, ignore_errors=True)
        else:
            print(f"What {self.name} left behind is in {self.folder}.", file=sys.stderr)

    def also(self, closing: Callable[[], object]) -> None:
        """To be done at the end, last added first."""
        self._closing.callback(closing)

    # --- the appliance ------------------------------------------------------------------------------------------------

    @property
    def web(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def token(self) -> str:
        return (self.data / "run/local-token").read_text()

    def card(self) -> dict[str, Any]:
        return dict(json.loads((self.data / "run/appliance.json").read_text()))

    def spawn(self) -> None:
        with (self.folder / "out.txt").open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, str(_HERE / "entry.py"), "run"], env=self.env, stdout=out, stderr=out,
                start_new_session=True,
            )  # fmt: skip

    def start(self) -> float:
        """Seconds until it was ready."""
        began = time.monotonic()
        self.spawn()
        process = self.process
        assert process is not None
        eventually(
            lambda: process.poll() is not None or self.card()["pid"] == process.pid, START_WITHIN, "the appliance runs"
        )
        if process.poll() is not None:
            raise Red(f"the appliance did not start: {self.said()}")
        eventually(self.ready, READY_WITHIN, "the appliance is ready")
        card = self.card()
        self.dsn = self.dsn or card["dsn"]
        self.broker = self.broker or card["broker"]
        return time.monotonic() - began

    def said(self) -> str:
        lines = (self.folder / "out.txt").read_text("utf-8", "replace").strip().splitlines()
        return lines[-1][:300] if lines else "nothing"

    def ready(self) -> bool:
        return self.http.get("/readyz").status_code == 200

    def edge(self, *words: str, within: float = 120) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, str(_HERE / "entry.py"), *words], env=self.env, capture_output=True, text=True,
            timeout=within,
        )  # fmt: skip

    def part(self, word: str) -> list[psutil.Process]:
        """The processes of one part, a role or a server, by its name."""
        assert self.process is not None
        found = []
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                command = child.cmdline()
                # A server's own children call themselves otherwise.
                if command[-1:] == [word] or command[0].endswith(f"/{word}"):
                    found.append(child)
        return found

    def kill(self, word: str) -> None:
        found = eventually(lambda: self.part(word), 10, f"there is a process {word}")
        self.faults.append(f"kill -9 of {word}")
        for process in found:
            with contextlib.suppress(psutil.Error):
                process.kill()

    def kill_all(self) -> None:
        """Everything at once, as when the power goes, but for what the kernel still holds."""
        assert self.process is not None
        everything = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        self.faults.append(f"kill -9 of all {len(everything)} processes")
        for process in everything:
            with contextlib.suppress(psutil.Error):
                process.kill()
        self.process.wait(10)
        psutil.wait_procs(everything, timeout=10)

    def arm(self, point: str, *, hits: int = 1, by: signal.Signals = signal.SIGKILL) -> None:
        entry.arm(self.points, point, hits=hits, by=by)

    def fires(self, point: str, within: float = 30) -> None:
        """Raises `Red` for a point that is not reached: a fault that never came proves nothing."""
        eventually(lambda: entry.fired(self.points, point), within, f"the point {point} is reached")
        self.faults.append(f"kill -9 at {point}")

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.real_dsn, connect_timeout=5) as connection:
            return connection.execute(sql).fetchall()

    def execute(self, sql: str) -> None:
        with psycopg.connect(self.real_dsn, autocommit=True) as connection:
            connection.execute(sql.encode())

    def indexed(self) -> int:
        """How many cases the index itself holds."""
        path = Path(self.card()["vectors"].removeprefix("unix:"))
        with RemoteStore(path, timeout_s=20) as vectors:
            return sum(vectors.count(name) for name in COLLECTION.values())

    @property
    def real_dsn(self) -> str:
        """The database itself, past any proxy."""
        return self.straight or self.dsn

    # --- sources ------------------------------------------------------------------------------------------------------

    def sender(self, source: str, mode: str, count: int | None = None, **options: Any) -> Sender:
        made = Sender(self, f"{self.name[:40]}-{source}", mode, count, **options).start()
        self.senders.append(made)
        return made

    def usual(self, count: int = 120, **raw: Any) -> None:
        """What sends in most scenarios: a client with a spool, a plain one with poison, HTTP, and a pulse."""
        self.pulse = self.sender("pulse", "raw", rate=8.0)
        self.sender("spool", "spool", count, place="andon/demo/assembly/line-1/cell-1")
        self.sender("raw", "raw", count, **{"poison": True, **raw})
        self.sender("http", "http", count, place="andon/demo/assembly/line-1/cell-2")
        eventually(
            lambda: all(any(each["e"] == "receipt" for each in sender.entries()) for sender in self.senders), 30,
            "every source has its first receipt",
        )  # fmt: skip

    def recovered(self, since: float | None = None, within: float = READY_WITHIN) -> float:
        """Seconds from `since` (time.time, default now) until the appliance said that it is ready, had receipted and
        understood an event that was sent after it, and had told the index all that had waited before it."""
        began = since or time.time()

        def through() -> bool:
            entries = self.pulse.entries()
            fresh = {each["id"] for each in entries if each["e"] == "invoke" and each["at"] > began}
            safe = [each["id"] for each in entries if each["e"] == "receipt" and each["id"] in fresh]
            understood = "SELECT count(*) FROM event WHERE event_id = ANY(%s)"
            waiting = "SELECT count(*) FROM outbox WHERE done_at IS NULL AND created_at < to_timestamp(%s)"
            with psycopg.connect(self.real_dsn, connect_timeout=5) as connection:
                ((seen,),) = connection.execute(understood, [safe]).fetchall()
                ((left,),) = connection.execute(waiting, [began]).fetchall()
            return bool(seen) and not left

        eventually(lambda: self.ready() and through(), within, "ready again, an event through, and the index told")
        took = time.time() - began
        self.seconds_to_ready = max(self.seconds_to_ready or 0.0, took)
        return took

    # --- the look -----------------------------------------------------------------------------------------------------

    def settle(self, within: float = 90) -> None:
        """Wait until every event has its receipt and everything is worked off."""
        for sender in self.senders:
            sender.stop_sending() if sender.options["count"] is None else None
        deadline = time.monotonic() + within
        for sender in self.senders:
            eventually(sender.ended, max(1, deadline - time.monotonic()), f"{sender.source} has every receipt")
        eventually(self._worked_off, max(1, deadline - time.monotonic()), "inbox and outbox are worked off")

    def _worked_off(self) -> bool:
        sql = (
            "SELECT (SELECT count(*) FROM inbox WHERE state = 'pending'),"
            " (SELECT count(*) FROM outbox WHERE done_at IS NULL)"
        )
        return self.query(sql) == [(0, 0)]

    def found(self) -> Found:
        rows = [
            Stored(source, identity, topic, bytes(payload), state)
            for source, identity, topic, payload, state in self.query(
                "SELECT source, event_id, topic, payload, state FROM inbox ORDER BY id"
            )
        ]
        understood = Counter(row[0] for row in self.query("SELECT event_id FROM event"))
        with Database(self.real_dsn).wait() as database, database.transaction() as tx:
            gaps = {row["source"]: row["gaps"] for row in tx.all("sequence_gaps", since="2000-01-01")}
        (outbox,) = self.query("SELECT count(*) FROM outbox WHERE done_at IS NULL")[0]
        made = Found(rows, understood, gaps, state(self.real_dsn), self._oracle(rows), outbox=outbox)
        agreed = eventually(self._compared, 60, "the index answers")
        made.missing, made.orphaned, made.stale = agreed.missing, agreed.orphaned, agreed.stale
        return made

    def _compared(self) -> Reconciliation:
        socket_path = Path(self.card()["vectors"].removeprefix("unix:"))
        with Database(self.real_dsn).wait() as database, RemoteStore(socket_path, timeout_s=20) as vectors:
            fingerprint = self.query("SELECT fingerprint FROM point LIMIT 1")
            return reconcile(database, vectors, fingerprint=fingerprint[0][0], mend=False)

    def verdict(self, *, settle: float = 90) -> list[str]:
        """What is wrong once all has settled: nothing, if the promise was kept."""
        self.settle(settle)
        return check([sender.sent() for sender in self.senders], self.found())

    def _oracle(self, rows: list[Stored]) -> Any:
        """The same events, each once and in order, given to an appliance that nothing happens to."""
        known = {(sender.source): sender.sent() for sender in self.senders}
        once = {(row.source, row.event_id): row for row in rows if row.source in known}
        ordered = sorted(once.values(), key=lambda row: known[str(row.source)].invoked[str(row.event_id)]["at"])
        with psycopg.connect(self.real_dsn, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS oracle")
            connection.execute("CREATE DATABASE oracle")
        dsn = make_conninfo(self.real_dsn, dbname="oracle")
        settings = config.load(environ={"EDGE__DATA__DIR": str(self.folder), "EDGE__DATABASE__DSN": dsn})
        with Database(dsn).wait() as database:
            migrate(database)
            load_plant(database, resources() / "etc/sample/plant.toml")
            for row in ordered:
                arrival = Arrival("mqtt", row.topic, row.payload, None, {"id": row.event_id or ""})
                store(database, [arrival], Limits())
            interpreter = Interpreter(settings, database)
            while interpreter.step():
                pass
        return state(dsn)


def state(dsn: str) -> list[tuple[Any, ...]]:
    """What the events have led to, in a form that does not depend on when and in which order they came."""
    sql = (
        "SELECT c.kind, c.type, c.zone_id, c.description, c.language, c.status, c.severity, c.occurred_at,"
        " c.last_seen_at, c.occurrences, c.camera_id, c.worker_id, c.tags,"
        " array_agg(DISTINCT e.event_id ORDER BY e.event_id)"
        " FROM cases c JOIN case_event ce ON ce.case_id = c.id JOIN event e ON e.inbox_id = ce.inbox_id"
        " WHERE c.origin <> 'import' GROUP BY c.id ORDER BY 1, 2, 3, 4, 8"
    )
    events = (
        "SELECT source, event_id, class, kind, sequence, occurred_at, zone_id, camera_id, worker_id, body::text"
        " FROM event ORDER BY 1, 2"
    )
    with psycopg.connect(dsn) as connection:
        return [*connection.execute(sql).fetchall(), *connection.execute(events).fetchall()]


@contextlib.contextmanager
def mounted(size: str, folder: Path) -> Iterator[Path]:
    """A file system of its own of that size."""
    folder.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
