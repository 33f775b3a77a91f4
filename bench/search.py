"""How long a whole search takes, of what it consists, and how that grows: `make bench-search`.

One size after another: a history of closed cases, each with the vectors of its symptom, cause and fix (so N vectors are
N / 3 cases), goes into a PostgreSQL and into the embedded index, which is hosted by a process of its own as in the
appliance, and is put in order by `optimize`. Then questions are asked, and each question is put, one after the other so
that all meet the same machine, to the whole search (text in, ranked facts out), to NumPy scanning all vectors, and,
where it is bearable, to qdrant-client's local mode. The question's text is new each time: no cache answers for the encoder.

The vectors are synthetic but lie as real ones do: each is near the embedding of a real text of the sample history, pulled
towards a second one and scattered, so that there are clusters within clusters.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import tomllib
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from edge import config
from edge.cases import Casebook
from edge.config import Settings, resources
from edge.db import Database, migrate
from edge.doors.postgres import Postgres
from edge.embedding import Encoder, ensure_built, sparse_terms
from edge.importing import read_rows
from edge.indexing import point_id
from edge.plant import load_plant
from edge.search import Question, SearchEngine
from edge.vectors import COLLECTIONS, Point, SearchRequest, SparseVector, VectorStore, open_store, physical_name

NAME = "incident_reports"
ROLES = ("symptom", "cause", "fix")
CHUNK = 2_000
BEGIN, END = "<!-- bench-search: written by `make bench-search` -->", "<!-- bench-search: end -->"

say = Console(stderr=True)


# --- the data -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Base:
    """The sample history: its texts, its vectors [cases, 768] by role, and the sparse terms of each case."""

    texts: list[tuple[str, str, str]]
    vectors: dict[str, np.ndarray]
    terms: list[dict[int, float]]


def base(encoder: Encoder) -> Base:
    texts = []
    for file in sorted((resources() / "etc/sample/history").glob("*.jsonl")):
        for row in read_rows(file):
            found = [str(row.values.get(key) or "") for key in ("description", "root_cause", "resolution")]
            if all(found):
                texts.append((found[0], found[1], found[2]))
    vectors = {role: encoder.encode([text[at] for text in texts]) for at, role in enumerate(ROLES)}
    terms = []
    for text in texts:
        found = sparse_terms("\n".join(text))
        terms.append(dict(zip(found.indices, found.values, strict=True)))
    return Base(texts, vectors, terms)


def machine(number: int) -> str:
    return f"CONV-{number % 5_000:04d}"


def chunk(base: Base, start: int, end: int, seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Which sample cases the cases [start, end) retell, and their unit vectors by role, float32 [end - start, 768]."""
    dice = np.random.default_rng([seed, start])
    size, known = end - start, len(base.texts)
    first, second = dice.integers(0, known, size), dice.integers(0, known, size)
    pull = dice.uniform(0.0, 0.8, (size, 1)).astype(np.float32)
    found = {}
    for role in ROLES:
        centres = base.vectors[role]
        noise = dice.normal(0, 1, (size, centres.shape[1])).astype(np.float32)
        noise *= 0.35 / np.sqrt(centres.shape[1])
        rows = centres[first] + pull * centres[second] + noise
        found[role] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return first, found


def all_vectors(base: Base, cases: int, seed: int, tick: Any) -> dict[str, np.ndarray]:
    """By role, float32 [cases, 768]."""
    found = {role: np.empty((cases, base.vectors[role].shape[1]), np.float32) for role in ROLES}
    for start in range(0, cases, CHUNK):
        end = min(cases, start + CHUNK)
        for role, rows in chunk(base, start, end, seed)[1].items():
            found[role][start:end] = rows
        tick(end)
    return found


def case_id(number: int) -> uuid.UUID:
    return uuid.uuid5(uuid.NAMESPACE_OID, str(number))


def points(base: Base, start: int, end: int, seed: int, fingerprint: str) -> list[Point]:
    first, vectors = chunk(base, start, end, seed)
    made = []
    for row, number in enumerate(range(start, end)):
        terms = dict(base.terms[first[row]])
        own = sparse_terms(machine(number))
        terms.update(zip(own.indices, own.values, strict=True))
        identity = case_id(number)
        payload = {
            "site_id": "demo", "key": str(identity), "record_id": f"B-{number}", "language": "th",
            "fingerprint": fingerprint, "incident_type": "jam", "severity": "medium", "status": "closed",
            "outcome": "held", "zone_id": f"Z-{number % 40}", "camera_id": None, "worker_id": None, "tags": [],
            "timestamp": datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=number),
        }  # fmt: skip
        made.append(
            Point(
                point_id(NAME, identity),
                {role: vectors[role][row] for role in ROLES},
                SparseVector(list(terms), list(terms.values())),
                payload,
            )
        )
    return made


def fill_postgres(dsn: str, base: Base, cases: int, seed: int, tick: Any) -> None:
    columns = (
        "id, site_id, record_id, kind, status, type, severity, origin, description, language, root_cause, resolution, "
        "outcome, occurred_at, last_seen_at, closed_at, minutes_to_restore"
    )
    with psycopg.connect(dsn) as connection:
        site = connection.execute("SELECT id FROM site LIMIT 1").fetchone()[0]
        with connection.cursor().copy(f"COPY cases ({columns}) FROM STDIN") as copy:
            for start in range(0, cases, CHUNK):
                end = min(cases, start + CHUNK)
                first = np.random.default_rng([seed, start]).integers(0, len(base.texts), end - start)
                for row, number in enumerate(range(start, end)):
                    symptom, cause, fix = base.texts[first[row]]
                    when = datetime(2026, 1, 1, tzinfo=UTC) - timedelta(minutes=number)
                    copy.write_row(
                        (
                            case_id(number), site, f"B-{number}", "incident", "closed", "jam", "medium", "import",
                            f"{symptom} {machine(number)}", "th", cause, fix, "held", when, when, when, 30,
                        )
                    )  # fmt: skip
                tick(end)
        connection.commit()
        connection.autocommit = True
        connection.execute("VACUUM ANALYZE cases")


def fill_store(store: VectorStore, base: Base, cases: int, seed: int, fingerprint: str, tick: Any) -> None:
    for start in range(0, cases, CHUNK):
        end = min(cases, start + CHUNK)
        store.upsert(physical_name(NAME, fingerprint), points(base, start, end, seed, fingerprint))
        tick(end)


def questions(count: int, seed: int) -> list[str]:
    """Reports of the sample shift, each asked about a machine of its own, so that no text comes twice."""
    told = tomllib.loads((resources() / "etc/sample/shift.toml").read_text("utf-8"))["report"]
    texts = [each["text"] for each in told]
    dice = np.random.default_rng(seed)
    return [f"{texts[number % len(texts)]} {machine(int(dice.integers(5_000)))} ({number})" for number in range(count)]


# --- measuring ------------------------------------------------------------------------------------------------------


class Timed:
    """Stands before an encoder or a store and adds up the time spent in some of its methods."""

    def __init__(self, behind: Any, methods: Sequence[str]) -> None:
        self._behind = behind
        self._methods = set(methods)
        self.spent = 0.0

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._behind, name)
        if name not in self._methods:
            return found

        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return found(*args, **kwargs)
            finally:
                self.spent += time.perf_counter() - started

        return timed


@dataclass
class Result:
    """What one size gave. Lists are seconds, one entry a question."""

    vectors: int
    side: str
    cases: int = 0
    whole: list[float] = field(default_factory=list)
    encode: list[float] = field(default_factory=list)
    store: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)
    local: list[float] = field(default_factory=list)
    recalls: list[float] = field(default_factory=list)
    fill_s: float = 0.0
    optimize_s: float = 0.0
    worst_wait_s: float = 0.0
    rss_mib: float = 0.0
    private_mib: float = 0.0
    disk_mib: float = 0.0
    local_words: str = ""

    @property
    def recall(self) -> float:
        return float(np.mean(self.recalls))

    def as_json(self) -> dict[str, Any]:
        lists = ("whole", "encode", "store", "floor", "local")
        plain = {key: value for key, value in vars(self).items() if key not in (*lists, "recalls")}
        plain["recall"] = self.recall
        for name in lists:
            found = getattr(self, name)
            if found:
                plain[name] = {"p50_ms": round(p(found, 50), 3), "p99_ms": round(p(found, 99), 3), "n": len(found)}
        return plain


class Kept:
    """What an earlier run left and how long it took to make: filling and ordering a million takes most of a run."""

    MADE = ("fill_s", "optimize_s", "worst_wait_s")

    def __init__(self, file: Path, what: list[Any]) -> None:
        self._file, self._what = file, what
        self._said = json.loads(file.read_text("utf-8")) if file.is_file() else {}
        self.whole = self._said.get("what") == what

    def take(self, result: Result) -> None:
        """Write down how long it took, or take what was written."""
        if self.whole:
            for name in self.MADE:
                setattr(result, name, self._said[name])
        else:
            said = {"what": self._what, **{name: getattr(result, name) for name in self.MADE}}
            self._file.write_text(json.dumps(said) + "\n", "utf-8")


def p(found: Sequence[float], percent: float) -> float:
    """Milliseconds."""
    return float(np.percentile(found, percent)) * 1000


def memory(pid: int) -> tuple[float, float]:
    """Resident and, of it, private memory of a process in MiB."""
    kept = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "kB":
            kept[words[0].rstrip(":")] = int(words[1]) / 1024
    return kept["Rss"], kept.get("Anonymous", 0.0)


def on_disk(folder: Path) -> float:
    return sum(each.stat().st_blocks * 512 for each in folder.rglob("*") if each.is_file()) / 2**20


@contextmanager
def hosted(settings: Settings, environ: dict[str, str]) -> Iterator[tuple[VectorStore, int]]:
    """The index behind its own process, as in the appliance; the client's store and the process's id."""
    process = subprocess.Popen([sys.executable, "-m", "edge", "vectors"], env={**os.environ, **environ})
    store = open_store(socket_path=Path(settings.vectors.url.removeprefix("unix:")), timeout_s=120)
    try:
        store.wait(120)  # type: ignore[attr-defined]
        yield store, process.pid
    finally:
        store.close()
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def settled(store: VectorStore, physical: str, patience: float = 3_600) -> None:
    """A server builds its graphs by itself: wait until their number stands still."""
    deadline, before, since = time.monotonic() + patience, -1, time.monotonic()
    while time.monotonic() < deadline:
        now = store.stats(physical).indexed_vectors
        if now != before:
            before, since = now, time.monotonic()
        if time.monotonic() - since > 20:
            return
        time.sleep(1)


def measure(size: int, options: argparse.Namespace, encoder: Encoder, base: Base, side: str) -> Result:
    """One size on one side, from nothing to its figures."""
    with placed(size, options, side, encoder.fingerprint) as (folder, kept):
        return measured_in(folder, kept, size, options, encoder, base, side)


@contextmanager
def placed(size: int, options: argparse.Namespace, side: str, fingerprint: str) -> Iterator[tuple[Path, Kept | None]]:
    """The folder of one size: made for this run alone, or the one that `--keep` names."""
    if not options.keep:
        folder = Path(tempfile.mkdtemp(prefix=f"bench-{size}-", dir=options.data))
        try:
            yield folder, None
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return
    folder = options.keep / f"{side}-{size}"
    kept = Kept(folder / "filled.json", [size, options.seed, fingerprint])
    if not kept.whole:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder, kept


def measured_in(
    folder: Path, kept: Kept | None, size: int, options: argparse.Namespace, encoder: Encoder, base: Base, side: str
) -> Result:
    result = Result(size, side, cases=max(1, size // len(ROLES)))
    filled = kept is not None and kept.whole
    environ = {"EDGE__DATA__DIR": str(folder)}
    if side == "server":
        environ |= {"EDGE__VECTORS__URL": options.url}
    else:
        # Sockets have short names, whatever the folder's is.
        sockets = Path(tempfile.mkdtemp(prefix="bench-"))
        environ |= {"EDGE__VECTORS__URL": f"unix:{sockets / 'v.sock'}"}
    settings = config.load(environ=environ)
    with ExitStack() as stack:
        if side == "embedded":
            stack.callback(shutil.rmtree, sockets, ignore_errors=True)
        bar = stack.enter_context(
            Progress(
                SpinnerColumn(), TextColumn(f"{size:>9,} {side} {{task.description}}"), BarColumn(), MofNCompleteColumn(),
                TimeElapsedColumn(), console=say,
            )
        )  # fmt: skip
        task = bar.add_task("database", total=result.cases)

        def tick(done: int) -> None:
            bar.update(task, completed=done)

        dsn = stack.enter_context(Postgres(settings))
        settings = settings.with_dsn(dsn)
        database = stack.enter_context(Database(dsn).wait())
        migrate(database)
        load_plant(database, resources() / "etc/sample/plant.toml")
        if not filled:
            fill_postgres(dsn, base, result.cases, options.seed, tick)

        pid = 0
        if side == "server":
            key = os.environ.get("EDGE_BENCH_QDRANT_API_KEY")
            store = stack.enter_context(open_store(url=options.url, api_key=key, timeout_s=120))
        else:
            store, pid = stack.enter_context(hosted(settings, environ))
        for collection in COLLECTIONS.values():
            store.build_beside(collection, fingerprint=encoder.fingerprint)
            if side == "embedded":
                store.switch(collection.name, fingerprint=encoder.fingerprint)
            else:
                stack.callback(store.drop, collection.name, fingerprint=encoder.fingerprint)
        physical = physical_name(NAME, encoder.fingerprint)

        if not filled:
            bar.update(task, description="upsert", completed=0)
            started = time.perf_counter()
            fill_store(store, base, result.cases, options.seed, encoder.fingerprint, tick)
            result.fill_s = time.perf_counter() - started

        timed_store, timed_encoder = Timed(store, ("search", "search_many", "get")), Timed(encoder, ("encode",))
        engine = SearchEngine(Casebook(database), timed_store, timed_encoder, settings.search)  # type: ignore[arg-type]
        asked = questions(options.queries + 32, options.seed)
        warm, asked = asked[:32], asked[32:]

        if not filled:
            bar.update(task, description="optimize", completed=0, total=None)
            put_in_order(store, physical, engine, warm, result)
        if kept is not None:
            kept.take(result)

        bar.update(task, description="matrices", completed=0, total=result.cases)
        matrices = all_vectors(base, result.cases, options.seed, tick)
        ids = {point_id(NAME, case_id(number)): number for number in range(result.cases)}

        local = None
        if side == "embedded" and size <= options.local_up_to:
            local = stack.enter_context(local_mode(base, result.cases, options.seed, encoder.fingerprint, bar, task))
        elif side == "embedded":
            result.local_words = (
                f"not asked: above {options.local_up_to:,} it takes minutes to fill and seconds a question"
            )

        for text in warm:
            engine.search(Question(text))
        bar.update(task, description="questions", completed=0, total=len(asked))
        for number, text in enumerate(asked, 1):
            timed_store.spent = timed_encoder.spent = 0.0
            started = time.perf_counter()
            answer = engine.search(Question(text))
            result.whole.append(time.perf_counter() - started)
            result.encode.append(timed_encoder.spent)
            result.store.append(timed_store.spent)
            assert answer.hits, text
            query = encoder.encode([text])[0]
            compare(query, store, physical, matrices, ids, result)
            if local is not None and number <= options.local_queries:
                ask_locally(text, query, local, physical, result)
            tick(number)
        if pid:
            result.rss_mib, result.private_mib = memory(pid)
            result.disk_mib = on_disk(folder / "vectors")
    return result


def compare(
    query: np.ndarray,
    store: VectorStore,
    physical: str,
    matrices: dict[str, np.ndarray],
    ids: dict[uuid.UUID, int],
    result: Result,
) -> None:
    """The same question to NumPy, and how many of its ten nearest the index finds."""
    started = time.perf_counter()
    exact = {role: nearest(matrices[role], query, 100) for role in ROLES}
    result.floor.append(time.perf_counter() - started)
    for role in ROLES:
        hits = store.search(physical, SearchRequest(query, role, limit=10))
        right = len({ids[hit.id] for hit in hits} & set(exact[role][:10].tolist()))
        result.recalls.append(right / min(10, result.cases))


def ask_locally(text: str, query: np.ndarray, local: VectorStore, physical: str, result: Result) -> None:
    terms = sparse_terms(text)
    requests = [SearchRequest(query, role, limit=100) for role in ROLES]
    requests.append(SearchRequest(SparseVector(terms.indices, terms.values), "terms", limit=100))
    started = time.perf_counter()
    local.search_many(physical, requests)
    result.local.append(time.perf_counter() - started)


def put_in_order(store: VectorStore, physical: str, engine: SearchEngine, asked: Sequence[str], result: Result) -> None:
    """Optimize, while one person after the other goes on asking: how long does it take, how long does one wait at worst?"""
    stop = threading.Event()

    def ask() -> None:
        turn = 0
        while not stop.is_set():
            begun = time.perf_counter()
            engine.search(Question(f"{asked[turn % len(asked)]} {turn}"))
            result.worst_wait_s = max(result.worst_wait_s, time.perf_counter() - begun)
            turn += 1
            time.sleep(0.05)

    meanwhile = threading.Thread(target=ask)
    meanwhile.start()
    started = time.perf_counter()
    try:
        store.optimize(physical)
        if result.side == "server":
            settled(store, physical)
    finally:
        result.optimize_s = time.perf_counter() - started
        stop.set()
        meanwhile.join()


def nearest(matrix: np.ndarray, query: np.ndarray, count: int) -> np.ndarray:
    """The rows of `matrix` [n, d] with the largest products with `query` [d], best first."""
    scores = matrix @ query
    count = min(count, len(scores))
    best = np.argpartition(scores, len(scores) - count)[-count:]
    return best[np.argsort(-scores[best])]


@contextmanager
def local_mode(base: Base, cases: int, seed: int, fingerprint: str, bar: Progress, task: Any) -> Iterator[VectorStore]:
    """qdrant-client's own engine in Python, filled with the same points."""
    import warnings

    from qdrant_client import QdrantClient

    from edge.vectors import ServerStore

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with ServerStore.over(QdrantClient(":memory:")) as store:
            store.build_beside(COLLECTIONS[NAME], fingerprint=fingerprint)
            bar.update(task, description="local mode", completed=0, total=cases)
            fill_store(store, base, cases, seed, fingerprint, lambda done: bar.update(task, completed=done))
            yield store


# --- telling --------------------------------------------------------------------------------------------------------

HEAD = (
    "vectors", "side", "whole search", "encode", "index", "rest", "whole / (encode + index)", "NumPy scan", "local mode",
    "recall@10",
)  # fmt: skip
HEAD_STATE = (
    "vectors", "side", "upsert", "optimize", "longest wait meanwhile", "host's memory (of it private)", "on disk",
)  # fmt: skip


def rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    table = []
    for each in results:
        rest = [a - b - c for a, b, c in zip(each.whole, each.encode, each.store, strict=True)]
        ratios = [a / (b + c) for a, b, c in zip(each.whole, each.encode, each.store, strict=True)]
        table.append(
            (
                f"{each.vectors:,}",
                each.side,
                *(f"{p(found, 50):.1f} / {p(found, 99):.1f}" for found in (each.whole, each.encode, each.store, rest)),
                f"{float(np.median(ratios)):.2f}",
                f"{p(each.floor, 50):.1f} / {p(each.floor, 99):.1f}",
                f"{p(each.local, 50):.0f} / {p(each.local, 99):.0f}" if each.local else "–",
                f"{each.recall:.4f}",
            )
        )
    return table


def state_rows(results: Sequence[Result]) -> list[tuple[str, ...]]:
    return [
        (
            f"{each.vectors:,}",
            each.side,
            f"{each.vectors / each.fill_s:,.0f} vectors/s",
            f"{each.optimize_s:.0f} s",
            f"{each.worst_wait_s:.2f} s" if each.worst_wait_s else "–",
            f"{each.rss_mib:,.0f} ({each.private_mib:,.0f}) MiB" if each.rss_mib else "–",
            f"{each.disk_mib:,.0f} MiB" if each.disk_mib else "–",
        )
        for each in results
    ]


def verdicts(results: Sequence[Result]) -> list[tuple[str, bool]]:
    """The goals, and whether these figures reach them."""
    said = []
    for each in results:
        ratio = float(np.median([a / (b + c) for a, b, c in zip(each.whole, each.encode, each.store, strict=True)]))
        said.append(
            (f"{each.vectors:,} {each.side}: whole search {ratio:.2f} times encode + index (goal 1.5)", ratio <= 1.5)
        )
        said.append((f"{each.vectors:,} {each.side}: recall@10 {each.recall:.4f} (goal 0.98)", each.recall >= 0.98))
    for side in sorted({each.side for each in results}):
        mine = sorted((each for each in results if each.side == side), key=lambda each: each.vectors)
        for small, large in itertools.pairwise(mine):
            growth = p(large.whole, 50) / p(small.whole, 50)
            said.append((f"{side}: p50 grows {growth:.2f} times from {small.vectors:,} to {large.vectors:,}", True))
        if len(mine) > 1:
            growth = p(mine[-1].whole, 50) / p(mine[0].whole, 50)
            words = f"{side}: p50 at {mine[-1].vectors:,} is {growth:.2f} times that at {mine[0].vectors:,} (goal 3)"
            said.append((words, growth <= 3))
    return said


def markdown(results: Sequence[Result], options: argparse.Namespace) -> str:
    def table(head: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
        return [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}", *(f"| {' | '.join(row)} |" for row in body)]

    command = f"make bench-search SIZES='{' '.join(str(size) for size in options.sizes)}' QUERIES={options.queries}"
    lines = [
        BEGIN,
        "",
        f"`{command}` on {os.cpu_count()} cores ({platform.machine()}), {datetime.now(UTC):%Y-%m-%d}.",
        "Milliseconds, p50 / p99; a third as many cases as vectors.",
        "",
        *table(HEAD, rows(results)),
        "",
        *table(HEAD_STATE, state_rows(results)),
        "",
        *(f"- {'reached' if good else '**missed**'}: {words}" for words, good in verdicts(results)),
        "",
        END,
    ]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--sizes", nargs="+", type=size, default=[10_000, 100_000, 1_000_000], help="such as 10k 100k 1m"
    )
    parser.add_argument(
        "--data", type=Path, default=None, help="folder for the data; 1m takes some 15 GB (default: TMPDIR)"
    )
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--local-up-to", type=size, default=100_000, help="qdrant-client local mode up to this size")
    parser.add_argument("--local-queries", type=int, default=30)
    parser.add_argument("--url", default=os.environ.get("EDGE_BENCH_QDRANT_URL"), help="a Qdrant server to measure too")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="folder to leave the data in, and to find them in the next time")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--docs", type=Path, help="put the table between the markers of this file")
    options = parser.parse_args()
    if options.data:
        options.data.mkdir(parents=True, exist_ok=True)
    # Without a cache: each size asks the same questions.
    encoder = Encoder.open(ensure_built(resources() / "models"), cache_texts=0)
    known = base(encoder)
    results = [
        measure(each, options, encoder, known, side)
        for each in sorted(options.sizes)
        for side in ("embedded", *(("server",) if options.url else ()))
    ]
    for head, body in ((HEAD, rows(results)), (HEAD_STATE, state_rows(results))):
        shown = Table(*head)
        for row in body:
            shown.add_row(*row)
        Console().print(shown)
    for words, good in verdicts(results):
        Console().print(f"{'[green]reached[/]' if good else '[red]missed[/]'}  {words}", highlight=False)
    for each in results:
        if each.local_words:
            Console().print(f"{each.vectors:,}: local mode was {each.local_words}", highlight=False)
    if options.json:
        options.json.write_text(json.dumps([each.as_json() for each in results], indent=1) + "\n", "utf-8")
    if options.docs:
        text = options.docs.read_text("utf-8")
        before, _, rest = text.partition(BEGIN)
        after = rest.partition(END)[2]
        if not rest:
            raise SystemExit(f"{options.docs} has no line {BEGIN}.")
        options.docs.write_text(before + markdown(results, options) + after, "utf-8")
    return 0


def size(text: str) -> int:
    """10k, 1m or 50000."""
    factor = {"k": 1_000, "m": 1_000_000}.get(text[-1:].lower(), 1)
    return int(float(text.rstrip("kKmM")) * factor)


if __name__ == "__main__":
    sys.exit(main())
