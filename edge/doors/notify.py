"""sd_notify without a library: tell whoever started us that we are ready, alive, or stopping."""

from __future__ import annotations

import contextlib
import os
import socket


def notify(state: str) -> bool:
    """Send `READY=1`, `WATCHDOG=1`, `STATUS=…` (several separated by newlines) to the supervisor.

    Works below systemd and below `edge run`; does nothing without $NOTIFY_SOCKET. Never raises and never waits: a
    supervisor that does not listen must not stop the work. Returns whether the message was handed over.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    # A leading '@' stands for the NUL byte of an abstract socket.
    target = "\0" + address[1:] if address.startswith("@") else address
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.setblocking(False)
        sender.sendto(state.encode(), target)
        return True
    return False
