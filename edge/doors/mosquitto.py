"""A mosquitto of our own: it keeps what it has acknowledged, and only this machine can reach it."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from datetime import UTC, datetime
from ipaddress import ip_address
from pathlib import Path

from edge.config import Settings, resources
from edge.doors import child
from edge.errors import Stop

_HOST = "127.0.0.1"
_FIRST_PORT = 1883

#: An MQTT 3.1.1 CONNECT without client id, the CONNACK that accepts it, and DISCONNECT.
_CONNECT = bytes.fromhex("10 0c 00 04 4d 51 54 54 04 02 00 0a 00 00")
_ACCEPTED = bytes.fromhex("20 02 00 00")
_DISCONNECT = bytes.fromhex("e0 00")

# Measured: with Debian's defaults kill -9 loses everything queued, and the 1001st message of a queue is dropped
# although it was acknowledged. `max_queued_messages 0` (no limit) drops messages in some 2.0 releases.
_CONFIG = """\
# Written anew at every start.
listener {port} {host}
# Anonymous clients are let in because this listener can be reached from this machine only. A broker that other machines
# reach is set up by its owner, with users and TLS, and named in EDGE__BROKER__URL.
allow_anonymous true
{inner}
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1

max_queued_messages 1000000
max_queued_bytes 536870912
max_inflight_messages {inflight}
persistent_client_expiration 30d
# Without it a message may wait 40 ms for the acknowledgement of the packet before it (Nagle's algorithm).
set_tcp_nodelay true

log_dest stderr
log_timestamp_format %Y-%m-%dT%H:%M:%S
log_type error
log_type warning
log_type notice
connection_messages false
"""

# For the appliance itself. Of a plain connection mosquitto reads one packet a turn, and it saves its whole store after
# every turn that brought an acknowledgement; of TLS it reads all that came in one record. A batch of acknowledgements
# then costs one saving instead of hundreds: `make bench-intake` measures both.
_INNER = """
listener {port} {host}
certfile {folder}/{certificate}
keyfile {folder}/{key}
"""
_CERTIFICATE, _KEY = "inner.pem", "inner.key"


def find(program: str = "mosquitto") -> Path | None:
    """`mosquitto`, `mosquitto_pub` or `mosquitto_sub`: installed, or unpacked by `make install`."""
    # Debian keeps the broker in a folder that is not on an ordinary user's PATH.
    if found := shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin"):
        return Path(found)
    unpacked = resources() / ".cache" / "mosquitto" / "bin" / program
    return unpacked if unpacked.is_file() else None


class Mosquitto:
    """The embedded broker of one data directory.

    `with Mosquitto(settings) as url:` starts it and stops it; the parts are for a supervisor. Raises `Stop` with the
    setting to change.
    """

    name = "mosquitto"

    def __init__(self, settings: Settings) -> None:
        self._data = settings.data.dir.absolute()
        self._folder = self._data / "mosquitto"
        self._log = self._data / "logs" / "mosquitto.log"
        self._wanted: int = settings.broker.port
        self._inflight = settings.intake.receive_maximum
        self._port = 0
        self._inner_port = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._unreadable = False
        self._answered = False
        self._ours = False
        program = find()
        if program is None:
            raise Stop(
                "The broker mosquitto is not installed. Run `make install`, install the package mosquitto, "
                "or set EDGE__BROKER__URL to a broker of your own."
            )
        self._program = program

    @property
    def port(self) -> int:
        """The port it listens on: chosen at `spawn`, kept once it was `ready`."""
        return self._port

    @property
    def url(self) -> str:
        return f"mqtt://{_HOST}:{self._port}"

    @property
    def inner(self) -> tuple[str, Path] | None:
        """Address and certificate authority of the listener for the appliance itself; None without `cryptography`."""
        return (f"mqtts://{_HOST}:{self._inner_port}", self._folder / _CERTIFICATE) if self._inner_port else None

    @property
    def log(self) -> Path:
        return self._log

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self, patience: float = 15) -> str:
        """Start and wait until it accepts a client; returns its address."""
        for _ in range(3):
            self.spawn()
            child.wait_for(lambda: self.ready() or self.poll() is not None, patience)
            if self.ready():
                return self.url
            self.stop()
            taken = not self._wanted and busy(_HOST, self._port)
            if not (self._unreadable or taken):
                break
        raise Stop(self.reason())

    def spawn(self) -> None:
        """Clear up after an earlier end, choose the port, write the configuration and start the broker."""
        child.make_folder(self._data, mode=0o711 if os.geteuid() == 0 else 0o700)
        child.make_folder(self._log.parent)
        user = child.servant(self._folder)
        child.make_folder(self._folder, owner=user)
        if strays := child.using(self._folder, "mosquitto"):
            child.end_strays(strays, ((signal.SIGTERM, 3.0),))
        if self._unreadable:
            store = self._folder / "mosquitto.db"
            with contextlib.suppress(OSError):
                store.rename(store.with_name(f"mosquitto.db.broken-{int(time.time())}"))
            self._unreadable = False
        if not self._port or (not self._answered and busy(_HOST, self._port)):
            # Another one starting at the same moment may have taken it. Once clients know the port it stays.
            self._port = self._choose()
        config = self._folder / "mosquitto.conf"
        try:
            inner = ""
            if certified(self._folder):
                if not self._inner_port or (not self._answered and busy(_HOST, self._inner_port)):
                    self._inner_port = free_port()
                inner = _INNER.format(
                    port=self._inner_port, host=_HOST, folder=self._folder, certificate=_CERTIFICATE, key=_KEY
                )
            config.write_text(
                _CONFIG.format(port=self._port, host=_HOST, folder=self._folder, inflight=self._inflight, inner=inner),
                "utf-8",
            )
            if user:
                for path in (config, *self._folder.glob("inner.*")):
                    os.chown(path, user.uid, user.gid)
            remembered = child.make_folder(self._data / "run", mode=0o711 if user else 0o700) / "broker.port"
            remembered.write_text(f"{self._port}\n", "utf-8")
        except OSError as error:
            raise Stop(child.unwritable(config, error)) from error
        self._ours = False
        self._process = child.spawn(
            [self._program, "-c", config],
            data=self._data,
            log=self._log,
            # Without its supervisor it still writes its store before it ends.
            death=signal.SIGTERM,
            user=user,
            reach=(config, self._program),
            cwd=self._folder,
        )

    def ready(self) -> bool:
        """Whether it accepts an MQTT client."""
        if self._process is None:
            return False
        with contextlib.suppress(OSError):
            if not self._ours and self._inner_port:
                # Another broker may have taken the port a moment ago. Ours opens its listeners in the order of its
                # configuration and ends where it cannot: only one that got the first opens the second.
                socket.create_connection((_HOST, self._inner_port), timeout=1).close()
                self._ours = True
            accepted = _accepts(self._port)
            if self._process.poll() is None:
                self._answered = accepted or self._answered
                return self._answered
        return False

    def poll(self) -> int | None:
        """The exit status once it has ended."""
        return self._process.poll() if self._process else 0

    def stop(self, patience: float = 5) -> None:
        """End it, leaving it time to write its store."""
        if self._process:
            self._unreadable = self._broken()
            child.end(self._process, ((signal.SIGTERM, patience),))
            self._process = None

    def reason(self) -> str:
        said = child.last_line(self._log) or "no reason given"
        return f"The broker mosquitto did not start: {said.rstrip('.')}. See {self._log}."

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _choose(self) -> int:
        if self._wanted:
            if error := busy(_HOST, self._wanted):
                raise Stop(
                    f"The broker port {self._wanted} cannot be used ({error}). "
                    "Set EDGE__BROKER__PORT to another one, or 0 for any free one."
                )
            return self._wanted
        candidates = list(range(_FIRST_PORT, _FIRST_PORT + 100))
        with contextlib.suppress(OSError, ValueError):
            # Publishers were told this address at an earlier start.
            candidates.insert(0, int((self._data / "run" / "broker.port").read_text("utf-8")))
        for port in candidates:
            if 0 < port < 65_536 and not busy(_HOST, port):
                return port
        raise Stop(
            f"No port from {candidates[-100]} to {candidates[-1]} is free. Set EDGE__BROKER__PORT to a free one."
        )

    def _broken(self) -> bool:
        """Whether it died because it cannot read its store: kept, that would stop every start from now on."""
        died = self._process is not None and self._process.poll() not in (None, 0)
        said = child.last_line(self._log) if died else ""
        return bool(re.search(r"database|persisten|corrupt", said, re.IGNORECASE))


def certified(folder: Path) -> bool:
    """Make sure that a certificate for 127.0.0.1 and its key lie there. False where the library for it is missing."""
    if (folder / _CERTIFICATE).is_file() and (folder / _KEY).is_file():
        return True
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError:
        return False
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Andon Edge broker")])
    # Nobody else trusts it, and both of its readers live on this machine: it need not end before the machine does. A
    # clock that stood wrong when it was made must not lock the appliance out.
    begin = datetime(2000, 1, 1, tzinfo=UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(begin.replace(year=2100))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(_HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with os.fdopen(os.open(folder / _KEY, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(secret)
    # Last, and under another name first: it stands for both.
    part = folder / f"{_CERTIFICATE}.partial"
    part.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    part.replace(folder / _CERTIFICATE)
    return True


def free_port() -> int:
    """A port of this machine that nobody listens on now."""
    with socket.create_server((_HOST, 0)) as probe:
        return int(probe.getsockname()[1])


def busy(host: str, port: int) -> str:
    """Why `port` cannot be listened on, or nothing when it can."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # As servers do: a port in TIME_WAIT from our own last run is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _accepts(port: int) -> bool:
    with socket.create_connection((_HOST, port), timeout=1) as connection:
        connection.settimeout(1)
        connection.sendall(_CONNECT)
        answer = b""
        while len(answer) < len(_ACCEPTED):
            part = connection.recv(16)
            if not part:
                return False
            answer += part
        connection.sendall(_DISCONNECT)
        return answer == _ACCEPTED
