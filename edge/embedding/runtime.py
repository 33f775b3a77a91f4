"""Where a model runs: the provider that really answers, the shapes it is given, and what happens when it fails.

What a build of ONNX Runtime lists as available is what it was compiled with. Only an inference proves that a graphics
card, its driver and its libraries are there, so a provider counts once it has run one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as failures

from edge.embedding.manifest import Floats
from edge.errors import Stop, Unavailable

__all__ = [
    "PROVIDERS",
    "Provider",
    "Runtime",
    "RuntimeOptions",
    "integer_product",
    "out_of_memory",
    "session_options",
    "single_wheel",
]

Provider = Literal["auto", "cpu", "cuda", "tensorrt"]
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}

# In which order a model made for one provider is tried. A graph made for a CPU never goes to a GPU by itself: its
# dynamic int8 operators would run on the CPU all the same, with a copy each way.
_ORDER = {"cpu": ("cpu",), "cuda": ("cuda", "cpu"), "tensorrt": ("tensorrt", "cuda", "cpu")}

# Lengths a GPU sees, in tokens, and texts at once: few enough that a CUDA graph of each can be kept.
_LENGTHS = (16, 32, 64, 128, 256, 512)
_ROWS = (1, 2, 4, 8, 16, 32, 64)
# On a CPU larger batches leave the cache: slower, and ten times the memory. On a GPU it is 64 texts of 128 tokens.
_TOKENS_CPU, _TOKENS_GPU = 256, 8192
# Seconds until a card that does not answer is given up. TensorRT compiles for minutes at a shape's first text.
_PATIENCE = 900
# How long a thread without work waits awake, in microseconds: longer than what lies between two operators it shares in.
_SPIN_US = "1000"
# What may stay on the CPU in a session of a GPU: shape arithmetic, which ONNX Runtime puts there by intent.
_STRAYS = 0.1

_ERRORS: tuple[type[Exception], ...] = (
    failures.Fail,
    failures.RuntimeException,
    failures.EPFail,
    failures.EngineError,
    failures.NotImplemented,
    failures.InvalidArgument,
    failures.InvalidGraph,
    failures.InvalidProtobuf,
    failures.NoSuchFile,
    failures.NoModel,
    RuntimeError,
    MemoryError,
    TimeoutError,
)

Rows = Sequence[npt.NDArray[np.int64]]
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeOptions:
    """`threads` of one inference on a CPU; `gpu_memory_mb` bounds the arena of a GPU; `engines`: a folder that may be
    written, where TensorRT keeps what it compiled (it compiles for minutes)."""

    provider: Provider = "auto"
    threads: int = 1
    gpu_memory_mb: int = 2048
    engines: Path | None = None


class Runtime:
    """One graph, run by one provider at a time. `run` may be called by several threads at once."""

    def __init__(self, graph: Path, *, made_for: str, pooling: str, max_tokens: int, options: RuntimeOptions) -> None:
        """Load `graph` on the first provider that runs an inference with it.

        `made_for`: the provider the graph was exported for. Raises Stop when none runs it, or not the one that is set.
        """
        single_wheel()
        self._graph = graph
        self._options = options
        self._pooling = pooling
        self._longest = max_tokens
        self._lock = threading.Lock()
        self._most_tokens: int | None = None
        self.fallbacks = 0
        self.splits = 0
        wanted = _ORDER.get(made_for, ("cpu",)) if options.provider == "auto" else (options.provider,)
        reasons = []
        for provider in wanted:
            try:
                self._runner = self._open(provider)
                break
            except _ERRORS as error:
                reasons.append(f"{provider}: {_first_line(error)}")
                _log.info("The embedding model in %s does not run on %s: %s", graph.parent, provider, error)
        else:
            advice = "" if options.provider == "auto" else " Set encoder.provider to auto or cpu, or mend it."
            raise Stop(f"The embedding model in {graph.parent} can not be loaded: {'; '.join(reasons)}.{advice}")

    @property
    def provider(self) -> str:
        """ "cpu", "cuda" or "tensorrt": what the last inference ran on."""
        return self._runner.provider

    def shape_of(self, tokens: int) -> int:
        """Texts of one shape may share a batch. On a CPU that is the exact length, so that nothing is padded."""
        return self._runner.shape_of(tokens)

    def rows_of(self, shape: int) -> int:
        """How many texts of this shape go into one batch."""
        runner = self._runner
        return max(1, min(runner.most_rows, min(runner.most_tokens, self._most_tokens or runner.most_tokens) // shape))

    def run(self, rows: Rows) -> Floats:
        """Token ids of `rows` to one vector each, float32 [rows, width], of any length but the right direction.

        A batch that does not fit into memory is halved until it does. When a GPU fails, the model is loaded on the
        CPU and the batch tried once more. Raises Unavailable when that fails, too.
        """
        runner = self._runner
        half, longest = len(rows) // 2, max(map(len, rows))
        if half and self._most_tokens and len(rows) * longest > self._most_tokens:
            return np.concatenate([self.run(rows[:half]), self.run(rows[half:])])
        try:
            return runner(rows)
        except _ERRORS as error:
            if out_of_memory(error) and half:
                tokens = half * longest
                with self._lock:
                    self.splits += 1
                    self._most_tokens = min(tokens, self._most_tokens or tokens)
                _log.warning("Memory ran out over %d texts; going on with %d at once.", len(rows), half)
                failed = None
            else:
                failed = error
        # Outside the handler: the exception holds the memory of the batch that failed.
        if failed is None:
            return np.concatenate([self.run(rows[:half]), self.run(rows[half:])])
        if runner.provider == "cpu":
            raise Unavailable(f"The embedding model can not encode now: {_first_line(failed)}.") from failed
        self._leave(runner, failed)
        return self.run(rows)

    def operators_on_cpu(self) -> int:
        """How many operators of the graph do not run on the GPU; on a CPU all of them."""
        return self._runner.strays[0]

    def _leave(self, runner: _Runner, error: Exception) -> None:
        """Go on without the GPU. It comes back with the next start: one that fails once is not to be trusted."""
        with self._lock:
            if self._runner is not runner:
                return
            _log.warning(
                "The embedding model failed on %s and goes on, slower, on the CPU until the next start: %s",
                runner.provider,
                _first_line(error),
            )
            try:
                self._runner = self._open("cpu")
            except _ERRORS as second:
                raise Unavailable(
                    f"The embedding model failed on {runner.provider} ({_first_line(error)}) and does not run on the "
                    "CPU. Restart the appliance, or set encoder.model to one exported for cpu."
                ) from second
            self.fallbacks += 1

    def _open(self, provider: str) -> _Runner:
        if provider == "cpu":
            runner: _Runner = _OnCpu(_session(self._graph, self._options, "cpu"), self._pooling)
            runner((np.array([0, 3, 2]),))
            return runner
        if PROVIDERS[provider] not in ort.get_available_providers():
            raise RuntimeError(f"this build of ONNX Runtime has no {PROVIDERS[provider]}")
        # The libraries of CUDA and cuDNN lie in packages beside this one, where the loader does not look.
        ort.preload_dlls()
        failed: Exception | None = None
        for graphs in (True, False):
            try:
                session = _session(self._graph, self._options, provider, graphs=graphs, longest=self._longest)
                if session.get_providers()[0] != PROVIDERS[provider]:
                    raise RuntimeError("ONNX Runtime could not start it and took the CPU instead")
                on_gpu = _OnGpu(session, self._pooling, provider, self._longest)
                here, total = on_gpu.strays
                if here > _STRAYS * total:
                    raise RuntimeError(f"{here} of {total} operators would run on the CPU; export the model for it")
                # Three times, since a CUDA graph is captured in the second and replayed in the third.
                for _ in range(3):
                    if not np.isfinite(on_gpu((np.array([0, 3, 2]), np.array([0, 3, 4, 5, 2])))).all():
                        raise RuntimeError("its numbers are not finite")
                return on_gpu
            except _ERRORS as error:
                failed = error
        assert failed
        raise failed


class _Runner:
    """One session of one provider."""

    provider: str
    most_tokens: int
    most_rows: int

    def __init__(self, session: Any, pooling: str) -> None:
        self._session = session
        self._pooling = pooling
        self._inputs = [node.name for node in session.get_inputs()]
        self._output = session.get_outputs()[0]
        self.strays = _strays(session)

    def shape_of(self, tokens: int) -> int:
        raise NotImplementedError

    def __call__(self, rows: Rows) -> Floats:
        raise NotImplementedError

    def _feeds(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[np.int64]]:
        feeds = {"input_ids": ids}
        if "attention_mask" in self._inputs:
            feeds["attention_mask"] = mask
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        return feeds


class _OnCpu(_Runner):
    """Batches of one exact length: nothing is padded, so a text's arithmetic does not depend on its company."""

    provider = "cpu"
    most_tokens = _TOKENS_CPU
    most_rows = _TOKENS_CPU

    def shape_of(self, tokens: int) -> int:
        return tokens

    def __call__(self, rows: Rows) -> Floats:
        lengths = {len(row) for row in rows}
        if len(lengths) > 1:  # a batch that was gathered for a GPU
            out: dict[int, Floats] = {}
            for length in lengths:
                places = [i for i, row in enumerate(rows) if len(row) == length]
                out |= zip(places, self([rows[i] for i in places]), strict=True)
            return np.stack([out[i] for i in range(len(rows))])
        ids = np.array(rows, np.int64)
        answer: Floats = self._session.run([self._output.name], self._feeds(ids, np.ones_like(ids)))[0]
        if answer.ndim == 2:
            return answer
        pooled = answer[:, 0].copy()
        # Summed token by token, because the order in which a library sums an axis may depend on the batch.
        for token in range(1, answer.shape[1] if self._pooling == "mean" else 1):
            pooled += answer[:, token]
        return pooled


class _OnGpu(_Runner):
    """Few shapes, each with buffers of its own on the card, so that a captured CUDA graph finds them where they were.

    All inferences run in one thread: ONNX Runtime keeps cuBLAS, its workspace and the captured graphs apart for every
    thread that asks, and making them anew takes 60 ms, which is a hundred inferences.
    """

    most_tokens = _TOKENS_GPU
    most_rows = max(_ROWS)

    def __init__(self, session: Any, pooling: str, provider: str, longest: int) -> None:
        super().__init__(session, pooling)
        self.provider = provider
        self._longest = longest
        self._places: dict[tuple[int, int], tuple[Any, dict[str, Any], Any, Any]] = {}
        self._graphs = 0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="encoder-gpu")

    def shape_of(self, tokens: int) -> int:
        return min(next(length for length in (*_LENGTHS, tokens) if length >= tokens), max(self._longest, tokens))

    def __call__(self, rows: Rows) -> Floats:
        tokens = self.shape_of(max(map(len, rows)))
        count = next(size for size in (*_ROWS, len(rows)) if size >= len(rows))
        # Rows to fill up repeat the last text: one without a token would divide by zero.
        filled = [*rows, *[rows[-1]] * (count - len(rows))]
        ids = np.zeros((count, tokens), np.int64)
        for at, row in enumerate(filled):
            ids[at, : len(row)] = row
        lengths = np.fromiter(map(len, filled), np.int64, count)
        mask = (np.arange(tokens) < lengths[:, None]).astype(np.int64)
        answer = self._thread.submit(self._infer, ids, mask).result(_PATIENCE)[: len(rows)]
        if not np.isfinite(answer).all():
            raise RuntimeError("its numbers are not finite")
        if answer.ndim == 2:
            return answer
        if self._pooling != "mean":
            return answer[:, 0].copy()
        pooled: Floats = np.einsum("nth,nt->nh", answer, mask[: len(rows)].astype(np.float32))
        return pooled

    def _infer(self, ids: npt.NDArray[np.int64], mask: npt.NDArray[np.int64]) -> Floats:
        binding, inputs, output, run_options = self._place(*ids.shape)
        for name, value in self._feeds(ids, mask).items():
            inputs[name].update_inplace(value)
        try:
            self._session.run_with_iobinding(binding, run_options)
        except _ERRORS:
            # A run that failed counts towards the capture of its CUDA graph: the third would capture what was done
            # until it failed, and the fourth replay that as if it were all. The shape gets a graph of another number.
            del self._places[ids.shape]
            raise
        answer: Floats = output.numpy()
        return answer

    def _place(self, count: int, tokens: int) -> tuple[Any, dict[str, Any], Any, Any]:
        known = self._places.get((count, tokens))
        if known is not None:
            return known
        shape = (count, tokens)
        inputs = {
            name: ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, np.int64), "cuda", 0)
            for name in self._feeds(np.zeros(shape, np.int64), np.zeros(shape, np.int64))
        }
        width = self._output.shape[-1]
        wanted = [count, width] if len(self._output.shape) == 2 else [count, tokens, width]
        output = ort.OrtValue.ortvalue_from_shape_and_type(wanted, np.float32, "cuda", 0)
        binding = self._session.io_binding()
        for name, value in inputs.items():
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(self._output.name, output)
        options = ort.RunOptions()
        self._graphs += 1
        options.add_run_config_entry("gpu_graph_id", str(self._graphs))
        self._places[shape] = (binding, inputs, output, options)
        return self._places[shape]


def single_wheel() -> None:
    """Raise Stop when both wheels of ONNX Runtime are installed: they write the same files, and neither is whole."""

    def there(name: str) -> bool:
        try:
            return bool(metadata.version(name))
        except metadata.PackageNotFoundError:
            return False

    if there("onnxruntime") and there("onnxruntime-gpu"):
        raise Stop(
            "The packages onnxruntime and onnxruntime-gpu are both installed and overwrite each other. Uninstall both, "
            "then run `make install` (for a CPU) or `make install PROVIDER=gpu`."
        )


def integer_product(graph: Path) -> Callable[[npt.NDArray[np.uint8]], Floats]:
    """What `graph.kinds_int8` wrote, run by the caller's own thread. Raises Stop when it can not be loaded."""
    try:
        session = _session(graph, RuntimeOptions(), "cpu")
    except _ERRORS as error:
        raise Stop(f"{graph.name} of the embedding model in {graph.parent} can not be loaded: {error}") from error

    def product(rows: npt.NDArray[np.uint8]) -> Floats:
        answer: Floats = session.run(None, {"rows": rows})[0]
        return answer

    return product


def out_of_memory(error: Exception) -> bool:
    """Whether ONNX Runtime, CUDA or this process found no room. ORT says so in words alone."""
    words = str(error).lower()
    return isinstance(error, MemoryError) or any(
        sign in words for sign in ("failed to allocate memory", "out of memory", "bad_alloc", "available memory of")
    )


def session_options(threads: int) -> ort.SessionOptions:
    """Of every session with a model; `threads` of one inference, 0 for as many as there are cores."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # Threads that sleep between two operators take longer to wake than many an operator lasts; after a text they must
    # not spin on as ONNX Runtime lets them, for the box has other work.
    options.add_session_config_entry("session.intra_op.spin_duration_us", _SPIN_US)
    options.log_severity_level = 3
    return options


def _session(
    graph: Path, wanted: RuntimeOptions, provider: str, *, graphs: bool = False, longest: int = 128
) -> ort.InferenceSession:
    options = session_options(wanted.threads)
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    limit = wanted.gpu_memory_mb * 2**20
    cuda: dict[str, Any] = {
        "device_id": 0,
        "gpu_mem_limit": limit,
        "arena_extend_strategy": "kSameAsRequested",
        "enable_cuda_graph": int(graphs and provider == "cuda"),
    }
    providers: list[Any] = [PROVIDERS["cpu"]]
    if provider != "cpu":
        providers.insert(0, (PROVIDERS["cuda"], cuda))
    if provider == "tensorrt":
        providers.insert(0, (PROVIDERS["tensorrt"], _tensorrt(graph, wanted, limit, graphs, longest)))
    return ort.InferenceSession(str(graph), options, providers=providers)


def _tensorrt(graph: Path, wanted: RuntimeOptions, limit: int, graphs: bool, longest: int) -> dict[str, Any]:
    names = ("input_ids", "attention_mask")

    def shapes(count: int, tokens: int) -> str:
        return ",".join(f"{name}:{count}x{tokens}" for name in names)

    most = max(length for length in (*_LENGTHS, longest) if length <= longest)
    kept: dict[str, Any] = {}
    if wanted.engines is not None:
        wanted.engines.mkdir(parents=True, exist_ok=True)
        kept = {
            "trt_engine_cache_enable": True,
            "trt_engine_cache_path": str(wanted.engines),
            "trt_timing_cache_enable": True,
            "trt_timing_cache_path": str(wanted.engines),
            "trt_engine_cache_prefix": graph.parent.parent.name + "-" + graph.parent.name,
        }
    return {
        "device_id": 0,
        "trt_max_workspace_size": limit,
        "trt_fp16_enable": True,
        "trt_cuda_graph_enable": graphs,
        "trt_profile_min_shapes": shapes(1, min(_LENGTHS)),
        "trt_profile_opt_shapes": shapes(8, 32),
        "trt_profile_max_shapes": shapes(max(_ROWS), most),
        **kept,
    }


def _strays(session: Any) -> tuple[int, int]:
    """How many operators the session put on the CPU, and of how many."""
    cpu = total = 0
    for part in session.get_provider_graph_assignment_info():
        count = len(part.get_nodes())
        total += count
        cpu += count if part.ep_name == PROVIDERS["cpu"] else 0
    return cpu, total


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__
