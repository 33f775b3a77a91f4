#!/usr/bin/env python3
"""Make the secrets docker-compose.edge.yml wants, each in a file of the folder `secrets`; nothing there is replaced.

    python3 etc/compose/make_secrets.py                    once, before the first start
    python3 etc/compose/make_secrets.py camera-7 press-3   an account at the broker for each of these publishers

A new publisher's password is printed once. The folder is closed to others; the files in it are readable, because each
container reads its own under an account of its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parents[2] / "secrets"

#: Rounds of PBKDF2, as mosquitto_passwd does them by default.
ROUNDS = 101


def hashed(password: str) -> str:
    """A password as mosquitto's password file holds it."""
    salt = os.urandom(12)
    digest = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, ROUNDS, 64)
    return f"$7${ROUNDS}${base64.b64encode(salt).decode()}${base64.b64encode(digest).decode()}"


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    part = folder / f"{name}.partial"
    part.write_text(text, "utf-8")
    part.chmod(0o444)
    part.replace(path)


def known(folder: Path) -> dict[str, str]:
    """The secret of that name, made when it is not there."""
    found = {}
    for name in ("postgres-password", "database-password", "broker-password", "vectors-api-key"):
        if not (folder / name).exists():
            write(folder, name, secrets.token_urlsafe(32))
        found[name] = (folder / name).read_text("utf-8").strip()
    return found


def main(publishers: list[str], folder: Path = FOLDER) -> None:
    for name in publishers:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", name) or name == "edge":
            sys.exit(f"{name} cannot be a publisher's name: use letters, digits, dots and dashes; edge is taken.")
    folder.mkdir(mode=0o700, exist_ok=True)
    folder.chmod(0o700)
    # Never into a repository, whatever its own list says.
    (folder / ".gitignore").write_text("*\n", "utf-8")
    made = known(folder)
    if not (folder / "database-dsn").exists():
        write(folder, "database-dsn", f"postgresql://edge:{made['database-password']}@postgres:5432/edge")
    accounts = folder / "broker-passwords"
    lines = accounts.read_text("utf-8").splitlines() if accounts.exists() else []
    present = {line.partition(":")[0] for line in lines}
    if "edge" not in present:
        lines.append(f"edge:{hashed(made['broker-password'])}")
    for name in publishers:
        if name in present:
            print(f"{name} has an account already; remove its line from {accounts} to make another", file=sys.stderr)
            continue
        password = secrets.token_urlsafe(18)
        lines.append(f"{name}:{hashed(password)}")
        print(f"{name} {password}")
    write(folder, "broker-passwords", "".join(f"{line}\n" for line in lines))


if __name__ == "__main__":
    main(sys.argv[1:])
