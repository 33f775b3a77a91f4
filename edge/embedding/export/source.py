"""A sentence-transformers directory: what it says about itself, and where it comes from."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edge.embedding.encoder import DIMENSION
from edge.embedding.graph import BertShape
from edge.errors import Stop

__all__ = ["PRODUCTION", "SMALL_FILES", "Source", "fetch", "read_source", "weights_file"]

PRODUCTION = "sentence-transformers/paraphrase-multilingual-mpnet-base-v2"
#: What a directory must hold besides its weights; README.md is read for the licence and may be missing.
SMALL_FILES = ("modules.json", "config.json", "sentence_bert_config.json", "tokenizer.json", "README.md")
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_MODULES = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls"}


@dataclass(frozen=True, slots=True)
class Source:
    """One directory of the BERT, XLM-R or MPNet family. `spread`: how its vectors reach the collections' dimension."""

    folder: Path
    licence: str
    shape: BertShape
    pooling: str
    pooling_folder: str
    max_tokens: int
    spread: str


def fetch(name: str, revision: str | None, kept: Path) -> tuple[Path, str]:
    """The hub's model `name` from its cache or the network, and its commit. Raises Stop with what to copy to `kept`."""
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise missing_extra(error) from error
    wanted = ["*.json", "README.md", "*/config.json", _WEIGHTS[0]]
    try:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
        if not (folder / _WEIGHTS[0]).is_file():
            folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*wanted, _WEIGHTS[1]]))
    except (OSError, ValueError) as error:  # what the hub's client raises is one of these two
        reason = str(error).strip().partition("\n")[0]
        raise Stop(
            f"The model {name} is neither in the hub's cache nor can it be fetched here: {reason} "
            f"Where there is a network, download it (`hf download {name} --local-dir {kept.name}`), copy that folder "
            f"with {', '.join(SMALL_FILES[:4])}, 1_Pooling/config.json and {_WEIGHTS[0]} to {kept}, "
            "and run this command again."
        ) from error
    return folder, folder.name


def missing_extra(error: ImportError) -> Stop:
    """The one sentence for a machine that can not export."""
    return Stop(
        f"Exporting needs the extra `export`, which is not installed here ({error.name} is missing): run "
        "`make export-env`, then this command as `.venv-export/bin/edge model export`."
    )


def weights_file(folder: Path) -> Path:
    """The file with the weights. Raises Stop when there is none."""
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    raise Stop(f"There are no weights in {folder}: neither {_WEIGHTS[0]} nor {_WEIGHTS[1]}.")


def read_source(folder: Path) -> Source:
    """Read what a sentence-transformers directory says. Raises Stop, in a sentence, for one that can not be exported."""
    modules = _json(folder / "modules.json")
    try:
        kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
        paths = [str(module["path"]) for module in modules]
    except (TypeError, KeyError) as error:
        raise Stop(f"{folder / 'modules.json'} is not a list of modules.") from error
    strange = [kind for kind in kinds if kind not in _MODULES]
    if strange or kinds[:2] != list(_MODULES[:2]) or paths[0]:
        raise Stop(
            f"The model in {folder} is made of {', '.join(kinds)}; this version exports a Transformer with Pooling "
            "and Normalize."
        )
    pooling = _pooling(folder / paths[1] / "config.json")
    config = _json(folder / "config.json")
    shape = _shape(config, folder)
    limit = _json(folder / "sentence_bert_config.json").get("max_seq_length")
    most = shape.positions if limit is None else min(int(limit), shape.positions)
    widths = {DIMENSION: "none", DIMENSION // 2: "hadamard"}
    if shape.hidden not in widths:
        raise Stop(
            f"The model in {folder} has {shape.hidden} dimensions; the collections have {DIMENSION}, which takes a "
            f"model of {DIMENSION} or {DIMENSION // 2}."
        )
    if not (folder / "tokenizer.json").is_file():
        raise Stop(
            f"There is no tokenizer.json in {folder}. Save the tokenizer once with "
            "`transformers.AutoTokenizer.from_pretrained(…).save_pretrained(…)`, which writes it."
        )
    return Source(
        folder=folder,
        licence=_licence(folder / "README.md"),
        shape=replace(shape, positions=most, pooling=pooling),
        pooling=pooling,
        pooling_folder=paths[1],
        max_tokens=most,
        spread=widths[shape.hidden],
    )


def _shape(config: dict[str, Any], folder: Path) -> BertShape:
    kind = str(config.get("model_type"))
    if kind not in ("bert", "xlm-roberta", "mpnet"):
        raise Stop(
            f"The model in {folder} is of the family {kind}; this version exports the families bert, xlm-roberta and mpnet."
        )
    if config.get("hidden_act", "gelu") != "gelu" or config.get("position_embedding_type", "absolute") != "absolute":
        raise Stop(f"The model in {folder} has another activation or other positions than its family's published ones.")
    try:
        # XLM-R and MPNet count positions from behind their padding id.
        first = 0 if kind == "bert" else int(config.get("pad_token_id", 1)) + 1
        return BertShape(
            layers=int(config["num_hidden_layers"]),
            hidden=int(config["hidden_size"]),
            heads=int(config["num_attention_heads"]),
            inner=int(config["intermediate_size"]),
            positions=int(config["max_position_embeddings"]) - first,
            first=first,
            epsilon=float(config.get("layer_norm_eps", 1e-12)),
            buckets=int(config.get("relative_attention_num_buckets", 32)) if kind == "mpnet" else 0,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise Stop(f"{folder / 'config.json'} lacks a size of the model: {error}.") from error


def _pooling(path: Path) -> str:
    config = _json(path)
    modes = [name for name, on in config.items() if name.startswith("pooling_mode") and on is True]
    named = config.get("pooling_mode")
    if isinstance(named, str):  # newer files name the mode
        modes = [f"pooling_mode_{named}_token{'s' if named == 'mean' else ''}"]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise Stop(
            f"{path} asks for {' and '.join(modes) or 'no pooling'}; this version pools by the mean or the first token."
        )
    return _POOLINGS[modes[0]]


def _licence(card: Path) -> str:
    try:
        head = card.read_text("utf-8").partition("\n---")[0]
    except OSError:
        return "unknown; ask whoever made the model"
    found = re.search(r"^license:\s*['\"]?([\w.+-]+)", head, re.MULTILINE)
    return found.group(1) if found else "unknown; ask whoever made the model"


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise Stop(
            f"{path.parent} is not a sentence-transformers directory: {path.name} can not be read ({error.strerror})."
        ) from error
    except ValueError as error:
        raise Stop(f"{path} is not valid JSON: {error}.") from error
