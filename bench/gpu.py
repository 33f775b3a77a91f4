"""`make bench-gpu`: the encoder on an NVIDIA card, beside sentence-transformers in float16 on the same card, interleaved.

The same random weights of the production model's shape as in `make bench-encode`, each side in a process of its own.
What is printed is written into docs/models.md, between the two markers.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

import encode
import numpy as np
from encode import HERE, LENGTHS, OPERATIONS, OTHERS, ROOT, Contender, say

MARKS = ("<!-- bench-gpu -->", "<!-- /bench-gpu -->")
BATCHES = (1, 8, 64)
KINDS = ("edge-cuda", "torch-cuda")
encode.NAMES |= {"edge-cuda": "Andon Edge, CUDA, fp16", "torch-cuda": "sentence-transformers fp16"}

Key = tuple[str, int, int, bool]


def prepare(folder: Path, layers: int, vocabulary: int) -> None:
    """The model, made once, and our graph of it, always anew."""
    if not (folder / "torch").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        say("making a model of the production shape (once)")
        python = str(OTHERS) if OTHERS.exists() else sys.executable
        subprocess.run([python, str(HERE / "model.py"), "make", str(folder), str(layers), str(vocabulary)], check=True)
    ours = folder / "edge-cuda"
    shutil.rmtree(ours, ignore_errors=True)
    ours.mkdir()
    say("writing our graph of it")
    encode.write_ours(folder, ours, layers, "cuda")


def used_mb() -> float:
    """What the card holds, of everybody."""
    asked = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    return float(subprocess.run(asked, check=True, capture_output=True, text=True).stdout.split()[0])


def measure(folder: Path, seconds: float) -> tuple[dict[Key, list[float]], dict[str, dict[str, Any]], float]:
    """Seconds of each cell, what was noticed of each side, and the card's peak in 10⁹ operations a second."""
    sides, facts = {}, {}
    for kind in KINDS:
        say(f"loading {encode.NAMES[kind]}")
        before = used_mb()
        side = sides[kind] = Contender(kind, folder, 2)
        side.start()
        side.ask(texts="32", keep=True)
        facts[kind] = {"load": side.load_seconds, "mb": used_mb() - before, **side.facts}
    peak = Contender("peak-fp16", folder, 2)
    peak.start()
    cells = [(str(length), batch) for batch in BATCHES for length in LENGTHS]
    found: dict[Key, list[float]] = {}
    best, rounds, until = 0.0, 0, time.monotonic() + seconds
    while rounds < 3 or time.monotonic() < until:
        say(f"round {rounds + 1}, {max(0, until - time.monotonic()):.0f} s left")
        for texts, batch in [*cells, ("mixed", 128)]:
            for alone in (False, True):
                for kind, side in sides.items():
                    if alone and texts == "mixed":
                        continue
                    # One after the other where people wait; a large batch is one of many.
                    batches = (10 if batch == max(BATCHES) else 1) if alone else 0
                    times = 10 if batch == 1 else 5
                    took = side.ask(texts=texts, first=batch, alone=batches, times=times)["seconds"] / (batches or 1)
                    # The first round finds the shapes: memory is taken and graphs are captured.
                    if rounds:
                        found.setdefault((kind, int(texts) if texts.isdigit() else 0, batch, alone), []).append(took)
        best = max(best, peak.ask(texts="none")["peaks"]["fp16"])
        rounds += 1
    for side in (*sides.values(), peak):
        side.stop()
    return found, facts, best


def report(
    found: dict[Key, list[float]], facts: dict[str, dict[str, Any]], peak: float, folder: Path, layers: int
) -> str:
    """The tables in Markdown."""
    middle = {key: median(took) * 1000 for key, took in found.items()}
    rounds = len(next(iter(found.values())))
    vectors = [np.load(folder / f"{kind}.npy").astype(np.float64) for kind in KINDS]
    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors)
    ours, theirs = facts["edge-cuda"], facts["torch-cuda"]
    said = (
        f"{theirs['provider']}, {datetime.now().astimezone().date()}; medians of {rounds} rounds, interleaved. "
        f"Peak of one fp16 matrix product: {peak / 1000:.0f} Tflop/s. Operators of our graph on the CPU: "
        f"{ours['operators_on_cpu']}. Loaded in {ours['load']:.1f} s (theirs {theirs['load']:.1f}), on the card "
        f"{ours['mb']:.0f} MB ({theirs['mb']:.0f}). Cosine of the two: {float((one * other).sum(axis=1).min()):.5f} at least."
    )
    lines = [said]
    for alone, title in (
        (False, "From text to vector"),
        (True, "From token ids to vector, the model alone (64 texts: in ten batches, the time of one)"),
    ):
        lines += ["", f"{title}; ms, ours / theirs, and how many times as fast:", ""]
        lines += [f"| tokens | {' | '.join('1 text' if batch == 1 else f'{batch} texts' for batch in BATCHES)} |"]
        lines += ["|---" * (len(BATCHES) + 1) + "|"]
        for length in LENGTHS:
            row = []
            for batch in BATCHES:
                mine, his = (middle[kind, length, batch, alone] for kind in KINDS)
                row.append(f"{mine:.2f} / {his:.2f} = **{his / mine:.1f}×**")
            lines.append(f"| {length} | {' | '.join(row)} |")
    lines += ["", "Share of the card's measured peak that the weight products alone reach, ours / theirs:", ""]
    lines += [f"| tokens | {' | '.join(map(str, BATCHES))} |", "|---" * (len(BATCHES) + 1) + "|"]
    for length in LENGTHS:
        shares = []
        for batch in BATCHES:
            work = OPERATIONS * layers * length * batch / 1e9 / peak * 1000
            shares.append(" / ".join(f"{work / middle[kind, length, batch, True]:.3f}" for kind in KINDS))
        lines.append(f"| {length} | {' | '.join(shares)} |")
    mine, his = (middle[kind, 0, 128, False] for kind in KINDS)
    said = (
        f"128 mixed texts of 8 to 48 tokens: {128 / mine * 1000:.0f} texts/s, theirs {128 / his * 1000:.0f}: "
        f"{his / mine:.1f} times as many. Goals: one text at least 2 times as fast; 64 texts at least .5 of the peak."
    )
    return "\n".join([*lines, "", said])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="three rounds with a small model; nothing is written")
    parser.add_argument("--seconds", type=float, default=60.0, help="how long to measure")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache/bench-encode")
    wanted = parser.parse_args()
    layers, vocabulary = (2, 8_000) if wanted.quick else (12, 250_002)
    folder = wanted.cache / ("quick" if wanted.quick else "production")
    prepare(folder, layers, vocabulary)
    tables = report(*measure(folder, 0 if wanted.quick else wanted.seconds), folder, layers)
    print(tables)
    if not wanted.quick:
        encode.write(tables, "make bench-gpu", MARKS)


if __name__ == "__main__":
    main()
