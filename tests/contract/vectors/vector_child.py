"""A process to be killed: `write <path>` upserts forever and prints what was acknowledged, `host <path> <socket>` serves."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from vector_sides import CASES, PRINT, case

from edge.errors import EdgeError
from edge.vectors import EmbeddedStore, StoreHost


def write(path: Path) -> None:
    store = EmbeddedStore(path)
    physical = store.ensure(CASES, fingerprint=PRINT)
    last = store.count(physical)
    while True:
        store.upsert(physical, [case(index, n=index) for index in range(last + 1, last + 8)])
        last += 7
        store.set_payload(physical, [case(last).id], {"status": "fixed"})
        print(last, flush=True)


def main() -> None:
    mode, path = sys.argv[1], Path(sys.argv[2])
    try:
        if mode == "write":
            write(path)
        StoreHost(EmbeddedStore(path), Path(sys.argv[3])).serve_forever(threading.Event())
    except EdgeError as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
