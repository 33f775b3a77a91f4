"""The role that holds the embedded index open and shares it with the other processes of this appliance."""

from __future__ import annotations

import contextlib
import threading
import time
from pathlib import Path

from edge.config import Settings
from edge.doors.notify import notify
from edge.errors import Rejected, Stop, Unavailable
from edge.roles.loop import Beat, Stopping
from edge.vectors import EmbeddedStore, RemoteStore, StoreHost


def vectors(settings: Settings) -> None:
    """Serve until told to stop. Raises `Stop` when `vectors.url` names no socket."""
    if not settings.vectors.url.startswith("unix:"):
        raise Stop("The embedded index is shared over a socket: set EDGE__VECTORS__URL=unix:/path/to/socket.")
    stopping = Stopping()
    beat = Beat()
    path = Path(settings.vectors.url.removeprefix("unix:"))
    store = EmbeddedStore(settings.data.dir / "vectors", quantize_above=settings.vectors.quantize_above or None)
    host = StoreHost(store, path)
    serving = threading.Thread(target=host.serve_forever, args=(stopping.event,), name="vectors")
    serving.start()
    try:
        with RemoteStore(path, timeout_s=settings.vectors.timeout) as own:
            _wait(own, serving)
            notify("READY=1")
            while not stopping.event.wait(1.0):
                # Asked through the door that the others use: only a host that answers may keep the watchdog quiet.
                # Counting waits for no snapshot; a collection that is not there yet is an answer, too.
                # One that is late on a busy machine is not beaten for; only silence that lasts is a reason to end it.
                with contextlib.suppress(Unavailable):
                    with contextlib.suppress(Rejected, Stop):
                        own.count("anomaly_patterns")
                    beat()
    finally:
        stopping.event.set()
        notify("STOPPING=1")
        serving.join(timeout=10)


def _wait(own: RemoteStore, serving: threading.Thread, patience: float = 10) -> None:
    deadline = time.monotonic() + patience
    while True:
        try:
            own.versions("anomaly_patterns")
            return
        except Unavailable:
            if not serving.is_alive() or time.monotonic() > deadline:
                raise
            time.sleep(0.05)
