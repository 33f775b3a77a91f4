"""Whether a role of this container works, for its health check: `python healthy.py ingest|worker|web`.

A role says READY and beats its watchdog only while its loop moves. Without systemd nobody listens to that, so this asks
what can be asked from outside: the dashboard's /readyz, otherwise that the role's process is there and the database
answers.
"""

from __future__ import annotations

import sys
import urllib.request
from pathlib import Path

from edge.config import load
from edge.db import Database


def main(role: str) -> None:
    settings = load()
    if role == "web":
        with urllib.request.urlopen(f"http://127.0.0.1:{settings.web.port}/readyz", timeout=4) as answer:
            sys.exit(answer.status != 200)
    command = Path("/proc/1/cmdline").read_bytes().split(b"\0")
    if role.encode() not in command:
        sys.exit(f"process 1 is not the role {role}")
    dsn = settings.database.dsn.get_secret_value()
    with Database(dsn, size=2, timeout=3, name="edge-health").wait(3) as database, database.transaction() as tx:
        tx.value("migration_exists")


if __name__ == "__main__":
    main(sys.argv[1])
