"""The encoder: texts in, unit vectors out, the same for a text alone, in a batch, or from the cache."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Lock

import numpy as np
import numpy.typing as npt

from edge.embedding.batches import Batches
from edge.embedding.kinds import Kinds, unit
from edge.embedding.lexical import LEXICAL
from edge.embedding.lexicon import SEGMENTATION, taken_up
from edge.embedding.manifest import Floats, Manifest, golden_mismatch, read_manifest, verify_files
from edge.embedding.runtime import Provider, Runtime, RuntimeOptions, integer_product
from edge.embedding.text import NORMALISATION, normalise
from edge.embedding.tokens import TokenIds, Tokens, open_tokens
from edge.errors import Stop

__all__ = ["DIMENSION", "TEXT_RULE", "Encoder", "EncoderStats", "fingerprint_of", "spread"]

DIMENSION = 768
TEXT_RULE = "symptom, cause and fix apart; one short text each"
_GOLDEN_COSINE = 0.999

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncoderStats:
    """Counted since the encoder was opened. `unknown_tokens / tokens` is the share of words the model does not know.

    `fallbacks`: how often a GPU failed and the CPU took over. `splits`: batches halved for want of memory. `waiting`:
    texts no batch has taken up yet. `seconds`: spent in inference, over all threads.
    """

    texts: int = 0
    cache_hits: int = 0
    tokens: int = 0
    unknown_tokens: int = 0
    truncated_texts: int = 0
    truncated_tokens: int = 0
    batches: int = 0
    seconds: float = 0.0
    fallbacks: int = 0
    splits: int = 0
    waiting: int = 0


_COUNTED = ("texts", "cache_hits", "tokens", "unknown_tokens", "truncated_texts", "truncated_tokens")


class Encoder:
    """One embedding model, verified and ready. Safe to share between threads; open it once per process."""

    def __init__(
        self,
        runtime: Runtime,
        tokens: Tokens,
        manifest: Manifest,
        *,
        kinds: Kinds | None = None,
        parallel: int = 1,
        cache_texts: int = 4096,
    ) -> None:
        """Use `Encoder.open`, which verifies."""
        self._runtime = runtime
        self._batches = Batches(runtime, parallel)
        self._tokens = tokens
        self._spread = manifest.spread
        self._kinds = kinds
        self._cache: OrderedDict[str, Floats] = OrderedDict()
        self._cache_texts = cache_texts
        self._lock = Lock()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self.name = manifest.name
        self.dimension = manifest.dimension
        self.max_tokens = manifest.max_tokens
        self.precision = manifest.precision
        self.fingerprint = fingerprint_of(manifest)

    @classmethod
    def open(
        cls,
        model_dir: Path,
        *,
        provider: Provider = "auto",
        threads: int = 1,
        parallel: int = 2,
        cache_texts: int = 4096,
        gpu_memory_mb: int = 2048,
        engines: Path | None = None,
    ) -> Encoder:
        """Load the model in `model_dir`, checking every file's hash, the dimension and the golden vectors.

        `provider`: "auto" takes the first that runs an inference with this model; another is taken or refused.
        `threads` is for one inference and `parallel` says how many may run at once: two of one thread beat one of two.
        `cache_texts`: vectors kept for texts that come again, 0 for none. `gpu_memory_mb` bounds the memory of a GPU;
        `engines`: a folder for what TensorRT compiles.
        Raises Stop, with one sentence, for a model that is not exactly what its manifest says or that nothing here runs.
        """
        manifest = read_manifest(model_dir)
        if manifest.dimension != DIMENSION:
            raise Stop(
                f"The embedding model {manifest.name} has {manifest.dimension} dimensions; "
                f"the collections have {DIMENSION}."
            )
        if manifest.pooling not in ("mean", "cls") or manifest.spread not in ("none", "hadamard"):
            raise Stop(f"This version can not pool the embedding model {manifest.name} as its manifest asks.")
        # Reading a vocabulary of a quarter million pieces takes as long as all the rest.
        with ThreadPoolExecutor(1, thread_name_prefix="encoder-open") as pool:
            reading = pool.submit(open_tokens, model_dir, manifest.tokens)
            try:
                runtime = Runtime(
                    model_dir / "model.onnx",
                    made_for=manifest.provider,
                    pooling=manifest.pooling,
                    max_tokens=manifest.max_tokens,
                    options=RuntimeOptions(provider, threads, gpu_memory_mb, engines),
                )
            finally:
                # Where a file is not what it was, that is the reason to name.
                verify_files(model_dir, manifest)
            tokens = reading.result()
        kinds = None
        if Kinds.FILE in manifest.files:
            kinds = Kinds.read(model_dir / Kinds.FILE, integer_product(model_dir / Kinds.PRODUCT))
        encoder = cls(runtime, tokens, manifest, kinds=kinds, parallel=parallel, cache_texts=cache_texts)
        encoder._check_golden(manifest)
        return encoder

    @property
    def provider(self) -> str:
        """What inference runs on: "cpu", "cuda" or "tensorrt". It changes to "cpu" when a GPU fails."""
        return self._runtime.provider

    def encode(self, texts: Sequence[str]) -> Floats:
        """Unit vectors, float32 [len(texts), dimension], in the order of `texts`.

        A text with nothing to embed gets the vector of the empty text. Tokens beyond `max_tokens` are left out and
        counted in `stats()`; ask `token_count` beforehand where that matters. Raises Unavailable when the model can
        not run any more, on the CPU neither.
        """
        out = np.empty((len(texts), self.dimension), np.float32)
        wanted: dict[str, list[int]] = {}
        hits = 0
        keys = [normalise(text) for text in texts]
        with self._lock:
            for row, key in enumerate(keys):
                known = self._cache.get(key)
                if known is None:
                    wanted.setdefault(key, []).append(row)
                else:
                    self._cache.move_to_end(key)
                    out[row] = known
                    hits += 1
        fresh: Floats | None = None
        if wanted:
            fresh = self._finish(np.stack(self._batches(self._fit(list(wanted)))))
            for vector, rows in zip(fresh, wanted.values(), strict=True):
                out[rows] = vector
        with self._lock:
            self._counts["texts"] += len(texts)
            self._counts["cache_hits"] += hits
            if fresh is not None and self._cache_texts:
                for key, vector in zip(wanted, fresh, strict=True):
                    # A row of its own: a view would keep the whole call's vectors alive.
                    self._cache[key] = vector.copy()
                while len(self._cache) > self._cache_texts:
                    self._cache.popitem(last=False)
        return out

    def token_count(self, text: str) -> int:
        """How many tokens the model would read for `text`, special ones included, were there no limit."""
        return len(self._tokens([normalise(text)])[0].ids)

    def unknown_rate(self, text: str) -> float:
        """The share of the words of `text` that the model does not know, 0 to 1."""
        return _unknown_rate(self._tokens([normalise(text)])[0])

    def stats(self) -> EncoderStats:
        """Counters since opening."""
        waiting = self._batches.waiting
        with self._lock:
            return EncoderStats(
                **self._counts,
                batches=self._batches.batches,
                seconds=self._batches.seconds,
                fallbacks=self._runtime.fallbacks,
                splits=self._runtime.splits,
                waiting=waiting,
            )

    def operators_on_cpu(self) -> int:
        """How many operators of the graph run on the CPU: none should while a GPU has the rest."""
        return self._runtime.operators_on_cpu()

    def _fit(self, normalised: Sequence[str]) -> list[npt.NDArray[np.int64]]:
        read = self._tokens(normalised)
        surplus = [len(one.ids) - self.max_tokens for one in read]
        with self._lock:
            self._counts["tokens"] += sum(one.words for one in read)
            self._counts["unknown_tokens"] += sum(one.unknown for one in read)
            self._counts["truncated_texts"] += sum(more > 0 for more in surplus)
            self._counts["truncated_tokens"] += sum(more for more in surplus if more > 0)
        rows = []
        for one, more in zip(read, surplus, strict=True):
            if more > 0:
                _log.warning("A text of %d tokens was embedded by its first %d only.", len(one.ids), self.max_tokens)
            rows.append(np.array(one.ids if more <= 0 else (*one.ids[: self.max_tokens - 1], one.ids[-1]), np.int64))
        return rows

    def _finish(self, pooled: Floats) -> Floats:
        if self._kinds is not None:
            pooled = self._kinds.drawn(unit(pooled))
        if self._spread == "hadamard":
            pooled = spread(pooled)
        if pooled.shape[1] != self.dimension:
            raise Stop(
                f"The embedding model {self.name} answers with {pooled.shape[1]} dimensions where its manifest says "
                f"{self.dimension}; rebuild it."
            )
        return unit(pooled)

    def _check_golden(self, manifest: Manifest) -> None:
        found = {text: self.encode([text])[0] for text in manifest.golden}
        reason = golden_mismatch(manifest.golden, found, least=_GOLDEN_COSINE)
        if reason:
            raise Stop(f"The embedding model {self.name} does not answer as it should here: {reason}; rebuild it.")
        with self._lock:
            self._counts = dict.fromkeys(_COUNTED, 0)


def fingerprint_of(manifest: Manifest) -> str:
    """What names a vector space: 16 hex digits over files, tokenizer, pooling, normalisation, words and text rule."""
    parts = [manifest.name, manifest.tokens, manifest.pooling, manifest.spread, str(manifest.dimension)]
    parts += [str(manifest.max_tokens), NORMALISATION, SEGMENTATION, LEXICAL, TEXT_RULE]
    parts += [f"{name}={sha}" for name, sha in sorted(manifest.files.items())]
    # The lexical terms lie in the same index, and they know the plant's own words whatever the model.
    parts += [taken_up()] if taken_up() else []
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _unknown_rate(read: TokenIds) -> float:
    total = read.words + read.unknown
    return min(1.0, read.unknown / total) if total else 0.0


def spread(rows: Floats) -> Floats:
    """From 384 to 768 dimensions with every cosine kept: the vector, and beside it the same vector rotated.

    The rotation is three Hadamard transforms of 128: only additions, element by element, so exact in any batch.
    """
    width = rows.shape[1]
    mixed: Floats = rows * _signs(width)
    half = 1
    while half < 128:
        pairs = mixed.reshape(-1, 2, half)
        ones, others = pairs[:, 0], pairs[:, 1]
        sums = ones + others
        np.subtract(ones, others, out=others)
        ones[...] = sums
        half *= 2
    return np.concatenate([rows, mixed * np.float32(128**-0.5)], axis=1)


@cache
def _signs(width: int) -> Floats:
    """A fixed scatter of plus and minus one, so that a constant vector does not rotate into a single dimension."""
    bits = hashlib.shake_128(b"andon edge starter").digest(width // 8)
    return np.where(np.unpackbits(np.frombuffer(bits, np.uint8)) == 1, 1, -1).astype(np.float32)
