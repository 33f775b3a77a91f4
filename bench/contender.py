"""One side of the benchmark, in a process of its own: loads a model, then encodes what it is told and says how long.

`contender.py KIND FOLDER THREADS`; requests and answers are lines of JSON on the standard streams.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

Encode = Callable[[list[str]], "object"]


def resident_mb() -> float:
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))


def edge(folder: Path, threads: int, parallel: int) -> Callable[[], Encode]:
    from edge.embedding import Encoder

    def load() -> Encode:
        return Encoder.open(folder / "edge", threads=threads, parallel=parallel, cache_texts=0).encode

    return load


def torch_model(folder: Path, threads: int, kind: str) -> Callable[[], Encode]:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(threads)

    def load() -> Encode:
        options = {"torch_dtype": torch.bfloat16 if kind == "bf16" else torch.float32}
        model = SentenceTransformer(str(folder / "torch"), device="cpu", model_kwargs=options)
        return lambda texts: model.encode(texts, batch_size=32, normalize_embeddings=True, show_progress_bar=False)

    return load


def onnxruntime_int8(folder: Path, threads: int) -> Callable[[], Encode]:
    import numpy as np
    import onnxruntime as ort
    from tokenizers import Tokenizer

    def load() -> Encode:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(folder / "int8/model.onnx"), options, providers=["CPUExecutionProvider"])
        tokenizer = Tokenizer.from_file(str(folder / "fp32/tokenizer.json"))
        tokenizer.enable_truncation(128)
        tokenizer.enable_padding(pad_id=1, pad_token="<pad>")  # noqa: S106 - no password

        def some(texts: list[str]) -> object:
            read = tokenizer.encode_batch(texts)
            ids, mask = np.array([r.ids for r in read]), np.array([r.attention_mask for r in read])
            hidden = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
            pooled = (hidden * mask[:, :, None]).sum(axis=1)
            return pooled / np.linalg.norm(pooled, axis=1, keepdims=True)

        return lambda texts: np.concatenate([some(texts[at : at + 32]) for at in range(0, len(texts), 32)])

    return load


def fastembed(folder: Path, threads: int) -> Callable[[], Encode]:
    import numpy as np
    from fastembed import TextEmbedding
    from fastembed.common.model_description import ModelSource, PoolingType

    def load() -> Encode:
        name = "bench/production-shape"
        TextEmbedding.add_custom_model(
            model=name, pooling=PoolingType.MEAN, normalization=True, sources=ModelSource(hf=name), dim=768,
            model_file="model.onnx",
        )  # fmt: skip
        model = TextEmbedding(model_name=name, specific_model_path=str(folder / "fp32"), threads=threads)
        return lambda texts: np.stack(list(model.embed(texts, batch_size=32)))

    return load


@dataclass(frozen=True)
class OnCard:
    """Texts to vectors; and `alone`, so many batches of what `prepare` cut into tokens: the card and the way to it."""

    whole: Encode
    prepare: Callable[[list[str]], Any]
    alone: Callable[[Any, int], object]
    facts: dict[str, Any]

    def __call__(self, texts: list[str]) -> object:
        return self.whole(texts)


def edge_cuda(folder: Path) -> Callable[[], Encode]:
    from edge.embedding import Encoder
    from edge.embedding.text import normalise

    def load() -> Encode:
        encoder = Encoder.open(folder / "edge-cuda", provider="cuda", parallel=2, cache_texts=0, gpu_memory_mb=8192)
        facts = {"operators_on_cpu": encoder.operators_on_cpu(), "provider": encoder.provider}
        pool = ThreadPoolExecutor(2)

        def alone(rows: Any, batches: int) -> object:
            if batches == 1:
                return encoder._runtime.run(rows)
            # As the encoder does it: one batch is made ready while another runs.
            return list(pool.map(encoder._runtime.run, [rows] * batches))

        return OnCard(encoder.encode, lambda texts: encoder._fit([normalise(t) for t in texts]), alone, facts)

    return load


def torch_cuda(folder: Path) -> Callable[[], Encode]:
    import torch
    from sentence_transformers import SentenceTransformer

    def load() -> Encode:
        model = SentenceTransformer(str(folder / "torch"), device="cuda", model_kwargs={"torch_dtype": torch.float16})
        model.eval()

        def whole(texts: list[str]) -> object:
            return model.encode(texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False)

        def prepare(texts: list[str]) -> Any:
            read = getattr(model, "preprocess", None) or model.tokenize
            return {name: value.cuda() for name, value in read(texts).items() if hasattr(value, "cuda")}

        def alone(features: Any, batches: int) -> object:
            with torch.inference_mode():
                found = [model(dict(features))["sentence_embedding"].float() for _ in range(batches)]
                return torch.cat(found).cpu().numpy()

        return OnCard(whole, prepare, alone, {"provider": torch.cuda.get_device_name()})

    return load


def fp16_peak() -> Callable[[], Encode]:
    """The best of several large matrix products on the card, in 10⁹ operations a second."""
    import torch

    def product(_: list[str]) -> dict[str, float]:
        best = 0.0
        for n in (4096, 8192):
            one = torch.randn(n, n, device="cuda", dtype=torch.float16)
            other = torch.randn(n, n, device="cuda", dtype=torch.float16)
            for _ in range(3):
                one @ other
            for _ in range(10):
                start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                start.record()
                one @ other
                end.record()
                torch.cuda.synchronize()
                best = max(best, 2 * n**3 / (start.elapsed_time(end) / 1000) / 1e9)
        return {"fp16": best}

    return lambda: product


def peaks(threads: int) -> Callable[[], Encode]:
    from edge.embedding.bench import measure_peaks

    return lambda: lambda _: measure_peaks(threads, 2.0)


def bf16_peak(threads: int) -> Callable[[], Encode]:
    import torch

    torch.set_num_threads(threads)

    def product(_: list[str]) -> dict[str, float]:
        one, other = torch.ones(512, 768, dtype=torch.bfloat16), torch.ones(768, 3072, dtype=torch.bfloat16)
        best, until = float("inf"), time.perf_counter() + 1
        while time.perf_counter() < until:
            started = time.perf_counter()
            one @ other
            best = min(best, time.perf_counter() - started)
        return {"bf16": 2 * 512 * 768 * 3072 / best / 1e9}

    return lambda: product


def main(kind: str, folder: Path, threads: int) -> None:
    import numpy as np

    loaders: dict[str, Callable[[], Callable[[], Encode]]] = {
        "edge": lambda: edge(folder, threads, 1),
        "edge-parallel": lambda: edge(folder, 1, threads),
        "fp32": lambda: torch_model(folder, threads, "fp32"),
        "bf16": lambda: torch_model(folder, threads, "bf16"),
        "int8": lambda: onnxruntime_int8(folder, threads),
        "fastembed": lambda: fastembed(folder, threads),
        "peaks": lambda: peaks(threads),
        "peak-bf16": lambda: bf16_peak(threads),
        "edge-cuda": lambda: edge_cuda(folder),
        "torch-cuda": lambda: torch_cuda(folder),
        "peak-fp16": fp16_peak,
    }
    # What a library prints must not reach the stream the answers go to.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    load = loaders[kind]()
    bare = resident_mb()
    started = time.perf_counter()
    encode = load()
    said = {"seconds": time.perf_counter() - started, "loaded_mb": resident_mb() - bare, "resident_mb": resident_mb()}
    said["facts"] = getattr(encode, "facts", {})
    print(json.dumps(said), file=answers, flush=True)
    kept = folder / "texts.json"
    texts = json.loads(kept.read_text("utf-8")) if kept.is_file() else {}
    for line in sys.stdin:
        asked = json.loads(line)
        some = texts.get(asked["texts"], [])
        if "one" in asked:
            some = some[asked["one"] : asked["one"] + 1]
        some, run = some[: asked.get("first", len(some))], encode
        if asked.get("alone"):
            some = encode.prepare(some)  # type: ignore[attr-defined]
            run = partial(encode.alone, batches=asked["alone"])  # type: ignore[attr-defined]
        # Short work is done several times over, so that asking for it costs nothing beside it.
        took = []
        for _ in range(asked.get("times", 1)):
            started = time.perf_counter()
            found = run(some)
            took.append(time.perf_counter() - started)
        seconds = median(took)
        if asked.get("keep"):
            np.save(folder / f"{kind}.npy", np.asarray(found, np.float32))
        answer = {"seconds": seconds, "resident_mb": resident_mb(), "peaks": found if isinstance(found, dict) else {}}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
