"""Builds the parts of a role from the settings. The only place that knows which side of a door is behind it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from edge.cases import Casebook
from edge.config import Settings, model_folders, words_file
from edge.db import Database
from edge.embedding import Encoder, Speed, chosen_export, ensure_built, measure_speed, use_words
from edge.embedding.encoder import fingerprint_of
from edge.embedding.manifest import read_manifest
from edge.embedding.runtime import Provider
from edge.errors import Stop
from edge.indexing import Indexer
from edge.indexing.versions import serving_fingerprint
from edge.roles.prepare import open_database
from edge.search import Matcher, SearchEngine
from edge.vectors import VectorStore, open_store

Progress = Callable[[str], None]

#: Seconds between two looks at which index serves.
FOLLOW = 2.0

_log = logging.getLogger(__name__)


def open_encoder(settings: Settings, progress: Progress | None = None, model: str | None = None) -> Encoder:
    """A model by name, that of the settings by default; built first if it is the starter and not there yet.

    Raises `Stop`.
    """
    folder, built = model_folders(settings)
    chosen = settings.encoder
    place = ensure_built(
        folder,
        model or chosen.model,
        progress,
        built_dir=built,
        words_file=words_file(settings),
        provider=chosen.provider,
    )
    return opened(settings, place, chosen.provider)


def opened(settings: Settings, folder: Path, provider: Provider | None = None) -> Encoder:
    """The model in `folder`, run as the settings say. Raises `Stop`.

    A provider that is named is meant for the model that is named with it: another one, whose index still serves, runs
    where it can.
    """
    chosen = settings.encoder
    if provider is None:
        with contextlib.suppress(Stop):
            provider = chosen.provider if model_folder(settings).resolve() == folder.resolve() else "auto"
    return Encoder.open(
        folder,
        provider=provider or "auto",
        threads=chosen.threads,
        parallel=chosen.parallel,
        cache_texts=chosen.cache_texts,
        gpu_memory_mb=chosen.gpu_memory_mb,
        engines=settings.data.dir / "engines",
    )


def bench(settings: Settings, name: str | None, seconds: float) -> Speed:
    """Measure a model by name, that of the settings by default, with the settings of the encoder but no cache."""
    folder, built = model_folders(settings)
    chosen = settings.encoder.model_copy(update={"cache_texts": 0})
    place = ensure_built(
        folder, name or chosen.model, built_dir=built, words_file=words_file(settings), provider=chosen.provider
    )
    unkept = settings.model_copy(update={"encoder": chosen})
    return measure_speed(
        lambda: open_encoder(unkept, model=name), place / "model.onnx", threads=chosen.threads, seconds=seconds
    )


def model_folder(settings: Settings, named: str | None = None) -> Path:
    """The folder of a model: `named` is a directory or a name among the models, by default that of the settings."""
    folder, built = model_folders(settings)
    name = named or settings.encoder.model
    if name == "starter":
        return ensure_built(folder, built_dir=built, words_file=words_file(settings))
    place = Path(name) if (Path(name) / "manifest.toml").is_file() else folder / name
    return chosen_export(place, settings.encoder.provider)


def open_vectors(settings: Settings) -> VectorStore:
    """The index: embedded in this process, shared by another over a socket, or a server. Raises `Unavailable`."""
    vectors = settings.vectors
    quantize_above = vectors.quantize_above or None
    if vectors.url.startswith("unix:"):
        return open_store(socket_path=Path(vectors.url.removeprefix("unix:")), timeout_s=vectors.timeout)
    if vectors.url:
        return open_store(
            url=vectors.url,
            api_key=vectors.api_key.get_secret_value() or None,
            prefer_grpc=vectors.grpc,
            timeout_s=vectors.timeout,
            quantize_above=quantize_above,
        )
    return open_store(path=settings.data.dir / "vectors", quantize_above=quantize_above)


def find_model(settings: Settings, fingerprint: str) -> Path | None:
    """The folder of the model with this fingerprint among those on this machine, whichever the settings name."""
    folder, built = model_folders(settings)
    # Words taught since make another index of the same model; then the settings' model is built with them.
    use_words(words_file(settings))
    # A model lies in a folder of its own, or one folder deeper, where it was exported for several providers.
    named = sorted(place for depth in ("*", "*/*") for place in folder.glob(depth) if place.is_dir())
    places = [built or folder / "starter" / "built", *named]
    for place in places:
        with contextlib.suppress(Stop):
            if fingerprint_of(read_manifest(place)) == fingerprint:
                return place
    return None


@dataclass(frozen=True)
class _Serving:
    """What belongs to one encoder and is exchanged as a whole: no search may mix two of them."""

    encoder: Encoder
    engine: SearchEngine
    indexer: Indexer


class _LiveEngine:
    """Hands each call to the engine that serves at that moment; a call once begun keeps its own."""

    def __init__(self, current: Callable[[], SearchEngine]) -> None:
        self._current = current

    def __getattr__(self, name: str) -> Any:
        return getattr(self._current(), name)


class Parts:
    """What worker, web and the stand-alone commands share.

    The encoder is the one whose index serves, as long as its model is on this machine; `follow` changes over when
    another index was switched to. Where the model is gone, that of the settings answers from what it has indexed so far.
    """

    def __init__(self, settings: Settings, database: Database, store: VectorStore) -> None:
        self.settings = settings
        self.database = database
        self.store = store
        self.casebook = Casebook(database)
        self._lacking: str | None = None
        found = self._serving_model()
        self._now = self._with(opened(settings, found) if found else open_encoder(settings))

    @property
    def encoder(self) -> Encoder:
        return self._now.encoder

    @property
    def indexer(self) -> Indexer:
        return self._now.indexer

    @property
    def engine(self) -> SearchEngine:
        """The engine that serves, also after a change-over."""
        return cast(SearchEngine, _LiveEngine(lambda: self._now.engine))

    @property
    def matcher(self) -> Matcher:
        return Matcher(
            self.database,
            self.casebook,
            self.engine,
            limit=self.settings.search.matches_per_case,
            days=self.settings.search.return_days,
        )

    def follow(self) -> bool:
        """Change over to the index that serves now. True when it is another than before."""
        found = self._serving_model(self.encoder.fingerprint)
        if found is None:
            return False
        self._now = self._with(opened(self.settings, found))
        _log.warning("The model %s (%s) answers from now on.", self.encoder.name, self.encoder.fingerprint)
        return True

    def close(self) -> None:
        self.store.close()
        self.database.close()

    def _serving_model(self, known: str | None = None) -> Path | None:
        """Where the model lies whose index serves; None when that is `known`, or not on this machine, or there is none."""
        fingerprint = serving_fingerprint(self.database, self.store)
        if fingerprint is None or fingerprint == known:
            return None
        found = find_model(self.settings, fingerprint)
        if found is None and fingerprint != self._lacking:
            self._lacking = fingerprint
            _log.warning(
                "The index was built by the model %s, which is not on this machine any more. The model of encoder.model "
                "answers from what it has indexed so far, until everything is.",
                fingerprint,
            )
        return found

    def _with(self, encoder: Encoder) -> _Serving:
        engine = SearchEngine(self.casebook, self.store, encoder, self.settings.search)
        return _Serving(encoder, engine, Indexer(self.database, self.store, encoder))


def open_parts(settings: Settings, *, name: str) -> Parts:
    database = open_database(settings, name=name)
    return Parts(settings, database, open_vectors(settings))
