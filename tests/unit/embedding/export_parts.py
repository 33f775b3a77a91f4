"""Small encoders of the three families, with weights of no meaning, and directories as sentence-transformers keeps them."""

from __future__ import annotations

import itertools
import json
import shutil
from functools import lru_cache
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from edge.embedding.export.source import read_source
from edge.embedding.graph import BertShape, Float, write_cpu
from edge.embedding.manifest import Floats, digest
from edge.embedding.starter import base_folder

GOLDEN = Path(__file__).resolve().parents[3] / "models" / "golden.txt"
FOREIGN = ["コンベアが停止しました", "конвейер остановился сам", "传送带自己停了", "المحرك ساخن", "컨베이어가 멈췄다"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def random_weights(shape: BertShape, vocabulary: int, kind: str, seed: int = 1) -> dict[str, Floats]:
    """Under the names and in the layout the family publishes; spread so that attention and norms do something."""
    random = np.random.default_rng(seed)

    def normal(*size: int, scale: float = 0.05, mean: float = 0.0) -> Floats:
        return (random.standard_normal(size) * scale + mean).astype(np.float32)

    h, i = shape.hidden, shape.inner
    found = {
        "embeddings.word_embeddings.weight": normal(vocabulary, h, scale=0.5),
        "embeddings.position_embeddings.weight": normal(shape.positions + shape.first, h, scale=0.1),
        "embeddings.LayerNorm.weight": normal(h, mean=1.0),
        "embeddings.LayerNorm.bias": normal(h),
    }
    if kind == "mpnet":
        found["encoder.relative_attention_bias.weight"] = normal(shape.buckets, shape.heads, scale=1.0)
    else:
        found["embeddings.token_type_embeddings.weight"] = normal(2 if kind == "bert" else 1, h, scale=0.1)
    names = {"q": "query", "k": "key", "v": "value"}
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}."
        linear = {"intermediate.dense": (i, h), "output.dense": (h, i)}
        norms = ["output.LayerNorm"]
        if kind == "mpnet":
            linear |= {f"attention.attn.{name}": (h, h) for name in (*names, "o")}
            norms.append("attention.LayerNorm")
        else:
            linear |= {f"attention.self.{name}": (h, h) for name in names.values()}
            linear["attention.output.dense"] = (h, h)
            norms.append("attention.output.LayerNorm")
        for name, size in linear.items():
            found[f"{at}{name}.weight"], found[f"{at}{name}.bias"] = normal(*size), normal(size[0])
        for name in norms:
            found[f"{at}{name}.weight"], found[f"{at}{name}.bias"] = normal(h, mean=1.0), normal(h)
    return found


def xlmr_tokenizer() -> Tokenizer:
    return Tokenizer.from_str(_xlmr_tokenizer())


@lru_cache
def _xlmr_tokenizer() -> str:
    """Unigram pieces of Thai, Latin and other scripts, laid out as XLM-R's: four special ones first, <mask> last."""
    lines = GOLDEN.read_text("utf-8").splitlines() + FOREIGN * 3
    tokenizer = Tokenizer(models.Unigram())
    # As XLM-R's own map: compatibility forms folded, which splits SARA AM.
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = trainers.UnigramTrainer(
        vocab_size=2500, special_tokens=SPECIAL, unk_token="<unk>", show_progress=False, max_piece_length=12
    )
    tokenizer.train_from_iterator(lines, trainer)
    data = json.loads(tokenizer.to_str())
    data["model"]["vocab"].append(["<mask>", 0.0])
    data["added_tokens"] = []
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens([*SPECIAL, "<mask>"])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return str(tokenizer.to_str())


def sentence_folder(
    folder: Path,
    kind: str = "xlm-roberta",
    pooling: str = "mean",
    layers: int = 1,
    *,
    hidden: int = 384,
    positions: int = 64,
    pieces: int = 0,
) -> Path:
    """A sentence-transformers directory of `kind` with random weights; `pieces`: fill the vocabulary up to so many."""
    folder.mkdir(parents=True)
    (folder / "1_Pooling").mkdir()
    tokenizer = xlmr_tokenizer()
    if pieces:
        data = json.loads(tokenizer.to_str())
        mask = data["model"]["vocab"].pop()
        known = {piece for piece, _ in data["model"]["vocab"]}
        letters = "".join(sorted({c for piece in known for c in piece if "\u0e01" <= c <= "\u0e2e"}))
        more = ("".join(four) for four in itertools.product(letters, repeat=4))
        filled = itertools.islice((p for p in more if p not in known), pieces - 1 - len(data["model"]["vocab"]))
        data["model"]["vocab"] += [[piece, -30.0] for piece in filled] + [mask]
        data["added_tokens"][-1]["id"] = pieces - 1
        tokenizer = Tokenizer.from_str(json.dumps(data))
    first = 0 if kind == "bert" else 2
    shape = BertShape(
        layers=layers,
        hidden=hidden,
        inner=4 * hidden if pieces else 768,
        positions=positions,
        first=first,
        epsilon=1e-5,
        buckets=32 if kind == "mpnet" else 0,
    )
    architecture = {"bert": "BertModel", "xlm-roberta": "XLMRobertaModel", "mpnet": "MPNetModel"}[kind]
    config = {
        "model_type": kind, "architectures": [architecture], "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": shape.hidden, "num_hidden_layers": layers, "num_attention_heads": shape.heads,
        "intermediate_size": shape.inner, "max_position_embeddings": shape.positions + first, "hidden_act": "gelu",
        "layer_norm_eps": shape.epsilon, "type_vocab_size": 2 if kind == "bert" else 1,
        "pad_token_id": 0 if kind == "bert" else 1, "bos_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    if kind == "mpnet":
        config["relative_attention_num_buckets"] = 32
    files = {
        "config.json": config,
        "modules.json": [
            {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
            {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
        ],
        "1_Pooling/config.json": {
            "word_embedding_dimension": shape.hidden, "pooling_mode_cls_token": pooling == "cls",
            "pooling_mode_mean_tokens": pooling == "mean", "pooling_mode_max_tokens": pooling == "max",
        },
        "sentence_bert_config.json": {"max_seq_length": 48, "do_lower_case": False},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 48, "bos_token": "<s>", "eos_token": "</s>",
            "unk_token": "<unk>", "pad_token": "<pad>", "cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>",
        },
    }  # fmt: skip
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=1), "utf-8")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n\nWeights of no meaning.\n", "utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))
    weights = random_weights(shape, tokenizer.get_vocab_size(), kind)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def minilm_folder() -> Path:
    """The published all-MiniLM-L6-v2, as its package brings it."""
    return base_folder()


def put_reference(source: Path, models: Path) -> Path:
    """What the step with PyTorch would leave for `source`, with a float32 graph of our own instead of optimum's."""
    from edge.embedding.export.reference import Weights, copy_small_files

    target = models / source.name / ".work" / "reference"
    target.mkdir(parents=True)
    read = read_source(source)
    copy_small_files(read, target)
    shutil.copyfile(source / "model.safetensors", target / "weights.safetensors")
    weights = Weights(target / "weights.safetensors")
    write_cpu(target, weights, weights["embeddings.word_embeddings.weight"], read.shape, Float())
    facts = {"origin": source.name, "revision": "", "identity": digest(source / "model.safetensors")}
    (target / "reference.json").write_text(json.dumps(facts), "utf-8")
    return target


def by_numpy(weights: dict[str, Floats], shape: BertShape, ids: list[int], kind: str) -> Floats:
    """The family's forward pass in float64, as its paper writes it: float64 [tokens, hidden]."""
    from math import erf

    def w(name: str) -> Floats:
        return weights[name].astype(np.float64)

    def dense(x: Floats, name: str) -> Floats:
        return x @ w(name + ".weight").T + w(name + ".bias")

    def norm(x: Floats, name: str) -> Floats:
        middle = x - x.mean(-1, keepdims=True)
        return middle / np.sqrt((middle**2).mean(-1, keepdims=True) + shape.epsilon) * w(name + ".weight") + w(
            name + ".bias"
        )

    gelu = np.vectorize(lambda v: v * 0.5 * (1 + erf(v / 2**0.5)))
    n, width = len(ids), shape.hidden // shape.heads
    x = w("embeddings.word_embeddings.weight")[ids]
    x = x + w("embeddings.position_embeddings.weight")[shape.first : shape.first + n]
    if kind != "mpnet":
        x = x + w("embeddings.token_type_embeddings.weight")[0]
    x = norm(x, "embeddings.LayerNorm")
    names = ("attn.q", "attn.k", "attn.v") if kind == "mpnet" else ("self.query", "self.key", "self.value")
    for layer in range(shape.layers):
        at = f"encoder.layer.{layer}."
        q, k, v = (
            dense(x, f"{at}attention.{name}").reshape(n, shape.heads, width).transpose(1, 0, 2) for name in names
        )
        scores = q @ k.transpose(0, 2, 1) / width**0.5
        if kind == "mpnet":
            table = w("encoder.relative_attention_bias.weight")
            for query in range(n):
                for key in range(n):
                    scores[:, query, key] += table[_bucket(query - key, shape.buckets)]
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        seen = (scores / scores.sum(-1, keepdims=True)) @ v
        seen = seen.transpose(1, 0, 2).reshape(n, shape.hidden)
        out = "attention.attn.o" if kind == "mpnet" else "attention.output.dense"
        x = norm(
            x + dense(seen, at + out), at + ("attention.LayerNorm" if kind == "mpnet" else "attention.output.LayerNorm")
        )
        x = norm(x + dense(gelu(dense(x, at + "intermediate.dense")), at + "output.dense"), at + "output.LayerNorm")
    return x


def _bucket(distance: int, buckets: int) -> int:
    """One cell of the published rule, told apart from the table the graph holds."""
    from math import log

    half = buckets // 2
    side = half if distance < 0 else 0
    near = half // 2
    n = abs(distance)
    if n < near:
        return side + n
    return side + min(half - 1, near + int(log(n / near) / log(128 / near) * (half - near)))
