"""`edge snapshot`: save the whole appliance to one checked bundle beside its work or alone, and bring it back."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from edge.config import Data, Settings, words_file
from edge.db import Database
from edge.doors import child
from edge.doors.postgres import Postgres
from edge.errors import Rejected, Stop
from edge.roles.desk import read_card
from edge.roles.parts import open_vectors
from edge.roles.prepare import open_database
from edge.upkeep import snapshots
from edge.upkeep.snapshots import Manifest
from edge.vectors import VectorStore

__all__ = ["Manifest", "create", "restore", "verify"]

_log = logging.getLogger(__name__)

_STAGE = "restore.partial"
#: What an empty data directory may hold: it says nothing about any case.
_NOTHING = {"lock", "postgres.lock", "snapshot.lock", "lost+found", "models", "logs", _STAGE}


def create(settings: Settings, target: Path | None = None, *, settings_file: Path | None = None) -> Path:
    """Write a bundle and return its path. Without `target` it goes to `snapshot.dir`, where `snapshot.keep` stay.

    Works beside a running appliance and alone. Raises `Stop`, `Unavailable`, `Rejected` in words.
    """
    with _sources(settings) as (at, database, store):
        bundle = snapshots.write(
            at, database, at.database.dsn.get_secret_value(), store, target, settings_file=settings_file
        )
    if target is None:
        snapshots.rotate(settings)
    return bundle


def verify(bundle: Path) -> Manifest:
    """Check every byte of a bundle. Raises `Rejected` with what is wrong."""
    return snapshots.verify(bundle)


def restore(settings: Settings, bundle: Path) -> None:
    """Bring a bundle into an empty data directory, and into the database of `database.dsn` where one is set.

    Everything is prepared in `restore.partial` and moved in when it is whole. Raises `Rejected` for a bundle that is
    not whole, `Stop` where the directory or the database is not empty or there is no room.
    """
    manifest = snapshots.verify(bundle)
    snapshots.check_version(bundle, manifest)
    data = settings.data.dir
    _require_empty(data)
    child.make_folder(data, mode=_open_mode())
    with child.exclusive(data / "lock", lambda pid: f"{data} is in use by process {pid}. Set EDGE__DATA__DIR."):
        _require_empty(data)
        stage = data / _STAGE
        shutil.rmtree(stage, ignore_errors=True)
        child.make_folder(stage, mode=_open_mode())
        try:
            words = _restore(settings, stage, manifest, bundle)
            with _moving(data):
                # The truth first: an appliance that has it rebuilds its index by itself, never the other way round.
                for name in ("postgres", words_file(settings).name, "vectors"):
                    if (stage / name).exists():
                        (stage / name).rename(data / name)
                        _sync(data)
                (stage / "bundle" / "settings.toml").rename(data / "restored-settings.toml")
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    if words:
        _log.warning("The index was not restored. %s", words)


def _restore(settings: Settings, stage: Path, manifest: Manifest, bundle: Path) -> str:
    snapshots.unpack(bundle, manifest, stage / "bundle")
    staged = settings.model_copy(update={"data": Data(dir=stage)})
    taught = stage / "bundle" / words_file(staged).name
    if taught.is_file():
        # The model is another one with them, so they must be there before its fingerprint is asked for.
        taught.rename(words_file(staged))
    with contextlib.ExitStack() as stack:
        dsn = settings.database.dsn.get_secret_value()
        if not dsn:
            dsn = stack.enter_context(Postgres(staged))
        database = stack.enter_context(open_database(settings.with_dsn(dsn), name="restore", migrated=False))
        snapshots.load_database(database, dsn, manifest, stage / "bundle", stage)
        return snapshots.load_vectors(
            settings,
            database,
            manifest,
            stage / "bundle",
            target=stage / "vectors",
            fingerprint=snapshots.fingerprint_here(staged if words_file(staged).is_file() else settings),
        )


@contextlib.contextmanager
def _sources(settings: Settings) -> Iterator[tuple[Settings, Database, VectorStore | None]]:
    """The settings that reach the stores, and both stores: the running appliance's, or opened for us alone."""
    data = settings.data.dir
    with contextlib.ExitStack() as stack:
        card = read_card(settings)
        if card is not None:
            vectors = settings.vectors.model_copy(update={"url": card["vectors"]})
            settings = settings.with_dsn(card["dsn"]).model_copy(update={"vectors": vectors})
        elif not settings.database.dsn.get_secret_value():
            if not (data / "postgres").is_dir():
                raise Stop(f"There is no appliance in {data}, so there is nothing to save. Set EDGE__DATA__DIR.")
            stack.enter_context(
                child.exclusive(
                    data / "lock",
                    lambda pid: f"An appliance is starting or stopping on {data} (process {pid}). Try again.",
                )
            )
            settings = settings.with_dsn(stack.enter_context(Postgres(settings)))
        # Not migrated on purpose: the moment before an update is when people want a bundle.
        database = stack.enter_context(open_database(settings, name="snapshot", migrated=False))
        kept = bool(settings.vectors.url) or (data / "vectors").is_dir()
        yield settings, database, stack.enter_context(open_vectors(settings)) if kept else None


def _require_empty(data: Path) -> None:
    try:
        found = sorted({entry.name for entry in data.iterdir()} - _NOTHING) if data.exists() else []
    except OSError as error:
        raise Stop(child.unwritable(data, error)) from error
    if found:
        raise Rejected(
            f"{data} is not empty (it holds {found[0]}); a bundle is restored into an empty directory only. "
            "Set EDGE__DATA__DIR to a new one."
        )


def _open_mode() -> int:
    return 0o711 if os.geteuid() == 0 else 0o700


@contextlib.contextmanager
def _moving(data: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Stop(child.unwritable(data, error)) from error


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
