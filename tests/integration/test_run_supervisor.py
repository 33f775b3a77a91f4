"""The supervisor with real servers; the roles are stand-ins that behave as well or as badly as a test wants."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil
import psycopg
import pytest

from edge.config import load, resources
from edge.doors import child
from edge.doors.mosquitto import free_port
from edge.roles.run import exported, welcome

APPLIANCE = """
import sys
from edge.config import load
from edge.errors import Stop
from edge.roles.run import run
try:
    sys.exit(run(load(), module=(sys.executable, sys.argv[1])))
except Stop as error:
    sys.exit(str(error))
"""

# A file `<name>.<way>` in the data directory makes a role misbehave.
STAND_IN = """
import os, signal, sys, time
from pathlib import Path
from edge.doors.notify import notify
name, data = sys.argv[1], Path(os.environ["EDGE__DATA__DIR"])
way = lambda word: (data / f"{name}.{word}").exists()
with (data / "seen").open("a") as file:
    file.write(f"{name} {os.environ['EDGE__DATABASE__DSN']} {os.environ['EDGE__BROKER__URL']}\\n")
if way("crash"):
    sys.exit(f"The part {name} cannot find its spanner.")
if way("once"):
    (data / f"{name}.once").unlink()
    sys.exit("The database lacks 1 migration(s).")
if name in ("migrate", "sample"):
    sys.exit(0)
if way("deaf"):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
else:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
notify("READY=1")
while True:
    time.sleep(0.1)
    notify("WATCHDOG=1")
"""


class Appliance:
    """`edge run` in a process of its own."""

    def __init__(self, data: Path, *, inside: Sequence[str] = (), **env: str) -> None:
        self.data = data
        script = next(p for p in data.parents if p.name.startswith("edge-run-")) / "stand_in.py"
        script.write_text(STAND_IN)
        self.process = subprocess.Popen(
            [*inside, sys.executable, "-c", APPLIANCE, str(script)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env={
                **os.environ,
                "PYTHONPATH": str(resources()),
                "EDGE__DATA__DIR": str(data),
                "EDGE__WEB__PORT": str(free_port()),
                # Not of those that other tests' brokers look through: one would take it while this broker is dead.
                "EDGE__BROKER__PORT": str(free_port()),
                **env,
            },
        )

    @property
    def card(self) -> dict[str, str]:
        return dict(json.loads((self.data / "run" / "appliance.json").read_text()))

    def ready(self, patience: float = 40) -> Appliance:
        assert child.wait_for(
            lambda: (self.data / "run" / "appliance.json").exists() or self.process.poll() is not None, patience
        )
        assert self.process.poll() is None, self.process.communicate()
        return self

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def pid_of(self, name: str) -> int:
        """The part's present process, 0 while there is none."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                words = process.cmdline()
                if words and (words[-1] == name or Path(words[0]).name == name):
                    return process.pid
        return 0

    def end(self, number: signal.Signals, patience: float = 12) -> tuple[int, str, str]:
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=patience)
        return self.process.returncode, out, err


def disk(folder: Path, options: str) -> list[str]:
    """A command prefix: a small disk at `folder`, seen only by the command and gone with it."""
    folder.mkdir()
    others = [] if os.geteuid() == 0 else ["--map-root-user"]
    mount = 'mount -t tmpfs -o "$1" none "$2" && shift 2 && exec "$@"'
    return ["unshare", "--mount", *others, "sh", "-c", mount, "sh", options, str(folder)]


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edge-run-"))
    folder.chmod(0o711)
    yield folder / "data"
    child.end_strays(child.leftovers(folder / "data"), ())
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def appliance(data: Path) -> Iterator[Appliance]:
    running = Appliance(data).ready()
    yield running
    if running.process.poll() is None:
        running.end(signal.SIGTERM)
    running.process.communicate()


def gone(processes: list[psutil.Process], within: float) -> bool:
    return child.wait_for(lambda: not any(process.is_running() for process in processes), within)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_stops_everything_within_ten_seconds(appliance: Appliance, number: signal.Signals) -> None:
    family = appliance.family()
    assert len(family) >= 6
    started = time.monotonic()
    status, _, err = appliance.end(number)
    assert (status, err) == (0, "")
    assert time.monotonic() - started < 10
    assert gone(family, 0.5)
    assert not (appliance.data / "run" / "appliance.json").exists()
    assert "database system is shut down" in (appliance.data / "logs" / "postgres.log").read_text()


def test_roles_that_do_not_hear_are_killed_within_ten_seconds(data: Path) -> None:
    data.mkdir()
    for name in ("vectors", "ingest", "worker", "web"):
        (data / f"{name}.deaf").touch()
    appliance = Appliance(data).ready()
    family = appliance.family()
    started = time.monotonic()
    assert appliance.end(signal.SIGINT)[0] == 0
    assert time.monotonic() - started < 10
    assert gone(family, 0.5)
    assert "database system is shut down" in (data / "logs" / "postgres.log").read_text()


def test_kill_nine_of_the_parent_leaves_nothing_and_the_next_start_recovers(appliance: Appliance) -> None:
    with psycopg.connect(appliance.card["dsn"]) as connection:
        connection.execute("CREATE TABLE t AS SELECT 5 AS n")
    family = appliance.family()
    appliance.process.kill()
    assert gone(family, 5)
    appliance.process.communicate()
    # Its card is stale now; the next start replaces it.
    (appliance.data / "run" / "appliance.json").unlink()
    again = Appliance(appliance.data).ready(10)
    try:
        with psycopg.connect(again.card["dsn"]) as connection:
            assert connection.execute("SELECT n FROM t").fetchone() == (5,)
    finally:
        assert again.end(signal.SIGTERM)[0] == 0


def test_roles_left_behind_are_ended_by_the_next_start(data: Path) -> None:
    data.mkdir(parents=True)
    orphan = subprocess.Popen(["sleep", "100"], env={**os.environ, child.MARK: str(data)})
    appliance = Appliance(data).ready()
    try:
        assert orphan.wait(1) == -signal.SIGTERM
    finally:
        appliance.end(signal.SIGTERM)


@pytest.mark.parametrize("name", ["postgres", "mosquitto", "vectors", "ingest", "worker", "web"])
def test_a_part_that_dies_is_started_again(appliance: Appliance, name: str) -> None:
    before = appliance.pid_of(name)
    assert before
    os.kill(before, signal.SIGKILL)
    assert child.wait_for(lambda: appliance.pid_of(name) not in (0, before), 10)
    if name == "postgres":
        assert child.wait_for((appliance.data / "postgres" / "postmaster.pid").exists, 5)
        time.sleep(1)
        with psycopg.connect(appliance.card["dsn"], connect_timeout=5) as connection:
            assert connection.execute("SELECT 1").fetchone() == (1,)
    assert appliance.process.poll() is None


def test_a_silent_role_is_started_again(appliance: Appliance) -> None:
    before = appliance.pid_of("worker")
    os.kill(before, signal.SIGSTOP)
    assert child.wait_for(lambda: appliance.pid_of("worker") not in (0, before), 45)


def test_a_part_that_keeps_crashing_stops_the_appliance_in_words(data: Path) -> None:
    data.mkdir()
    (data / "ingest.crash").touch()
    appliance = Appliance(data)
    _, err = appliance.process.communicate(timeout=40)
    assert appliance.process.returncode == 1
    assert "The part ingest cannot find its spanner." in err
    assert str(data / "logs" / "ingest.log") in err
    assert "Traceback" not in err
    assert not child.leftovers(data)


def test_a_migration_that_fails_stops_the_start_with_its_sentence(data: Path) -> None:
    data.mkdir()
    (data / "migrate.crash").touch()
    appliance = Appliance(data)
    _, err = appliance.process.communicate(timeout=40)
    assert err.strip() == "The part migrate cannot find its spanner."
    assert not child.leftovers(data)


def test_children_get_the_doors_and_the_sample_is_loaded_on_wish(data: Path) -> None:
    appliance = Appliance(data, EDGE__PLANT__SAMPLE="true", EDGE__SIMULATOR__ENABLED="true").ready()
    try:
        assert child.wait_for(lambda: "simulate " in (data / "seen").read_text(), 10)
        seen = [line.split() for line in (data / "seen").read_text().splitlines()]
        assert [line[0] for line in seen if line[0] in ("migrate", "sample")] == ["migrate", "sample"]
        assert {line[0] for line in seen} == {"migrate", "sample", "vectors", "ingest", "worker", "web", "simulate"}
        card = appliance.card
        assert {tuple(line[1:]) for line in seen if line[0] != "ingest"} == {(card["dsn"], card["broker"])}
        # The ingest has a listener of its own, on which its acknowledgements travel in one piece.
        [(dsn, own)] = {tuple(line[1:]) for line in seen if line[0] == "ingest"}
        assert dsn == card["dsn"]
        assert own.startswith("mqtts://127.0.0.1:")
        assert card["pid"] == appliance.process.pid
        assert (data / "run" / "appliance.json").stat().st_mode & 0o077 == 0
    finally:
        status, out, err = appliance.end(signal.SIGTERM)
    assert (status, err) == (0, "")
    assert "mosquitto_pub -h 127.0.0.1" in out
    assert "Ctrl-C" in out


def prepared(data: Path) -> int:
    return (data / "seen").read_text().count("migrate ")


def test_nothing_is_prepared_twice_unless_something_changed(data: Path) -> None:
    plant = data.parent / "plant.toml"
    plant.write_text("one")
    for text, count in (("one", 1), ("one", 1), ("two", 2)):
        plant.write_text(text)
        appliance = Appliance(data, EDGE__PLANT__FILE=str(plant)).ready()
        appliance.end(signal.SIGTERM)
        assert prepared(data) == count


def test_a_database_brought_back_by_hand_is_migrated_after_all(data: Path) -> None:
    Appliance(data).ready().end(signal.SIGTERM)
    (data / "ingest.once").touch()
    appliance = Appliance(data).ready()
    try:
        assert prepared(data) == 2
    finally:
        assert appliance.end(signal.SIGTERM)[0] == 0


def test_a_second_one_on_the_same_data_is_refused(appliance: Appliance) -> None:
    second = Appliance(appliance.data)
    _, err = second.process.communicate(timeout=10)
    assert err.strip() == (
        f"Another appliance is already running on {appliance.data} (process {appliance.process.pid}). "
        "Set EDGE__DATA__DIR and EDGE__WEB__PORT to run a second one."
    )
    assert appliance.process.poll() is None


def test_two_live_beside_each_other(appliance: Appliance) -> None:
    other = Appliance(appliance.data.with_name("other"), EDGE__BROKER__PORT="0").ready()
    try:
        assert other.card["broker"] != appliance.card["broker"]
    finally:
        assert other.end(signal.SIGTERM)[0] == 0


def test_a_busy_dashboard_port_is_named(data: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        appliance = Appliance(data, EDGE__WEB__PORT=str(number))
        _, err = appliance.process.communicate(timeout=10)
    assert err.startswith(f"The dashboard cannot listen on 127.0.0.1:{number} (Address already in use).")
    assert "EDGE__WEB__PORT" in err
    assert len(err.splitlines()) == 1


def test_a_folder_that_cannot_be_written_is_named(data: Path) -> None:
    data.touch()
    appliance = Appliance(data)
    _, err = appliance.process.communicate(timeout=10)
    assert err.strip() == f"The folder {data} cannot be written (File exists). Set EDGE__DATA__DIR to another one."


def test_a_read_only_disk_is_named(data: Path) -> None:
    appliance = Appliance(data / "x", inside=disk(data, "ro"))
    _, err = appliance.process.communicate(timeout=10)
    assert err.strip() == (
        f"The folder {data / 'x'} cannot be written (Read-only file system). Set EDGE__DATA__DIR to another one."
    )


def test_a_full_disk_is_named(data: Path) -> None:
    appliance = Appliance(data, inside=disk(data, "size=100m"))
    _, err = appliance.process.communicate(timeout=10)
    assert "MB are free on the disk of" in err
    assert "EDGE__DATA__DIR" in err
    assert len(err.splitlines()) == 1


def test_settings_reach_the_children_whole() -> None:
    given = {
        "EDGE__DATA__DIR": "/x",
        "EDGE__WEB__LANGUAGE": "en",
        "EDGE__DATABASE__DSN": "host=x",
        "EDGE__VECTORS__GRPC": "false",
    }
    settings = load(environ=given)
    assert load(environ=exported(settings)) == settings


def test_the_welcome_names_what_a_newcomer_needs(data: Path) -> None:
    settings = load(environ={"EDGE__DATA__DIR": str(data)})
    settings.run_dir.mkdir(parents=True)
    (settings.run_dir / "first-sign-in.txt").write_text("anan\nthree-green-lamps\n")
    text = welcome(settings, 1884)
    for word in ("http://127.0.0.1:8080", "anan", "three-green-lamps", str(data), "-p 1884", "Ctrl-C", "สายพาน"):
        assert word in text
