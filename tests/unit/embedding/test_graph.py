"""The graphs compute what the families' papers say, in every form, and int8 does not depend on company or processor."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from export_parts import by_numpy, random_weights

from edge.embedding import graph as graphs
from edge.embedding.graph import (
    BertShape,
    Float,
    Int8,
    Int8Blocks,
    canonical_names,
    write_cpu,
    write_cuda,
    write_tensorrt,
)
from edge.embedding.manifest import Floats

FAMILIES = ("bert", "xlm-roberta", "mpnet")
ROWS = [[0, 5, 6, 7, 2], [0, 90, 14, 2], [0, *range(10, 47), 2]]


def _shape(kind: str, pooling: str = "mean") -> BertShape:
    return BertShape(
        layers=2, inner=768, positions=40, first=0 if kind == "bert" else 2, epsilon=1e-5,
        buckets=32 if kind == "mpnet" else 0, pooling=pooling,
    )  # fmt: skip


def _parts(kind: str, pooling: str = "mean") -> tuple[dict[str, Floats], dict[str, Floats], BertShape]:
    shape = _shape(kind, pooling)
    weights = random_weights(shape, 100, kind)
    return weights, {ours: weights[theirs] for ours, theirs in canonical_names(list(weights)).items()}, shape


def _session(folder: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    return ort.InferenceSession(str(folder / "model.onnx"), options, providers=["CPUExecutionProvider"])


def _cosine(one: Floats, other: Floats) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_float32_graph_is_the_published_architecture(kind: str, tmp_path: Path) -> None:
    weights, ours, shape = _parts(kind)
    write_cpu(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape, Float())
    session = _session(tmp_path)
    for row in ROWS:
        found = session.run(None, {"input_ids": np.array([row])})[0][0]
        assert np.abs(found - by_numpy(weights, shape, row, kind)).max() < 2e-5


@pytest.mark.parametrize("write", [write_cuda, write_tensorrt])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", FAMILIES)
def test_the_graphs_for_a_gpu_pool_padded_texts_as_if_alone(
    kind: str, pooling: str, write: graphs.Callable[..., None], tmp_path: Path
) -> None:
    weights, ours, shape = _parts(kind, pooling)
    write(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape)
    ids = np.zeros((len(ROWS), 40), np.int64)
    mask = np.zeros_like(ids)
    for at, row in enumerate(ROWS):
        ids[at, : len(row)], mask[at, : len(row)] = row, 1
    found = _session(tmp_path).run(None, {"input_ids": ids, "attention_mask": mask})[0]
    assert found.shape == (len(ROWS), shape.hidden)
    assert found.dtype == np.float32
    for vector, row in zip(found, ROWS, strict=True):
        tokens = by_numpy(weights, shape, row, kind)
        assert _cosine(vector, tokens.sum(axis=0) if pooling == "mean" else tokens[0]) > 0.9999


def test_a_graph_for_tensorrt_holds_standard_operators_in_float16(tmp_path: Path) -> None:
    _, ours, shape = _parts("xlm-roberta")
    write_tensorrt(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape)
    model = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    assert {node.domain for node in model.graph.node} == {""}
    large = {t.name: t.data_type for t in model.graph.initializer if np.prod(t.dims) > 10_000}
    assert set(large.values()) == {onnx.TensorProto.FLOAT16}
    assert {"MatMul", "Softmax", "LayerNormalization", "Gelu"} <= {node.op_type for node in model.graph.node}


def test_a_graph_for_cuda_holds_fused_operators_in_float16(tmp_path: Path) -> None:
    _, ours, shape = _parts("xlm-roberta")
    write_cuda(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape)
    model = onnx.load(tmp_path / "model.onnx")
    fused = [node.op_type for node in model.graph.node if node.domain == "com.microsoft"]
    assert [fused.count(name) for name in ("MultiHeadAttention", "SkipLayerNormalization", "BiasGelu")] == [2, 5, 2]
    large = {t.name: t.data_type for t in model.graph.initializer if np.prod(t.dims) > 10_000}
    assert set(large.values()) == {onnx.TensorProto.FLOAT16}


@pytest.mark.parametrize("linear", [Int8(), Int8(("qkv",)), Int8Blocks()])
@pytest.mark.parametrize("kind", FAMILIES)
def test_int8_answers_the_same_in_any_batch_and_nearly_as_float32(
    kind: str, linear: graphs.Linear, tmp_path: Path
) -> None:
    weights, ours, shape = _parts(kind)
    write_cpu(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape, linear)
    session = _session(tmp_path)
    rows = np.random.default_rng(7).integers(0, 100, (33, 17))
    together = session.run(None, {"input_ids": rows})[0]
    for at in (0, 16, 32):
        assert np.array_equal(session.run(None, {"input_ids": rows[at : at + 1]})[0][0], together[at])
        exact = by_numpy(weights, shape, rows[at].tolist(), kind)
        assert _cosine(together[at].sum(axis=0), exact.sum(axis=0)) > 0.99
    assert not any(node.op_type == "SkipLayerNormalization" for node in onnx.load(tmp_path / "model.onnx").graph.node)


def test_a_row_of_zeros_is_quantized_to_zeros(tmp_path: Path) -> None:
    _, ours, shape = _parts("bert")
    for part in ("weight", "bias"):
        ours["embeddings.LayerNorm." + part][:] = 0
    ids = {"input_ids": np.array(ROWS[:1])}
    found = []
    for linear in (Int8(), Float()):
        write_cpu(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape, linear)
        found.append(_session(tmp_path).run(None, ids)[0][0].sum(axis=0))
    assert _cosine(*found) > 0.99


def test_no_two_neighbouring_weights_can_overflow_16_bits(tmp_path: Path) -> None:
    _, ours, shape = _parts("bert")
    first = ours["encoder.layer.0.intermediate.dense.weight"]
    first[:, 10:12] = 3.0  # two outliers side by side, in every output
    write_cpu(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape, Int8())
    model = onnx.load(tmp_path / "model.onnx")
    seen = 0
    for tensor in model.graph.initializer:
        if tensor.name.startswith("layer") and tensor.name.endswith(".weight"):
            whole = np.abs(onnx.numpy_helper.to_array(tensor).astype(np.int64))  # [in, out]
            assert 255 * (whole[1:] + whole[:-1]).max() <= 2**15 - 1
            assert whole.max() > 63
            seen += 1
    assert seen == 4 * shape.layers


def test_large_constants_lie_beside_the_graph_on_pages_of_their_own(tmp_path: Path) -> None:
    _, ours, shape = _parts("bert")
    write_cpu(tmp_path, ours, ours["embeddings.word_embeddings.weight"], shape, Int8())
    assert (tmp_path / "model.onnx").stat().st_size < 100_000
    model = onnx.load(tmp_path / "model.onnx", load_external_data=False)
    offsets = [int(entry.value) for t in model.graph.initializer for entry in t.external_data if entry.key == "offset"]
    assert len(offsets) > 8
    assert all(offset % 4096 == 0 for offset in offsets)
