"""`python tests/fuzz [--only TARGET] [--seconds N]`: what `make fuzz` runs, one parser after the other.

What breaks a parser is written to `tests/fuzz/regressions/TARGET/`, where `make test` tries it from then on.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from fuzz_targets import TARGETS, seeds

HERE = Path(__file__).parent


def main() -> int:
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--only", action="append", choices=list(TARGETS))
    parser.add_argument("--seconds", type=int, default=60, help="for each parser")
    parser.add_argument("--corpus", type=Path, default=HERE.parents[1] / ".cache" / "fuzz", help="kept between runs")
    asked = parser.parse_args()
    broken = []
    start = seeds()
    for name in asked.only or TARGETS:
        corpus = asked.corpus / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, data in enumerate(start[name]):
            (corpus / f"seed-{number}").write_bytes(data)
        found = HERE / "regressions" / name
        found.mkdir(parents=True, exist_ok=True)
        before = set(found.iterdir())
        done = subprocess.run(
            [
                sys.executable, HERE / "fuzz_one.py", name, str(corpus), f"-max_total_time={asked.seconds}",
                f"-artifact_prefix={found}/", "-max_len=16384", "-timeout=10", "-rss_limit_mb=2048",
                "-print_final_stats=1",
            ],
            capture_output=True, text=True, errors="replace", timeout=asked.seconds * 3 + 120,
        )  # fmt: skip
        said = done.stdout + done.stderr
        runs = re.search(r"number_of_executed_units: (\d+)", said)
        new = sorted(set(found.iterdir()) - before)
        print(
            f"{name}: {runs[1] if runs else 'no'} inputs, {'broken by ' + new[0].name if new else 'held'}", flush=True
        )
        if done.returncode:
            broken.append(name)
            print("\n".join(done.stderr.splitlines()[-30:]) if not new else _why(done.stderr))
        if not any(found.iterdir()):
            found.rmdir()
    return 1 if broken else 0


def _why(said: str) -> str:
    """The traceback of what broke it, without the fuzzer's own words."""
    at = said.find("=== Uncaught Python exception: ===")
    return said[at : at + 3_000] if at >= 0 else said[-2_000:]


if __name__ == "__main__":
    sys.exit(main())
