"""The faults, one scenario each, and the broken appliances that the same look must find out."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from edge import config
from edge.doors.mosquitto import Mosquitto
from edge.doors.postgres import Postgres
from faultlab.lab import Lab, Red, Sender, eventually, mounted
from faultlab.proxy import Proxy


@dataclass(frozen=True)
class Outcome:
    """`wrong` is empty when the promise was kept. `skipped` says why a scenario could not be run here."""

    faults: str
    sent: int
    receipted: int
    kept: int
    seconds_to_ready: float | None
    wrong: tuple[str, ...] = ()
    skipped: str = ""


@dataclass(frozen=True)
class Scenario:
    name: str
    run: Callable[[int], Outcome]
    timeout: int = 240
    #: What the checker has to say about this broken appliance; empty for one that must hold.
    must_find: str = ""


SCENARIOS: dict[str, Scenario] = {}


def _scenario(name: str, *, timeout: int = 240, must_find: str = "") -> Callable[..., None]:
    def add(run: Callable[[int], Outcome]) -> None:
        SCENARIOS[name] = Scenario(name, run, timeout, must_find)

    return add


def _outcome(lab: Lab, wrong: list[str] | None = None, *, settle: float = 90) -> Outcome:
    wrong = lab.verdict(settle=settle) if wrong is None else wrong
    sent = [sender.sent() for sender in lab.senders]
    ids = {identity for each in sent for identity in each.invoked}
    kept = {row[0] for row in lab.query("SELECT event_id FROM inbox")}
    return Outcome(
        ", ".join(dict.fromkeys(lab.faults)), len(ids), sum(len(each.receipted) for each in sent), len(ids & kept),
        lab.seconds_to_ready, tuple(wrong),
    )  # fmt: skip


# --- kill -9 at named points ------------------------------------------------------------------------------------------


def _at(point: str, seed: int) -> Outcome:
    with Lab(point, seed) as lab:
        lab.start()
        lab.usual(60)
        lab.arm(point, hits=lab.dice.randint(1, 3))
        lab.fires(point)
        lab.recovered()
        return _outcome(lab)


for _point in (
    "received-not-inserted", "inserted-not-committed", "committed-not-receipted", "receipted-not-acknowledged",
    "acknowledged", "http-committed-not-answered", "claimed-not-understood", "case-opened-not-committed",
    "understood-not-committed", "outbox-claimed", "encoded-not-upserted", "upserted-not-done", "done-not-committed",
    "host-upserting", "host-upserted",
):  # fmt: skip
    _scenario(f"kill: {_point}")(lambda seed, point=_point: _at(point, seed))


@_scenario("kill: migrated-not-committed")
def _migration(seed: int) -> Outcome:
    with Lab("migration", seed) as lab:
        for point in ("migrated-not-committed", "plant-loading"):
            lab.arm(point)
            lab.spawn()
            lab.fires(point, within=60)
            assert lab.process is not None
            if lab.process.wait(60) == 0:
                raise Red("an appliance whose migration was killed said that all went well")
        began = time.time()
        lab.start()
        lab.usual(40)
        lab.recovered(began)
        return _outcome(lab)


@_scenario("kill: snapshot-written-not-named")
def _snapshot(seed: int) -> Outcome:
    with Lab("snapshot", seed) as lab:
        lab.start()
        lab.usual(100)
        began = time.time()
        for point in ("snapshot-dumped", "snapshot-written-not-named"):
            lab.arm(point)
            done = lab.edge("snapshot", "create")
            lab.fires(point, within=1)
            if done.returncode != -signal.SIGKILL:
                raise Red(f"the snapshot ended with {done.returncode}: {done.stderr[-200:]}")
            if bundles := [path.name for path in (lab.data / "snapshots").glob("*.tar")]:
                raise Red(f"a killed snapshot left the bundle {bundles[0]}")
        done = lab.edge("snapshot", "create")
        if done.returncode:
            raise Red(f"no snapshot after a killed one: {done.stderr[-200:]}")
        (bundle,) = (lab.data / "snapshots").iterdir()
        if lab.edge("snapshot", "verify", str(bundle)).returncode:
            raise Red("the snapshot after a killed one is not whole")
        lab.recovered(began)
        return _outcome(lab)


@_scenario("kill: import-half")
def _import(seed: int) -> Outcome:
    rows = 600
    with Lab("import", seed) as lab:
        lab.start()
        lab.usual(60)
        file = lab.folder / "old.jsonl"
        with file.open("w", encoding="utf-8") as lines:
            for number in range(rows):
                row = {"id": f"OLD-{number}", "description": f"ใบเลื่อยขาด ครั้งที่ {number}", "root_cause": "ตึงไป",
                       "resolution": f"set the tension anew {number}", "timestamp": "2024-03-05T10:00:00+07:00"}  # fmt: skip
                lines.write(json.dumps(row, ensure_ascii=False) + "\n")
        began = time.time()
        with subprocess.Popen(
            [sys.executable, "-m", "edge", "import", str(file)], env=lab.env, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as importing:  # fmt: skip
            eventually(lambda: lab.query("SELECT 1 FROM cases WHERE origin = 'import' LIMIT 1"), 30, "the import runs")
            lab.faults.append("kill -9 of edge import between two batches")
            importing.kill()
        lab.kill("web")
        eventually(lab.ready, 60, "the dashboard is back")
        done = lab.edge("import", str(file))
        if done.returncode or "0 refused" not in done.stdout:
            raise Red(f"the repeated import failed: {done.stdout[-200:]} {done.stderr[-200:]}")
        ((count,),) = lab.query("SELECT count(*) FROM cases WHERE origin = 'import'")
        lab.recovered(began)
        outcome = _outcome(lab)
        wrong = outcome.wrong if count == rows else (*outcome.wrong, f"{count} imported cases, not {rows} (lost)")
        return replace(outcome, wrong=wrong)


# --- kill -9 at random ------------------------------------------------------------------------------------------------

_PARTS = ("ingest", "worker", "web", "vectors", "mosquitto", "postgres")


@_scenario("kill: each part at random")
def _random(seed: int) -> Outcome:
    with Lab("random", seed) as lab:
        lab.start()
        lab.usual(500)
        # Five ends of one part within a minute would rightly end the appliance.
        order = list(_PARTS) * 2
        lab.dice.shuffle(order)
        for part in order:
            time.sleep(lab.dice.uniform(0.2, 2.5))
            lab.kill(part)
        lab.recovered()
        return _outcome(lab)


@_scenario("kill: everything at once")
def _everything(seed: int) -> Outcome:
    with Lab("everything", seed) as lab:
        lab.start()
        lab.usual(200)
        for _ in range(2):
            time.sleep(lab.dice.uniform(0.5, 2))
            killed = time.time()
            lab.kill_all()
            lab.start()
            lab.recovered(killed)
        return _outcome(lab)


@_scenario("kill: the supervisor alone")
def _supervisor(seed: int) -> Outcome:
    with Lab("supervisor", seed) as lab:
        lab.start()
        lab.usual(150)
        assert lab.process is not None
        children = psutil.Process(lab.process.pid).children(recursive=True)
        killed = time.time()
        lab.faults.append("kill -9 of edge run")
        lab.process.kill()
        lab.process.wait(10)
        _, alive = psutil.wait_procs(children, timeout=15)
        if alive:
            raise Red(f"{len(alive)} processes outlive the appliance, such as {alive[0]}")
        lab.start()
        lab.recovered(killed)
        return _outcome(lab)


@_scenario("hang: ingest and worker stop moving")
def _hang(seed: int) -> Outcome:
    with Lab("hang", seed) as lab:
        lab.start()
        lab.usual(100)
        frozen = time.time()
        for role in ("ingest", "worker"):
            (process,) = lab.part(role)
            process.suspend()
        lab.faults.append("SIGSTOP of ingest and worker, for good")
        # The supervisor has to notice by itself.
        lab.recovered(frozen)
        return _outcome(lab)


# --- the broker -------------------------------------------------------------------------------------------------------


def wipe_broker(lab: Lab) -> None:
    lab.kill("mosquitto")
    lab.faults.append("its store deleted")
    for file in (lab.data / "mosquitto").glob("mosquitto.db*"):
        file.unlink()


@_scenario("broker: killed and its store wiped")
def _broker_wiped(seed: int) -> Outcome:
    with Lab("broker-wiped", seed) as lab:
        lab.start()
        lab.usual(150)
        # While nobody takes them, events lie in the broker alone.
        (ingest,) = lab.part("ingest")
        ingest.suspend()
        time.sleep(2)
        wipe_broker(lab)
        ingest.resume()
        lab.recovered()
        return _outcome(lab)


# --- PostgreSQL and the network ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _split(name: str, seed: int) -> Iterator[tuple[Lab, Proxy, Proxy, Proxy]]:
    """An appliance whose database and broker are servers elsewhere, each reached through a proxy: (database, broker as
    the appliance sees it, broker as the sources see it)."""
    with Lab(name, seed) as made:
        folder = made.folder / "servers"
        settings = config.load(environ={"EDGE__DATA__DIR": str(folder)})
        postgres, mosquitto = Postgres(settings), Mosquitto(settings)
        straight = postgres.start()
        made.also(postgres.stop)
        mosquitto.start()
        made.also(mosquitto.stop)
        database = Proxy(str(folder / "run/postgres/.s.PGSQL.5432"))
        inside, outside = (Proxy(("127.0.0.1", mosquitto.port)) for _ in range(2))
        for proxy in (database, inside, outside):
            made.also(proxy.close)
        made.straight = straight
        made.env |= {
            "EDGE__DATABASE__DSN": f"postgresql://edge@127.0.0.1:{database.port}/edge",
            "EDGE__BROKER__URL": f"mqtt://127.0.0.1:{inside.port}",
        }
        made.dsn = made.env["EDGE__DATABASE__DSN"]
        made.broker = f"mqtt://127.0.0.1:{outside.port}"
        made.start()
        yield made, database, inside, outside


@_scenario("postgres: stopped for 15 s")
def _frozen(seed: int) -> Outcome:
    with Lab("postgres-frozen", seed) as lab:
        lab.start()
        lab.usual(120)
        servers = lab.part("postgres")
        servers += [each for server in servers for each in server.children(recursive=True)]
        for process in servers:
            with contextlib.suppress(psutil.Error):
                process.suspend()
        lab.faults.append("SIGSTOP of every process of PostgreSQL for 15 s")
        time.sleep(15)
        for process in servers:
            with contextlib.suppress(psutil.Error):
                process.resume()
        lab.recovered()
        return _outcome(lab)


@_scenario("postgres: killed three times")
def _postgres_killed(seed: int) -> Outcome:
    with Lab("postgres-killed", seed) as lab:
        lab.start()
        lab.usual(200)
        for _ in range(3):
            time.sleep(lab.dice.uniform(0.3, 1.5))
            killed = time.time()
            lab.kill("postgres")
            lab.recovered(killed)
        return _outcome(lab)


@_scenario("postgres: slow by 1 s a packet")
def _slow(seed: int) -> Outcome:
    with _split("postgres-slow", seed) as (lab, database, _, _):
        lab.usual(150)
        memory = [process.memory_info().rss for process in lab.part("ingest")]
        database.delay(1.0)
        lab.faults.append("every packet to and from PostgreSQL 1 s late for 15 s")
        time.sleep(15)
        grown = [process.memory_info().rss - before for process, before in zip(lab.part("ingest"), memory, strict=True)]
        database.resume()
        lab.recovered()
        outcome = _outcome(lab)
        if max(grown) > 50_000_000:
            return replace(outcome, wrong=(*outcome.wrong, f"ingest grew by {max(grown)} bytes"))
        return outcome


@_scenario("network: roles and PostgreSQL cut, half-closed, stalled")
def _database_link(seed: int) -> Outcome:
    with _split("database-link", seed) as (lab, database, _, _):
        lab.usual(250)
        _disturb(lab, database, "PostgreSQL", stall=14)
        return _outcome(lab)


@_scenario("network: ingest and broker cut, half-closed, stalled")
def _inside_link(seed: int) -> Outcome:
    with _split("inside-link", seed) as (lab, _, inside, _):
        lab.usual(250)
        # Longer than one and a half times the keepalive: the broker gives the connection up.
        _disturb(lab, inside, "ingest and broker", stall=24)
        return _outcome(lab)


@_scenario("network: sources and broker cut, half-closed, stalled")
def _outside_link(seed: int) -> Outcome:
    with _split("outside-link", seed) as (lab, _, _, outside):
        lab.usual(250)
        _disturb(lab, outside, "sources and broker", stall=10)
        return _outcome(lab)


def _disturb(lab: Lab, proxy: Proxy, between: str, *, stall: float) -> None:
    for act, words in (
        (proxy.cut, "cut"),
        (lambda: proxy.cut(refuse=True), "refused for 3 s"),
        (proxy.half_close, "half-closed"),
        (proxy.stall, f"stalled for {stall:.0f} s"),
        (lambda: proxy.delay(0.2), "delayed by 0.2 s"),
    ):
        act()
        lab.faults.append(f"{between}: {words}")
        time.sleep(stall if act == proxy.stall else 3)
        proxy.resume()
        lab.recovered()


@_scenario("postgres: disk full")
def _disk_full(seed: int) -> Outcome:
    if os.geteuid() != 0:
        return Outcome("", 0, 0, 0, None, skipped="only root may mount the small disk that is filled")
    with contextlib.ExitStack() as stack:
        name = f"fl-disk-{os.getpid()}"
        disk = stack.enter_context(mounted("600M", Path("/tmp") / name))
        stack.callback(shutil.rmtree, disk, True)
        lab = stack.enter_context(Lab("disk-full", seed, data=disk / "d"))
        lab.start()
        lab.usual(150, pad=12_000, poison=False)
        ballast = disk / "ballast"
        with ballast.open("wb") as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 1_000_000)
                file.flush()
        log = lab.data / "logs/postgres.log"
        eventually(
            lambda: any("No space left" in path.read_text("utf-8", "replace") for path in log.parent.glob("*.log")),
            30, "PostgreSQL runs out of space",
        )  # fmt: skip
        time.sleep(5)
        lab.faults.append(f"the disk filled to the last byte for {5} s and more (tmpfs of 600 MB)")
        ballast.unlink()
        lab.recovered()
        return _outcome(lab)


# --- the index --------------------------------------------------------------------------------------------------------


@_scenario("index: wiped while it runs")
def _index_wiped(seed: int) -> Outcome:
    with Lab("index-wiped", seed) as lab:
        lab.start()
        lab.usual(150)
        eventually(lambda: lab.query("SELECT count(*) > 5 FROM point")[0][0], 30, "the index holds something")
        lab.kill("vectors")
        shutil.rmtree(lab.data / "vectors")
        lab.faults.append("its files deleted")
        lab.recovered()
        lab.settle()
        # Whoever notices may mend: what counts is that the index is whole again without anybody's help.
        held = lab.query("SELECT count(*) FROM point")[0][0]
        eventually(lambda: lab.indexed() >= held, 60, "the index is whole again")
        return _outcome(lab)


# --- sources ----------------------------------------------------------------------------------------------------------


@_scenario("sources: disorder and repeats")
def _disorder(seed: int) -> Outcome:
    with Lab("disorder", seed) as lab:
        lab.start()
        lab.usual(240, disorder=True, poison=False, rate=60.0)
        lab.faults.append("every event of a source sent twice, in any order of 40")
        time.sleep(1)
        lab.kill("ingest")
        lab.recovered()
        return _outcome(lab)


def _two(seed: int, group: str) -> Outcome:
    with Lab(f"two{group}", seed, EDGE__INTAKE__SHARED_GROUP=group) as lab:
        lab.start()
        (first,) = lab.part("ingest")
        env = {**first.environ(), "EDGE__INTAKE__CLIENT_ID": "edge-ingest-2"}
        env.pop("NOTIFY_SOCKET", None)
        log = (lab.folder / "second.log").open("ab")
        lab.also(log.close)
        second = subprocess.Popen([sys.executable, "-m", "edge", "ingest"], env=env, stdout=log, stderr=log)
        lab.also(lambda: (second.kill(), second.wait(10)))
        lab.faults.append("a second edge ingest on the same broker")
        lab.usual(200)
        time.sleep(2)
        lab.kill("ingest")
        lab.recovered()
        outcome = _outcome(lab)
        if second.poll() is not None:
            return replace(outcome, wrong=(*outcome.wrong, "the second consumer ended"))
        return outcome


_scenario("sources: two consumers, each with every event")(lambda seed: _two(seed, ""))
_scenario("sources: two consumers that share the events")(lambda seed: _two(seed, "edge"))


def _publisher(seed: int, variant: str = "") -> Outcome:
    with Lab(f"power-cut{variant and '-' + variant}", seed) as lab:
        lab.start()
        lab.usual(40, poison=False)
        made = lab.sender("cut", "spool", 200, rate=60.0, variant=variant)
        for _ in range(2):
            eventually(lambda: len(made.sent().kept) > 10, 20, "the client keeps events")
            # Without its broker it has to keep them.
            lab.kill("mosquitto")
            time.sleep(lab.dice.uniform(0.4, 1.0))
            made.kill()
            _power_cut(made)
            made.start()
        lab.faults.append("kill -9 of the client twice, and all of its files cut to what had been synced")
        lab.recovered()
        return _outcome(lab)


def _power_cut(sender: Sender) -> None:
    """What a disk may hold after a power cut: of each file no more than was synced."""
    synced: dict[str, int] = {}
    for line in Path(f"{sender.journal}.synced").read_text("utf-8").splitlines(keepends=True):
        if line.endswith("\n"):
            name, size = json.loads(line)
            synced[name] = size
    for file in (sender.folder / "spool").glob("*.events"):
        os.truncate(file, min(file.stat().st_size, synced.get(file.name, 0)))


_scenario("sources: a client's power cut")(_publisher)


# --- time -------------------------------------------------------------------------------------------------------------


def _faketime() -> str:
    for folder in ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib"):
        library = Path(folder) / "faketime/libfaketimeMT.so.1"
        if library.exists():
            return str(library)
    return ""


@_scenario("clock: two days ahead, then back")
def _clock(seed: int) -> Outcome:
    library = _faketime()
    if not library:
        return Outcome("", 0, 0, 0, None, skipped="the package faketime is not installed")
    with Lab("clock", seed) as lab:
        offset = lab.folder / "offset"
        offset.write_text("+0s\n")
        lab.env |= {
            "LD_PRELOAD": library, "FAKETIME_TIMESTAMP_FILE": str(offset), "FAKETIME_CACHE_DURATION": "1",
            # Clocks that only ever move forward do so on a machine whose time is set, too.
            "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1",
        }  # fmt: skip
        lab.start()
        lab.usual(200)
        for jump in ("+2d", "-1h", "+0s"):
            beside = offset.with_suffix(".new")
            beside.write_text(jump + "\n")
            beside.replace(offset)
            lab.faults.append(f"the roles' clock {jump}")
            time.sleep(3)
            lab.recovered()
        lab.kill("worker")
        lab.recovered()
        return _outcome(lab)


# --- broken on purpose: each must be found out ------------------------------------------------------------------------


@_scenario("control: acknowledges before COMMIT", must_find="(lost)")
def _control_ack(seed: int) -> Outcome:
    with Lab("control-ack", seed, variant="ack-before-commit") as lab:
        lab.start()
        lab.usual(100)
        time.sleep(0.7)
        lab.kill("ingest")
        lab.recovered()
        return _outcome(lab)


@_scenario("control: PostgreSQL commits without syncing", must_find="(lost)")
def _control_unsynced(seed: int) -> Outcome:
    with Lab("control-unsynced", seed, variant="commit-unsynced") as lab:
        lab.start()
        # What describes the plant must outlive the loss, or every later event is quarantined and nothing can be judged.
        # One commit that waits for the disk takes all before it along.
        lab.execute(
            "SET synchronous_commit = on; SELECT pg_logical_emit_message(true, 'fault lab', 'the plant is kept')"
        )
        lab.usual(150)
        time.sleep(1)
        lab.kill("postgres")
        lab.recovered()
        return _outcome(lab)


@_scenario("control: trusts PUBACK", must_find="(lost)")
def _control_puback(seed: int) -> Outcome:
    with Lab("control-puback", seed) as lab:
        lab.start()
        lab.usual(100, variant="trust-puback", poison=False)
        (ingest,) = lab.part("ingest")
        ingest.suspend()
        time.sleep(2)
        wipe_broker(lab)
        ingest.resume()
        lab.recovered()
        return _outcome(lab)


@_scenario("control: stores every delivery", must_find="(twice)")
def _control_dedupe(seed: int) -> Outcome:
    with Lab("control-dedupe", seed, variant="no-dedupe") as lab:
        lab.start()
        lab.execute("ALTER TABLE inbox DROP CONSTRAINT inbox_source_event_id_key")
        lab.pulse = lab.sender("pulse", "raw", rate=8.0)
        lab.sender("raw", "raw", 120, disorder=True, rate=60.0)
        time.sleep(3)
        lab.recovered()
        return _outcome(lab)


@_scenario("control: stores other bytes than came", must_find="(changed)")
def _control_bytes(seed: int) -> Outcome:
    return _at_variant("changed-bytes", seed)


@_scenario("control: forgets half of the index", must_find="(index)")
def _control_index(seed: int) -> Outcome:
    return _at_variant("forgetful-index", seed)


def _at_variant(variant: str, seed: int) -> Outcome:
    with Lab(f"control-{variant}", seed, variant=variant) as lab:
        lab.start()
        # What nobody can read would become readable, and never be receipted.
        lab.usual(60, poison=False)
        lab.recovered()
        return _outcome(lab)


@_scenario("control: a client whose spool is not synced", must_find="(lost)")
def _control_spool(seed: int) -> Outcome:
    return _publisher(seed, "unsynced-spool")
