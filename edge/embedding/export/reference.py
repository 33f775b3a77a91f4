"""The float32 reference: the published model through optimum, and its weights under their published names.

The only module that loads PyTorch. What it leaves in the work folder is all that the other steps need, so they go on
wherever that folder is copied.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from edge.embedding.export.source import SMALL_FILES, Source, missing_extra, read_source
from edge.embedding.graph import canonical_names
from edge.embedding.manifest import Floats, digest
from edge.errors import Stop

__all__ = ["Reference", "Weights", "make_reference", "read_reference"]

_FACTS = "reference.json"
_WEIGHTS = "weights.safetensors"


@dataclass(frozen=True, slots=True)
class Reference:
    """A finished reference. `identity`: SHA-256 of the weights file it was made from."""

    folder: Path
    source: Source
    origin: str
    revision: str
    identity: str

    @property
    def graph(self) -> Path:
        return self.folder / "model.onnx"

    def weights(self) -> Weights:
        return Weights(self.folder / _WEIGHTS)


class Weights(Mapping[str, Floats]):
    """The weights by BERT's names, read from the file when they are asked for."""

    def __init__(self, path: Path) -> None:
        self._file: Any
        try:
            self._file = safe_open(str(path), framework="numpy")
        except Exception as error:  # the library raises its own bare exceptions
            raise Stop(f"The weights {path} can not be read: {error}.") from error
        self._names = canonical_names(list(self._file.keys()))

    def __getitem__(self, name: str) -> Floats:
        tensor: Floats = self._file.get_tensor(self._names[name]).astype(np.float32, copy=False)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def read_reference(folder: Path) -> Reference | None:
    """The reference in `folder`, or None when it is not finished."""
    try:
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
        return Reference(
            folder, read_source(folder), str(facts["origin"]), str(facts["revision"]), str(facts["identity"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def make_reference(
    source: Source, weights: Path, target: Path, *, origin: str, revision: str, say: Callable[[str], None]
) -> Reference:
    """Make the reference of `source` in `target`, whole or not at all. Raises Stop where the extra is missing."""
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    say("Writing the float32 reference through optimum")
    try:
        _through_optimum(source.folder, partial)
    except Stop:
        shutil.rmtree(partial)
        raise
    say("Finishing the reference")
    copy_small_files(source, partial)
    facts = {"origin": origin, "revision": revision, "identity": digest(weights)}
    (partial / _FACTS).write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
    for path in partial.rglob("*"):
        if path.is_file():
            with path.open("rb") as handle:
                os.fsync(handle.fileno())
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    made = read_reference(target)
    assert made is not None
    return made


def copy_small_files(source: Source, target: Path) -> None:
    """Copy what `read_source` reads, so that the reference stands alone."""
    for name in (*SMALL_FILES, f"{source.pooling_folder}/config.json"):
        if (source.folder / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.folder / name, target / name)


def _through_optimum(folder: Path, target: Path) -> None:
    try:
        import torch
        from optimum.exporters.onnx import main_export
        from safetensors.torch import save_file
        from transformers import AutoModel
    except ImportError as error:
        raise missing_extra(error) from error
    for library in ("optimum", "transformers"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # The tracer tells what it takes for constant; the gate measures whether that was right.
        warnings.simplefilter("ignore")
        try:
            main_export(
                str(folder),
                output=target,
                task="feature-extraction",
                library_name="sentence_transformers",
                device="cpu",
                dtype="fp32",
                opset=18,
                do_validation=False,
                local_files_only=True,
            )
            body = AutoModel.from_pretrained(str(folder), dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
            raise Stop(f"optimum can not export the model in {folder}: {error}") from error
    save_file({name: tensor.contiguous().clone() for name, tensor in body.state_dict().items()}, target / _WEIGHTS)
