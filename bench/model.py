"""A sentence-transformers model of exactly the production shape, with random weights, and its stock ONNX exports.

Speed and memory depend on the shape alone; nothing is fetched. Run in the environment of lock/bench.txt.
"""

from __future__ import annotations

import json
import random
import sys
import unicodedata
from pathlib import Path

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import modules
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import PreTrainedTokenizerFast, XLMRobertaConfig, XLMRobertaModel

WORDS = [
    "motor", "pump", "belt", "oil", "leak", "hot", "stop", "line", "air", "valve", "sensor", "noise", "the", "of",
    "bearing", "seal", "shaft", "heater", "มอเตอร์", "สายพาน", "ร้อน", "หยุด", "น้ำมัน", "รั่ว", "เครื่อง", "ลม", "วาล์ว",
    "เสียง", "ซีล", "เพลา", "ลูกปืน", "กล่อง", "ฉลาก", "หัวหน้า",
]  # fmt: skip
LENGTHS = (16, 32, 64, 128)
# The same mixture as `edge model bench`: 128 short factory reports.
MIXED = tuple(8 + (n * 37) % 41 for n in range(128))


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """A SentencePiece-like tokenizer of so many pieces."""
    chance = random.Random(1)  # noqa: S311 - the same model every time
    letters = "abcdefghijklmnopqrstuvwxyzกขคงจชซญดตถทนบปผพฟมยรลวสหอ"
    # In the tokenizer's own spelling, so that a word is one piece and a text has as many tokens as it says.
    words = ["▁" + unicodedata.normalize("NFKC", word) for word in WORDS]
    pieces = dict.fromkeys(["<s>", "<pad>", "</s>", "<unk>", "▁", *words, *letters])
    while len(pieces) < vocabulary - 1:
        pieces["▁" * chance.randint(0, 1) + "".join(chance.choices(letters, k=chance.randint(3, 9)))] = None
    scored = [(piece, 0.0 if n < 4 else -8.0 - n / vocabulary) for n, piece in enumerate([*pieces, "<mask>"])]
    found = Tokenizer(Unigram(scored, unk_id=3, byte_fallback=False))
    found.normalizer = normalizers.NFKC()
    found.pre_tokenizer = pre_tokenizers.Metaspace()
    found.decoder = decoders.Metaspace()
    found.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>", "unk_token": "<unk>"}
    names |= {"pad_token": "<pad>", "mask_token": "<mask>"}
    return PreTrainedTokenizerFast(tokenizer_object=found, model_max_length=128, **names)


class Hidden(torch.nn.Module):
    """What the stock exports hold: token vectors, pooled outside."""

    def __init__(self, body: XLMRobertaModel) -> None:
        super().__init__()
        self.body = body

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.body(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def make(folder: Path, layers: int, vocabulary: int) -> None:
    torch.manual_seed(1)
    sizes = {"vocab_size": vocabulary, "hidden_size": 768, "num_hidden_layers": layers, "num_attention_heads": 12}
    sizes |= {"intermediate_size": 3072, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-5}
    print("writing the model", flush=True)
    body = XLMRobertaModel(XLMRobertaConfig(**sizes, attn_implementation="eager"), add_pooling_layer=False).eval()
    plain = folder / "plain"
    body.save_pretrained(plain)
    tokenizer(vocabulary).save_pretrained(plain)
    read = modules.Transformer(str(plain), max_seq_length=128)
    SentenceTransformer(modules=[read, modules.Pooling(768)], device="cpu").save(str(folder / "torch"))
    chance = random.Random(2)  # noqa: S311 - the same model every time

    def text(tokens: int) -> str:
        return " ".join(chance.choices(WORDS, k=tokens - 2))

    texts = {str(n): [text(n) for _ in range(64)] for n in LENGTHS} | {"mixed": [text(n) for n in MIXED]}
    (folder / "texts.json").write_text(json.dumps(texts, ensure_ascii=False), "utf-8")


def stock(folder: Path) -> None:
    """The exports that people would make: float32 as PyTorch writes it, and the dynamic int8 of ONNX Runtime."""
    print("exporting it to ONNX", flush=True)
    plain, stock = folder / "plain", folder / "fp32"
    body = XLMRobertaModel.from_pretrained(plain, attn_implementation="eager", add_pooling_layer=False).eval()
    stock.mkdir(exist_ok=True)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        source = plain / name
        (stock / name).write_bytes(source.read_bytes() if source.is_file() else b"{}")
    sample = torch.tensor([[0, 7, 8, 2], [0, 9, 2, 1]])
    axes = {0: "batch", 1: "tokens"}
    with torch.no_grad():
        torch.onnx.export(
            Hidden(body),
            (sample, (sample != 1).long()),
            str(stock / "model.onnx"),
            input_names=["input_ids", "attention_mask"],
            output_names=["last_hidden_state"],
            dynamic_axes={"input_ids": axes, "attention_mask": axes, "last_hidden_state": axes},
            opset_version=17,
            dynamo=False,
        )


def quantize(folder: Path) -> None:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    print("quantizing it as the library does by default", flush=True)
    (folder / "int8").mkdir(exist_ok=True)
    quantize_dynamic(folder / "fp32/model.onnx", folder / "int8/model.onnx", weight_type=QuantType.QInt8)


if __name__ == "__main__":
    if sys.argv[1] == "stock":
        stock(Path(sys.argv[2]))
    elif sys.argv[1] == "quantize":
        quantize(Path(sys.argv[2]))
    else:
        make(Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
