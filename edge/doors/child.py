"""Processes we start. None outlives us, none that can avoid it runs as root, and each log is bounded."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge.errors import Stop

LOG_LIMIT = 5_000_000

#: A unix socket's path must fit into 108 bytes with its NUL; this much is kept for the name inside the folder.
_SOCKET_ROOM = 107 - len("/postgres/.s.PGSQL.5432")

#: Marks every process an appliance starts with the data directory it works for, so that leftovers can be recognised.
MARK = "ANDON_EDGE_CHILD_OF"

_CAPABILITIES = {"dac_read_search": 2, "dac_override": 1}


@dataclass(frozen=True)
class User:
    """The unprivileged account a server runs under."""

    uid: int
    gid: int
    name: str


def servant(folder: Path) -> User | None:
    """Who runs a server whose files live in `folder`: None for ourselves, another account when we are root.

    PostgreSQL refuses to run as root, and mosquitto needs no rights either. Whoever owns the folder from an earlier
    start keeps it; otherwise the account of the installed package, otherwise `nobody`.
    """
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(OSError):
        owner = folder.stat()
        if owner.st_uid != 0:
            return User(owner.st_uid, owner.st_gid, _name(owner.st_uid))
    for name in ("andon-edge", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return User(entry.pw_uid, entry.pw_gid, name)
    raise Stop("There is no account `nobody` to run PostgreSQL under. Start as another user than root.")


def own_name() -> str:
    return _name(os.geteuid())


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def make_folder(path: Path, *, owner: User | None = None, mode: int = 0o700) -> Path:
    """Create `path` if needed, owned by `owner`. Raises `Stop` naming the setting."""
    try:
        path.mkdir(mode=mode, parents=True, exist_ok=True)
        if owner and path.stat().st_uid != owner.uid:
            for inside in (path, *path.rglob("*")):
                os.chown(inside, owner.uid, owner.gid, follow_symlinks=False)
        if owner and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)
    except OSError as error:
        raise Stop(unwritable(path, error)) from error
    if owner is None and not os.access(path, os.W_OK | os.X_OK):
        raise Stop(
            f"The folder {path} belongs to user {_name(path.stat().st_uid)} and cannot be written. "
            "Start as that user, or set EDGE__DATA__DIR to a folder of your own."
        )
    return path


def unwritable(path: Path, error: OSError) -> str:
    return f"The folder {path} cannot be written ({error.strerror}). Set EDGE__DATA__DIR to another one."


def socket_folder(data: Path) -> Path:
    """`<data>/run`, or a private folder below the temporary directory when that path is too long for a unix socket.

    The name of the second kind is the same at every start. It is used only if it is ours and closed to others: anybody
    may have put something there before us.
    """
    # Passing through is allowed to the servers' own account; each keeps its files in a closed folder inside.
    mode = 0o711 if os.geteuid() == 0 else 0o700
    inside = data / "run"
    if len(os.fsencode(inside)) <= _SOCKET_ROOM:
        return make_folder(inside, mode=mode)
    name = f"andon-edge-{os.geteuid()}-{hashlib.sha256(os.fsencode(data)).hexdigest()[:12]}"
    folder = Path(tempfile.gettempdir()) / name
    with contextlib.suppress(FileExistsError):
        try:
            folder.mkdir(mode=mode)
        except FileExistsError:
            raise
        except OSError as error:
            raise Stop(f"The folder {folder} cannot be made ({error.strerror}). Set TMPDIR to another one.") from error
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o066:
        raise Stop(f"{folder} belongs to somebody else. Remove it, or set EDGE__DATA__DIR to a shorter path.")
    if len(os.fsencode(folder)) > _SOCKET_ROOM:
        raise Stop(f"The path {folder} is too long for a socket. Set EDGE__DATA__DIR or TMPDIR to a shorter path.")
    return folder


def spawn(
    command: Sequence[str | Path],
    *,
    data: Path,
    log: Path,
    death: signal.Signals = signal.SIGKILL,
    user: User | None = None,
    reach: Iterable[Path] = (),
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own, as `user`, both outputs appended to `log`.

    `death` is what it receives when we die without a word. `reach` are the paths it must be able to get at although
    they may lie below a folder closed to `user`. Call it from the main thread only: the kernel sends `death` when the
    *thread* that started the process ends.
    """
    trim(log)
    wrapped = [*_setpriv(user, reach, death), *map(str, command)]
    environment = {**(os.environ if env is None else env), MARK: str(data)}
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
    except OSError as error:
        raise Stop(unwritable(log, error)) from error
    try:
        # Terminals send Ctrl-C to a whole group; a session of its own lets us decide who stops when.
        return subprocess.Popen(
            wrapped,
            stdin=subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            env=environment,
            cwd=cwd,
            start_new_session=True,
            umask=0o077,
        )
    except OSError as error:
        raise Stop(f"{wrapped[0]} cannot be started: {error.strerror}.") from error
    finally:
        os.close(descriptor)


def finish(
    command: Sequence[str | Path],
    *,
    data: Path,
    log: Path,
    patience: float,
    user: User | None = None,
    reach: Iterable[Path] = (),
    env: Mapping[str, str] | None = None,
    stdin: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run a short helper to its end and return it with its output, which is also appended to `log`.

    Raises `Stop` when it takes longer than `patience` seconds.
    """
    wrapped = [*_setpriv(user, reach, signal.SIGKILL), *map(str, command)]
    try:
        done = subprocess.run(
            wrapped,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=patience,
            check=False,
            env={**(os.environ if env is None else env), MARK: str(data)},
            start_new_session=True,
            umask=0o077,
        )
    except subprocess.TimeoutExpired as error:
        raise Stop(f"{Path(command[0]).name} did not end within {patience:.0f} s. See {log}.") from error
    except OSError as error:
        raise Stop(f"{wrapped[0]} cannot be started: {error.strerror}.") from error
    with contextlib.suppress(OSError), log.open("a", encoding="utf-8") as file:
        file.write(done.stdout + done.stderr)
    return done


def end(process: subprocess.Popen[bytes], signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """Send each signal in turn and wait its seconds; SIGKILL to the whole group for what is left."""
    for number, seconds in signals:
        if process.poll() is not None:
            break
        process.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(seconds, 0))
    kill(process)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Whatever is left of the process and of what it started itself."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(2)


def wait_for(done: Callable[[], bool], patience: float) -> bool:
    deadline = time.monotonic() + patience
    while not done():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def trim(log: Path, limit: int = LOG_LIMIT) -> None:
    """Keep `log` below `limit` and one older copy beside it.

    Copied and cut, not renamed: the writer holds the file open for appending and goes on at the new end.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size > limit:
            with contextlib.suppress(OSError):
                shutil.copyfile(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)


def last_line(log: Path) -> str:
    """The last thing a process said, for a sentence about its end."""
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines() if line.strip()]
        return lines[-1] if lines else ""
    return ""


@contextlib.contextmanager
def exclusive(path: Path, busy: Callable[[int], str]) -> Iterator[None]:
    """Hold the lock file `path`, which names our process. Raises `Stop` with `busy(holder's process id)`."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise Stop(unwritable(path, error)) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.read(descriptor, 32).strip()
            raise Stop(busy(int(holder) if holder.isdigit() else 0)) from error
        os.truncate(descriptor, 0)
        try:
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            raise Stop(unwritable(path, error)) from error
        yield
    finally:
        os.close(descriptor)


def leftovers(data: Path) -> list[int]:
    """Processes an earlier appliance on `data` left behind; ourselves and our children excluded."""
    wanted = f"{MARK}={data}".encode()
    found = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            if wanted in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0") and _parent(pid) != os.getpid():
                found.append(pid)
    return found


def using(folder: Path, program: str) -> list[int]:
    """Processes of `program` whose working directory is `folder`."""
    found = []
    for pid in _processes():
        with contextlib.suppress(OSError):
            if Path(f"/proc/{pid}/cwd").samefile(folder) and Path(f"/proc/{pid}/exe").readlink().name == program:
                found.append(pid)
    return found


def end_strays(pids: Sequence[int], signals: Sequence[tuple[signal.Signals, float]]) -> None:
    """As `end`, for processes that are not our children."""
    for number, seconds in (*signals, (signal.SIGKILL, 2.0)):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)
        if wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), seconds):
            return


def _processes() -> list[int]:
    me = os.getpid()
    return [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit() and int(path.name) != me]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()[1])


def _setpriv(user: User | None, reach: Iterable[Path], death: signal.Signals) -> list[str]:
    program = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if program is None:
        raise Stop("The program setpriv is missing. Install the package util-linux.")
    command = [program, f"--pdeathsig={death.name.removeprefix('SIG')}"]
    if user:
        command += [f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups"]
        if closed := [path for path in reach if not _passable(path, user)]:
            # Reading everything is much, writing everything is more: the weaker right first. Containers withhold it.
            right = next((name for name, bit in _CAPABILITIES.items() if _permitted(bit)), None)
            if right is None:
                raise Stop(
                    f"User {user.name} cannot reach {closed[0]}, because a folder above it is closed. "
                    "Set EDGE__DATA__DIR to a folder others may pass through, or start as another user than root."
                )
            # initdb asks with access(2), for which the kernel ignores such rights unless this bit is set. At the exec
            # that follows everything but the one right is dropped all the same.
            command += ["--securebits=+no_setuid_fixup", f"--inh-caps=-all,+{right}", f"--ambient-caps=+{right}"]
        else:
            command += ["--inh-caps=-all"]
    return [*command, "--"]


def _passable(path: Path, user: User) -> bool:
    """Whether every folder above `path` lets `user` pass. Group rights are not counted: he has no groups."""
    for folder in path.absolute().parents:
        with contextlib.suppress(OSError):
            found = folder.stat()
            if not found.st_mode & (0o100 if found.st_uid == user.uid else 0o001):
                return False
    return True


def _permitted(bit: int) -> bool:
    for line in Path("/proc/self/status").read_text("utf-8").splitlines():
        if line.startswith(("CapPrm:", "CapBnd:")) and not int(line.split()[1], 16) >> bit & 1:
            return False
    return True
