"""The embedded side: Qdrant's own engine in this process, one shard directory per version of a collection.

    <path>/lock                                  held while open: one process per directory
    <path>/CURRENT                               the generation in use; a restore writes a new one and switches here
    <path>/g1/active.json                        which version each collection's name answers with
    <path>/g1/<name>__<fingerprint>/collection.json
    <path>/g1/<name>__<fingerprint>/shard/       the engine's files, write-ahead log included; `shard-2` after an optimize
    <path>/g1/<name>__<fingerprint>/pending      points written since the last optimize

The library never releases the interpreter lock, so every call here is kept short: writes go in small batches and other
threads get their turn in between. `optimize`, which takes seconds per 10,000 points, therefore works on a copy in a
process of its own; what is written meanwhile is noted, written to the copy as well, and then the copy takes over.

A write is durable once the write-ahead log is on disk, so that is what a write waits for. The engine's own flush syncs
every file of the shard (measured at up to half a second with the interpreter lock held, against some milliseconds for
the log) and only shortens the replay at the next opening; it happens now and then.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import numpy as np
import qdrant_edge as engine

from edge.errors import EdgeError, Rejected, Stop, Unavailable
from edge.vectors.catalogue import Collection, Hnsw, PayloadIndex, physical_name, split_physical
from edge.vectors.model import (
    DEFAULT_QUANTIZE_ABOVE,
    HNSW_EF,
    MAX_WINDOW,
    TIE_SLACK,
    Closing,
    Condition,
    FacetCount,
    Filter,
    HasId,
    Hit,
    IsEmpty,
    Match,
    Point,
    Range,
    SearchRequest,
    SparseVector,
    Stats,
    TimeRange,
    Versions,
    check_fits,
    checked_facet,
    checked_ids,
    checked_names,
    checked_page,
    checked_payload,
    checked_points,
    checked_request,
    edge_is_tied,
    next_id,
    no_collection,
    not_built,
    ordered,
    other_fingerprint,
    oversampling,
    sorted_facet,
    still_active,
    window,
)

T = TypeVar("T")

_BATCH = 128
_ID_BATCH = 1000
_FLUSH_EVERY = 5_000
_COPY_CHUNK = 1 << 20
_PENDING_FILE = "pending"
_UNCHANGED = 3
_SNAPSHOT_FILE = "snapshot.json"
_SNAPSHOT_FORMAT = 1

_KINDS = {
    "keyword": engine.PayloadSchemaType.Keyword,
    "integer": engine.PayloadSchemaType.Integer,
    "float": engine.PayloadSchemaType.Float,
    "datetime": engine.PayloadSchemaType.Datetime,
    "bool": engine.PayloadSchemaType.Bool,
}

# The library raises bare Exceptions; these beginnings mark the ones that blame the input.
_BLAMES_INPUT = ("Vector dimension error", "Not existing vector name", "No appropriate index", "Wrong input", "Bad ")


class _Reopen(Exception):
    """The shard was closed by a restore or a drop between looking it up and using it."""


@contextmanager
def _translated(doing: str) -> Iterator[None]:
    try:
        yield
    except (EdgeError, _Reopen):
        raise
    except Exception as error:
        text = str(error)
        if text.startswith(_BLAMES_INPUT) or isinstance(error, (TypeError, ValueError)):
            raise Rejected(f"The vector engine refused {doing}: {text}.") from error
        raise Unavailable(f"The vector engine failed at {doing}: {text}.") from error
    except BaseException as error:
        # A panic of the Rust side is a BaseException; the shard it happened in cannot be trusted any more.
        if type(error).__name__ == "PanicException":
            raise Stop(
                f"The vector engine broke down at {doing}: {error}. Restart; if it repeats, restore a snapshot "
                "or delete the vector directory below data.dir and let it be rebuilt."
            ) from error
        raise


class _Shard:
    """One open version of a collection. `writing` orders writers and snapshots, `using` every single engine call."""

    def __init__(self, directory: Path, quantize_above: int | None) -> None:
        self.directory = directory
        self.collection, self.fingerprint, self.folder = _read_collection(directory)
        self.writing = threading.Lock()
        self.using = threading.Lock()
        self.quantized = False
        self.gone = False
        self._unflushed = 0
        # Ids written since a copy was taken, while one is being optimized.
        self._noted: set[str] | None = None
        self.pending = self._pending_at_copy = 0
        self._quantize_above = quantize_above
        self._edge: engine.EdgeShard | None = None
        self._load()

    def call(self, doing: str, function: Callable[[engine.EdgeShard], T]) -> T:
        with self.using, _translated(f"{doing} in {self.collection.name}"):
            if self._edge is None:
                raise _Reopen
            return function(self._edge)

    def write(
        self, doing: str, operation: engine.UpdateOperation, ids: Sequence[Any], *, vectors: bool = False
    ) -> None:
        """One operation into the log and the segments. Durable only after `sync`; `writing` is held for both."""
        if self._noted is not None:
            self._noted.update(ids)
        self.call(doing, partial(_update, operation))
        self._unflushed += len(ids)
        if vectors:
            self.pending += len(ids)

    def sync(self) -> None:
        """Returns once everything written is on disk. Other threads run while the disk does."""
        if self._unflushed >= _FLUSH_EVERY:
            self.flush()
            return
        log = self.directory / self.folder / "wal"
        with _disk(f"syncing {log}"):
            for entry in list(log.iterdir()):
                if not _in_the_making(entry.name):
                    _sync(entry, os.O_RDONLY)
            _sync_directory(log)

    def flush(self) -> None:
        self.call("flushing", _flush)
        self._unflushed = 0
        self._keep_pending()

    def _keep_pending(self) -> None:
        # Not synced: a count that is a little too small only makes the next optimize come a little later.
        with _disk(f"counting in {self.directory}"):
            (self.directory / _PENDING_FILE).write_text(str(self.pending), encoding="utf-8")

    def _load(self) -> engine.EdgeShard:
        path = str(self.directory / self.folder)
        try:
            with _translated(f"opening {self.directory.name}"):
                edge = engine.EdgeShard.load(path, _config(self.collection, quantized=False))
                info = edge.info()
                if self._quantize_above is not None and info.points_count > self._quantize_above:
                    # A changed configuration can only be given while loading.
                    edge.close()
                    edge = engine.EdgeShard.load(path, _config(self.collection, quantized=True))
                    self.quantized = True
                try:
                    self.pending = int((self.directory / _PENDING_FILE).read_text(encoding="utf-8"))
                except (OSError, ValueError):
                    # Unknown, and the engine's own count of indexed vectors includes the sparse and the deleted ones.
                    self.pending = info.points_count
        except Unavailable as error:
            if "WouldBlock" in str(error):
                raise
            raise Stop(
                f"The vector files in {self.directory} cannot be read ({error}) Restore a snapshot, or delete that "
                "directory and let the index be rebuilt from the database."
            ) from error
        self._edge = edge
        return edge

    def due(self) -> bool:
        """Whether an optimize would find something to do: a graph to be built, or vectors to be quantized."""
        points = self.call("looking", lambda edge: int(edge.info().points_count))
        kilobytes = self.pending * self.collection.dimension * 4 // 1024
        return kilobytes > self.collection.hnsw.indexing_threshold or self._wants_quantized(points) > self.quantized

    def _wants_quantized(self, points: int) -> bool:
        return self._quantize_above is not None and points > self._quantize_above

    def begin_copy(self) -> tuple[Path, bool]:
        """A copy of the files as they are now, and whether it is to be quantized. From here on every write is noted."""
        with self.writing:
            if self.gone:
                raise _Reopen
            self.flush()
            number = int(self.folder.partition("-")[2] or 1) + 1
            copy = self.directory / f"shard-{number}"
            with _disk(f"copying {self.directory / self.folder}"):
                shutil.rmtree(copy, ignore_errors=True)
                # Searches go on meanwhile: only writers change the files, and they wait.
                _copy_tree(self.directory / self.folder, copy, "", {}, sync=False)
            self._noted = set()
            self._pending_at_copy = self.pending
            points = self.call("looking", lambda edge: int(edge.info().points_count))
            return copy, self._wants_quantized(points) or self.quantized

    def end_copy(self, copy: Path) -> None:
        """The copy is not wanted, or has taken over."""
        with self.writing:
            self._noted = None
        if copy.name != self.folder:
            shutil.rmtree(copy, ignore_errors=True)

    def take_over(self, copy: Path, *, quantized: bool) -> bool:
        """Bring the optimized copy up to date and answer from it. False where this shard was replaced meanwhile."""
        with _disk(f"syncing {copy}"):
            _sync_tree(copy)
        fresh: engine.EdgeShard | None
        with _translated(f"opening {copy}"):
            fresh = engine.EdgeShard.load(str(copy), _config(self.collection, quantized=quantized))
        try:
            known = set(fresh.info().payload_schema)
            _add_indexes(fresh, [index for index in self.collection.indexes if index.key not in known])
            while True:
                with self.writing:
                    if self.gone or self._noted is None:
                        return False
                    late, self._noted = sorted(self._noted), set()
                    if len(late) <= _BATCH:
                        self._replay(late, fresh)
                        fresh.flush()
                        with _disk(f"switching {self.directory}"):
                            _write_collection(self.directory, self.collection, self.fingerprint, copy.name)
                        former = self.directory / self.folder
                        with self.using:
                            old, self._edge, fresh = self._edge, fresh, None
                            self.folder, self.quantized = copy.name, quantized
                        self.pending = max(0, self.pending - self._pending_at_copy)
                        self._unflushed = 0
                        self._keep_pending()
                        break
                self._replay(late, fresh)
            if old is not None:
                with _translated(f"closing {former}"):
                    old.close()
            shutil.rmtree(former, ignore_errors=True)
            return True
        finally:
            if fresh is not None:
                fresh.close()

    def _replay(self, ids: Sequence[str], fresh: engine.EdgeShard) -> None:
        """What these points are here, written to the copy."""
        for start in range(0, len(ids), _BATCH):
            part: list[Any] = list(ids[start : start + _BATCH])
            records = self.call("reading", partial(_retrieve, part, True, True))
            gone = set(part) - {str(record.id) for record in records}
            with _translated(f"writing the copy of {self.collection.name}"):
                if records:
                    points = [
                        engine.Point(str(record.id), record.vector or {}, record.payload or {}) for record in records
                    ]
                    fresh.update(engine.UpdateOperation.upsert_points(points))
                if gone:
                    fresh.update(engine.UpdateOperation.delete_points(list(gone)))

    def close(self) -> None:
        with self.using:
            self.gone = True
            if self._edge is not None:
                edge, self._edge = self._edge, None
                with _translated(f"closing {self.collection.name}"):
                    edge.flush()
                    edge.close()
                self._keep_pending()


class EmbeddedStore(Closing):
    """A VectorStore inside this process, in the directory `path` (created, mode 0700). Safe to share between threads.

    `quantize_above` is a number of points, None for never. Raises Unavailable when another process has it open.
    """

    def __init__(self, path: Path, *, quantize_above: int | None = DEFAULT_QUANTIZE_ABOVE) -> None:
        self._root = Path(path)
        self._quantize_above = quantize_above
        # `_changing` orders what adds, removes, copies or replaces versions and may be held for long; `_lock` guards
        # the look-up of a name and is held for moments. Taken in this order, and before any lock of a shard.
        self._changing = threading.RLock()
        self._lock = threading.RLock()
        self._optimizing = threading.Lock()
        self._stop_optimizing = threading.Event()
        self._active: dict[str, str] = {}
        self._shards: dict[str, _Shard] = {}
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._guard: int | None = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Stop(f"The vector directory {self._root} cannot be used ({error.strerror}); see data.dir.") from error
        try:
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._guard)
            self._guard = None
            raise Unavailable(
                f"The vector directory {self._root} is already open in another process, and only one may open it. "
                "Stop the other one, give this one its own data.dir, or let both reach a server through vectors.url."
            ) from error
        try:
            self._generation = self._recover()
            self._active = _read_active(self._generation)
        except BaseException:
            self.close()
            raise

    # --- versions ---------------------------------------------------------------------------------------------------

    def ensure(self, collection: Collection, *, fingerprint: str) -> str:
        physical_name(collection.name, fingerprint)
        with self._changing:
            active = self._active.get(collection.name)
            if active is not None and active != fingerprint:
                raise other_fingerprint(collection.name, active, fingerprint)
            physical = self.build_beside(collection, fingerprint=fingerprint)
            if active is None:
                self._activate(collection.name, fingerprint)
            return physical

    def build_beside(self, collection: Collection, *, fingerprint: str) -> str:
        physical = physical_name(collection.name, fingerprint)
        with self._changing:
            self._require_open()
            directory = self._generation / physical
            if not directory.exists():
                with _translated(f"creating {physical}"), _disk(f"creating {physical}"):
                    _create(directory, collection, fingerprint)
            shard = self._shard(physical)
            check_fits(shard.collection, collection)
            known = {index.key for index in shard.collection.indexes}
            missing = [index for index in collection.indexes if index.key not in known]
            if missing or shard.collection.hnsw != collection.hnsw:
                with shard.writing:
                    shard.call("adding indexes", lambda edge: _add_indexes(edge, missing))
                    shard.collection = Collection(
                        name=collection.name,
                        vectors=shard.collection.vectors,
                        indexes=shard.collection.indexes + tuple(missing),
                        dimension=shard.collection.dimension,
                        sparse=shard.collection.sparse,
                        hnsw=collection.hnsw,
                    )
                    with _disk(f"describing {physical}"):
                        _write_collection(directory, shard.collection, fingerprint, shard.folder)
        return physical

    def switch(self, name: str, *, fingerprint: str) -> None:
        with self._changing:
            if fingerprint not in self.versions(name).built:
                raise not_built(name, fingerprint)
            self._activate(name, fingerprint)

    def versions(self, name: str) -> Versions:
        with self._changing:
            self._require_open()
            with _disk("listing versions"):
                pairs = [split_physical(physical) for physical in self._physical_names()]
            built = sorted(fingerprint for logical, fingerprint in pairs if logical == name and fingerprint)
            return Versions(self._active.get(name), tuple(built))

    def drop(self, name: str, *, fingerprint: str) -> None:
        with self._changing:
            if self.versions(name).active == fingerprint:
                raise still_active(name, fingerprint)
            physical = physical_name(name, fingerprint)
            directory = self._generation / physical
            if not directory.exists():
                return
            with _disk(f"dropping {physical}"):
                # Renamed first: half a removal must not look like a version.
                doomed = directory.with_name(f".dropped-{physical}")
                shutil.rmtree(doomed, ignore_errors=True)
                with self._lock:
                    self._close_shard(physical)
                    directory.rename(doomed)
                # What an optimize still writes there is removed at the next opening.
                shutil.rmtree(doomed, ignore_errors=True)

    # --- writing ----------------------------------------------------------------------------------------------------

    def upsert(self, name: str, points: Sequence[Point]) -> None:
        with self._writing(name) as shard:
            checked = checked_points(points, shard.collection)
            if not checked:
                return
            for start in range(0, len(checked), _BATCH):
                batch = [_to_engine(point, shard.collection) for point in checked[start : start + _BATCH]]
                ids = [str(point.id) for point in checked[start : start + _BATCH]]
                shard.write("writing", engine.UpdateOperation.upsert_points(batch), ids, vectors=True)
            shard.sync()

    def delete(self, name: str, ids: Iterable[UUID]) -> None:
        wanted = checked_ids(ids)
        with self._writing(name) as shard:
            for part in _parts(wanted):
                shard.write("deleting", engine.UpdateOperation.delete_points(part), part)
            if wanted:
                shard.sync()

    def set_payload(self, name: str, ids: Iterable[UUID], payload: Mapping[str, Any]) -> list[UUID]:
        wanted = checked_ids(ids)
        values = checked_payload(payload, "The payload to set")
        present: set[UUID] = set()
        with self._writing(name) as shard:
            for part in _parts(wanted):
                # A missing id makes the engine raise after it has changed the others, so it never gets to see one.
                records = shard.call("reading", partial(_retrieve, part, False, False))
                existing: list[Any] = [str(record.id) for record in records]
                if existing and values:
                    operation = engine.UpdateOperation.set_payload(existing, values)
                    shard.write("writing", operation, existing)
                present.update(_uuid(record.id) for record in records)
            if present and values:
                shard.sync()
        return [each for each in wanted if each not in present]

    # --- reading ----------------------------------------------------------------------------------------------------

    def search(self, name: str, request: SearchRequest) -> list[Hit]:
        return self.search_many(name, [request])[0]

    def search_many(self, name: str, requests: Sequence[SearchRequest]) -> list[list[Hit]]:
        def read(shard: _Shard) -> list[list[Hit]]:
            checked = [checked_request(request, shard.collection) for request in requests]
            answers: list[list[Hit]] = [[] for _ in checked]
            pending = [(slot, request, TIE_SLACK) for slot, request in enumerate(checked) if _asks(request)]
            while pending:
                fetch = [min(request.offset + request.limit + slack, MAX_WINDOW) for _, request, slack in pending]
                queries = [
                    _query(request, limit, shard.quantized)
                    for (_, request, _), limit in zip(pending, fetch, strict=True)
                ]
                found = shard.call("searching", partial(_query_batch, engine.QueryBatchRequest(queries)))
                again = []
                for (slot, request, slack), limit, scored in zip(pending, fetch, found, strict=True):
                    hits = ordered(_hit(point, shard.collection, request.with_vectors) for point in scored)
                    if edge_is_tied(hits, request, limit):
                        again.append((slot, request, slack * 8))
                    answers[slot] = window(hits, request)
                pending = again
            return answers

        return self._reading(name, read)

    def get(self, name: str, ids: Iterable[UUID], *, with_vectors: bool | Sequence[str] = False) -> list[Point]:
        wanted = checked_ids(ids)

        def read(shard: _Shard) -> list[Point]:
            found: dict[UUID, Point] = {}
            named = checked_names(with_vectors, shard.collection)
            for part in _parts(wanted, _BATCH):
                for record in shard.call("reading", partial(_retrieve, part, isinstance(named, bool), named)):
                    dense, sparse = _vectors(record.vector if named else None, shard.collection)
                    identity = _uuid(record.id)
                    found[identity] = Point(identity, dense, sparse, record.payload or {})
            return [found[each] for each in wanted if each in found]

        return self._reading(name, read)

    def scroll_ids(self, name: str, after: UUID | None = None, limit: int = 1000) -> list[UUID]:
        checked_page(limit)
        start = next_id(after)
        if after is not None and start is None:
            return []
        request = engine.ScrollRequest(
            offset=None if start is None else str(start), limit=limit, with_payload=False, with_vector=False
        )
        records, _ = self._reading(name, lambda shard: shard.call("paging", lambda edge: edge.scroll(request)))
        return [_uuid(record.id) for record in records]

    def count(self, name: str, filter: Filter | None = None) -> int:
        with _translated("a filter"):
            request = engine.CountRequest(exact=True, filter=_filter(filter))
        return self._reading(name, lambda shard: shard.call("counting", lambda edge: int(edge.count(request))))

    def facet(self, name: str, key: str, filter: Filter | None = None, limit: int = 100) -> list[FacetCount]:
        def read(shard: _Shard) -> list[FacetCount]:
            checked_facet(key, limit, shard.collection)
            with _translated("a filter"):
                request = engine.FacetRequest(key=key, limit=limit, exact=True, filter=_filter(filter))
            answer = shard.call("counting values", lambda edge: edge.facet(request))
            return sorted_facet(FacetCount(hit.value, hit.count) for hit in answer.hits)

        return self._reading(name, read)

    def stats(self, name: str) -> Stats:
        def read(shard: _Shard) -> Stats:
            info = shard.call("looking", lambda edge: edge.info())
            points = shard.call("counting", lambda edge: int(edge.count(engine.CountRequest(exact=True))))
            return Stats(
                name=shard.collection.name,
                fingerprint=shard.fingerprint,
                dimension=shard.collection.dimension,
                points=points,
                indexed_vectors=info.indexed_vectors_count,
                segments=info.segments_count,
                quantized=shard.quantized,
            )

        return self._reading(name, read)

    def describe(self, name: str) -> tuple[Collection, str]:
        return self._reading(name, lambda shard: (shard.collection, shard.fingerprint))

    # --- upkeep -----------------------------------------------------------------------------------------------------

    def optimize(self, name: str) -> bool:
        with self._optimizing:
            shard = self._shard(name)
            try:
                if not shard.due():
                    return False
                copy, quantized = shard.begin_copy()
            except _Reopen:
                return False
            try:
                changed = self._optimize_copy(copy, quantized, shard.collection.name)
                return (changed or quantized != shard.quantized) and shard.take_over(copy, quantized=quantized)
            except _Reopen:
                return False
            finally:
                shard.end_copy(copy)

    def stop_optimizing(self) -> None:
        """Give up an optimize that runs; what it has done so far is thrown away."""
        self._stop_optimizing.set()

    def snapshot(self, target: Path) -> None:
        target = Path(target)
        if target.exists():
            raise Rejected(f"There is already something at {target}; a snapshot goes into a new directory.")
        aside = target.with_name(f".{target.name}.partial")
        with self._changing, _disk(f"the snapshot to {target}"):
            self._require_open()
            shutil.rmtree(aside, ignore_errors=True)
            aside.mkdir(mode=0o700, parents=True)
            files: dict[str, list[int]] = {}
            active = dict(self._active)
            for physical in self._physical_names():
                with self._writing(physical) as shard:
                    shard.flush()
                    # Searches go on meanwhile: only writers change the files, and they wait.
                    _copy_version(shard, aside / physical, physical, files)
            _write_json(aside / "active.json", active)
            _write_json(aside / _SNAPSHOT_FILE, {"format": _SNAPSHOT_FORMAT, "active": active, "files": files})
            _sync_directory(aside)
            aside.rename(target)
            _sync_directory(target.parent)

    def restore(self, source: Path) -> None:
        source = Path(source)
        manifest = _read_manifest(source)
        with self._changing, _disk(f"restoring {source}"):
            self._require_open()
            number = int(self._generation.name[1:]) + 1
            fresh = self._root / f"g{number}"
            shutil.rmtree(fresh, ignore_errors=True)
            try:
                self._fill(fresh, source, manifest)
            except BaseException:
                shutil.rmtree(fresh, ignore_errors=True)
                raise
            former = self._generation
            with self._lock:
                for physical in list(self._shards):
                    self._close_shard(physical)
                _write_text(self._root / "CURRENT", fresh.name)
                self._generation, self._active = fresh, dict(manifest["active"])
            shutil.rmtree(former, ignore_errors=True)

    def close(self) -> None:
        self.stop_optimizing()
        with self._changing, self._lock:
            if self._guard is None:
                return
            try:
                for physical in list(self._shards):
                    self._close_shard(physical)
            finally:
                os.close(self._guard)
                self._guard = None

    # --- inside -----------------------------------------------------------------------------------------------------

    def _optimize_copy(self, copy: Path, quantized: bool, name: str) -> bool:
        """Runs the engine's optimizer over the copied files in a process of its own, at low priority."""
        command = [sys.executable, "-m", "edge.vectors.optimizing", str(copy), "quantized" if quantized else "plain"]
        with subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as child:
            try:
                while child.poll() is None:
                    if self._stop_optimizing.wait(0.1):
                        raise Unavailable(f"Optimizing {name} was given up: the vector store is closing.")
            finally:
                child.kill()
            said = child.stdout.read().decode(errors="replace").strip() if child.stdout else ""
        if child.returncode not in (0, _UNCHANGED):
            reason = said.splitlines()[-1] if said else f"status {child.returncode}"
            raise Unavailable(f"Optimizing {name} failed ({reason}). The index stays as it was, and searches go on.")
        return child.returncode == 0

    def _require_open(self) -> None:
        if self._guard is None:
            raise Unavailable("The vector store is closed.")

    def _recover(self) -> Path:
        """The generation in use, made on first use; leftovers of an interrupted restore or drop are removed."""
        with _disk(f"opening {self._root}"):
            current = self._root / "CURRENT"
            if not current.exists():
                (self._root / "g1").mkdir(mode=0o700, exist_ok=True)
                _write_text(current, "g1")
            generation = self._root / current.read_text(encoding="utf-8").strip()
            if not generation.is_dir():
                raise Stop(
                    f"{current} names {generation.name}, which is not there. Restore the whole directory from a "
                    "backup, or delete it and let the index be rebuilt from the database."
                )
            for entry in self._root.iterdir():
                if entry.is_dir() and entry.name[0] == "g" and entry.name[1:].isdigit() and entry != generation:
                    shutil.rmtree(entry, ignore_errors=True)
            for entry in generation.iterdir():
                if entry.is_dir() and entry.name.startswith("."):
                    shutil.rmtree(entry, ignore_errors=True)
                elif entry.is_dir() and (entry / "collection.json").exists():
                    # What cannot be read is left alone; whoever opens it is told.
                    with contextlib.suppress(Stop):
                        folder = _read_collection(entry)[2]
                        for half in entry.glob("shard*"):
                            if half.name != folder:
                                shutil.rmtree(half, ignore_errors=True)
            return generation

    def _fill(self, fresh: Path, source: Path, manifest: Mapping[str, Any]) -> None:
        fresh.mkdir(mode=0o700)
        _copy_listed(source, fresh, manifest["files"])
        _write_json(fresh / "active.json", manifest["active"])
        for entry in sorted(fresh.iterdir()):
            if entry.is_dir():
                # Opened once before the switch: a snapshot the engine cannot read must not replace one it can.
                try:
                    _Shard(entry, None).close()
                except Stop as error:
                    raise Rejected(f"The snapshot {source} cannot be opened: {error}") from error
        _sync_directory(fresh)

    def _physical_names(self) -> list[str]:
        return sorted(
            entry.name for entry in self._generation.iterdir() if entry.is_dir() and not entry.name.startswith(".")
        )

    def _activate(self, name: str, fingerprint: str) -> None:
        with _disk(f"switching {name}"):
            active = {**self._active, name: fingerprint}
            _write_json(self._generation / "active.json", active)
            self._active = active

    def _close_shard(self, physical: str) -> None:
        shard = self._shards.pop(physical, None)
        if shard is not None:
            with shard.writing:
                shard.close()

    def _shard(self, name: str) -> _Shard:
        with self._lock:
            self._require_open()
            logical, fingerprint = split_physical(name)
            if fingerprint is None:
                fingerprint = self._active.get(logical)
                if fingerprint is None:
                    raise no_collection(name)
            physical = physical_name(logical, fingerprint)
            shard = self._shards.get(physical)
            if shard is None or shard.gone:
                directory = self._generation / physical
                if not directory.is_dir():
                    raise no_collection(name)
                shard = self._shards[physical] = _Shard(directory, self._quantize_above)
            return shard

    def _reading(self, name: str, read: Callable[[_Shard], T]) -> T:
        while True:
            try:
                return read(self._shard(name))
            except _Reopen:
                continue

    @contextmanager
    def _writing(self, name: str) -> Iterator[_Shard]:
        while True:
            shard = self._shard(name)
            shard.writing.acquire()
            if not shard.gone:
                break
            shard.writing.release()
        try:
            yield shard
        finally:
            shard.writing.release()


# --- our types to the engine's and back -----------------------------------------------------------------------------


def _config(collection: Collection, *, quantized: bool, threads: int = 1) -> engine.EdgeConfig:
    hnsw = collection.hnsw
    return engine.EdgeConfig(
        vectors={
            name: engine.EdgeVectorParams(size=collection.dimension, distance=engine.Distance.Cosine)
            for name in collection.vectors
        },
        sparse_vectors={collection.sparse: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf)},
        hnsw_config=engine.HnswIndexConfig(
            m=hnsw.m,
            ef_construct=hnsw.ef_construct,
            full_scan_threshold=hnsw.full_scan_threshold,
            max_indexing_threads=threads,
        ),
        quantization_config=engine.ScalarQuantizationConfig(
            type=engine.ScalarType.Int8, quantile=0.99, memory=engine.Memory.Pinned
        )
        if quantized
        else None,
        optimizers=engine.EdgeOptimizersConfig(indexing_threshold=hnsw.indexing_threshold, default_segment_number=1),
        max_search_threads=1,
    )


def _add_indexes(edge: engine.EdgeShard, indexes: Iterable[PayloadIndex]) -> None:
    for index in indexes:
        schema: Any = engine.KeywordIndexParams(is_tenant=True) if index.tenant else _KINDS[index.kind]
        edge.update(engine.UpdateOperation.create_field_index(index.key, schema))
    edge.flush()


def _to_engine(point: Point, collection: Collection) -> engine.Point:
    vectors: dict[str, Any] = dict(point.vectors)
    if point.sparse is not None:
        vectors[collection.sparse] = _sparse(point.sparse)
    return engine.Point(str(point.id), vectors, dict(point.payload))


def _sparse(vector: SparseVector) -> engine.SparseVector:
    return engine.SparseVector(vector.indices.tolist(), vector.values.tolist())


def _update(operation: engine.UpdateOperation, edge: engine.EdgeShard) -> None:
    edge.update(operation)


def _query_batch(queries: engine.QueryBatchRequest, edge: engine.EdgeShard) -> list[list[engine.ScoredPoint]]:
    return edge.query_batch(queries)


def _retrieve(ids: list[Any], payload: bool, vectors: bool | list[str], edge: engine.EdgeShard) -> list[engine.Record]:
    return edge.retrieve(ids, payload, vectors)


def _flush(edge: engine.EdgeShard) -> None:
    edge.flush()


def _parts(ids: Sequence[UUID], size: int = _ID_BATCH) -> Iterator[list[Any]]:
    for start in range(0, len(ids), size):
        yield [str(each) for each in ids[start : start + size]]


def _asks(request: SearchRequest) -> bool:
    # An empty sparse query shares no term with anything; the engine would call it malformed.
    return not (isinstance(request.vector, SparseVector) and len(request.vector) == 0)


def _query(request: SearchRequest, limit: int, quantized: bool) -> engine.QueryRequest:
    vector: Any = _sparse(request.vector) if isinstance(request.vector, SparseVector) else request.vector
    if request.exact:
        params = engine.SearchParams(exact=True, quantization=engine.QuantizationSearchParams(ignore=True))
    else:
        again = engine.QuantizationSearchParams(rescore=True, oversampling=oversampling(limit)) if quantized else None
        params = engine.SearchParams(hnsw_ef=HNSW_EF, quantization=again)
    with _translated("a search request"):
        return engine.QueryRequest(
            query=engine.Query.Nearest(vector, using=request.using),
            filter=_filter(request.filter),
            limit=limit,
            score_threshold=request.score_threshold,
            params=params,
            with_payload=True if request.fields is None else list(request.fields) or False,
            with_vector=request.with_vectors,
        )


def _filter(filter: Filter | None) -> engine.Filter | None:
    if filter is None:
        return None
    return engine.Filter(
        must=[_condition(each) for each in filter.must] or None,
        should=[_condition(each) for each in filter.should] or None,
        must_not=[_condition(each) for each in filter.must_not] or None,
    )


def _condition(condition: Condition) -> Any:
    match condition:
        case Filter():
            return _filter(condition)
        case Match(key, any_of):
            kinds: list[Any] = []
            texts = [value for value in any_of if isinstance(value, str)]
            numbers = [value for value in any_of if isinstance(value, int) and not isinstance(value, bool)]
            if texts:
                kinds.append(engine.FieldCondition(key=key, match=engine.MatchAny(texts)))
            if numbers:
                kinds.append(engine.FieldCondition(key=key, match=engine.MatchAny(numbers)))
            for flag in {value for value in any_of if isinstance(value, bool)}:
                # The library takes Python's own True for the integer 1 and then matches nothing; NumPy's it understands.
                wrapped: Any = np.bool_(flag)
                kinds.append(engine.FieldCondition(key=key, match=engine.MatchValue(wrapped)))
            if not kinds:
                return engine.HasIdCondition(set())
            return kinds[0] if len(kinds) == 1 else engine.Filter(should=kinds)
        case Range(key, gt, gte, lt, lte):
            return engine.FieldCondition(key=key, range=engine.RangeFloat(gte=gte, gt=gt, lte=lte, lt=lt))
        case TimeRange(key, gt, gte, lt, lte):
            return engine.FieldCondition(
                key=key,
                range=engine.RangeDateTime(gte=_moment(gte), gt=_moment(gt), lte=_moment(lte), lt=_moment(lt)),
            )
        case HasId(ids):
            return engine.HasIdCondition(set(ids))
        case IsEmpty(key):
            return engine.IsEmptyCondition(key)


def _moment(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))


def _vectors(found: Any, collection: Collection) -> tuple[dict[str, Any], SparseVector | None]:
    dense: dict[str, Any] = {}
    sparse: SparseVector | None = None
    for name, value in (found or {}).items():
        if name == collection.sparse:
            sparse = SparseVector.stored(value.indices, value.values)
        else:
            dense[name] = np.asarray(value, dtype=np.float32)
    return dense, sparse


def _hit(scored: engine.ScoredPoint, collection: Collection, with_vectors: bool) -> Hit:
    vectors = _vectors(scored.vector, collection)[0] if with_vectors else None
    return Hit(_uuid(scored.id), float(scored.score), scored.payload or {}, vectors)


# --- files ----------------------------------------------------------------------------------------------------------


@contextmanager
def _disk(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise Unavailable(f"The disk failed at {doing}: {error.strerror or error} ({error.filename}).") from error


def _create(directory: Path, collection: Collection, fingerprint: str) -> None:
    """Builds the shard aside and renames it, so that a kill in between leaves nothing that looks finished."""
    aside = directory.with_name(f".new-{directory.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(mode=0o700)
    # The engine's own files inherit the umask; the 0700 directory above them keeps others out.
    edge = engine.EdgeShard.create(str(aside / "shard"), _config(collection, quantized=False))
    _add_indexes(edge, collection.indexes)
    edge.close()
    _write_collection(aside, collection, fingerprint, "shard")
    aside.rename(directory)
    _sync_directory(directory.parent)


def _write_collection(directory: Path, collection: Collection, fingerprint: str, folder: str) -> None:
    described = {"fingerprint": fingerprint, "collection": asdict(collection), "folder": folder}
    _write_json(directory / "collection.json", described)


def _read_collection(directory: Path) -> tuple[Collection, str, str]:
    path = directory / "collection.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        described = found["collection"]
        collection = Collection(
            name=described["name"],
            vectors=tuple(described["vectors"]),
            indexes=tuple(PayloadIndex(**index) for index in described["indexes"]),
            dimension=int(described["dimension"]),
            sparse=described["sparse"],
            hnsw=Hnsw(**described["hnsw"]),
        )
        folder = str(found.get("folder", "shard"))
        if Path(folder).name != folder or not folder.startswith("shard"):
            raise ValueError(f"the folder {folder!r} is none of ours")
        return collection, str(found["fingerprint"]), folder
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Stop(
            f"{path} cannot be read ({error}). Restore a snapshot, or delete {directory} and let it be rebuilt."
        ) from error


def _read_active(generation: Path) -> dict[str, str]:
    path = generation / "active.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        return {str(name): str(fingerprint) for name, fingerprint in found.items()}
    except (OSError, ValueError, AttributeError) as error:
        raise Stop(f"{path} cannot be read ({error}). Restore a snapshot, or delete {generation.parent}.") from error


def _read_manifest(source: Path) -> Mapping[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((source / _SNAPSHOT_FILE).read_text(encoding="utf-8"))
        if manifest["format"] != _SNAPSHOT_FORMAT:
            raise Rejected(f"The snapshot {source} has format {manifest['format']}, not {_SNAPSHOT_FORMAT}.")
        if not all(not Path(name).is_absolute() and ".." not in Path(name).parts for name in manifest["files"]):
            raise Rejected(f"The snapshot {source} names files outside itself.")
        return {"active": dict(manifest["active"]), "files": dict(manifest["files"])}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{source} is no complete snapshot ({error}).") from error


def _copy_version(shard: _Shard, target: Path, prefix: str, files: dict[str, list[int]]) -> None:
    """What belongs to a version, without the copy that is perhaps being optimized."""
    target.mkdir(mode=0o700)
    for name in ("collection.json", _PENDING_FILE):
        files[f"{prefix}/{name}"] = list(_copy(shard.directory / name, target / name))
    _copy_tree(shard.directory / shard.folder, target / shard.folder, f"{prefix}/{shard.folder}", files)
    _sync_directory(target)


def _copy_tree(source: Path, target: Path, prefix: str, files: dict[str, list[int]], *, sync: bool = True) -> None:
    for folder, folders, names in os.walk(source):
        relative = Path(folder).relative_to(source)
        (target / relative).mkdir(mode=0o700, parents=True, exist_ok=True)
        folders.sort()
        for name in sorted(name for name in names if not _in_the_making(name)):
            copied = _copy(Path(folder, name), target / relative / name, sync=sync)
            files[str(Path(prefix) / relative / name)] = list(copied)
        if sync:
            _sync_directory(target / relative)


def _copy_listed(source: Path, target: Path, files: Mapping[str, Sequence[int]]) -> None:
    for name, (size, checksum) in files.items():
        destination = target / name
        destination.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            found = _copy(source / name, destination)
        except FileNotFoundError as error:
            raise Rejected(f"The snapshot {source} lacks {name}; nothing was changed.") from error
        if found != (size, checksum):
            raise Rejected(f"The snapshot {source} is damaged at {name}; nothing was changed.")


def _copy(source: Path, target: Path, *, sync: bool = True) -> tuple[int, int]:
    """Copies one file to disk, keeping its holes; returns (bytes, CRC-32). The engine preallocates files generously."""
    size = checksum = 0
    with source.open("rb") as reading, target.open("wb") as writing:
        while chunk := reading.read(_COPY_CHUNK):
            size += len(chunk)
            checksum = zlib.crc32(chunk, checksum)
            if chunk.count(0) == len(chunk):
                writing.seek(len(chunk), os.SEEK_CUR)
            else:
                writing.write(chunk)
        writing.truncate(size)
        if sync:
            writing.flush()
            os.fsync(writing.fileno())
    return size, checksum


def _write_json(path: Path, value: object) -> None:
    _write_text(path, json.dumps(value, indent=1, sort_keys=True))


def _write_text(path: Path, text: str) -> None:
    """Replaces the file whole: a reader, or a power cut, sees the old text or the new one."""
    aside = path.with_name(f"{path.name}.new")
    with aside.open("w", encoding="utf-8") as writing:
        writing.write(text)
        writing.flush()
        os.fsync(writing.fileno())
    aside.rename(path)
    _sync_directory(path.parent)


def _in_the_making(name: str) -> bool:
    """A segment of the log that a thread of the engine prepares: empty, and renamed when it is whole."""
    return name.startswith("tmp-")


def _sync_tree(path: Path) -> None:
    for folder, _folders, names in os.walk(path):
        for name in names:
            if not _in_the_making(name):
                _sync(Path(folder, name), os.O_RDONLY)
        _sync_directory(Path(folder))


def _sync_directory(path: Path) -> None:
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    handle = os.open(path, flags)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
