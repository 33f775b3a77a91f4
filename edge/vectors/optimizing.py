"""The process that optimizes a copy of a shard: `python -m edge.vectors.optimizing FOLDER quantized|plain`.

The engine holds the interpreter lock for as long as it builds a graph; here nobody waits for it. Ends with 0 when
something was changed, with 3 when nothing was to be done.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

import qdrant_edge as engine

from edge.errors import EdgeError
from edge.vectors.embedded import _UNCHANGED, _config, _read_collection

_PR_SET_PDEATHSIG = 1
_LESS_URGENT = 10


def main(folder: Path, *, quantized: bool) -> int:
    # It must not outlive its host, whose files it would go on filling.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_LESS_URGENT)
    collection = _read_collection(folder.parent)[0]
    config = _config(collection, quantized=quantized, threads=max(1, os.cpu_count() or 1))
    shard = engine.EdgeShard.load(str(folder), config)
    changed = bool(shard.optimize())
    shard.flush()
    shard.close()
    return 0 if changed else _UNCHANGED


if __name__ == "__main__":
    try:
        sys.exit(main(Path(sys.argv[1]), quantized=sys.argv[2] == "quantized"))
    except EdgeError as error:
        sys.exit(str(error))
