"""How fast a model is on this machine, from text to vector, and how near that is to what the machine can do."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from edge.embedding.encoder import Encoder

__all__ = ["MIXED", "Speed", "measure_peaks", "measure_speed", "text_of"]

LENGTHS = (16, 32, 64, 128)
#: Lengths in tokens of the texts encoded at once: 128 short factory reports.
MIXED = tuple(8 + (n * 37) % 41 for n in range(128))

_WORDS = (
    "motor", "pump", "belt", "oil", "leak", "hot", "stop", "line", "air", "valve", "sensor", "noise", "the", "of",
    "มอเตอร์", "สายพาน", "ร้อน", "หยุด", "น้ำมัน", "รั่ว", "เครื่อง", "ลม", "วาล์ว", "เสียง", "a", "b", "c", "1", "2",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Speed:
    """`latency`: tokens → (p50, p95) in milliseconds, one text at a time. `texts_per_second`: of 128 mixed texts.

    `loaded_mb` is what this process grew by, `resident_mb` all of it. `peak_gops`: what one matrix product reaches on
    the CPU here, in 10⁹ operations a second, by precision, with the threads of one inference. `share_of_peak`: tokens →
    the share that the model's weight products reach of the peak of its precision; absent on a GPU.
    """

    model: str
    precision: str
    provider: str
    operators_on_cpu: int
    threads: int
    load_seconds: float
    loaded_mb: float
    resident_mb: float
    latency: dict[int, tuple[float, float]]
    texts_per_second: float
    peak_gops: dict[str, float]
    share_of_peak: dict[int, float]


def measure_speed(opened: Callable[[], Encoder], graph: Path, *, threads: int = 1, seconds: float = 20.0) -> Speed:
    """Open the encoder with `opened`, which should keep no cache, and measure for about `seconds`.

    `graph`: its model.onnx, whose weight products are counted.
    """
    before = _resident_mb()
    started = time.perf_counter()
    encoder = opened()
    load = time.perf_counter() - started
    loaded = _resident_mb()
    chance = np.random.default_rng(7)
    lengths = [length for length in LENGTHS if length <= encoder.max_tokens]
    texts = {length: [text_of(length, encoder.token_count, chance) for _ in range(12)] for length in lengths}
    mixed = [text_of(length, encoder.token_count, chance) for length in MIXED]
    share = seconds / (len(lengths) + 2)
    latency = {}
    for length in lengths:
        took = _repeat([partial(encoder.encode, [text]) for text in texts[length]], share)
        latency[length] = (float(np.percentile(took, 50)), float(np.percentile(took, 95)))
    several = _repeat([partial(encoder.encode, mixed)], share)
    peaks = measure_peaks(threads, share)
    operations = 2 * _products(graph)
    peak = peaks["int8" if "int8" in encoder.precision else "fp32"]
    reached = {n: operations * n / (p50 / 1000) / 1e9 / peak for n, (p50, _) in latency.items()}
    return Speed(
        model=encoder.name,
        precision=encoder.precision,
        provider=encoder.provider,
        operators_on_cpu=encoder.operators_on_cpu(),
        threads=threads,
        load_seconds=load,
        loaded_mb=loaded - before,
        resident_mb=loaded,
        latency=latency,
        texts_per_second=len(mixed) / (float(np.median(several)) / 1000),
        peak_gops=peaks,
        share_of_peak=reached if encoder.provider == "cpu" else {},
    )


def text_of(tokens: int, count: Callable[[str], int], chance: np.random.Generator) -> str:
    """A text of exactly so many tokens, special ones included; one less where the tokenizer allows no other."""
    words: list[str] = []
    for _ in range(20 * tokens):
        left = tokens - count(" ".join(words))
        if left <= 0:
            break
        more = [*words, *chance.choice(_WORDS, max(1, left // 4)).tolist()]
        if count(" ".join(more)) <= tokens:
            words = more
    return " ".join(words)


def measure_peaks(threads: int, seconds: float = 3.0) -> dict[str, float]:
    """The best of many runs of one large matrix product in ONNX Runtime, by precision, in 10⁹ operations a second."""
    import onnx
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    rows, inner, out = 512, 768, 3072
    chance = np.random.default_rng(1)
    weight = chance.integers(-63, 64, (inner, out))

    def session(node: onnx.NodeProto, kind: int, constants: dict[str, Any]) -> Any:
        graph = helper.make_graph(
            [node],
            "peak",
            [helper.make_tensor_value_info("x", kind, [rows, inner])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, out])],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        )
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.microsoft", 1)]
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
        return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    product = helper.make_node("MatMul", ["x", "w"], ["y"])
    quantized = helper.make_node("MatMulIntegerToFloat", ["x", "w", "one", "s", "z"], ["y"], domain="com.microsoft")
    scales = {"one": np.array(1, np.float32), "s": np.ones(out, np.float32), "z": np.array(128, np.uint8)}
    cases = {
        "fp32": (session(product, TensorProto.FLOAT, {"w": weight.astype(np.float32)}), np.float32),
        "int8": (session(quantized, TensorProto.UINT8, {"w": weight.astype(np.int8), **scales}), np.uint8),
    }
    found = {}
    for name, (run, kind) in cases.items():
        x = chance.integers(0, 255, (rows, inner)).astype(kind)
        took = _repeat([partial(run.run, None, {"x": x})], seconds / len(cases))
        found[name] = 2 * rows * inner * out / (min(took) / 1000) / 1e9
    return found


def _repeat(calls: Sequence[Callable[[], object]], seconds: float) -> list[float]:
    """Milliseconds of each call, in turn, at least three times and until `seconds` are over."""
    calls[0]()
    took: list[float] = []
    until = time.perf_counter() + seconds
    while len(took) < 3 or (time.perf_counter() < until and len(took) < 2000):
        call = calls[len(took) % len(calls)]
        started = time.perf_counter()
        call()
        took.append((time.perf_counter() - started) * 1000)
    return took


def _products(graph: Path) -> int:
    """Multiplications and additions per token in the products with weights; attention's own are left out."""
    import onnx

    model = onnx.load(str(graph), load_external_data=False)
    sizes = {one.name: int(np.prod(one.dims)) for one in model.graph.initializer if len(one.dims) == 2}
    total = 0
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            total += int(np.prod([a.i for a in node.attribute if a.name in ("K", "N")]))
        elif "MatMul" in node.op_type or node.op_type == "Gemm":
            total += sum(sizes.get(name, 0) for name in node.input)
    return total


def _resident_mb() -> float:
    with Path("/proc/self/status").open(encoding="ascii") as lines:
        return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS"))
