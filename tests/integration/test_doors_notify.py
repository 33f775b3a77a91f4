"""What a role tells its supervisor, over real sockets."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from edge.doors.notify import notify


def listen(address: str) -> socket.socket:
    inbox = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    inbox.bind(address)
    inbox.settimeout(1)
    return inbox


def test_a_message_arrives(short_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = short_folder / "notify"
    with listen(str(path)) as inbox:
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        assert notify("READY=1\nSTATUS=Running")
        assert inbox.recv(100) == b"READY=1\nSTATUS=Running"


def test_a_socket_without_a_path_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"andon-edge-test-{os.getpid()}"
    with listen(f"\0{name}") as inbox:
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
        assert notify("WATCHDOG=1")
        assert inbox.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize("address", ["", "/nobody/listens/here", "tcp:1234"])
def test_nobody_listening_is_no_error(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


def test_a_supervisor_that_does_not_read_never_stops_the_work(
    short_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = short_folder / "full"
    with listen(str(path)):
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        told = [notify("WATCHDOG=1") for _ in range(2000)]
        assert not all(told)
