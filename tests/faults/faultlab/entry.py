"""Starts the appliance or one of its roles as `edge` does, with points at which the lab can end the process.

The product knows nothing of this: functions are wrapped from outside, here, and only in processes that the lab starts.
A point fires when a file of its name lies in the folder FAULTLAB_DIR; it then leaves `NAME.fired` and the process gets
the signal that the file names, exactly there. FAULTLAB_VARIANT makes the process one of the broken ones of `variants`,
which the lab has to find out.
"""

from __future__ import annotations

import errno
import functools
import importlib
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Point:
    """`target`: module:name, or module:Class.name. `statement`: only for this named statement of a transaction."""

    role: str
    target: str
    after: bool
    statement: str = ""


_TX = "edge.db.database:Transaction"

POINTS = {
    # The way of an event from the broker to its receipt.
    "received-not-inserted": Point("ingest", "edge.intake.mqtt:store", after=False),
    "inserted-not-committed": Point("ingest", f"{_TX}.all", after=True, statement="inbox_put"),
    "committed-not-receipted": Point("ingest", "edge.intake.mqtt:store", after=True),
    "receipted-not-acknowledged": Point("ingest", "edge.intake.mqtt:MqttIntake._acknowledge", after=False),
    "acknowledged": Point("ingest", "edge.intake.mqtt:MqttIntake._acknowledge", after=True),
    "http-committed-not-answered": Point("web", "edge.dashboard.api:accept_http", after=True),
    # From the inbox to a case.
    "claimed-not-understood": Point("worker", f"{_TX}.all", after=True, statement="inbox_claim"),
    "case-opened-not-committed": Point("worker", f"{_TX}.one", after=True, statement="case_open"),
    "understood-not-committed": Point("worker", f"{_TX}.run", after=True, statement="inbox_settle"),
    # From the outbox to the index.
    "outbox-claimed": Point("worker", f"{_TX}.all", after=True, statement="outbox_claim"),
    "encoded-not-upserted": Point("worker", "edge.vectors.remote:RemoteStore.upsert", after=False),
    "upserted-not-done": Point("worker", "edge.vectors.remote:RemoteStore.upsert", after=True),
    "done-not-committed": Point("worker", f"{_TX}.run", after=True, statement="outbox_done"),
    "host-upserting": Point("vectors", "edge.vectors.embedded:EmbeddedStore.upsert", after=False),
    "host-upserted": Point("vectors", "edge.vectors.embedded:EmbeddedStore.upsert", after=True),
    # Upkeep.
    "migrated-not-committed": Point("migrate", f"{_TX}.script", after=True),
    "plant-loading": Point("migrate", "edge.roles.prepare:load_plant", after=False),
    "snapshot-dumped": Point("snapshot", "edge.upkeep.snapshots:_Tools.dump", after=True),
    "snapshot-written-not-named": Point("snapshot", "edge.upkeep.snapshots:verify", after=True),
    "import-half": Point("import", "edge.importing:import_cases", after=True),
}


def owner_of(target: str) -> tuple[Any, str]:
    """The module or class that holds the function, and its name there."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    owner: Any = importlib.import_module(module)
    for parent in parents:
        owner = getattr(owner, parent)
    getattr(owner, name)
    return owner, name


def arm(folder: Path, point: str, *, hits: int = 1, by: signal.Signals = signal.SIGKILL) -> None:
    """At the `hits`th time that `point` is reached from now on, the process that reaches it gets the signal `by`."""
    assert point in POINTS, point
    beside = folder / f"{point}.new"
    beside.write_text(f"{hits} {by.name}", "ascii")
    beside.replace(folder / point)


def fired(folder: Path, point: str) -> bool:
    return (folder / f"{point}.fired").exists()


_counts: dict[str, int] = {}


def _reach(folder: Path, name: str) -> None:
    armed = folder / name
    if not armed.exists():
        return
    hits, by = armed.read_text("ascii").split()
    _counts[name] = _counts.get(name, 0) + 1
    if _counts[name] < int(hits):
        return
    with suppress(FileNotFoundError):
        armed.rename(folder / f"{name}.fired")
        os.kill(os.getpid(), signal.Signals[by])
        # A stopped process goes on here once it is let go; a killed one never gets here.
        time.sleep(0.05)


def _wrap(folder: Path, target: str, points: dict[str, Point]) -> None:
    owner, attribute = owner_of(target)
    original: Callable[..., Any] = getattr(owner, attribute)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        def matching(after: bool) -> Iterator[str]:
            for name, point in points.items():
                if point.after == after and (not point.statement or point.statement in args[1:2]):
                    yield name

        for name in matching(after=False):
            _reach(folder, name)
        result = original(*args, **kwargs)
        for name in matching(after=True):
            _reach(folder, name)
        return result

    setattr(owner, attribute, wrapped)


def install(role: str, folder: Path) -> None:
    mine = {name: point for name, point in POINTS.items() if point.role == role}
    for target in dict.fromkeys(point.target for point in mine.values()):
        _wrap(folder, target, {name: point for name, point in mine.items() if point.target == target})


# --- broken on purpose ------------------------------------------------------------------------------------------------


def _ack_before_commit() -> None:
    """Acknowledges and receipts what it will commit a little later."""
    import threading

    import edge.intake.mqtt as mqtt
    from edge.contract import Message, identify
    from edge.intake.inbox import Stored

    original = mqtt.store

    def early(database: Any, arrivals: Any, limits: Any, frigate: Any = None) -> list[Stored]:
        threading.Timer(1.0, original, (database, arrivals, limits, frigate)).start()
        return [
            Stored(identify(Message(each.topic, each.payload, each.content_type, each.properties), limits), False)
            for each in arrivals
        ]

    mqtt.store = early  # type: ignore[assignment]


def _commit_unsynced() -> None:
    """PostgreSQL answers COMMIT before its log is on disk."""
    from edge.doors import postgres

    postgres._SETTINGS |= {"synchronous_commit": "off", "wal_writer_delay": "10s", "wal_writer_flush_after": "1GB"}


def _no_dedupe() -> None:
    """Every delivery is a row of its own."""
    from edge.db import database

    original = database.statements

    @functools.cache
    def changed() -> dict[str, str]:
        found = dict(original())
        found["inbox_put"] = found["inbox_put"].replace("ON CONFLICT (source, event_id) DO NOTHING", "")
        assert found["inbox_put"] != original()["inbox_put"]
        return found

    database.statements = changed  # type: ignore[assignment]


def _forgetful_index() -> None:
    """Says that the index has learnt what it was never told."""
    from edge.vectors.remote import RemoteStore

    original, count = RemoteStore.upsert, iter(range(10**9))

    def upsert(self: Any, collection: str, points: Any) -> Any:
        return original(self, collection, points) if next(count) % 2 else None

    RemoteStore.upsert = upsert  # type: ignore[method-assign]


def _changed_bytes() -> None:
    """Stores what it has understood instead of what came."""
    import json
    from dataclasses import replace

    import edge.intake.mqtt as mqtt

    original = mqtt.store

    def tidied(arrival: Any) -> Any:
        with suppress(ValueError, RecursionError):
            return replace(arrival, payload=json.dumps(json.loads(arrival.payload)).encode())
        return arrival

    def tidy(database: Any, arrivals: Any, *rest: Any) -> Any:
        return original(database, [tidied(each) for each in arrivals], *rest)

    mqtt.store = tidy  # type: ignore[assignment]


VARIANTS: dict[str, tuple[str, Callable[[], None]]] = {
    "ack-before-commit": ("ingest", _ack_before_commit),
    "commit-unsynced": ("run", _commit_unsynced),
    "no-dedupe": ("ingest", _no_dedupe),
    "forgetful-index": ("worker", _forgetful_index),
    "changed-bytes": ("ingest", _changed_bytes),
}


def _sleep_under_faketime() -> None:
    """libfaketime refuses an absolute sleep whose end has passed (EINVAL) instead of returning at once."""
    sleep = time.sleep

    def patient(seconds: float) -> None:
        try:
            sleep(seconds)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    time.sleep = patient


@contextmanager
def _as_command() -> Iterator[None]:
    before = sys.argv
    sys.argv = ["edge", *before[1:]]
    yield
    sys.argv = before


def main() -> None:
    role = sys.argv[1]
    if "faketime" in os.environ.get("LD_PRELOAD", ""):
        _sleep_under_faketime()
    folder = Path(os.environ["FAULTLAB_DIR"])
    variant = os.environ.get("FAULTLAB_VARIANT", "")
    if variant and VARIANTS[variant][0] == role:
        VARIANTS[variant][1]()
    if role == "run":
        from edge import config, log
        from edge.roles.run import run

        settings = config.load()
        log.setup(settings.log.level, settings.log.format)
        sys.exit(run(settings, module=(sys.executable, __file__)))
    install(role, folder)
    from edge.cli import main as edge

    with _as_command():
        edge()


if __name__ == "__main__":
    main()
