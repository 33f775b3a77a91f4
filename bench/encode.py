"""`make bench-encode`: the encoder beside the libraries people would use instead, interleaved in one run.

Everybody runs the same weights, of the production model's shape and random, each in a process of its own, one at a time.
What is printed is written into docs/models.md, between the two markers.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
HERE = ROOT / "bench"
OTHERS = ROOT / ".venv-bench/bin/python"
PAGE = ROOT / "docs/models.md"
BEGIN, END = "<!-- bench-encode -->", "<!-- /bench-encode -->"
LENGTHS = (16, 32, 64, 128)
SETS = (*map(str, LENGTHS), "mixed")
BATCH = "32×32"
NAMES = {
    "edge": "Andon Edge, all threads on one text",
    "edge-parallel": "Andon Edge, one thread a text",
    "fp32": "sentence-transformers fp32",
    "bf16": "sentence-transformers bf16",
    "fastembed": "fastembed fp32",
    "int8": "ONNX Runtime, stock dynamic int8",
}
#: Operations in the weight products of a layer of 768 with 3072 inside, per token.
OPERATIONS = 2 * (4 * 768 * 768 + 2 * 768 * 3072)


def say(words: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {words}", flush=True)


@dataclass
class Contender:
    """A process that encodes on request, and what was measured of it so far."""

    kind: str
    folder: Path
    threads: int
    took: dict[str, list[float]] = field(default_factory=dict)
    load_seconds: float = 0.0
    loaded_mb: float = 0.0
    running_mb: float = 0.0
    facts: dict[str, Any] = field(default_factory=dict)

    def start(self) -> None:
        ours = self.kind in ("edge", "edge-parallel", "edge-cuda", "peaks")
        # On a machine whose one Python holds everything, that one runs everybody.
        python = str(OTHERS) if OTHERS.exists() and not ours else sys.executable
        # A card must not wait for its texts; on a CPU the threads are the model's.
        cut = "true" if self.kind.endswith("-cuda") else "false"
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": cut}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [python, str(HERE / "contender.py"), self.kind, str(self.folder), str(self.threads)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=(self.folder / f"{self.kind}.log").open("w"),
            text=True, env=environment,
        )  # fmt: skip
        said = self._read()
        self.load_seconds, self.loaded_mb, self.facts = said["seconds"], said["loaded_mb"], said["facts"]

    def ask(self, **request: Any) -> dict[str, Any]:
        assert self._process.stdin
        print(json.dumps(request), file=self._process.stdin, flush=True)
        said = self._read()
        self.running_mb = max(self.running_mb, said["resident_mb"])
        return said

    def stop(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(20)

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            log = (self.folder / f"{self.kind}.log").read_text("utf-8", "replace")
            raise SystemExit(f"{NAMES.get(self.kind, self.kind)} ended:\n{log[-2000:]}")
        said: dict[str, Any] = json.loads(line)
        return said


def prepare(folder: Path, layers: int, vocabulary: int) -> None:
    """Make the model once; later runs take it from the cache."""
    if not (folder / "whole").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        say("making a model of the production shape (once; a few minutes, 4 GB of disk)")
        # Processes of their own, so that what the first one held in memory is gone.
        for step in (
            ["make", str(folder), str(layers), str(vocabulary)],
            ["stock", str(folder)],
            ["quantize", str(folder)],
        ):
            subprocess.run([str(OTHERS), str(HERE / "model.py"), *step], check=True)
        (folder / "whole").touch()
    ours = folder / "edge"
    # Always anew, so that the graph of this checkout is what is measured.
    shutil.rmtree(ours, ignore_errors=True)
    ours.mkdir()
    say("writing our graph of it")
    write_ours(folder, ours, layers, "cpu")


def write_ours(folder: Path, ours: Path, layers: int, provider: str) -> None:
    """Our graph of the model in `folder`, as an export for `provider` would hold it, without golden sentences."""
    from safetensors.numpy import load_file

    from edge.embedding.export.pieces import as_pieces
    from edge.embedding.graph import BertShape, Int8, canonical_names, write_cpu, write_cuda
    from edge.embedding.manifest import Manifest, digest, write_manifest
    from edge.embedding.tokens import PIECES_FILE

    stored = load_file(folder / "torch/model.safetensors")
    weights = {ours: stored[theirs] for ours, theirs in canonical_names(list(stored)).items()}
    words = weights.pop("embeddings.word_embeddings.weight")
    shape = BertShape(layers=layers, hidden=768, heads=12, inner=3072, positions=128, first=2, epsilon=1e-5)
    if provider == "cpu":
        write_cpu(ours, weights, words, shape, Int8())
    else:
        write_cuda(ours, weights, words, shape)
    # As an export holds it: checked there text by text, and here by the cosines that are printed.
    (ours / PIECES_FILE).write_bytes(as_pieces((folder / "plain/tokenizer.json").read_text("utf-8")) or b"")
    write_manifest(
        ours,
        Manifest(
            name="production-shape", source="random weights", licence="none", tokens="pieces", dimension=768,
            pooling="mean", spread="none", max_tokens=128, precision="int8" if provider == "cpu" else "fp16",
            provider=provider,
            files={path.name: digest(path) for path in sorted(ours.iterdir())},
        ),
    )  # fmt: skip


def measure(
    folder: Path, threads: int, budget: float, kinds: Iterable[str]
) -> tuple[dict[str, Contender], dict[str, float]]:
    """Rounds over all contenders until `budget` seconds are over; at least two."""
    found = {}
    for kind in kinds:
        say(f"loading {NAMES[kind]}")
        found[kind] = Contender(kind, folder, threads)
        found[kind].start()
    peaks: dict[str, list[float]] = {}
    machine = [Contender("peaks", folder, threads), Contender("peak-bf16", folder, threads)]
    for one in machine:
        one.start()
    for contender in found.values():
        contender.ask(texts="16")
        contender.ask(texts="32", keep=True)
    until = time.monotonic() + budget
    rounds = 0
    while rounds < 2 or time.monotonic() < until:
        say(f"round {rounds + 1}, {max(0, until - time.monotonic()):.0f} s left")
        for texts in SETS:
            for contender in found.values():
                took = contender.took.setdefault(texts, [])
                # The threads of the one before may spin for a moment after its answer, on cores that are this one's.
                time.sleep(0.3)
                if texts == "mixed":
                    took.append(contender.ask(texts=texts)["seconds"])
                else:
                    took += [contender.ask(texts=texts, one=n, times=5)["seconds"] for n in range(4)]
        for contender in _ours(found):
            time.sleep(0.3)
            contender.took.setdefault(BATCH, []).append(contender.ask(texts="32", first=32, times=3)["seconds"])
        for one in machine:
            time.sleep(0.3)
            for kind, value in one.ask(texts="none")["peaks"].items():
                peaks.setdefault(kind, []).append(value)
        rounds += 1
    for contender in [*found.values(), *machine]:
        contender.stop()
    return found, peaks


def report(
    found: Mapping[str, Contender], peaks: Mapping[str, list[float]], folder: Path, threads: int, layers: int
) -> str:
    """The tables in Markdown. `peaks`: by precision, one of every round."""
    most = ", ".join(f"{kind} {max(values):.3g}" for kind, values in sorted(peaks.items()))
    middle = {kind: {texts: median(took) for texts, took in c.took.items()} for kind, c in found.items()}
    reference = np.load(folder / "fp32.npy").astype(np.float64) if "fp32" in found else None
    once, many = (len(found["edge"].took[texts]) for texts in ("16", "mixed"))
    measured = (
        f"{_processor()}, {threads} threads, {datetime.now().astimezone().date()}; medians of {once} single texts, each "
        f"five times in a row, and {many} runs over 128 mixed texts (8 to 48 tokens), interleaved."
    )
    lines = [
        measured,
        f"Peak of one matrix product, Gop/s: {most}.",
        "",
        "| | 16 tokens, ms | 32 | 64 | 128 | 128 texts/s | grows by, MB | running, MB | load, s | cosine to fp32 |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kind, contender in found.items():
        single = " | ".join(f"{middle[kind][str(n)] * 1000:.1f}" for n in LENGTHS)
        like = "–"
        if reference is not None:
            vectors = np.load(folder / f"{kind}.npy").astype(np.float64)
            cosines = (vectors * reference).sum(axis=1)
            cosines /= np.linalg.norm(vectors, axis=1) * np.linalg.norm(reference, axis=1)
            like = f"{cosines.mean():.4f}"
        lines.append(
            f"| {NAMES[kind]} | {single} | {128 / middle[kind]['mixed']:.1f} | {contender.loaded_mb:.0f} | "
            f"{contender.running_mb:.0f} | {contender.load_seconds:.2f} | {like} |"
        )
    ours = {texts: min(_ours(found), key=lambda one: middle[one.kind][texts]) for texts in SETS}
    said = (
        "How many times as fast the better of our two is (median over what both were asked one after the other), and the "
        "goal on two cores of a processor with VNNI:"
    )
    lines += [
        "",
        said,
        "",
    ]
    lines += [
        "| against | 16 | 32 | 64 | 128 | goal, one text | 128 texts | goal |",
        "|---|---|---|---|---|---|---|---|",
    ]
    goals = {"fp32": ("5", "6"), "bf16": ("2", "1.9"), "fastembed": ("2.2", "3.5"), "int8": ("–", "–")}
    for kind, (one, many) in goals.items():
        if kind in middle:
            ratios = [f"{_ratio(found[kind], ours[texts], texts):.2f}" for texts in SETS]
            lines.append(f"| {NAMES[kind]} | {' | '.join(ratios[:4])} | {one} | {ratios[4]} | {many} |")
    if "int8" in peaks:
        tokens = {str(n): n for n in LENGTHS} | {BATCH: 32 * 32, "mixed": sum(8 + (n * 37) % 41 for n in range(128))}
        share = {
            texts: _share(found, peaks["int8"], texts, OPERATIONS * layers * n / 1e9) for texts, n in tokens.items()
        }
        shares = ", ".join(f"{share[str(n)]:.2f} at 1×{n}" for n in LENGTHS)
        said = f"{shares} (goal .45 at 1×32), {share[BATCH]:.2f} at {BATCH} (goal .65), {share['mixed']:.2f} over 128 mixed texts"
        lines += ["", f"Share of the int8 peak of the same round: {said}."]
    return "\n".join(lines)


def _ours(found: Mapping[str, Contender]) -> list[Contender]:
    return [contender for kind, contender in found.items() if kind.startswith("edge")]


def _share(found: Mapping[str, Contender], peaks: list[float], texts: str, gop: float) -> float:
    """Of the peak measured in the same round, as the median of the rounds, for the better of our two."""
    shares = []
    for contender in _ours(found):
        rounds = np.array(contender.took[texts]).reshape(len(peaks), -1)
        shares.append(median(gop / median(took) / peak for took, peak in zip(rounds, peaks, strict=True)))
    return max(shares)


def _ratio(theirs: Contender, ours: Contender, texts: str) -> float:
    """Of neighbours in time: a machine that is shared is now faster, now slower, for all of them."""
    return median(their / our for their, our in zip(theirs.took[texts], ours.took[texts], strict=True))


def write(tables: str, command: str, marks: tuple[str, str] = (BEGIN, END)) -> None:
    """Put the tables between the markers of docs/models.md."""
    begin, end = marks
    text = PAGE.read_text("utf-8")
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"{PAGE.relative_to(ROOT)} has no place for these tables: put {begin} and {end} into it.")
    PAGE.write_text(f"{head}{begin}\nMeasured by `{command}`.\n\n{tables}\n{end}{tail}", "utf-8")
    say(f"written into {PAGE.relative_to(ROOT)}")


def _processor() -> str:
    with Path("/proc/cpuinfo").open(encoding="utf-8") as lines:
        facts = dict(part for part in (line.rstrip("\n").split("\t: ", 1) for line in lines) if len(part) == 2)
    flags = {flag for name in facts if name.startswith("flags") for flag in facts[name].split()}
    kinds = [f for f in ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8") if f in flags]
    name = next((value for key, value in facts.items() if key.startswith("model name")), platform.machine())
    return f"{name} ({', '.join(kinds)})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="two rounds with a small model; nothing is written",
    )
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to measure")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/bench-encode")
    parser.add_argument("--only", nargs="*", choices=list(NAMES), default=list(NAMES))
    wanted = parser.parse_args()
    layers, vocabulary = (2, 8_000) if wanted.quick else (12, 250_002)
    folder = wanted.cache / ("quick" if wanted.quick else "production")
    prepare(folder, layers, vocabulary)
    found, peaks = measure(folder, wanted.threads, 0 if wanted.quick else wanted.seconds, wanted.only)
    tables = report(found, peaks, folder, wanted.threads, layers)
    print(tables)
    if not wanted.quick:
        write(tables, "make bench-encode")


if __name__ == "__main__":
    main()
