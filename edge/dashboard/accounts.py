"""People and programs that may sign in: accounts, sessions, tokens. Secrets are stored as hashes only."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal, get_args
from uuid import UUID

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from edge.config import Web
from edge.db import Database
from edge.errors import Rejected, Unavailable

Role = Literal["viewer", "supervisor", "engineer", "admin"]
Scope = Literal["read", "write", "admin"]

#: From least to most: each role may do all that the ones before it may.
ROLES: tuple[Role, ...] = get_args(Role)
SCOPES: tuple[Scope, ...] = get_args(Scope)

#: What each role may do through the API when it comes with a session instead of a token.
ROLE_SCOPES: dict[Role, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "supervisor": frozenset({"read"}),
    "engineer": frozenset({"read", "write"}),
    "admin": frozenset({"read", "write", "admin"}),
}

#: Minutes over which failed sign-ins are counted, and how many are let through before the door stays shut.
WINDOW_MINUTES = 10
TRIES_BOTH, TRIES_BY_NAME, TRIES_BY_ADDRESS = 6, 30, 40

SHORTEST_PASSWORD, LONGEST_PASSWORD = 10, 200

_USERNAME = re.compile(r"[a-z0-9][a-z0-9._-]{1,62}")
_HASHER = PasswordHasher(time_cost=3, memory_cost=64 * 1024, parallelism=2)
# 64 MiB each: a burst of sign-ins must not take the memory the encoder needs.
_AT_ONCE = threading.BoundedSemaphore(2)
# Checked when the account does not exist, so that the time an answer takes does not tell which names do.
_NOBODY = _HASHER.hash(secrets.token_hex(16))


class TooManyTries(Rejected):
    """Sign-in is shut for this name or address for a while."""


class WrongPassword(Rejected):
    """The name or the password is wrong; which of them is not said."""


@dataclass(frozen=True, slots=True)
class Account:
    id: UUID
    username: str
    role: Role

    def at_least(self, role: Role) -> bool:
        return ROLES.index(self.role) >= ROLES.index(role)


@dataclass(frozen=True, slots=True)
class Token:
    """What a program may do."""

    name: str
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True)
class AccountRow:
    username: str
    role: Role
    disabled: bool
    created_at: datetime
    last_seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class TokenRow:
    name: str
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    expired: bool


def create_account(db: Database, username: str, password: str, role: Role) -> None:
    """Raises `Rejected` in words for a bad or taken name, a bad password or an unknown role."""
    if not _USERNAME.fullmatch(username):
        raise Rejected(
            "A user name has 2 to 63 characters: a-z, 0-9, dot, dash, underscore; it starts with a-z or 0-9."
        )
    if role not in ROLES:
        raise Rejected(f"The role {role!r} is unknown. Known: {', '.join(ROLES)}.")
    password_hash = _hash(password)
    with db.transaction() as tx:
        if tx.value("account_add", username=username, password_hash=password_hash, role=role) is None:
            raise Rejected(f"The user name {username} is taken.")


def set_password(db: Database, username: str, password: str, *, keep_session: str | None = None) -> None:
    """Change it and end every session of the account but `keep_session`. Raises `Rejected`."""
    password_hash = _hash(password)
    with db.transaction() as tx:
        account_id = tx.value("account_set_password", username=username, password_hash=password_hash)
        if account_id is None:
            raise Rejected(f"There is no user {username}.")
        tx.run("session_drop_account", account_id=account_id, keep=_digest(keep_session) if keep_session else None)


def set_disabled(db: Database, username: str, disabled: bool) -> None:
    """A disabled account keeps its name in every log but cannot sign in. Raises `Rejected`."""
    with db.transaction() as tx:
        account_id = tx.value("account_set_disabled", username=username, disabled=disabled)
        if account_id is None:
            raise Rejected(f"There is no user {username}.")
        if disabled:
            tx.run("session_drop_account", account_id=account_id, keep=None)


def accounts(db: Database) -> list[AccountRow]:
    with db.transaction() as tx:
        return [AccountRow(**row) for row in tx.all("account_list")]


def ensure_first_account(db: Database, run_dir: Path) -> Path | None:
    """Make sure that somebody can sign in.

    Where no account exists, create `admin` with a random password and write both, a line each, into
    `first-sign-in.txt` (mode 0600). Returns that file, or None where there are accounts already.
    """
    with db.transaction() as tx:
        if tx.value("account_count"):
            return None
    username, password = "admin", _readable_password()
    file = run_dir / "first-sign-in.txt"
    run_dir.mkdir(parents=True, exist_ok=True)
    # The file comes first: an account whose password was never written down would lock everybody out.
    part = file.with_suffix(".partial")
    part.unlink(missing_ok=True)
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.write(f"{username}\n{password}\n")
        out.flush()
        os.fsync(out.fileno())
    password_hash = _hash(password)
    with db.transaction() as tx:
        if tx.value("account_add", username=username, password_hash=password_hash, role="admin") is None:
            part.unlink(missing_ok=True)
            return None
        part.replace(file)
    return file


def sign_in(db: Database, web: Web, username: str, password: str, *, address: str, old: str | None) -> str:
    """Check the password and begin a session. Returns the secret for the cookie; `old`, the one so far, ends.

    Raises `WrongPassword`, `TooManyTries`, or `Unavailable` when too many check theirs at this moment.
    """
    username = username.strip().lower()[:63]
    with db.transaction() as tx:
        tx.run("login_try", username=username, address=address)
        tries = tx.one("login_tries", username=username, address=address, minutes=WINDOW_MINUTES) or {}
        row = tx.one("account_get", username=username)
    if (
        tries["both"] > TRIES_BOTH
        or tries["by_name"] > TRIES_BY_NAME
        or tries["by_address"] > TRIES_BY_ADDRESS
    ):  # fmt: skip
        raise TooManyTries(f"Too many failed tries. Wait {WINDOW_MINUTES} minutes and try again.")
    right = _verify(row["password_hash"] if row else _NOBODY, password)
    if row is None or not right or row["disabled"]:
        raise WrongPassword("The user name or the password is wrong.")
    secret = secrets.token_urlsafe(32)
    fresh = _hash(password) if _HASHER.check_needs_rehash(row["password_hash"]) else None
    with db.transaction() as tx:
        if fresh:
            tx.run("account_rehash", id=row["id"], password_hash=fresh, old=row["password_hash"])
        tx.run("login_tries_forget", username=username, address=address)
        if old:
            tx.run("session_drop", token_hash=_digest(old))
        tx.run("session_add", token_hash=_digest(secret), account_id=row["id"], hours=web.session_hours)
    return secret


def sign_out(db: Database, secret: str) -> None:
    with db.transaction() as tx:
        tx.run("session_drop", token_hash=_digest(secret))


def account_of(db: Database, web: Web, secret: str, *, active: bool) -> Account | None:
    """Who a session cookie belongs to. `active`: a person did something; a page refreshing itself does not count."""
    with db.transaction() as tx:
        row = tx.one("session_find", token_hash=_digest(secret), idle_minutes=web.session_idle_minutes)
        if row is None:
            return None
        if active and row["touch"]:
            tx.run("session_touch", token_hash=_digest(secret))
    return Account(row["id"], row["username"], row["role"])


def check_password(db: Database, username: str, password: str) -> bool:
    """For a change by somebody who is signed in."""
    with db.transaction() as tx:
        row = tx.one("account_get", username=username)
    return row is not None and _verify(row["password_hash"], password)


def create_token(db: Database, name: str, scopes: Sequence[str], days: int) -> str:
    """A token for a program: shown once, stored as a hash. A new one under an old name replaces it.

    Raises `Rejected` for an unknown scope, a bad name or a life outside 1 to 3650 days.
    """
    if not re.fullmatch(r"[\w][\w .-]{0,62}", name):
        raise Rejected("A token needs a name of 1 to 63 letters, digits, spaces, dots or dashes.")
    if not scopes or set(scopes) - set(SCOPES):
        raise Rejected(f"A token needs at least one of the scopes {', '.join(SCOPES)}, and no other.")
    if not 1 <= days <= 3650:
        raise Rejected("A token lives 1 to 3650 days.")
    secret = f"andon_{secrets.token_urlsafe(32)}"
    with db.transaction() as tx:
        tx.run("token_add", token_hash=_digest(secret), name=name, scopes=sorted(set(scopes)), days=days)
    return secret


def tokens(db: Database) -> list[TokenRow]:
    with db.transaction() as tx:
        return [TokenRow(**{**row, "scopes": tuple(row["scopes"])}) for row in tx.all("token_list")]


def drop_token(db: Database, name: str) -> None:
    with db.transaction() as tx:
        tx.run("token_drop", name=name)


def token_of(db: Database, secret: str) -> Token | None:
    with db.transaction() as tx:
        row = tx.one("token_find", token_hash=_digest(secret))
        if row is None:
            return None
        if row["touch"]:
            tx.run("token_touch", token_hash=_digest(secret))
    return Token(row["name"], frozenset(row["scopes"]))


def _digest(secret: str) -> bytes:
    # The secrets are 256 random bits: nothing to guess, so a fast hash is enough.
    return hashlib.sha256(secret.encode()).digest()


def _hash(password: str) -> str:
    if not SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD:
        raise Rejected(f"A password has {SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters.")
    with _turn():
        return _HASHER.hash(password)


def _verify(password_hash: str, password: str) -> bool:
    if len(password) > LONGEST_PASSWORD:
        return False
    with _turn(), contextlib.suppress(VerificationError, InvalidHashError):
        return _HASHER.verify(password_hash, password)
    return False


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    if not _AT_ONCE.acquire(timeout=5):
        raise Unavailable("Too many people sign in at this moment. Try again in a few seconds.")
    try:
        yield
    finally:
        _AT_ONCE.release()


def _readable_password() -> str:
    """Four groups that can be read aloud and typed on a tablet: 51 bits."""
    syllable = [consonant + vowel for consonant in "bdfghjkmnprstvwyz" for vowel in "aeiou"]
    return "-".join(secrets.choice(syllable) + secrets.choice(syllable) for _ in range(4))
