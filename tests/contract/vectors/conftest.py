from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from vector_sides import CASES, PRINT, SIDES


@pytest.fixture(params=SIDES, ids=lambda side: side.name)
def side(request):
    return request.param


@pytest.fixture
def folder():
    """A short path for sockets, in memory where there is such a place: the engine syncs dozens of files a collection."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="edge-vectors-", dir=memory))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def store(side, folder):
    """A fresh store with the small anomaly_patterns collection, on each side in turn."""
    with side.open(folder) as store:
        store.ensure(CASES, fingerprint=PRINT)
        yield store
