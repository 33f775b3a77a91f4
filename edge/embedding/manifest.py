"""manifest.toml: what a model folder holds, by hash, and what it must answer for a few golden texts."""

from __future__ import annotations

import base64
import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from edge.errors import Stop

__all__ = [
    "Floats",
    "Manifest",
    "chosen_export",
    "digest",
    "golden_mismatch",
    "read_manifest",
    "verify_files",
    "write_manifest",
]

_FILE = "manifest.toml"

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Manifest:
    """One model folder.

    `tokens`: "starter", "pieces" (a SentencePiece model of its own) or "hub" (a complete tokenizer.json of its own).
    `spread`: "none", or "hadamard" where half the dimensions are rotated copies. `files`: SHA-256 by file name.
    `golden`: unit vectors by text. `sources`: what the folder was built from, empty for a model that was exported
    elsewhere. `provider`: what the graph is written for, "cpu", "cuda" or "tensorrt". `revision`: of the source, as its
    home names it. `fidelity`: what the export measured. `proofs`: SHA-256 of files that prove the model and take no part
    in a vector, hence not in the fingerprint.
    """

    name: str
    source: str
    licence: str
    tokens: str
    dimension: int
    pooling: str
    spread: str
    max_tokens: int
    precision: str
    files: Mapping[str, str]
    sources: Mapping[str, str] = field(default_factory=dict)
    golden: Mapping[str, Floats] = field(default_factory=dict)
    provider: str = "cpu"
    revision: str = ""
    fidelity: Mapping[str, float] = field(default_factory=dict)
    proofs: Mapping[str, str] = field(default_factory=dict)

    def with_golden(self, golden: Mapping[str, Floats]) -> Manifest:
        """The same manifest holding these golden vectors."""
        return replace(self, golden=dict(golden))


def digest(path: Path) -> str:
    """SHA-256 of a file in hex. Raises Stop when it can not be read."""
    try:
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise Stop(f"The model file {path.name} in {path.parent} can not be read: {error.strerror}.") from error


def chosen_export(folder: Path, provider: str = "auto") -> Path:
    """The model in `folder`: itself, or of its exports the one for `provider`, of the smallest precision.

    "auto": one for a graphics card where ONNX Runtime's build here knows one, else that for the CPU. Where only exports
    for other providers lie there, one of them.
    """
    if (folder / _FILE).is_file():
        return folder
    found = {
        made_for: folder / f"{made_for}-{precision}"
        for made_for in ("cpu", "cuda", "tensorrt")
        for precision in ("fp32", "fp16", "int8")
        if (folder / f"{made_for}-{precision}" / _FILE).is_file()
    }
    first = ("cuda", "tensorrt", "cpu") if provider in ("cuda", "tensorrt") else ("cpu", "cuda", "tensorrt")
    if provider == "auto" and len(found) > 1:
        # Only here: reading a manifest must not cost the second that loading ONNX Runtime takes.
        import onnxruntime

        if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
            first = ("cuda", "tensorrt", "cpu")
    return next((found[name] for name in (provider, *first) if name in found), folder)


def read_manifest(folder: Path) -> Manifest:
    """Read `folder/manifest.toml`. Raises Stop when it is missing or incomplete."""
    path = folder / _FILE
    try:
        data = tomllib.loads(path.read_text("utf-8"))
        golden = {
            str(entry["text"]): np.frombuffer(base64.b64decode(entry["vector"]), "<f4") for entry in data["golden"]
        }
        return Manifest(
            name=str(data["name"]),
            source=str(data["source"]),
            licence=str(data["licence"]),
            tokens=str(data["tokens"]),
            dimension=int(data["dimension"]),
            pooling=str(data["pooling"]),
            spread=str(data["spread"]),
            max_tokens=int(data["max_tokens"]),
            precision=str(data["precision"]),
            files={str(k): str(v) for k, v in data["files"].items()},
            sources={str(k): str(v) for k, v in data.get("sources", {}).items()},
            golden=golden,
            provider=str(data.get("provider", "cpu")),
            revision=str(data.get("revision", "")),
            fidelity={str(k): float(v) for k, v in data.get("fidelity", {}).items()},
            proofs={str(k): str(v) for k, v in data.get("proofs", {}).items()},
        )
    except OSError as error:
        raise Stop(f"No embedding model in {folder}: {_FILE} can not be read ({error.strerror}).") from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise Stop(f"{path} is not a complete model manifest: {error!r}.") from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `folder/manifest.toml`. Vectors are base64 of little-endian float32."""
    quote = json.dumps  # a JSON string is a TOML basic string
    lines = [
        f"{key} = {quote(getattr(manifest, key), ensure_ascii=False)}"
        for key in ("name", "source", "licence", "tokens", "pooling", "spread", "precision", "provider")
    ]
    lines += [f"revision = {quote(manifest.revision)}"] if manifest.revision else []
    lines += [f"dimension = {manifest.dimension}", f"max_tokens = {manifest.max_tokens}"]
    if not manifest.golden:
        lines.append("golden = []")
    tables = {"files": manifest.files, "sources": manifest.sources}
    tables |= {title: table for title in ("proofs", "fidelity") if (table := getattr(manifest, title))}
    for title, table in tables.items():
        lines += ["", f"[{title}]", *(f"{quote(key)} = {quote(value)}" for key, value in table.items())]
    for text, vector in manifest.golden.items():
        packed = base64.b64encode(np.asarray(vector, "<f4").tobytes()).decode("ascii")
        lines += ["", "[[golden]]", f"text = {quote(text, ensure_ascii=False)}", f'vector = "{packed}"']
    (folder / _FILE).write_text("\n".join(lines) + "\n", "utf-8")


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise Stop unless every file named in the manifest has the hash written there."""
    for name, sha in {**manifest.files, **manifest.proofs}.items():
        if digest(folder / name) != sha:
            raise Stop(
                f"{name} of the embedding model in {folder} does not have the hash its manifest names; rebuild it."
            )


def golden_mismatch(expected: Mapping[str, Floats], found: Mapping[str, Floats], *, least: float) -> str | None:
    """The first golden text whose cosine is below `least`, in words, or None. All vectors have unit length."""
    for text, vector in expected.items():
        other = found.get(text)
        if other is None or other.shape != vector.shape:
            return f"there is no vector of {vector.shape[0]} dimensions for “{text}”"
        cosine = float(vector.astype(np.float64) @ other.astype(np.float64))
        if not cosine >= least:
            return f"the vector of “{text}” has a cosine of {cosine:.4f} where at least {least} is expected"
    return None
