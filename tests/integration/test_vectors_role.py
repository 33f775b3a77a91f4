"""The process that holds the index, on a machine that is too busy to answer in time."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from edge.vectors import RemoteStore

#: The role as it is, on an engine that keeps the first question waiting for longer than `vectors.timeout`.
_SLOW = """
import time
from edge import config
from edge.roles.vectors import vectors
from edge.vectors import EmbeddedStore

counted = EmbeddedStore.count
def slow(self, *arguments):
    if not getattr(EmbeddedStore, "waited", False):
        EmbeddedStore.waited = True
        time.sleep(3)
    return counted(self, *arguments)
EmbeddedStore.count = slow
vectors(config.load())
"""


def test_a_late_answer_does_not_end_it() -> None:
    with tempfile.TemporaryDirectory(prefix="edge-") as folder:
        path = Path(folder) / "run" / "v.sock"
        env = {
            **os.environ,
            "EDGE__DATA__DIR": folder,
            "EDGE__VECTORS__URL": f"unix:{path}",
            "EDGE__VECTORS__TIMEOUT": "1",
        }
        with subprocess.Popen([sys.executable, "-c", _SLOW], env=env) as process:
            try:
                deadline = time.monotonic() + 60
                while not path.exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                # Its own first look waits three seconds, two more than it has patience for.
                time.sleep(5)
                assert process.poll() is None
                with RemoteStore(path, timeout_s=30) as store:
                    assert store.versions("anomaly_patterns").active is None
            finally:
                process.terminate()
                process.wait(20)
