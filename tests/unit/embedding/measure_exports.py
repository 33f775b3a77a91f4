"""The table of docs/models.md: `.venv/bin/python tests/unit/embedding/measure_exports.py [--production]`.

Real all-MiniLM-L6-v2 and small models with random weights; with --production a random XLM-R of the production model's
shape (12 layers, 768 wide, 250,002 pieces), for size, memory and time to load: 5 GB of disk, some minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from export_parts import GOLDEN, minilm_folder, put_reference, sentence_folder

from edge.embedding.export import export_model, gate

_LOAD = """
import resource, sys, time
from pathlib import Path
from edge.embedding import Encoder
before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
started = time.perf_counter()
encoder = Encoder.open(Path(sys.argv[1]))
took = time.perf_counter() - started
now = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
print(f"   opened in {took:.2f} s, checks included; resident {now:.0f} MB, {now - before:.0f} more than before")
"""


def _row(label: str, source: Path, models: Path, provider: str) -> Path:
    made = export_model(str(source), models, GOLDEN, provider=provider)
    for words in made.refused:
        print("   refused:", words)
    size = sum(path.stat().st_size for path in made.folder.iterdir()) / 1e6
    f, m = made.manifest.fidelity, made.manifest
    print(
        f"| {label} | `{provider}`, {m.precision} | {size:.1f} MB | {f['cosine_mean']:.5f} | {f['cosine_min']:.5f} "
        f"| {f['spearman']:.5f} | {f['apart']:.1g} |",
        flush=True,
    )
    return made.folder


def main() -> None:
    root = Path(tempfile.mkdtemp(prefix="exports-"))
    try:
        if "--production" in sys.argv:
            # The answers of random weights lie so close together that their order is noise: size and memory are asked
            # here, and the bar is for weights that mean something.
            gate.BAR = {"cosine_mean": 0.99}  # type: ignore[assignment]
            sources = {"production shape, random weights": sentence_folder(
                root / "production", layers=12, hidden=768, positions=128, pieces=250_002
            )}  # fmt: skip
        else:
            copied = Path(shutil.copytree(minilm_folder(), root / "all-MiniLM-L6-v2"))
            sources = {"all-MiniLM-L6-v2, real": copied}
            for kind in ("xlm-roberta", "mpnet"):
                sources[f"small {kind}, random weights"] = sentence_folder(root / kind, kind, layers=2)
        for label, source in sources.items():
            put_reference(source, root / "models")
            for provider in ("cpu", "cuda", "tensorrt"):
                folder = _row(label, source, root / "models", provider)
                if provider == "cpu":
                    subprocess.run([sys.executable, "-c", _LOAD, str(folder)], check=True, env=dict(os.environ))
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
