"""The kinds of problem a model was trained on, remembered: the nearest draw a text's vector towards themselves.

Training has brought the tellings of one kind together, in whatever words and language. A text that was never seen lands
near its kind, though not near enough to a text that tells it otherwise; drawn towards the kind, the two meet. This is
one step of a modern Hopfield network (Ramsauer et al. 2021): v + weight · softmax(centres · v / temperature) · centres.

    kinds.safetensors    centres int8 [kinds, width], scale float32 [kinds], weight and temperature float32 [1]
    kinds.onnx           the product with all centres, in which most of the time goes, for ONNX Runtime
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from edge.embedding.manifest import Floats

__all__ = ["Kinds", "unit"]

#: How strongly a vector is drawn, and how much nearer a kind must be for e times the say. Chosen on the two held-out sets
#: of the training's own hand (models/starter/README.md).
WEIGHT, TEMPERATURE = 0.5, 0.015

#: So many of the nearest kinds draw: what is farther away has no say that could be seen.
_NEAREST = 16

#: Centres and vectors are whole numbers up to 127: with 1,024 of them a sum stays below 2^24, where float32 is exact too,
#: so that any order of summation, in any batch and on any processor, gives the same bits.
_TOP, _WIDEST = 127, 1024

Product = Callable[[npt.NDArray[np.uint8]], Floats]
"""Rows [n, width] around 128 to their exact sums with all centres, float32 [n, kinds]."""


class Kinds:
    """The centres of kinds of problem, unit vectors. Immutable, safe to share."""

    FILE: ClassVar = "kinds.safetensors"
    PRODUCT: ClassVar = "kinds.onnx"

    def __init__(
        self,
        centres: npt.NDArray[Any],
        scale: Floats,
        weight: float = WEIGHT,
        temperature: float = TEMPERATURE,
        product: Product | None = None,
    ) -> None:
        """`centres` [kinds, width] whole numbers in -127..127; a row times its `scale` [kinds] is a unit vector.

        `product`: with these centres; without one NumPy multiplies, to the same bits and in several times the time.
        """
        if centres.shape[1] > _WIDEST:
            raise ValueError(f"centres of {centres.shape[1]} dimensions; up to {_WIDEST} sums are exact")
        self._centres = np.ascontiguousarray(centres, np.int8)
        self._product = product or _by_numpy(self._centres)
        self._scale = np.asarray(scale, np.float32)
        self._weight, self._temperature = np.float32(weight), np.float32(temperature)

    @classmethod
    def of(cls, vectors: Floats) -> Kinds:
        """Of unit vectors [kinds, width], rounded."""
        scale = np.maximum(np.abs(vectors).max(axis=1), np.float32(1e-9)) / np.float32(_TOP)
        return cls(np.rint(vectors / scale[:, None]), scale)

    @classmethod
    def read(cls, path: Path, product: Product | None = None) -> Kinds:
        held = load_file(path)
        return cls(held["centres"], held["scale"], float(held["weight"][0]), float(held["temperature"][0]), product)

    def write(self, path: Path) -> None:
        save_file(
            {**self.tensors(), "weight": np.array([self._weight]), "temperature": np.array([self._temperature])}, path
        )

    def tensors(self) -> dict[str, np.ndarray]:
        """Centres int8 and their scales, as files hold them."""
        return {"centres": self._centres, "scale": self._scale}

    def vectors(self) -> Floats:
        """The centres, unit vectors float32 [kinds, width]."""
        found: Floats = self._centres * self._scale[:, None]
        return found

    def drawn(self, rows: Floats) -> Floats:
        """Unit vectors [n, width] drawn towards the nearest kinds; each by itself, whatever stands beside it."""
        top = np.maximum(np.abs(rows).max(axis=1, keepdims=True), np.float32(1e-9)) / np.float32(_TOP)
        whole = (np.rint(rows / top) + np.float32(128)).astype(np.uint8)
        cosines = self._product(whole) * (top * self._scale)
        count = min(_NEAREST, cosines.shape[1])
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(cosines, nearest, axis=1).astype(np.float64)
        say = np.exp((found - found.max(axis=1, keepdims=True)) / self._temperature)
        say /= say.sum(axis=1, keepdims=True)
        factors = (say * self._scale[nearest]).astype(np.float32)
        near = self._centres[nearest].astype(np.float32)
        drawing = (factors[:, None] @ near)[:, 0]  # a product of its own for each row
        return unit(rows + self._weight * drawing)


def _by_numpy(centres: npt.NDArray[np.int8]) -> Product:
    floats: Floats = np.ascontiguousarray(centres.T, np.float32)

    def product(whole: npt.NDArray[np.uint8]) -> Floats:
        rows: Floats = whole.astype(np.float32) - np.float32(128)
        return rows @ floats

    return product


def unit(rows: Floats) -> Floats:
    """Each row by itself, whatever stands beside it: a sum along the last axis is taken row by row."""
    lengths = np.sqrt(np.sum(np.square(rows, dtype=np.float64), axis=1, keepdims=True))
    scaled: Floats = (rows / np.where(lengths == 0, 1.0, lengths)).astype(np.float32)
    return scaled
