"""Everything on one box: starts the doors and the roles, watches them, and stops them again. Does no work itself."""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import logging
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Protocol, Self
from urllib.parse import urlsplit

from pydantic import SecretStr
from rich.console import Console
from rich.status import Status

from edge import __version__
from edge.config import PREFIX, Data, Settings, resources
from edge.doors import child
from edge.doors.mosquitto import Mosquitto, busy, find
from edge.doors.notify import notify
from edge.doors.postgres import Postgres
from edge.errors import Stop

_log = logging.getLogger(__name__)

FREE_BYTES = 200_000_000

#: Seconds a part may take to get ready, and a role may be silent afterwards.
_READY_WITHIN = 90.0
_SILENT_FOR = 30.0

#: So many ends within so many seconds are no accident.
_CRASHES, _WITHIN = 5, 60.0
_SAME_WORDS = 3

#: Seconds for the roles together, then for the index and each server: ten in all, also when each of them hangs.
_ROLES_STOP_WITHIN, _STOP_WITHIN = 5.0, 1.5


class Part(Protocol):
    """One process that is watched: a server or a role."""

    @property
    def name(self) -> str: ...
    @property
    def log(self) -> Path: ...
    @property
    def pid(self) -> int: ...
    def spawn(self) -> None: ...
    def ready(self) -> bool: ...
    def poll(self) -> int | None: ...
    def stop(self, patience: float) -> None: ...


class Role:
    """A Python process that says READY and beats its watchdog over a notify socket of its own."""

    def __init__(self, name: str, command: Sequence[str], *, data: Path, sockets: Path, env: Mapping[str, str]) -> None:
        self._name = name
        self._command = command
        self._data = data
        self._env = env
        self._path = sockets / f"notify-{name}"
        self._process: subprocess.Popen[bytes] | None = None
        self._ready = False
        self._heard = 0.0
        self._path.unlink(missing_ok=True)
        self.inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        self.inbox.bind(str(self._path))

    @property
    def name(self) -> str:
        return self._name

    @property
    def log(self) -> Path:
        return self._data / "logs" / f"{self._name}.log"

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def spawn(self) -> None:
        self._drain()
        self._ready = False
        spoken = {"NOTIFY_SOCKET": str(self._path), "WATCHDOG_USEC": str(int(_SILENT_FOR * 1_000_000))}
        self._process = child.spawn(
            self._command, data=self._data, log=self.log, env={**_inherited(), **self._env, **spoken}
        )

    def ready(self) -> bool:
        if b"READY=1" in self._drain():
            self._ready = True
        return self._ready and self.poll() is None

    def silent(self, now: float) -> bool:
        """Whether it was ready once and has not been heard of since `_SILENT_FOR` seconds."""
        return self.ready() and now - self._heard > _SILENT_FOR

    def poll(self) -> int | None:
        return self._process.poll() if self._process else 0

    def ask_to_stop(self) -> None:
        if self._process and self._process.poll() is None:
            self._process.terminate()

    def stop(self, patience: float) -> None:
        if self._process:
            child.end(self._process, ((signal.SIGTERM, patience),))

    def close(self) -> None:
        self.inbox.close()
        self._path.unlink(missing_ok=True)

    def _drain(self) -> set[bytes]:
        said: set[bytes] = set()
        with contextlib.suppress(BlockingIOError):
            while True:
                said |= set(self.inbox.recv(4096).split(b"\n"))
                self._heard = time.monotonic()
        return said


class _Watch:
    """What the supervisor remembers about one part."""

    def __init__(self, part: Part) -> None:
        self.part = part
        self.ends: deque[float] = deque(maxlen=_CRASHES)
        self.started = 0.0
        self.again_at = 0.0
        self.was_ready = False
        self.ever_ready = False
        self.said: deque[str] = deque(maxlen=_SAME_WORDS)


class _Interrupted(Exception):
    """Somebody asked us to stop while we were waiting for something."""


class Supervisor:
    """Starts parts in order, restarts each that ends or hangs, stops them in reverse order.

    It lives in the main thread alone: its children die with the thread that started them. A context manager, because
    whatever happens nothing may be left running.
    """

    def __init__(self, data: Path) -> None:
        self._data = data
        self._watches: list[_Watch] = []
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._signalled = 0
        self._restore: list[Callable[[], object]] = []
        self._next_trim = 0.0

    def __enter__(self) -> Self:
        read, write = socket.socketpair()
        for end in (read, write):
            end.setblocking(False)
            self._restore.append(end.close)
        before = signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        self._restore.insert(0, partial(signal.set_wakeup_fd, before))
        for number in (signal.SIGTERM, signal.SIGINT):
            self._restore.insert(0, partial(signal.signal, number, signal.signal(number, self._signal)))
        # A child's end wakes the loop through the same socket.
        wake = signal.signal(signal.SIGCHLD, lambda *_: None)
        self._restore.insert(0, partial(signal.signal, signal.SIGCHLD, wake))
        self._selector.register(read, selectors.EVENT_READ)
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.stop()
        finally:
            for restore in self._restore:
                restore()
            self._selector.close()

    def start(self, *parts: Part) -> None:
        """Start parts and watch them from now on, without waiting for them."""
        for part in parts:
            watch = _Watch(part)
            self._watches.append(watch)
            if isinstance(part, Role):
                self._selector.register(part.inbox, selectors.EVENT_READ)
            self._spawn(watch)

    def wait_ready(self, otherwise: Callable[[], None] | None = None) -> None:
        """Wait until everything started is ready. Raises `Stop` with the reason of the part that will not be.

        `otherwise` is done once, as soon as a part ends instead; the part is started again all the same.
        """
        while not all(watch.was_ready for watch in self._watches):
            self._turn(0.05)
            if otherwise and any(watch.ends for watch in self._watches):
                otherwise()
                otherwise = None

    def run_once(self, name: str, command: Sequence[str], env: Mapping[str, str], patience: float) -> None:
        """Run a helper to its end beside the parts. Raises `Stop` with its last words when it fails."""
        log = self._data / "logs" / f"{name}.log"
        process = child.spawn(command, data=self._data, log=log, env={**_inherited(), **env})
        deadline = time.monotonic() + patience
        try:
            while process.poll() is None:
                if time.monotonic() > deadline:
                    raise Stop(f"{name} did not end within {patience:.0f} s. See {log}.")
                self._turn(0.05)
        finally:
            child.end(process, ())
        if process.returncode:
            said = child.last_line(log).removeprefix("edge: ")
            raise Stop(said if said.endswith(".") else f"{name} failed: {said or process.returncode}. See {log}.")

    def watch(self) -> None:
        """Keep everything running until somebody asks to stop."""
        with contextlib.suppress(_Interrupted):
            while True:
                self._turn(0.5)

    def stop(self) -> None:
        """Stop what runs, last started first, all within ten seconds. A second Ctrl-C does not wait."""
        self._signalled = 0
        for group in self._groups():
            roles = [watch.part for watch in group if isinstance(watch.part, Role)]
            for role in roles:
                role.ask_to_stop()
            child.wait_for(
                lambda roles=roles: self._signalled > 0 or all(role.poll() is not None for role in roles),  # type: ignore[misc]
                _ROLES_STOP_WITHIN if len(roles) > 1 else _STOP_WITHIN,
            )
            for role in roles:
                role.stop(0)
                role.close()
            for watch in group:
                if not isinstance(watch.part, Role):
                    watch.part.stop(_STOP_WITHIN)
        self._watches.clear()

    def _groups(self) -> Iterator[list[_Watch]]:
        """Neighbours that do not need each other stop together: the roles, then the index, then each server."""
        group: list[_Watch] = []
        for watch in reversed(self._watches):
            alone = not isinstance(watch.part, Role) or watch.part.name == "vectors"
            if alone and group:
                yield group
                group = []
            group.append(watch)
            if alone:
                yield group
                group = []
        if group:
            yield group

    def _signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stopping = True
        self._signalled += 1

    def _turn(self, patience: float) -> None:
        for key, _ in self._selector.select(patience):
            if isinstance(key.fileobj, socket.socket) and key.fileobj.type == socket.SOCK_STREAM:
                with contextlib.suppress(BlockingIOError):
                    key.fileobj.recv(4096)
        if self._stopping:
            raise _Interrupted
        now = time.monotonic()
        for watch in self._watches:
            self._look_after(watch, now)
        if now > self._next_trim:
            self._next_trim = now + 5
            notify("WATCHDOG=1")
            for log in (self._data / "logs").glob("*.log"):
                child.trim(log)

    def _look_after(self, watch: _Watch, now: float) -> None:
        part = watch.part
        if watch.again_at:
            if now >= watch.again_at:
                self._spawn(watch)
            return
        status = part.poll()
        if status is not None:
            self._ended(watch, now, f"ended with status {status}")
        elif not watch.was_ready:
            if part.ready():
                watch.was_ready = watch.ever_ready = True
                _log.debug("The part %s is ready after %.1f s.", part.name, now - watch.started)
            elif now - watch.started > _READY_WITHIN:
                part.stop(1)
                self._ended(watch, now, f"was not ready within {_READY_WITHIN:.0f} s")
        elif isinstance(part, Role) and part.silent(now):
            part.stop(0)
            self._ended(watch, now, f"was silent for {_SILENT_FOR:.0f} s")

    def _ended(self, watch: _Watch, now: float, how: str) -> None:
        part = watch.part
        # What it started itself must not go on without it.
        part.stop(0)
        watch.ends.append(now)
        watch.was_ready = False
        said = child.last_line(part.log).removeprefix("edge: ").rstrip(".") or "nothing"
        watch.said.append(said)
        often = len(watch.ends) == _CRASHES and now - watch.ends[0] < _WITHIN
        # One that never worked and always gives the same reason needs a person, not another try.
        if often or (not watch.ever_ready and len(watch.said) == _SAME_WORDS and len(set(watch.said)) == 1):
            raise Stop(
                f"The part {part.name} {how}, {len(watch.ends)} times in a row. It said: {said}. See {part.log}."
            )
        recent = sum(1 for end in watch.ends if now - end < _WITHIN)
        wait = 0.25 * 2 ** (recent - 1)
        watch.again_at = now + wait
        _log.warning("The part %s %s. Starting it again in %.1f s.", part.name, how, wait)

    def _spawn(self, watch: _Watch) -> None:
        watch.again_at = 0.0
        watch.part.spawn()
        watch.started = time.monotonic()


def run(settings: Settings, *, module: Sequence[str] = (sys.executable, "-m", "edge")) -> int:
    """Run the whole appliance until SIGTERM or Ctrl-C; returns the exit status.

    `module` is the command that starts a role when the role's name is added. Raises `Stop` with one sentence when
    something cannot be started or will not stay up; nothing is left running then.
    """
    # Servers change into folders of their own: whatever they are told must not depend on where we stand.
    settings = settings.model_copy(update={"data": Data(dir=settings.data.dir.absolute())})
    data = settings.data.dir
    child.make_folder(data, mode=0o711 if os.geteuid() == 0 else 0o700)
    child.make_folder(data / "logs")
    child.make_folder(settings.run_dir, mode=0o711 if os.geteuid() == 0 else 0o700)
    with exclusive(settings), contextlib.ExitStack() as stack:
        _check_space(data)
        web_port = _web_port(settings)
        if strays := [pid for pid in child.leftovers(data) if pid not in child.using(data / "postgres", "postgres")]:
            child.end_strays(strays, ((signal.SIGTERM, 3.0),))
        card = settings.run_dir / "appliance.json"
        card.unlink(missing_ok=True)
        supervisor = stack.enter_context(Supervisor(data))
        # Told before the parts are stopped: nobody should find an appliance that is going away.
        stack.callback(card.unlink, missing_ok=True)
        stack.callback(notify, "STOPPING=1")
        with contextlib.suppress(_Interrupted):
            with _progress() as say:
                told = _start(settings, supervisor, module, web_port, say)
            _write_private(card, json.dumps({"pid": os.getpid(), **told, "started_at": _now()}, indent=1))
            print(welcome(settings, _port(told["broker"]), told["web"]), flush=True)
            notify("READY=1\nSTATUS=Running")
            supervisor.watch()
    return 0


def exclusive(settings: Settings) -> contextlib.AbstractContextManager[None]:
    """Hold the data directory. Also for a command that opens the stores itself. Raises `Stop` when it is taken."""
    data = settings.data.dir
    return child.exclusive(
        data / "lock",
        lambda pid: (
            f"Another appliance is already running on {data} (process {pid}). "
            "Set EDGE__DATA__DIR and EDGE__WEB__PORT to run a second one."
        ),
    )


def welcome(settings: Settings, broker_port: int, web: str = "") -> str:
    """The one block a person sees: where it is, how to sign in, how to publish, how to stop."""
    web = web or f"http://{_shown(settings.web.host)}:{settings.web.port}"
    lines = ["", f"  Andon Edge is running:  {settings.web.public_url or web}", ""]
    with contextlib.suppress(OSError):
        words = (settings.run_dir / "first-sign-in.txt").read_text("utf-8").splitlines()
        if len(words) >= 2:
            lines.append(f"  Sign in     user {words[0]}   password {words[1]}")
    external = urlsplit(settings.broker.url)
    host, port = (external.hostname, external.port or broker_port) if external.hostname else ("127.0.0.1", broker_port)
    topic = f"{settings.intake.root}/demo/assembly/line-2/cell-1/report/hand"
    payload = """'{"id":"'$(date +%s%N)'","text":"สายพานหยุดอีกแล้ว มอเตอร์ร้อน"}'"""
    lines += [
        f"  Data        {settings.data.dir}",
        f"  Logs        {settings.data.dir / 'logs'}",
        "  Stop        Ctrl-C",
        "",
        "  Publish an event by hand:",
        "",
        f"{_publisher()} -h {host} -p {port} -q 1 -t {topic} -m {payload}",
        "",
    ]
    return "\n".join(lines)


def _start(
    settings: Settings, supervisor: Supervisor, module: Sequence[str], web_port: int, say: Callable[[str], None]
) -> dict[str, str]:
    """Start every part in order; returns the addresses."""
    data = settings.data.dir
    sockets = child.socket_folder(data)
    dsn, broker, vectors = settings.database.dsn.get_secret_value(), settings.broker.url, settings.vectors.url
    say("Starting PostgreSQL and the broker")
    if not broker:
        # Made first: it is the one that may be missing.
        mosquitto = Mosquitto(settings)
    if not dsn:
        postgres = Postgres(settings)
        dsn = postgres.dsn
        supervisor.start(postgres)
    inner: dict[str, str] = {}
    if not broker:
        supervisor.start(mosquitto)
    supervisor.wait_ready()
    if not broker:
        broker = mosquitto.url
        if mosquitto.inner:
            inner = {"EDGE__BROKER__URL": mosquitto.inner[0], "EDGE__BROKER__CA_FILE": str(mosquitto.inner[1])}
    own_vectors = not vectors
    vectors = vectors or f"unix:{sockets / 'vectors.sock'}"
    env = {
        **exported(settings),
        "EDGE__DATABASE__DSN": dsn,
        "EDGE__BROKER__URL": broker,
        "EDGE__VECTORS__URL": vectors,
        "EDGE__WEB__PORT": str(web_port),
        "PYTHONUNBUFFERED": "1",
    }

    def role(name: str, more: Mapping[str, str] | None = None) -> Role:
        return Role(name, [*module, name], data=data, sockets=sockets, env={**env, **(more or {})})

    def prepare() -> None:
        say("Bringing the database up to date")
        supervisor.run_once("migrate", [*module, "migrate"], env, 120)
        if settings.plant.sample:
            say("Loading the sample plant")
            supervisor.run_once("sample", [*module, "sample"], env, 300)

    # Every process of Python costs a second or two of a small machine, so nothing is prepared twice. Should the mark be
    # wrong (a database restored by hand), a role says that migrations are missing and ends, and it is done after all.
    mark = settings.run_dir / "prepared"
    wanted = _preparation(settings, dsn)
    known = False
    with contextlib.suppress(OSError):
        known = mark.read_text("utf-8") == wanted
    if own_vectors:
        supervisor.start(role("vectors"))
    if not known:
        prepare()
    supervisor.start(role("ingest", inner))
    supervisor.wait_ready(otherwise=prepare if known else None)
    say("Starting worker and dashboard")
    supervisor.start(role("web"), role("worker"))
    supervisor.wait_ready()
    _write_private(mark, wanted)
    if settings.simulator.enabled:
        supervisor.start(role("simulate"))
    web = f"http://{_shown(settings.web.host)}:{web_port}"
    return {"web": web, "broker": broker, "dsn": dsn, "vectors": vectors}


def _preparation(settings: Settings, dsn: str) -> str:
    """What migrating and loading the plant depend on, in one word."""
    folders = [Path(__file__).parent.parent / "db" / "migrations"]
    if settings.plant.sample or not settings.plant.file:
        folders.append(resources() / "etc" / "sample")
    files = [file for folder in folders for file in folder.rglob("*") if file.is_file()]
    digest = hashlib.sha256(f"{__version__} {dsn} {settings.plant}".encode())
    for file in [*sorted(files), *([settings.plant.file] if settings.plant.file else [])]:
        with contextlib.suppress(OSError):
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _inherited() -> dict[str, str]:
    """Our environment without the settings, which are handed on whole, and without what systemd told us alone."""
    ours = ("NOTIFY_SOCKET", "WATCHDOG_", "LISTEN_", PREFIX)
    return {key: value for key, value in os.environ.items() if not key.startswith(ours)}


def exported(settings: Settings) -> dict[str, str]:
    """Every setting in force, as the environment a child reads: the same whatever file or option it came from."""
    env = {}
    for section in type(settings).model_fields:
        part = getattr(settings, section)
        for key in type(part).model_fields:
            value = getattr(part, key)
            if isinstance(value, SecretStr):
                value = value.get_secret_value()
            if value is not None:
                if isinstance(value, dict):
                    value = ",".join(f"{name}={item}" for name, item in value.items())
                elif isinstance(value, tuple | list):
                    value = ",".join(str(item) for item in value)
                text = str(value).lower() if isinstance(value, bool) else str(value)
                env[f"{PREFIX}{section.upper()}__{key.upper()}"] = text
    return env


def _check_space(data: Path) -> None:
    free = shutil.disk_usage(data).free
    if free < FREE_BYTES:
        raise Stop(
            f"Only {free // 1_000_000} MB are free on the disk of {data}, {FREE_BYTES // 1_000_000} MB are needed. "
            "Free some space, or set EDGE__DATA__DIR to another disk."
        )


def _web_port(settings: Settings) -> int:
    """The dashboard's port, found free; 0 chooses one."""
    host, port = settings.web.host, settings.web.port
    if not port:
        with socket.create_server((host, 0)) as probe:
            return int(probe.getsockname()[1])
    if reason := busy(host, port):
        raise Stop(
            f"The dashboard cannot listen on {host}:{port} ({reason}). Set EDGE__WEB__PORT to another port"
            + (", or EDGE__WEB__HOST to an address of this machine." if host != "127.0.0.1" else ".")
        )
    return port


def _write_private(path: Path, text: str) -> None:
    """Whole or not at all, for our own eyes: it holds a DSN."""
    beside = path.with_suffix(".partial")
    try:
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        beside.replace(path)
    except OSError as error:
        raise Stop(child.unwritable(path, error)) from error


@contextlib.contextmanager
def _progress() -> Iterator[Callable[[str], None]]:
    """A moving line on a terminal, STATUS= for a service manager, nothing in a file."""
    console = Console(stderr=True)
    with Status("Starting", console=console) if console.is_terminal else contextlib.nullcontext() as status:

        def say(text: str) -> None:
            notify(f"STATUS={text}")
            if status is not None:
                status.update(text)

        yield say


def _publisher() -> str:
    if shutil.which("mosquitto_pub"):
        return "mosquitto_pub"
    program = find("mosquitto_pub")
    if program is None:
        return "mosquitto_pub"
    with contextlib.suppress(ValueError):
        return str(program.relative_to(Path.cwd()))
    return str(program)


def _shown(host: str) -> str:
    """The host as a browser on this machine can use it."""
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        if address.is_unspecified:
            host = "::1" if address.version == 6 else "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _port(url: str) -> int:
    split = urlsplit(url)
    return split.port or (8883 if split.scheme == "mqtts" else 1883)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
