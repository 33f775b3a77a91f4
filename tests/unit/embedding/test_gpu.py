"""On a card: the graphs for CUDA run there whole, answer as the papers say, and go on when its memory is small.

`make test PROVIDER=gpu` on a machine with an NVIDIA card; elsewhere these skip, saying so.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from export_parts import by_numpy, random_weights
from onnx import TensorProto, helper, numpy_helper

from edge.embedding.graph import BertShape, canonical_names, write_cuda
from edge.embedding.runtime import Runtime, RuntimeOptions
from edge.errors import Stop

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        "CUDAExecutionProvider" not in ort.get_available_providers(), reason="no GPU build of ONNX Runtime"
    ),
]


def _open(graph: Path, *, memory: int = 2048) -> Runtime:
    options = RuntimeOptions(provider="cuda", gpu_memory_mb=memory)
    try:
        return Runtime(graph, made_for="cuda", pooling="mean", max_tokens=128, options=options)
    except Stop as reason:
        pytest.skip(f"no GPU runs an inference here: {reason}")


def _model(folder: Path, kind: str, pooling: str, layers: int = 2) -> tuple[dict[str, np.ndarray], BertShape]:
    shape = BertShape(
        layers=layers, inner=768, positions=128, first=0 if kind == "bert" else 2, epsilon=1e-5,
        buckets=32 if kind == "mpnet" else 0, pooling=pooling,
    )  # fmt: skip
    weights = random_weights(shape, 300, kind)
    ours = {name: weights[theirs] for name, theirs in canonical_names(list(weights)).items()}
    write_cuda(folder, ours, ours["embeddings.word_embeddings.weight"], shape)
    return weights, shape


@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("kind", ["bert", "xlm-roberta", "mpnet"])
def test_a_graph_for_cuda_runs_there_whole_and_answers_as_the_paper_says(
    kind: str, pooling: str, tmp_path: Path
) -> None:
    weights, shape = _model(tmp_path, kind, pooling)
    runtime = _open(tmp_path / "model.onnx")
    assert (runtime.provider, runtime.operators_on_cpu()) == ("cuda", 0)
    chance = np.random.default_rng(5)
    rows = [(0, *chance.integers(5, 300, n).tolist(), 2) for n in (2, 14, 15, 60, 126, 9, 30)]
    # More than twice, since a CUDA graph is captured at the second run of a shape and replayed from the third on.
    for _ in range(4):
        found = runtime.run(rows)
    for row, vector in zip(rows, found, strict=True):
        tokens = by_numpy(weights, shape, list(row), kind)
        exact = tokens.sum(axis=0) if pooling == "mean" else tokens[0]
        assert exact @ vector / np.linalg.norm(exact) / np.linalg.norm(vector) > 0.9999
        alone = runtime.run([row])[0]
        assert np.abs(alone / np.linalg.norm(alone) - vector / np.linalg.norm(vector)).max() < 2e-3
    assert runtime.fallbacks == 0


def test_a_batch_that_does_not_fit_into_the_memory_allowed_is_halved(tmp_path: Path) -> None:
    _model(tmp_path, "bert", "mean")
    runtime = _open(tmp_path / "model.onnx", memory=24)
    chance = np.random.default_rng(6)
    rows = [(0, *chance.integers(5, 300, 126).tolist(), 2) for _ in range(64)]
    # Several times: a run that failed must not count towards a captured graph, which would be replayed half done.
    for _ in range(4):
        found = runtime.run(rows)
    assert (runtime.provider, runtime.fallbacks) == ("cuda", 0)
    assert runtime.splits > 0
    whole = _open(tmp_path / "model.onnx").run(rows)
    unit, exact = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True) for vectors in (found, whole))
    assert np.allclose(unit, exact, atol=2e-3)


def test_threads_that_come_and_go_share_what_is_ready_on_the_card(tmp_path: Path) -> None:
    _model(tmp_path, "xlm-roberta", "mean")
    runtime = _open(tmp_path / "model.onnx")
    rows = [(0, *range(5, 35), 2)] * 8
    expected = [runtime.run(rows) for _ in range(4)][-1]
    found: list[np.ndarray] = []
    for _ in range(20):
        threads = [threading.Thread(target=lambda: found.append(runtime.run(rows))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(found) == 40
    assert all(np.array_equal(vectors, expected) for vectors in found)
    # All of them asked through one thread of ONNX Runtime, with one captured graph.
    assert len(runtime._runner._places) == 2  # the shape of the trial, and this one


def test_shapes_are_few_and_company_changes_nothing_but_rounding(tmp_path: Path) -> None:
    """With CUDA graphs and I/O binding, on a small fp32 graph of the starter's kind."""
    rng = np.random.default_rng(4)
    table = rng.standard_normal((5000, 64)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["rows"]),
            helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
            helper.make_node("Mul", ["rows", "column"], ["kept"]),
            helper.make_node("ReduceSum", ["kept", "tokens"], ["sentence"], keepdims=0),
        ],
        "sums",
        [helper.make_tensor_value_info(n, TensorProto.INT64, ["n", "t"]) for n in ("input_ids", "attention_mask")],
        [helper.make_tensor_value_info("sentence", TensorProto.FLOAT, ["n", 64])],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([2], np.int64), "last"),
            numpy_helper.from_array(np.array([1], np.int64), "tokens"),
        ],
    )
    path = tmp_path / "model.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    runtime = _open(path)
    assert (runtime.provider, runtime.operators_on_cpu()) == ("cuda", 0)
    rows = [tuple(rng.integers(1, 5000, n).tolist()) for n in (3, 16, 17, 40, 128, 5, 9)]
    for _ in range(4):
        assert np.allclose(runtime.run(rows), [table[list(row)].sum(axis=0) for row in rows], atol=1e-3)
    assert [runtime.shape_of(n) for n in (3, 16, 17, 128)] == [16, 16, 32, 128]
