"""ONNX graphs of sentence encoders, written node by node: BERT, XLM-R and MPNet, one form per provider and precision.

Writing them leaves nothing to a pattern matcher: what runs is what stands here, and the export measures it against an
independent export of the same weights.

`cpu`, int8: every activation row (one token) carries its own scale, so a token's numbers do not depend on what else is
in the batch; the stock dynamic quantization has one scale per batch and is not batch-invariant. There is no attention
mask: a batch holds texts of one length only. Processors without VNNI add two products of 8 by 8 bits in 16 bits and
saturate, so weights keep 7 bits, or 8 where no two neighbours can overflow together: the integer part is then exact,
hence equal, on every processor.
Sums and layer norms stay apart, since SkipLayerNormalization is slower than both on a CPU.

`cuda` and `tensorrt`: float16 inside, float32 out, a mask for texts padded on the right, pooled in the graph so that one
row per text leaves the device. `cuda` uses ONNX Runtime's fused operators, `tensorrt` standard ones alone, which that
compiler fuses itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from edge.embedding.manifest import Floats

__all__ = [
    "BertShape",
    "Float",
    "Int8",
    "Int8Blocks",
    "Linear",
    "bert_int8",
    "canonical_names",
    "kinds_int8",
    "relative_buckets",
    "write_cpu",
    "write_cuda",
    "write_tensorrt",
]

_OPSET, _IR = 20, 10
_WEIGHT_TOP = 63
# GELU never falls below -0.17, so its outputs spend few of the 256 steps on negative numbers.
_GELU_ZERO, _GELU_FLOOR = 16, np.float32(0.17 / 16)
_MS = "com.microsoft"
_TWO, _THREE = np.array([2], np.int64), np.array([3], np.int64)
_DATA = "model.onnx.data"

Progress = Callable[[int, int], None]
Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class BertShape:
    """The sizes of the body.

    `positions` is also the most tokens a text may have. `first`: the row of the position table that the first token
    takes (XLM-R and MPNet start behind their padding id). `buckets`: of MPNet's relative positions, else 0. `pooling`:
    "mean" or "cls", which only the graphs that pool themselves read.
    """

    layers: int = 6
    hidden: int = 384
    heads: int = 12
    inner: int = 1536
    positions: int = 128
    first: int = 0
    epsilon: float = 1e-12
    buckets: int = 0
    pooling: str = "mean"


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, Array] = {}
        self._names: dict[str, int] = {}

    def constant(self, name: str, value: Array) -> str:
        self.constants.setdefault(name, value)
        return name

    def add(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> str:
        return self.many(op, *inputs, domain=domain, outputs=outputs, **attributes)[0]

    def many(self, op: str, *inputs: str, domain: str = "", outputs: int = 1, **attributes: Any) -> list[str]:
        number = self._names[op] = self._names.get(op, 0) + 1
        names = [f"{op}.{number}.{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}.{number}", domain=domain, **attributes))
        return names

    def rows(self, x: str) -> tuple[str, str]:
        """Quantize each row of `x` [rows, width] to unsigned 8 bits around 128; give it and its scales [rows, 1].

        A row of zeros has the scale 0: whatever its quotients become, the product is multiplied by that 0 again.
        """
        top = self.add("ReduceMax", self.add("Abs", x), "axis.last", keepdims=0)
        return self._by_row(x, self.add("Mul", top, "1/127"), "zeros.128")

    def gelu_rows(self, x: str) -> tuple[str, str]:
        top = self.add("ReduceMax", x, "axis.last", keepdims=0)
        return self._by_row(x, self.add("Max", self.add("Mul", top, "1/239"), "gelu.floor"), "zeros.gelu")

    def _by_row(self, x: str, scale: str, zeros: str) -> tuple[str, str]:
        return self.add("QuantizeLinear", x, scale, zeros, axis=0), self.add("Reshape", scale, "column")

    def linear(self, quantized: tuple[str, str], name: str, weight: Floats, zero: str, *, paired: bool = False) -> str:
        """`x @ weight.T` with `weight` [out, in] rounded to whole numbers, one scale per output."""
        data, row_scale = quantized
        whole, scale = _rounded(weight, *(_paired_scale(weight) if paired else _plain_scale(weight)))
        product = self.add(
            "MatMulIntegerToFloat",
            data,
            self.constant(name + ".weight", whole.T),
            "one",
            self.constant(name + ".scale", scale),
            zero,
            domain=_MS,
        )
        return self.add("Mul", product, row_scale)

    def plus(self, x: str, name: str, bias: Array) -> str:
        return self.add("Add", x, self.constant(name + ".bias", bias))

    def norm(self, x: str, name: str, weight: Floats, bias: Floats, epsilon: float) -> str:
        return self.add(
            "LayerNormalization",
            x,
            self.constant(name + ".gamma", weight),
            self.constant(name + ".beta", bias),
            axis=-1,
            epsilon=epsilon,
        )

    def heads(self, x: str, transposed: bool = False) -> str:
        return self.add(
            "Transpose", self.add("Reshape", x, "by.head"), perm=[0, 2, 3, 1] if transposed else [0, 2, 1, 3]
        )

    def integer_constants(self, rows: str) -> None:
        """What the int8 products read; `rows`, how many rows their matrices have, sizes the zero points of each."""
        for name, zero in (("128", 128), ("gelu", _GELU_ZERO)):
            value = numpy_helper.from_array(np.array([zero], np.uint8))
            made = helper.make_node("ConstantOfShape", [rows], ["zeros." + name], name="zeros." + name, value=value)
            self.nodes.append(made)
        self.constant("axis.last", np.array([-1], np.int64))
        self.constant("column", np.array([-1, 1], np.int64))
        self.constant("1/127", np.array(1 / 127, np.float32))
        self.constant("1/239", np.array(1 / 239, np.float32))
        self.constant("one", np.array(1, np.float32))
        self.constant("zero.128", np.array(128, np.uint8))
        self.constant("zero.gelu", np.array(_GELU_ZERO, np.uint8))
        self.constant("gelu.floor", np.array(_GELU_FLOOR, np.float32))

    def model(
        self,
        name: str,
        inputs: list[onnx.ValueInfoProto],
        output: onnx.ValueInfoProto,
        constants: list[onnx.TensorProto],
    ) -> bytes:
        graph = helper.make_graph(self.nodes, name, inputs, [output], constants)
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", _OPSET), helper.make_opsetid(_MS, 1)],
            ir_version=_IR,
            producer_name="andon-edge",
        )
        return bytes(model.SerializeToString(deterministic=True))

    def inline(self) -> list[onnx.TensorProto]:
        return [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in self.constants.items()]

    def beside(self, path: Path) -> list[onnx.TensorProto]:
        """Write the large constants to `path`, each on a page of its own, so that untouched ones are never read."""
        out = []
        with path.open("wb") as file:
            for name, value in self.constants.items():
                if value.nbytes < mmap.PAGESIZE:
                    out.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
                    continue
                at = -(-file.tell() // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
                file.seek(at)
                file.write(np.ascontiguousarray(value).data)
                tensor = TensorProto(name=name, dims=value.shape, data_location=TensorProto.EXTERNAL)
                tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
                for key, told in (("location", path.name), ("offset", str(at)), ("length", str(value.nbytes))):
                    tensor.external_data.add(key=key, value=told)
                out.append(tensor)
        return out


def _plain_scale(weight: Floats) -> tuple[int, Floats]:
    top = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-12))
    return _WEIGHT_TOP, (top / np.float32(_WEIGHT_TOP)).astype(np.float32)


def _paired_scale(weight: Floats) -> tuple[int, Floats]:
    """The finest scale at which no two neighbours exceed 128 together: 255 * 128 still fits into 16 bits.

    Only the few outputs with two large weights side by side lose a part of the eighth bit.
    """
    size = np.abs(weight)
    # 127.4 and not 128: two neighbours may both be rounded up by a half.
    top = np.maximum(size.max(axis=1) / 127, (size[:, :-1] + size[:, 1:]).max(axis=1) / 127.4)
    return 127, np.maximum(top, 1e-12).astype(np.float32)


def _rounded(weight: Floats, top: int, scale: Floats) -> tuple[npt.NDArray[np.int8], Floats]:
    return np.clip(np.rint(weight / scale[:, None]), -top, top).astype(np.int8), scale


class Linear(Protocol):
    """How `x @ weight.T` is written, `weight` [out, in]. `name` ends with the part of the layer that it is.

    Parts: "qkv", "attended", "wide", and "narrow", which reads what comes from the GELU.
    """

    @property
    def int8_words(self) -> bool: ...

    def __call__(self, g: _Graph, x: str, name: str, weight: Floats) -> str: ...


@dataclass(frozen=True, slots=True)
class Int8:
    """8-bit activations with a scale per token, weights with a scale per output; `floating` parts in float32.

    `paired`: weights keep as much of the eighth bit as their neighbours leave room for; without it 7 bits.
    """

    floating: tuple[str, ...] = ()
    paired: bool = True
    int8_words: bool = True

    def __call__(self, g: _Graph, x: str, name: str, weight: Floats) -> str:
        part = name.rpartition(".")[2]
        if part in self.floating:
            return Float()(g, x, name, weight)
        if part == "narrow":
            return g.linear(g.gelu_rows(x), name, weight, "zero.gelu", paired=self.paired)
        return g.linear(g.rows(x), name, weight, "zero.128", paired=self.paired)


@dataclass(frozen=True, slots=True)
class Float:
    """A plain matrix product in `dtype`."""

    dtype: type[np.float32 | np.float16] = np.float32
    int8_words: bool = False

    def __call__(self, g: _Graph, x: str, name: str, weight: Floats) -> str:
        return g.add("MatMul", x, g.constant(name + ".weight", weight.T.astype(self.dtype)))


@dataclass(frozen=True, slots=True)
class Int8Blocks:
    """MatMulNBits: 8-bit weights with a scale per block of `block` inputs, activations quantized inside the operator."""

    block: int = 32
    int8_words: bool = True

    def __call__(self, g: _Graph, x: str, name: str, weight: Floats) -> str:
        out, inner = weight.shape
        blocks = weight.reshape(out, inner // self.block, self.block)
        scale = np.maximum(np.abs(blocks).max(axis=2, keepdims=True) / np.float32(127), np.float32(1e-12))
        whole = (np.clip(np.rint(blocks / scale), -127, 127) + 128).astype(np.uint8)
        return g.add(
            "MatMulNBits",
            x,
            g.constant(name + ".weight", whole),
            g.constant(name + ".scale", scale[:, :, 0].astype(np.float32)),
            domain=_MS,
            K=inner,
            N=out,
            bits=8,
            block_size=self.block,
            accuracy_level=4,
        )


class _Layers:
    """The published weights under BERT's names, read when a layer is written."""

    def __init__(self, weights: Mapping[str, Floats], shape: BertShape) -> None:
        self._weights = weights
        self.shape = shape

    def both(self, layer: int, part: str) -> tuple[Floats, Floats]:
        at = f"encoder.layer.{layer}.{part}"
        return self._weights[at + ".weight"], self._weights[at + ".bias"]

    def attended(self, layer: int) -> tuple[Floats, Floats]:
        """The product behind the attention, its bias with that of the values in it: their weights sum to one."""
        weight, bias = self.both(layer, "attention.output.dense")
        return weight, bias + weight @ self._weights[f"encoder.layer.{layer}.attention.self.value.bias"]

    def places(self) -> Floats:
        """What is added to the words by position: [positions, hidden]."""
        first, count = self.shape.first, self.shape.positions
        place = self._weights["embeddings.position_embeddings.weight"][first : first + count]
        kinds = "embeddings.token_type_embeddings.weight"
        return (place + self._weights[kinds][0] if kinds in self._weights else place).astype(np.float32)

    def embedded_norm(self) -> tuple[Floats, Floats]:
        return self._weights["embeddings.LayerNorm.weight"], self._weights["embeddings.LayerNorm.bias"]

    def bias_by_distance(self) -> Floats | None:
        """MPNet's share of the attention scores: [1, heads, positions, positions]."""
        if not self.shape.buckets:
            return None
        table = self._weights["encoder.relative_attention_bias.weight"]
        rows = table[relative_buckets(self.shape.positions, self.shape.buckets)]
        return np.ascontiguousarray(rows.transpose(2, 0, 1)[None])


def canonical_names(names: list[str]) -> dict[str, str]:
    """BERT's name → the file's name, for the weights of BERT, XLM-R and MPNet, whatever the prefix of their class."""
    parts = {".attention.attn.q.": ".attention.self.query.", ".attention.attn.k.": ".attention.self.key."}
    parts |= {".attention.attn.v.": ".attention.self.value.", ".attention.attn.o.": ".attention.output.dense."}
    parts |= {".attention.LayerNorm.": ".attention.output.LayerNorm."}
    found = {}
    for name in names:
        ours = name.removeprefix("bert.").removeprefix("roberta.").removeprefix("mpnet.")
        for theirs, our in parts.items():
            ours = ours.replace(theirs, our)
        found[ours] = name
    return found


def relative_buckets(positions: int, buckets: int, farthest: int = 128) -> npt.NDArray[np.int64]:
    """T5's buckets as MPNet uses them, [query, key]: half for each side, exact when near, logarithmic when far."""
    distance = np.arange(positions)[:, None] - np.arange(positions)[None, :]
    side = np.where(distance < 0, buckets // 2, 0)
    n = np.abs(distance)
    exact = buckets // 4
    # In float32 as the published model computes it: a bucket's edge is a rounding away.
    far = np.log(np.maximum(n, 1).astype(np.float32) / np.float32(exact)) / np.float32(np.log(farthest / exact))
    far = exact + (far * np.float32(buckets // 2 - exact)).astype(np.int64)
    found: npt.NDArray[np.int64] = side + np.where(n < exact, n, np.minimum(far, buckets // 2 - 1))
    return found


def bert_int8(weights: Mapping[str, Floats], words: Floats, shape: BertShape) -> bytes:
    """Serialise the graph: `input_ids` int64 [n, tokens] in, `hidden` float32 [n, tokens, hidden] out.

    `weights` carries the published BERT names; `words` float32 [vocabulary, hidden] is the embedding table.
    """
    g = _Graph()
    output = _cpu(g, _Layers(weights, shape), words, Int8(paired=False))
    return g.model("starter", _ids("input_ids"), output, g.inline())


def kinds_int8(vectors: Floats) -> tuple[bytes, Array, Floats]:
    """The product with the unit `vectors` [kinds, width], serialised, and what they became in it.

    `rows` uint8 [n, width] around 128 in, `sums` float32 [n, kinds] out: whole numbers, with int8 [kinds, width] whose
    rows, times their scales float32 [kinds], are the vectors.
    """
    whole, scale = _rounded(vectors, *_paired_scale(vectors))
    g = _Graph()
    one, centres = g.constant("one", np.array(1, np.float32)), g.constant("centres", whole.T)
    zero = g.constant("zero.128", np.array(128, np.uint8))
    product = helper.make_node("MatMulIntegerToFloat", ["rows", centres, one, one, zero], ["sums"], domain=_MS)
    given = helper.make_tensor_value_info("rows", TensorProto.UINT8, ["n", vectors.shape[1]])
    output = helper.make_tensor_value_info("sums", TensorProto.FLOAT, ["n", len(vectors)])
    g.nodes.append(product)
    return g.model("kinds", [given], output, g.inline()), whole, scale


def write_cpu(
    folder: Path,
    weights: Mapping[str, Floats],
    words: Floats,
    shape: BertShape,
    linear: Linear,
    progress: Progress | None = None,
) -> None:
    """Write `model.onnx` and its data for the CPU: inputs and output as `bert_int8`, with the products as `linear`."""
    g = _Graph()
    output = _cpu(g, _Layers(weights, shape), words, linear, progress)
    _write(folder, g, ["input_ids"], output)


def _cpu(
    g: _Graph, model: _Layers, words: Floats, linear: Linear, progress: Progress | None = None
) -> onnx.ValueInfoProto:
    shape = model.shape
    if linear.int8_words:
        row_scale = np.maximum(np.abs(words).max(axis=1, keepdims=True) / np.float32(127), np.float32(1e-12))
        whole = np.clip(np.rint(words / row_scale), -127, 127).astype(np.int8)
        rows = g.add("Cast", g.add("Gather", g.constant("words", whole), "input_ids"), to=TensorProto.FLOAT)
        x = g.add("Mul", rows, g.add("Gather", g.constant("words.scale", row_scale.astype(np.float32)), "input_ids"))
    else:
        x = g.add("Gather", g.constant("words", words), "input_ids")
    g.constant("start", np.array([0], np.int64))
    count = g.add("Shape", "input_ids", start=1, end=2)
    x = g.add("Add", x, g.add("Slice", g.constant("places", model.places()), "start", count, "start"))
    x = g.norm(x, "embedded", *model.embedded_norm(), shape.epsilon)
    bias = _bias(g, model, count, np.float32)
    # One matrix of all tokens, so that its rows are the axis of a scale; the attention alone sees texts.
    by_text = g.add("Concat", g.add("Shape", "input_ids"), g.constant("rest", np.array([-1], np.int64)), axis=0)
    x = g.add("Reshape", x, g.constant("flat", np.array([-1, shape.hidden], np.int64)))
    if linear.int8_words:
        g.integer_constants(g.add("Shape", x, start=0, end=1))

    affine = partial(_affine, g, linear)
    for layer in range(shape.layers):
        to = f"layer{layer}."
        three = [model.both(layer, "attention.self." + part) for part in ("query", "key", "value")]
        qkv = linear(g, x, to + "qkv", np.concatenate([weight for weight, _ in three]))
        q, k, v = g.many("Split", g.add("Reshape", qkv, by_text), outputs=3, axis=-1, num_outputs=3)
        # A bias of the keys moves all scores of a query alike, which softmax takes out again.
        q = g.plus(q, to + "query", three[0][1])
        more = ["", "", bias] if bias else []
        seen = g.add("MultiHeadAttention", q, k, v, *more, domain=_MS, num_heads=shape.heads)
        seen = affine(g.add("Reshape", seen, "flat"), to + "attended", *model.attended(layer))
        x = g.add("Add", x, seen)
        x = g.norm(x, to + "attention", *model.both(layer, "attention.output.LayerNorm"), shape.epsilon)
        wide = g.add("Gelu", affine(x, to + "wide", *model.both(layer, "intermediate.dense")), domain=_MS)
        narrow = affine(wide, to + "narrow", *model.both(layer, "output.dense"))
        x = g.norm(g.add("Add", x, narrow), to + "out", *model.both(layer, "output.LayerNorm"), shape.epsilon)
        if progress:
            progress(layer + 1, shape.layers)

    x = g.add("Reshape", x, by_text)
    g.nodes.append(helper.make_node("Identity", [x], ["hidden"], name="hidden"))
    return helper.make_tensor_value_info("hidden", TensorProto.FLOAT, ["n", "tokens", shape.hidden])


def write_cuda(
    folder: Path, weights: Mapping[str, Floats], words: Floats, shape: BertShape, progress: Progress | None = None
) -> None:
    """Write the float16 graph of fused operators.

    `input_ids` and `attention_mask` int64 [n, tokens] in, padded on the right; `pooled` float32 [n, hidden] out, the
    sum over a text's tokens or its first token, not of unit length.
    """
    g, model, half = _Graph(), _Layers(weights, shape), np.float16

    def short(name: str, value: Floats) -> str:
        return g.constant(name, np.ascontiguousarray(value.astype(half)))

    rows, places, count = _half_words(g, model, words)
    gamma, beta = (
        short("embedded" + name, value) for name, value in zip((".gamma", ".beta"), model.embedded_norm(), strict=True)
    )
    x = g.add("SkipLayerNormalization", rows, places, gamma, beta, domain=_MS, epsilon=shape.epsilon)
    bias = _bias(g, model, count, half)
    g.constant("axis.1", np.array([1], np.int64))
    lengths = g.add("ReduceSum", "attention_mask", "axis.1", keepdims=0)
    lengths = g.add("Cast", lengths, to=TensorProto.INT32)

    def add_norm(x: str, y: str, name: str, layer: int, norm: str, bias: str) -> str:
        gamma, beta = model.both(layer, norm)
        inputs = [x, y, short(name + ".gamma", gamma), short(name + ".beta", beta), bias]
        return g.add("SkipLayerNormalization", *inputs, domain=_MS, epsilon=shape.epsilon)

    for layer in range(shape.layers):
        to = f"layer{layer}."
        # Three products, so that the attention reads them where they lie: a joint one would be taken apart and
        # transposed first. The bias of the keys moves all scores of a query alike, which softmax takes out again, and
        # the values' passes through the weights, which sum to one, into the bias of the next product.
        query, key, value = (model.both(layer, f"attention.self.{part}") for part in ("query", "key", "value"))
        q = g.add("MatMul", x, short(to + "query.weight", query[0].T))
        q = g.add("Add", q, short(to + "query.bias", query[1]))
        k = g.add("MatMul", x, short(to + "key.weight", key[0].T))
        v = g.add("MatMul", x, short(to + "value.weight", value[0].T))
        more = [bias] if bias else []
        seen = g.add("MultiHeadAttention", q, k, v, "", lengths, *more, domain=_MS, num_heads=shape.heads)
        weight, offset = model.attended(layer)
        seen = g.add("MatMul", seen, short(to + "attended.weight", weight.T))
        attended = short(to + "attended.bias", offset)
        x = add_norm(x, seen, to + "attention", layer, "attention.output.LayerNorm", attended)
        weight, offset = model.both(layer, "intermediate.dense")
        wide = g.add("MatMul", x, short(to + "wide.weight", weight.T))
        wide = g.add("BiasGelu", wide, short(to + "wide.bias", offset), domain=_MS)
        weight, offset = model.both(layer, "output.dense")
        narrow = g.add("MatMul", wide, short(to + "narrow.weight", weight.T))
        x = add_norm(x, narrow, to + "out", layer, "output.LayerNorm", short(to + "narrow.bias", offset))
        if progress:
            progress(layer + 1, shape.layers)
    _write(folder, g, ["input_ids", "attention_mask"], _pooled(g, x, shape, by_product=True))


def write_tensorrt(
    folder: Path, weights: Mapping[str, Floats], words: Floats, shape: BertShape, progress: Progress | None = None
) -> None:
    """Write the float16 graph of standard operators; inputs and output as `write_cuda`. Layer norms in float32."""
    g, model = _Graph(), _Layers(weights, shape)
    affine = partial(_affine, g, Float(np.float16), dtype=np.float16)

    def norm(x: str, name: str, gamma: Floats, beta: Floats) -> str:
        wide = g.add("Cast", x, to=TensorProto.FLOAT)
        return g.add("Cast", g.norm(wide, name, gamma, beta, shape.epsilon), to=TensorProto.FLOAT16)

    rows, places, count = _half_words(g, model, words)
    x = norm(g.add("Add", rows, places), "embedded", *model.embedded_norm())
    width = shape.hidden // shape.heads
    g.constant("by.head", np.array([0, 0, shape.heads, width], np.int64))
    g.constant("whole", np.array([0, 0, shape.hidden], np.int64))
    g.constant("1/sqrt", np.array(width**-0.5, np.float16))
    g.constant("one", np.array(1, np.float16))
    # Far below every score, and still a finite float16.
    g.constant("hide", np.array(-10_000, np.float16))
    g.constant("axes.heads", np.array([1, 2], np.int64))
    mask = g.add("Sub", "one", g.add("Cast", "attention_mask", to=TensorProto.FLOAT16))
    added = g.add("Unsqueeze", g.add("Mul", mask, "hide"), "axes.heads")
    if bias := _bias(g, model, count, np.float16):
        added = g.add("Add", added, bias)
    for layer in range(shape.layers):
        to = f"layer{layer}."
        q, k, v = (
            affine(x, to + part, *model.both(layer, "attention.self." + part)) for part in ("query", "key", "value")
        )
        scores = g.add("MatMul", g.add("Mul", g.heads(q), "1/sqrt"), g.heads(k, transposed=True))
        seen = g.add("MatMul", g.add("Softmax", g.add("Add", scores, added), axis=-1), g.heads(v))
        seen = g.add("Reshape", g.add("Transpose", seen, perm=[0, 2, 1, 3]), "whole")
        seen = affine(seen, to + "attended", *model.both(layer, "attention.output.dense"))
        x = norm(g.add("Add", x, seen), to + "attention", *model.both(layer, "attention.output.LayerNorm"))
        wide = g.add("Gelu", affine(x, to + "wide", *model.both(layer, "intermediate.dense")))
        narrow = affine(wide, to + "narrow", *model.both(layer, "output.dense"))
        x = norm(g.add("Add", x, narrow), to + "out", *model.both(layer, "output.LayerNorm"))
        if progress:
            progress(layer + 1, shape.layers)
    _write(folder, g, ["input_ids", "attention_mask"], _pooled(g, x, shape, by_product=False))


def _affine(
    g: _Graph, linear: Linear, x: str, name: str, weight: Floats, bias: Floats, dtype: type[np.floating] = np.float32
) -> str:
    return g.plus(linear(g, x, name, weight), name, bias.astype(dtype))


def _half_words(g: _Graph, model: _Layers, words: Floats) -> tuple[str, str, str]:
    """What the tokens mean, what their places add, and how many tokens there are."""
    rows = g.add("Gather", g.constant("words", words.astype(np.float16)), "input_ids")
    g.constant("start", np.array([0], np.int64))
    count = g.add("Shape", "input_ids", start=1, end=2)
    places = g.constant("places", model.places().astype(np.float16))
    return rows, g.add("Slice", places, "start", count, "start"), count


def _bias(g: _Graph, model: _Layers, count: str, dtype: type[np.float32 | np.float16]) -> str:
    table = model.bias_by_distance()
    if table is None:
        return ""
    # Cut twice by one number: joining it to a pair would be an operator that a GPU leaves to the CPU.
    rows = g.add("Slice", g.constant("distance", table.astype(dtype)), "start", count, g.constant("axis.2", _TWO))
    return g.add("Slice", rows, "start", count, g.constant("axis.3", _THREE))


def _pooled(g: _Graph, x: str, shape: BertShape, *, by_product: bool) -> onnx.ValueInfoProto:
    """A text's sum and its mean are the same unit vector, so nothing is divided by the length.

    `by_product`: the sum as one matrix product, whose sums are float32 and whose result is float16; otherwise all of it
    in float32, which reads the tokens three times.
    """
    g.constant("axis.1", np.array([1], np.int64))
    if shape.pooling == "cls":
        g.constant("first", np.array([0], np.int64))
        out = g.add("Squeeze", g.add("Gather", x, "first", axis=1), "axis.1")
        out = g.add("Cast", out, to=TensorProto.FLOAT)
    elif by_product:
        mask = g.add("Cast", g.add("Unsqueeze", "attention_mask", "axis.1"), to=TensorProto.FLOAT16)
        # A power of two keeps the sum within float16 and rounds nothing.
        scale = np.array(2.0 ** -np.ceil(np.log2(shape.positions)), np.float16)
        mask = g.add("Mul", mask, g.constant("1/positions", scale))
        out = g.add("Cast", g.add("Squeeze", g.add("MatMul", mask, x), "axis.1"), to=TensorProto.FLOAT)
    else:
        mask = g.add("Unsqueeze", "attention_mask", g.constant("axis.2", _TWO))
        mask = g.add("Cast", mask, to=TensorProto.FLOAT)
        wide = g.add("Cast", x, to=TensorProto.FLOAT)
        out = g.add("ReduceSum", g.add("Mul", wide, mask), "axis.1", keepdims=0)
    g.nodes.append(helper.make_node("Identity", [out], ["pooled"], name="pooled"))
    return helper.make_tensor_value_info("pooled", TensorProto.FLOAT, ["n", shape.hidden])


def _write(folder: Path, g: _Graph, inputs: list[str], output: onnx.ValueInfoProto) -> None:
    constants = g.beside(folder / _DATA)
    (folder / "model.onnx").write_bytes(g.model("encoder", _ids(*inputs), output, constants))


def _ids(*names: str) -> list[onnx.ValueInfoProto]:
    return [helper.make_tensor_value_info(name, TensorProto.INT64, ["n", "tokens"]) for name in names]
