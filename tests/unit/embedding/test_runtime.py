"""The provider that really runs is the one that is named; memory that runs out and a GPU that is lost cost no text."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, RuntimeException

from edge.embedding import Encoder, measure_speed
from edge.embedding.bench import _products, text_of
from edge.embedding.runtime import PROVIDERS, Runtime, RuntimeOptions
from edge.errors import Stop, Unavailable

TEXTS = [f"pump {i} leaking oil at the shaft seal" for i in range(24)]
ROWS = [(101, 2000 + n, 2100, 102) for n in range(12)]


def _open(graph: Path, provider: Any = "auto", made_for: str = "cpu") -> Runtime:
    options = RuntimeOptions(provider=provider)
    return Runtime(graph, made_for=made_for, pooling="mean", max_tokens=128, options=options)


def test_on_a_cpu_build_the_cpu_is_what_auto_takes(model_dir: Path) -> None:
    for made_for in ("cpu", "cuda", "tensorrt"):
        runtime = _open(model_dir / "model.onnx", made_for=made_for)
        assert runtime.provider == "cpu" or PROVIDERS[runtime.provider] in ort.get_available_providers()
    assert _open(model_dir / "model.onnx").operators_on_cpu() > 100


def test_between_texts_no_thread_spins(model_dir: Path) -> None:
    encoder = Encoder.open(model_dir, threads=2, cache_texts=0)
    encoder.encode(TEXTS[:1])
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1


@pytest.mark.parametrize("provider", ["cuda", "tensorrt"])
def test_a_gpu_that_is_asked_for_and_not_there_is_refused_in_words(model_dir: Path, provider: str) -> None:
    with pytest.raises(Stop, match=r"encoder\.provider"):
        Encoder.open(model_dir, provider=provider)  # type: ignore[arg-type]


def test_both_wheels_at_once_are_refused_in_words(model_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda _: "1.31.1")
    with pytest.raises(Stop, match="both installed"):
        Encoder.open(model_dir)


class Failing:
    """A real session, refused by `refuses` as ONNX Runtime would refuse it."""

    provider = PROVIDERS["cpu"]

    def __init__(self, session: Any, refuses: Callable[[int], Exception | None]) -> None:
        self._session = session
        self._refuses = refuses

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Sequence[str], feeds: dict[str, Any]) -> Any:
        error = self._refuses(len(feeds["input_ids"]))
        if error:
            raise error
        return self._session.run(outputs, feeds)


def test_a_batch_that_does_not_fit_is_halved_and_stays_smaller(model_dir: Path) -> None:
    words = "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : BFCArena::AllocateRawInternal Failed to allocate memory"
    runtime = _open(model_dir / "model.onnx")
    expected = runtime.run(ROWS)
    runner = runtime._runner
    runner._session = Failing(runner._session, lambda rows: RuntimeException(words) if rows > 3 else None)
    assert np.array_equal(runtime.run(ROWS), expected)
    assert runtime.splits == 2  # 12, then the first 6; the others are known not to fit
    assert runtime.rows_of(4) == 3
    runner._session = Failing(runner._session, lambda _: RuntimeException(words))
    with pytest.raises(Unavailable, match="Failed to allocate"):
        runtime.run(ROWS)


def test_memory_that_really_runs_out_costs_no_text(model_dir: Path, tmp_path: Path) -> None:
    """ONNX Runtime's own arena, bounded so that a batch of 250 tokens does not fit and one text does."""
    script = tmp_path / "bounded.py"
    script.write_text(
        textwrap.dedent("""
        import sys
        from pathlib import Path
        import numpy as np
        import onnxruntime as ort
        from edge.embedding import Encoder, runtime

        folder = Path(sys.argv[1])
        texts = [f"pump {i} leaking oil at the shaft seal of the station" for i in range(64)]
        expected = Encoder.open(folder).encode(texts)
        about = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
        ort.create_and_register_allocator(about, ort.OrtArenaCfg(int(sys.argv[2]) * 2**20, 1, -1, -1))
        real = ort.SessionOptions

        def bounded():
            options = real()
            options.add_session_config_entry("session.use_env_allocators", "1")
            return options

        runtime.ort.SessionOptions = bounded
        encoder = Encoder.open(folder, parallel=1)
        found = encoder.encode(texts)
        assert encoder.stats().splits > 0, encoder.stats()
        assert np.array_equal(found, expected)
        print("splits", encoder.stats().splits)
        """),
        "utf-8",
    )
    done = subprocess.run(
        [sys.executable, str(script), str(model_dir), "15"], capture_output=True, text=True, timeout=90
    )
    assert done.returncode == 0, done.stderr[-2000:]


def _pretend(runtime: Runtime, refuses: Callable[[int], Exception | None]) -> None:
    runner = runtime._runner
    runner.provider = "cuda"
    runner._session = Failing(runner._session, refuses)


def test_a_gpu_lost_in_the_middle_costs_no_text(model_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder = Encoder.open(model_dir, cache_texts=0)
    expected = encoder.encode(TEXTS)
    runs = 0

    def dies(_: int) -> Exception | None:
        nonlocal runs
        runs += 1
        return Fail("CUDA failure 719: unspecified launch failure") if runs > 1 else None

    _pretend(encoder._runtime, dies)
    assert np.array_equal(encoder.encode(TEXTS[:5]), expected[:5])
    assert encoder.provider == "cuda"
    assert np.array_equal(encoder.encode(TEXTS), expected)
    assert encoder.provider == "cpu"
    assert encoder.stats().fallbacks == 1
    assert "goes on, slower, on the CPU" in caplog.text
    assert np.array_equal(encoder.encode(TEXTS[:3]), expected[:3])
    assert encoder.stats().fallbacks == 1


def test_a_gpu_lost_with_a_model_the_cpu_can_not_run_is_said_in_words(
    model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = _open(model_dir / "model.onnx")
    _pretend(runtime, lambda _: Fail("CUDA failure 719"))

    def no(*_: object, **__: object) -> Any:
        raise Fail("no kernel for this operator")

    monkeypatch.setattr("edge.embedding.runtime._session", no)
    with pytest.raises(Unavailable, match="exported for cpu"):
        runtime.run(ROWS)


def test_a_batch_gathered_for_a_gpu_runs_on_the_cpu_length_by_length(model_dir: Path) -> None:
    runtime = _open(model_dir / "model.onnx")
    rows = [(101, *range(2000, 2000 + n), 102) for n in (3, 9, 3, 1, 9)]
    found = runtime.run(rows)
    for row, vector in zip(rows, found, strict=True):
        assert np.array_equal(runtime.run([row])[0], vector)


def test_a_bench_measures_what_it_says(model_dir: Path) -> None:
    encoders: list[Encoder] = []

    def opened() -> Encoder:
        encoders.append(Encoder.open(model_dir, cache_texts=0))
        return encoders[0]

    speed = measure_speed(opened, model_dir / "model.onnx", seconds=0.5)
    assert (speed.model, speed.provider, list(speed.latency)) == ("starter", "cpu", [16, 32, 64, 128])
    assert speed.latency[16][0] < speed.latency[128][0]
    assert all(share > 0 for share in speed.share_of_peak.values())
    assert speed.peak_gops["int8"] > 0 < speed.peak_gops["fp32"]
    assert speed.texts_per_second > 0 < speed.load_seconds
    # Six layers of 384 with 1536 inside.
    assert _products(model_dir / "model.onnx") == 6 * (4 * 384 * 384 + 2 * 384 * 1536)
    for tokens in (16, 33, 64, 128):
        text = text_of(tokens, encoders[0].token_count, np.random.default_rng(3))
        assert encoders[0].token_count(text) == tokens
    assert encoders[0].stats().cache_hits == 0
