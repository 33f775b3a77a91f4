"""How true an export is to its reference, and the bar below which it is refused."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from safetensors.numpy import load_file, save_file

from edge.embedding.kinds import unit
from edge.embedding.manifest import Floats
from edge.embedding.runtime import session_options
from edge.embedding.text import normalise
from edge.embedding.tokens import Tokens
from edge.errors import Stop

__all__ = ["BAR", "Fidelity", "Runner", "golden_sentences", "measure", "read_vectors", "write_vectors"]

#: The least an export may reach against float32 on the golden sentences.
BAR = MappingProxyType({"cosine_mean": 0.997, "cosine_min": 0.99, "spearman": 0.997})
#: The most that one number of a unit vector may differ between a text alone and in a batch, by precision.
_APART = MappingProxyType({"int8": 0.0, "fp32": 1e-5, "fp16": 2e-3})
_LEAST_SENTENCES = 200
_BATCH = 16

Told = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Export against reference. `apart`: the largest difference of one number between alone and batched."""

    sentences: int
    cosine_mean: float
    cosine_min: float
    spearman: float
    apart: float

    def short_of(self, precision: str) -> list[str]:
        """What is below the bar, in words; empty when the export passes."""
        found = [
            f"{name} is {value:.4f} where at least {least} is asked"
            for name, least in BAR.items()
            # Written so that what is not a number fails.
            if not (value := float(getattr(self, name))) >= least
        ]
        if not self.apart <= _APART[precision]:
            found.append(
                f"a text alone and in a batch differ by {self.apart:.1e} where {_APART[precision]:g} is allowed"
            )
        return found

    def as_figures(self) -> dict[str, float]:
        return {name: round(float(value), 9) for name, value in asdict(self).items()}


def golden_sentences(path: Path) -> list[str]:
    """The sentences of a file, one a line, without comments. Raises Stop when they are fewer than 200."""
    try:
        lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(f"The golden sentences {path} can not be read: {error}.") from error
    found = list(dict.fromkeys(line for line in lines if line and not line.startswith("#")))
    if len(found) < _LEAST_SENTENCES:
        raise Stop(f"{path} holds {len(found)} golden sentences; at least {_LEAST_SENTENCES} are needed.")
    return found


class Runner:
    """Any graph of an export on the CPU: the reference, and what is made from it."""

    def __init__(self, graph: Path, tokens: Tokens, *, pooling: str, max_tokens: int) -> None:
        """Raises Stop when ONNX Runtime can not load the graph."""
        try:
            self._session = ort.InferenceSession(str(graph), session_options(0), providers=["CPUExecutionProvider"])
        except Exception as error:  # the library's own exceptions share no public root
            raise Stop(f"{graph} can not be loaded: {error}") from error
        self._tokens = tokens
        self._pooling = pooling
        self._max_tokens = max_tokens
        self._inputs = {node.name for node in self._session.get_inputs()}
        outputs = [node.name for node in self._session.get_outputs()]
        self._output = "sentence_embedding" if "sentence_embedding" in outputs else outputs[0]

    def alone(self, texts: Sequence[str], told: Told | None = None) -> Floats:
        """Unit vectors, each text by itself."""
        out = []
        for number, row in enumerate(self._rows(texts), 1):
            out.append(self._run([row])[0])
            if told:
                told(number, len(texts))
        return np.stack(out)

    def batched(self, texts: Sequence[str]) -> Floats:
        """Unit vectors of sorted batches: padded on the right where the graph has a mask, else of one length."""
        rows = self._rows(texts)
        order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
        batches: list[list[int]] = [[]]
        for place in order:
            last = batches[-1]
            fits = "attention_mask" in self._inputs or not last or len(rows[last[0]]) == len(rows[place])
            if len(last) == _BATCH or not fits:
                batches.append([])
            batches[-1].append(place)
        found: dict[int, Floats] = {}
        for batch in batches:
            found |= zip(batch, self._run([rows[place] for place in batch]), strict=True)
        return np.stack([found[place] for place in range(len(rows))])

    def _rows(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        rows = [read.ids for read in self._tokens([normalise(text) for text in texts])]
        most = self._max_tokens
        return [row if len(row) <= most else (*row[: most - 1], row[-1]) for row in rows]

    def _run(self, rows: Sequence[tuple[int, ...]]) -> Floats:
        longest = max(map(len, rows))
        ids = np.zeros((len(rows), longest), np.int64)
        mask = np.zeros_like(ids)
        for at, row in enumerate(rows):
            ids[at, : len(row)], mask[at, : len(row)] = row, 1
        feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        feeds = {name: feeds[name] for name in self._inputs}
        answer: Floats = self._session.run([self._output], feeds)[0]
        if answer.ndim == 3:
            seen = mask if self._pooling == "mean" else np.eye(1, longest, dtype=np.int64)
            # One token after the other: a library's own sum of an axis may hang on the batch.
            pooled = np.zeros((len(rows), answer.shape[2]), np.float32)
            for token in range(longest):
                pooled += answer[:, token] * seen[:, token, None].astype(np.float32)
            answer = pooled
        return unit(answer)


def measure(reference: Floats, alone: Floats, batched: Floats) -> Fidelity:
    """Compare unit vectors, float32 [sentences, dimension], row by row and by all their pairs."""
    cosines = np.sum(reference.astype(np.float64) * alone, axis=1)
    return Fidelity(
        sentences=len(reference),
        cosine_mean=float(cosines.mean()),
        cosine_min=float(cosines.min()),
        spearman=_spearman(_pairs(reference), _pairs(alone)),
        apart=float(np.abs(alone - batched).max()),
    )


def write_vectors(path: Path, texts: Sequence[str], vectors: Floats) -> None:
    """Keep the reference's answers: unit vectors by text."""
    letters = np.frombuffer("\n".join(texts).encode(), np.uint8)
    save_file({"texts": letters, "vectors": np.ascontiguousarray(vectors, np.float32)}, str(path))


def read_vectors(path: Path) -> tuple[list[str], Floats]:
    """What `write_vectors` wrote. Raises Stop when it can not be read."""
    try:
        tensors = load_file(path)
        texts = tensors["texts"].tobytes().decode("utf-8").split("\n")
        return texts, tensors["vectors"]
    except Exception as error:  # the library raises its own bare exceptions
        raise Stop(f"The golden vectors {path} can not be read: {error}.") from error


def _pairs(vectors: Floats) -> npt.NDArray[np.float64]:
    wide = vectors.astype(np.float64)
    upper: npt.NDArray[np.float64] = (wide @ wide.T)[np.triu_indices(len(wide), 1)]
    return upper


def _spearman(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        return float("nan")
    return float(np.corrcoef(_ranks(one), _ranks(other))[0, 1])


def _ranks(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Equal values share the mean of their ranks."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    ranks: npt.NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return ranks
