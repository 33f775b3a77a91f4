"""Runs scenarios, two at a time, each within its time and in a process of its own, and says how each went."""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType

from rich.console import Console
from rich.table import Table

from faultlab.lab import Red
from faultlab.scenarios import SCENARIOS, Outcome, Scenario

_PAGE = Path(__file__).parents[3] / "docs" / "reliability.md"
_BEGIN, _END = "<!-- faults: begin -->", "<!-- faults: end -->"


@dataclass(frozen=True)
class Verdict:
    scenario: Scenario
    outcome: Outcome
    seconds: float

    @property
    def good(self) -> bool:
        """Held; or for a broken appliance: found out, and for the right reason."""
        wrong, must = self.outcome.wrong, self.scenario.must_find
        return bool(self.outcome.skipped) or (any(must in each for each in wrong) if must else not wrong)

    @property
    def words(self) -> str:
        if self.outcome.skipped:
            return f"not run: {self.outcome.skipped}"
        if self.scenario.must_find:
            found = "; ".join(self.outcome.wrong) or "nothing"
            return "red, as it must be" if self.good else f"A broken appliance was not found out: {found}"
        return "held" if self.good else f"RED: {'; '.join(self.outcome.wrong)}"

    def row(self) -> tuple[str, ...]:
        outcome = self.outcome
        ready = "" if outcome.seconds_to_ready is None else f"{outcome.seconds_to_ready:.1f}"
        return (
            self.scenario.name, outcome.faults, str(outcome.sent), str(outcome.receipted), str(outcome.kept), ready,
            self.words,
        )  # fmt: skip


HEAD = ("scenario", "faults", "sent", "receipted", "kept", "s to ready", "verdict")


class _OutOfTime(BaseException):
    """Not to be caught on the way, as any other failure may be."""


def run_one(scenario: Scenario, seed: int) -> Verdict:
    """Run one scenario. What goes wrong on the way is a red verdict, not an exception."""

    def out_of_time(_number: int, _frame: FrameType | None) -> None:
        raise _OutOfTime(f"not over within {scenario.timeout} s")

    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, out_of_time)
    signal.alarm(scenario.timeout)
    try:
        outcome = scenario.run(seed)
    except (Red, _OutOfTime) as error:
        outcome = Outcome("", 0, 0, 0, None, (str(error),))
    except Exception as error:
        traceback.print_exc()
        outcome = Outcome("", 0, 0, 0, None, (f"{type(error).__name__}: {error}",))
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    return Verdict(scenario, outcome, time.monotonic() - began)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--only", action="append", metavar="WORDS", help="scenarios whose name holds these words")
    parser.add_argument("--seed", type=int, default=1, help="the same seed chooses the same events, points and pauses")
    parser.add_argument("--jobs", type=int, default=2, help="so many scenarios at a time")
    parser.add_argument("--list", action="store_true", help="say which scenarios there are")
    parser.add_argument("--one", choices=list(SCENARIOS), help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    # Asked to stop, it takes its appliances along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if asked.one:
        verdict = run_one(SCENARIOS[asked.one], asked.seed)
        print(json.dumps({"seconds": verdict.seconds, **asdict(verdict.outcome)}))
        return 0
    chosen = [each for each in SCENARIOS.values() if not asked.only or any(words in each.name for words in asked.only)]
    if asked.list or not chosen:
        print("\n".join(each.name for each in SCENARIOS.values()))
        return 0 if asked.list else 2
    console = Console(width=None if sys.stdout.isatty() else 220)
    verdicts = []
    began = time.monotonic()
    with ThreadPoolExecutor(max(1, asked.jobs)) as pool:
        for verdict in pool.map(lambda scenario: _apart(scenario, asked.seed), chosen):
            verdicts.append(verdict)
            colour = "green" if verdict.good else "red"
            console.print(
                f"[{colour}]{verdict.scenario.name}[/]: {verdict.words} ({verdict.seconds:.0f} s)", highlight=False
            )
    table = Table(*HEAD)
    for verdict in verdicts:
        table.add_row(*verdict.row())
    console.print(table, highlight=False)
    bad = sum(not verdict.good for verdict in verdicts)
    total = time.monotonic() - began
    console.print(f"{len(verdicts)} scenarios, {bad} of them wrong, {total:.0f} s, seed {asked.seed}", highlight=False)
    if not asked.only:
        _write(verdicts, asked.seed, total, asked.jobs)
    return 1 if bad else 0


def _apart(scenario: Scenario, seed: int) -> Verdict:
    """Run one scenario in a process of its own: servers are started by a main thread, and alarms go to it."""
    began = time.monotonic()
    command = [sys.executable, str(Path(__file__).parents[1]), "--one", scenario.name, "--seed", str(seed)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        said, _ = process.communicate(timeout=scenario.timeout + 120)
        seconds, outcome = _read(said)
    except (subprocess.TimeoutExpired, ValueError, IndexError):
        seconds, outcome = time.monotonic() - began, Outcome("", 0, 0, 0, None, ("its process gave no verdict",))
    finally:
        # Also when somebody has interrupted us: it ends what it started.
        if process.poll() is None:
            process.terminate()
            process.wait(60)
    return Verdict(scenario, outcome, seconds)


def _read(said: str) -> tuple[float, Outcome]:
    values = json.loads(said.strip().splitlines()[-1])
    seconds = float(values.pop("seconds"))
    return seconds, Outcome(**{**values, "wrong": tuple(values["wrong"])})


def _write(verdicts: list[Verdict], seed: int, total: float, jobs: int) -> None:
    lines = [f"`make faults`, seed {seed}, {total:.0f} s on {_cores()} cores, {jobs} at a time:", ""]
    lines += [f"| {' | '.join(HEAD)} |", f"|{'---|' * len(HEAD)}"]
    lines += [f"| {' | '.join(cell.replace('|', '/') for cell in verdict.row())} |" for verdict in verdicts]
    page = _PAGE.read_text("utf-8")
    before, _, rest = page.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _PAGE.write_text(f"{before}{_BEGIN}\n" + "\n".join(lines) + f"\n{_END}{after}", "utf-8")


def _cores() -> int:
    import os

    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    sys.exit(main())
