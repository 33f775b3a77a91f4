"""The command `edge`. Each command opens what it needs, does one thing, and ends with a sentence when it cannot."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from edge import __version__, config, log
from edge.config import Settings
from edge.errors import EdgeError, Rejected, Unavailable

if TYPE_CHECKING:
    from edge.roles.evaluate import Run
    from edge.search.measure import Difference, Direction, Metric

# Rooms are opened inside the commands: `edge --help` must not wait for an inference engine to load.
app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="**Andon Edge**: has this happened before, and what fixed it?\n\n"
    "Start everything with `edge run`; ask with `edge search`.",
)
snapshot_app = typer.Typer(
    no_args_is_help=True, help="Save the whole appliance to one checked bundle, and bring it back."
)
model_app = typer.Typer(no_args_is_help=True, help="The embedding model.")
index_app = typer.Typer(no_args_is_help=True, help="The search index.")
reindex_app = typer.Typer(
    no_args_is_help=True,
    help="The index of another model: built beside the one that serves, compared, switched to, and back.",
)
account_app = typer.Typer(no_args_is_help=True, help="People who may sign in, and tokens for programs.")
detect_app = typer.Typer(no_args_is_help=True, help="What the detectors watch for.")
app.add_typer(detect_app, name="detect")
etl_app = typer.Typer(no_args_is_help=True, help="The sweeps that bring to the index what it lacks.")
app.add_typer(etl_app, name="etl")
app.add_typer(snapshot_app, name="snapshot")
app.add_typer(model_app, name="model")
app.add_typer(index_app, name="index")
app.add_typer(reindex_app, name="reindex")
quarantine_app = typer.Typer(no_args_is_help=True, help="Events that could not be understood, with their bytes.")
app.add_typer(account_app, name="account")
app.add_typer(quarantine_app, name="quarantine")
webhook_app = typer.Typer(no_args_is_help=True, help="Programs that are told over HTTP what happens to cases.")
app.add_typer(webhook_app, name="webhook")

knowledge_app = typer.Typer(no_args_is_help=True, help="The plant's documents: SOPs and manuals.")
app.add_typer(knowledge_app, name="knowledge")

T = TypeVar("T")

_out = Console()
_err = Console(stderr=True)

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="Settings file. Default: $EDGE_CONFIG, else /etc/andon-edge/edge.toml."),
]


class _Loaded:
    file: Path | None = None


def _settings() -> Settings:
    settings = config.load(_Loaded.file)
    log.setup(settings.log.level, settings.log.format)
    return settings


def _version(asked: bool) -> None:
    if asked:
        _out.print(__version__)
        raise typer.Exit


@app.callback()
def _common(
    file: ConfigOption = None,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    _Loaded.file = file


def main() -> NoReturn:
    """Run the command. Every foreseen failure is one sentence on standard error and the exit status 1."""
    try:
        app()
    except EdgeError as error:
        # Without markup: a sentence may name a [section] of the settings.
        _err.print("edge:", style="red", end=" ")
        _err.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        sys.exit(0)
    sys.exit(0)


# --- the appliance --------------------------------------------------------------------------------------------------


@app.command()
def run() -> None:
    """Run the whole appliance on this machine: database, broker, index and all roles.

    Parts that the settings name elsewhere (`database.dsn`, `broker.url`, `vectors.url`) are used there, not started.

    Example: `EDGE__WEB__PORT=9090 EDGE__DATA__DIR=/srv/andon edge run`
    """
    from edge.roles.run import run as run_appliance

    raise typer.Exit(run_appliance(_settings()))


@app.command()
def ingest() -> None:
    """One role: take events from the broker into the inbox.

    Example: `EDGE__DATABASE__DSN=postgresql://edge@db/edge EDGE__BROKER__URL=mqtts://broker edge ingest`
    """
    from edge.roles.ingest import ingest as role

    role(_settings())


@app.command()
def worker() -> None:
    """One role: turn events into cases, bring them into the index, find their past cases, run the scheduled jobs.

    Example: `EDGE__DATABASE__DSN=postgresql://edge@db/edge EDGE__VECTORS__URL=http://qdrant:6333 edge worker`
    """
    from edge.roles.worker import worker as role

    role(_settings())


@app.command()
def web() -> None:
    """One role: serve the dashboard and the JSON API.

    Example: `EDGE__WEB__HOST=0.0.0.0 EDGE__WEB__PORT=8080 edge web`
    """
    from edge.roles.web import web as role

    role(_settings())


@app.command(hidden=True)
def vectors() -> None:
    """One role: hold the embedded index open for the other roles of this machine (`edge run` starts it)."""
    from edge.roles.vectors import vectors as role

    role(_settings())


@app.command()
def migrate() -> None:
    """Bring the database to this version and load the plant file.

    Example: `EDGE__PLANT__FILE=plant.toml edge migrate`
    """
    from edge.roles.prepare import prepare

    for name in prepare(_settings()):
        _err.print(f"applied {name}")


@app.command(hidden=True)
def sample() -> None:
    """Load the sample history and documents into the database (`edge run` does, when `plant.sample` is on)."""
    from edge.roles.parts import open_encoder
    from edge.roles.prepare import open_database
    from edge.simulation import load_sample, load_sample_documents

    settings = _settings()
    with open_database(settings, name="sample") as database:
        added = load_sample(database)
        documents = load_sample_documents(database, lambda: open_encoder(settings))
    if added:
        _err.print(f"loaded {added} past cases")
    if documents:
        _err.print(f"loaded {documents} documents")


@app.command()
def simulate(
    speed: Annotated[
        float | None, typer.Option(min=0.01, max=1000, help="Times real time; default simulator.speed.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Stop after so many events.")] = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same shift.")] = 1,
) -> None:
    """Publish a shift of the sample plant to the broker, through the same door as any camera or station.

    Example: `edge simulate --speed 10 --limit 500`
    """
    from edge.doors.notify import notify
    from edge.roles.loop import Beat, Stopping
    from edge.simulation import publish

    settings = _settings()
    if speed is not None:
        settings = settings.model_copy(update={"simulator": settings.simulator.model_copy(update={"speed": speed})})
    stopping, beat = Stopping(), Beat()
    notify("READY=1")

    def stopped() -> bool:
        beat()
        return stopping()

    count = publish(settings, stopped, limit=limit, seed=seed)
    _err.print(f"published {count} events")


@app.command()
def publish(
    topic: Annotated[str, typer.Argument(help="root/site/area/line/cell/class/source.")],
    event: Annotated[
        str | None, typer.Argument(help="One event as JSON. Without it: one per line of standard input.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, max=3_600, help="Seconds to wait for the receipts.")] = 30.0,
    spool: Annotated[
        Path | None,
        typer.Option(help="Where events wait for their receipts. Default: in data.dir, one folder a source."),
    ] = None,
) -> None:
    """Send events as a camera or station does, and wait until the appliance has them.

    Ends with 1 when a receipt is missing; the event then waits in the spool, and goes out with the next `edge publish`
    of that source.

    Examples: `edge publish andon/demo/assembly/line-1/cell-1/report/station-7 '{"text": "สายพานหยุดเอง"}'`;
    `edge publish andon/demo/assembly/line-1/cell-1/camera/cam-7 < events.ndjson`
    """
    from urllib.parse import quote

    from edge.publisher import Publisher, PublishError
    from edge.roles.desk import read_card

    settings = _settings()
    place, _, rest = topic.rpartition("/")[0].rpartition("/")
    source = topic.rpartition("/")[2]
    broker = settings.broker.url or str((read_card(settings) or {}).get("broker", ""))
    if not broker:
        raise Rejected(
            "No broker is set and no appliance runs here: set EDGE__BROKER__URL, or start it with `edge run`."
        )
    folder = spool or settings.data.dir / "spool" / quote(place, safe="") / quote(source, safe="")
    sent: list[str] = []
    try:
        with Publisher(
            broker, place, source, folder, username=settings.broker.username,
            password=settings.broker.password.get_secret_value(), ca_file=settings.broker.ca_file,
            cert_file=settings.broker.cert_file, key_file=settings.broker.key_file,
            max_event_bytes=settings.intake.max_payload_bytes,
        ) as publisher:  # fmt: skip
            before = set(publisher.waiting())
            try:
                sent.extend(publisher.publish(rest, body) for body in _events(event))
            finally:
                publisher.wait(timeout)
                waiting, problem = set(publisher.waiting()), publisher.problem
                publisher.close(0)
                arrived = sum(identity not in waiting for identity in sent)
                _out.print(f"{arrived} of {len(sent)} events receipted", highlight=False)
                if late := len(before - waiting):
                    _out.print(f"and {late} event{'s' if late > 1 else ''} of an earlier time", highlight=False)
    except PublishError as error:
        raise Rejected(str(error)) from error
    if waiting:
        raise Unavailable(
            f"No receipt within {timeout:g} seconds for {len(waiting)} of them. {problem or 'Does `edge ingest` run?'} "
            f"The spool {folder} keeps them for the next `edge publish` of {source}."
        )


def _events(event: str | None) -> Iterator[dict[str, Any]]:
    for number, line in enumerate([event] if event is not None else sys.stdin, 1):
        if line.strip():
            try:
                body = json.loads(line)
            except ValueError as error:
                raise Rejected(f"Line {number} is not valid JSON: {error}.") from error
            if not isinstance(body, dict):
                raise Rejected(f"Line {number} is not a JSON object.")
            yield body


@app.command()
def doctor() -> None:
    """Check everything this machine needs, and say what to do about what is wrong.

    Example: `edge doctor`
    """
    from edge.roles.doctor import doctor as examine

    table = Table(box=None, show_header=False, pad_edge=False)
    failed = 0
    for check in examine(_settings()):
        mark = {True: "[green]ok[/]", False: "[red]wrong[/]", None: "[dim]not used[/]"}[check.ok]
        table.add_row(mark, check.name, check.detail)
        if check.ok is False:
            failed += 1
            table.add_row("", "", f"[yellow]→ {check.advice}[/]")
    _out.print(table)
    if failed:
        raise typer.Exit(1)


# --- past cases -----------------------------------------------------------------------------------------------------


@app.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="JSONL, CSV or XLSX of past cases.", exists=True, dir_okay=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check every row, store nothing.")] = False,
    map_: Annotated[
        list[str] | None,
        typer.Option("--map", help="FIELD=COLUMN, where a column has a name of its own.", metavar="FIELD=COLUMN"),
    ] = None,
    errors: Annotated[
        Path | None, typer.Option(help="Where to write rows that were refused. Default: FILE.errors.jsonl.")
    ] = None,
) -> None:
    """Bring in past cases, so that tomorrow's question finds them.

    Fields: id, kind, description, language, root_cause, resolution, outcome, zone_id, camera_id, worker_id, type,
    severity, timestamp, tags, minutes_to_restore. Columns are matched by name; `id`, `description` and `timestamp`
    must be there. Importing a file again changes nothing.

    Examples: `edge import history.xlsx --dry-run`; `edge import old.csv --map description=อาการเสีย --map resolution=การซ่อม`
    """
    from edge.importing import BATCH, RowResult, read_rows
    from edge.roles.desk import open_desk

    columns = {}
    for pair in map_ or []:
        field, sign, column = pair.partition("=")
        if not sign or not field or not column:
            raise Rejected(f"--map {pair} is not of the form FIELD=COLUMN.")
        columns[field] = column
    settings = _settings()
    total = sum(1 for _ in read_rows(file, columns))
    counts = dict.fromkeys(("added", "changed", "unchanged", "error"), 0)
    noted: list[RowResult] = []
    with open_desk(settings) as desk, _bar() as bar:
        task = bar.add_task("checking" if dry_run else "importing", total=total)
        for rows in _chunks(read_rows(file, columns), BATCH):
            for result in desk.import_batch(rows, dry_run=dry_run):
                counts[result.result] += 1
                if result.message:
                    noted.append(result)
            bar.advance(task, len(rows))
        if not dry_run:
            task = bar.add_task("indexing", total=None)
            for left in _until_settled(desk.settle()):
                bar.update(task, total=max(total, left), completed=max(total, left) - left)
    if noted:
        target = errors or file.with_name(file.name + ".errors.jsonl")
        lines = [{"row": row.number, "id": row.id, "result": row.result, "message": row.message} for row in noted]
        try:
            target.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), "utf-8")
        except OSError as error:
            raise Rejected(
                f"The errors cannot be written to {target}: {error.strerror}. Name a file with --errors."
            ) from error
        _err.print(f"{len(noted)} rows have something to say: see {target}", highlight=False)
    words = "would be taken" if dry_run else "added"
    _out.print(
        f"{counts['added']} {words}, {counts['changed']} changed, {counts['unchanged']} unchanged, {counts['error']} refused",
        highlight=False,
    )
    if counts["error"]:
        raise typer.Exit(2)


class _Collection(StrEnum):
    work_sequences = "work_sequences"
    anomaly_patterns = "anomaly_patterns"
    knowledge_base = "knowledge_base"
    worker_behaviors = "worker_behaviors"
    incident_reports = "incident_reports"


class _Mode(StrEnum):
    dense = "dense"
    lexical = "lexical"
    hybrid = "hybrid"


class _Asks(StrEnum):
    any = "any"
    symptom = "symptom"
    cause = "cause"
    fix = "fix"


@app.command()
def search(
    text: Annotated[str | None, typer.Argument(help="What happened, in Thai or English.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=100, help="At most so many results.")] = 5,
    mode: Annotated[_Mode, typer.Option(help="Rank by cosines, by words, or by both.")] = _Mode.hybrid,
    asks: Annotated[_Asks, typer.Option(help="Compare with one text of a case alone.")] = _Asks.any,
    collection: Annotated[
        list[_Collection] | None, typer.Option("--collection", help="Look here. Default: the cases.")
    ] = None,
    like: Annotated[
        str | None, typer.Option(metavar="CASE", help="More like this case, instead of a question.")
    ] = None,
    threshold: Annotated[float, typer.Option(min=0, max=1, help="Only what scores at least this.")] = 0.0,
    diversity: Annotated[
        float, typer.Option(min=0, max=1, help="0: by likeness alone. Towards 1: unlike each other.")
    ] = 0.0,
    kind: Annotated[list[str] | None, typer.Option(help="anomaly or incident.")] = None,
    status: Annotated[list[str] | None, typer.Option(help="open, acknowledged or closed.")] = None,
    zone: Annotated[list[str] | None, typer.Option(help="Only this zone.")] = None,
    severity: Annotated[list[str] | None, typer.Option(help="low, medium, high or critical.")] = None,
    language: Annotated[list[str] | None, typer.Option(help="th, en or mixed.")] = None,
    outcome: Annotated[list[str] | None, typer.Option(help="held, recurred or unknown.")] = None,
    type_: Annotated[list[str] | None, typer.Option("--type", help="Only this type.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="Only with this tag.")] = None,
    last: Annotated[str | None, typer.Option(help="The last 30m, 24h, 7d or 2w.")] = None,
    since: Annotated[str | None, typer.Option(help="From this time on, such as 2026-03-05T00:00+07:00.")] = None,
    until: Annotated[str | None, typer.Option(help="Before this time.")] = None,
    must: Annotated[
        list[str] | None, typer.Option(metavar="CONDITION", help="field=a,b, field>=3, field=last:24h, field=empty.")
    ] = None,
    should: Annotated[list[str] | None, typer.Option(metavar="CONDITION", help="At least one of these.")] = None,
    must_not: Annotated[list[str] | None, typer.Option(metavar="CONDITION", help="None of these.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    batch: Annotated[
        Path | None, typer.Option(help="JSONL of {qid, text, filters?}.", exists=True, dir_okay=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="With --batch: where to write {qid: [{id, score}, …]}.")] = None,
) -> None:
    """Has this happened before, and what fixed it?

    Examples: `edge search "สายพานหยุดเอง มอเตอร์ร้อน"`; `edge search "air pressure drops" --outcome held --json`;
    `edge search "motor hot" --must "severity=high,critical" --must-not "tags=drill" --last 30d`;
    `edge search --like C-000123`; `edge search --batch queries.jsonl --output results.json --limit 10`
    """
    from edge.roles.desk import conditions, open_desk, plural_filters

    if sum(way is not None for way in (text, like, batch)) != 1:
        raise Rejected(
            'Ask one question, as in `edge search "motor overheats"`, or name a case with --like or a file with --batch.'
        )
    given = {
        "kinds": kind, "statuses": status, "zone_ids": zone, "severities": severity, "languages": language,
        "outcomes": outcome, "types": type_, "tags": tag, "last": last, "since": since, "until": until,
    }  # fmt: skip
    filters: dict[str, Any] = {name: value for name, value in given.items() if value}
    collections = [item.value for item in collection or []]
    filters |= conditions({"must": must, "should": should, "must_not": must_not}, collections)
    how = {
        "limit": limit, "mode": mode.value, "asks": asks.value, "collections": collections or None,
        "threshold": threshold, "diversity": diversity,
    }  # fmt: skip
    if batch is None:
        with open_desk(_settings()) as desk:
            if like is not None:
                # As on the pages: closed cases, because only they say what fixed it.
                answer = desk.similar(like, how | ({"filters": plural_filters(filters)} if filters else {}))
            else:
                answer = desk.search(how | {"text": text, "filters": plural_filters(filters)})
        if as_json:
            print(json.dumps(answer, ensure_ascii=False, indent=2))
        else:
            _print_answer(answer)
        return
    queries = [
        {
            "qid": query["qid"],
            "text": query["text"],
            "filters": plural_filters({**filters, **(query.get("filters") or {})}),
        }
        for query in _queries(batch)
    ]
    results: dict[str, list[dict[str, Any]]] = {}
    with open_desk(_settings()) as desk, _bar() as bar:
        task = bar.add_task("searching", total=len(queries))
        for some in _chunks(iter(queries), _ASKED_TOGETHER):
            results |= desk.batch(how | {"queries": some})
            bar.advance(task, len(some))
    written = json.dumps(results, ensure_ascii=False, indent=1)
    if output is None:
        print(written)
    else:
        try:
            output.write_text(written + "\n", "utf-8")
        except OSError as error:
            raise Rejected(f"The results cannot be written to {output}: {error.strerror}.") from error


#: Questions of a batch in one call of the API.
_ASKED_TOGETHER = 100


def _queries(file: Path) -> Iterator[dict[str, Any]]:
    seen = set()
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"The file {file} cannot be read: {error}.") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            query = json.loads(line)
            qid, text = str(query["qid"]), query["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise Rejected(
                f"Line {number} of {file.name} is not of the form {{qid, text, filters?}}: {error!r}."
            ) from error
        if not isinstance(text, str) or not text.strip():
            raise Rejected(f"Line {number} of {file.name} asks nothing: its text is empty.")
        if qid in seen:
            raise Rejected(f"Line {number} of {file.name} repeats the qid {qid}.")
        seen.add(qid)
        yield {**query, "qid": qid}


_BANDS = {
    "same": "probably the same problem",
    "very_similar": "perhaps the same problem",
    "similar": "similar, perhaps another problem",
    "weak": "probably another problem",
}
_OUTCOMES = {
    "held": "[green]the fix held[/]",
    "recurred": "[yellow]it came back[/]",
    "unknown": "[dim]outcome unknown[/]",
}


def _print_answer(answer: dict[str, Any]) -> None:
    hits = answer["results"]
    if not hits or all(hit["band"] == "weak" for hit in hits):
        _out.print("[yellow]Nothing clearly like this in the history.[/]" + (" The nearest:" if hits else ""))
    for hit in hits:
        case, record = hit["case"], hit["record"]
        where, when = "", ""
        if case:
            when = datetime.fromisoformat(case["occurred_at"]).astimezone().strftime("%Y-%m-%d %H:%M")
            where = case["zone_id"] or "place unknown"
        _out.print(
            f"\n[bold]{hit['score']:.2f}[/] {_BANDS[hit['band']]}  [cyan]{hit['id']}[/]  "
            f"{where or hit['collection']}  {when}",
            highlight=False,
        )
        if record:
            _out.print(f"  {record['title']}\n  {record['text']}", highlight=False, markup=False, soft_wrap=True)
        if case:
            _out.print(f"  {case['description']}", highlight=False, markup=False, soft_wrap=True)
            for label, text in (("cause", case["root_cause"]), ("fix", case["resolution"])):
                if text:
                    _out.print(f"  [dim]{label:>5}[/] ", end="")
                    _out.print(text, highlight=False, markup=False, soft_wrap=True)
            _out.print(f"        {_OUTCOMES[case['outcome']] if case['status'] == 'closed' else '[bold]still open[/]'}")
        if words := ", ".join(dict.fromkeys(term["found"] for term in hit["why"]["terms"][:6])):
            _out.print(f"  [dim]words {hit['why']['words']:+.2f}[/] ", end="")
            _out.print(words, highlight=False, markup=False, soft_wrap=True)
    if answer["unread_tokens"]:
        _err.print(f"[yellow]The question is long: its last {answer['unread_tokens']} tokens were not read.[/]")


@app.command()
def evaluate(
    cases: Annotated[
        Path | None, typer.Argument(help="Past cases, as `edge import` reads them.", exists=True, dir_okay=False)
    ] = None,
    queries: Annotated[
        Path | None, typer.Argument(help="JSONL of {qid, text, language?}.", exists=True, dir_okay=False)
    ] = None,
    judgements: Annotated[
        Path | None, typer.Argument(help="JSONL of {qid, id, grade}, or TREC qrels.", exists=True, dir_okay=False)
    ] = None,
    mode: Annotated[
        list[_Mode] | None,
        typer.Option(help="Rank by cosines, by words, or by both; may be repeated. Default: hybrid."),
    ] = None,
    own: Annotated[
        bool,
        typer.Option(
            "--own", help="Without files: the problems told by who wrote the training texts. They are easier to find."
        ),
    ] = False,
    model: Annotated[str | None, typer.Option(help="Another model than encoder.model.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="A run written before, to compare with.", exists=True, dir_okay=False)
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Where to write this run, as JSON.")] = None,
    sweep: Annotated[
        bool, typer.Option("--sweep", help="Measure again how the weights of the search were chosen.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the bootstrap: the same seed gives the same intervals.")] = 1,
) -> None:
    """Measure the search: nDCG@10, recall@5 and MRR per language direction, with 95 % intervals.

    Without files: on 90 kinds of problem that ship with the starter model, told by people who had read none of its texts.
    Works in a data directory of its own that is thrown away; the appliance's data are not touched. A direction such as
    th→en asks the Thai questions over the English cases alone; mixed texts count as Thai.

    Examples: `edge evaluate`; `edge evaluate cases.jsonl queries.jsonl judgements.jsonl --mode dense --output dense.json`;
    `edge evaluate --model bge-m3 --compare starter.json`
    """
    import contextlib

    from edge.roles import evaluate as role
    from edge.search import Mode

    settings = _settings()
    if model is not None:
        settings = settings.model_copy(update={"encoder": settings.encoder.model_copy(update={"model": model})})
    modes = [Mode(one.value) for one in mode or [_Mode.hybrid]]
    if output and len(modes) > 1:
        raise Rejected("--output holds one run: name one --mode.")
    given = [cases, queries, judgements]
    if any(given) and not all(given):
        raise Rejected("An evaluation needs all three files, CASES QUERIES JUDGEMENTS, or none for the set that ships.")
    other = role.read_run(compare) if compare else None
    with _bar() as bar, contextlib.ExitStack() as stack:
        task = bar.add_task("opening", total=None)

        def progress(words: str, done: int, total: int) -> None:
            bar.update(task, description=words, completed=done, total=total)

        if sweep:
            _print_sweep(settings, seed, progress)
            return
        if cases and queries and judgements:
            files = (cases, queries, judgements)
        else:
            files = stack.enter_context(role.own_problems(role.SETS["own" if own else "independent"]))
        runs = role.evaluate(settings, *files, modes=modes, seed=seed, progress=progress)
    for run in runs:
        _print_run(run, role.differences(run, other) if other else None)
    if other:
        _out.print(f"second lines: this run minus {other.get('model')}, {other.get('mode')}, question by question")
    if output:
        try:
            output.write_text(json.dumps(runs[0].as_json(), ensure_ascii=False, indent=1) + "\n", "utf-8")
        except OSError as error:
            raise Rejected(f"The run cannot be written to {output}: {error.strerror}.") from error


def _print_run(run: Run, against: Mapping[Direction, Mapping[Metric, Difference]] | None) -> None:
    from edge.search.measure import METRICS

    head = f"{run.model}, {run.mode}: {run.cases} cases, {run.queries} questions"
    table = Table("direction", "questions", *METRICS, title=head, title_justify="left")
    for direction, row in run.table.items():
        cells = []
        for metric, found in row.items():
            cell = f"{found.mean:.3f} [dim]{found.low:.3f} to {found.high:.3f}[/]" if found.queries else "[dim]none[/]"
            if against and against[direction][metric].queries:
                delta = against[direction][metric]
                colour = ("green" if delta.mean > 0 else "red") if delta.sure else "dim"
                cell += f"\n[{colour}]{delta.mean:+.3f} ({delta.low:+.3f} to {delta.high:+.3f})[/]"
            cells.append(cell)
        table.add_row(direction, str(row["MRR"].queries), *cells)
    _out.print(table)


def _print_sweep(settings: Settings, seed: int, progress: Callable[[str, int, int], None]) -> None:
    from edge.roles.sweep import sweep_shares, sweep_texts
    from edge.search.measure import DIRECTIONS

    words, vouching = sweep_shares(settings, seed=seed, progress=progress)
    for head, swept in (("share of the words", words), ("share of the first results", vouching)):
        table = Table(head, *DIRECTIONS, title="nDCG@10; * surely differs from what is used", title_justify="left")
        for share, row in swept.means.items():
            cells = [f"{row[d]:.3f}{'*' if swept.against[share][d].sure else ''}" for d in DIRECTIONS]
            table.add_row(f"{share:.1f}", *cells)
        _out.print(table)
    texts = sweep_texts(settings, progress=progress)
    asked = list(next(iter(texts.values())))
    table = Table(
        "symptom, cause, fix", *asked, "mean", title="MRR by what is asked, sample history", title_justify="left"
    )
    for label, found in texts.items():
        cells = [f"{found[one]:.3f}" for one in asked]
        table.add_row(label, *cells, f"{sum(found.values()) / len(found):.3f}")
    _out.print(table)


@app.command()
def calibrate(
    prior: Annotated[
        bool, typer.Option("--prior", help="Measure the model on the problems that ship, before people's words count.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option(help="With --prior: also write it to a file, as it ships with a model.")
    ] = None,
) -> None:
    """Find out which probability a score stands for, and keep it: what people said bends what was measured.

    `--prior` is needed once for a model of your own; it works in a data directory of its own that is thrown away and
    takes half a minute. Without it only what people said here is counted anew, as the scheduled job does every night.

    Example: `edge calibrate --prior`
    """
    from edge.roles import calibrate as role
    from edge.search.calibration import write

    settings = _settings()
    if prior:
        with _bar() as bar:
            task = bar.add_task("opening", total=None)
            found, groupings = role.measure_prior(
                settings, progress=lambda words, done, total: bar.update(
                    task, description=words, completed=done, total=total
                )
            )  # fmt: skip
        if output:
            write(found, output)
        else:
            role.keep(settings, found)
        table = Table("families", "threshold", "precision", "recall", "B³ precision", "B³ recall", title="Same fixes")
        for one in groupings:
            figures = (one.precision, one.recall, one.cubed_precision, one.cubed_recall)
            table.add_row(one.part, f"{one.threshold:.2f}", *(f"{figure:.3f}" for figure in figures))
        _out.print(table)
    else:
        found = role.learn(settings)
    _print_calibration(found)


def _print_calibration(found: Any) -> None:
    figures = found.figures
    if figures is None:
        _out.print("This model has not been measured, and nobody has said anything yet: run `edge calibrate --prior`.")
        return
    head = f"{found.origin}: Brier {figures.brier:.3f} (chance {figures.chance:.3f}), {figures.questions} questions"
    table = Table("said", "true", "pairs", title=f"{head}, {figures.own} pairs judged here", title_justify="left")
    for one in figures.bins:
        table.add_row(f"{one.said:.2f}", f"{one.true:.2f}", f"{one.n:.0f}")
    _out.print(table)
    known = Table("known from", "known problems called new", "new ones called known", title="Novelty")
    for threshold, missed, invented in figures.known:
        known.add_row(f"{threshold:.1f}", f"{missed:.2f}", f"{invented:.2f}")
    _out.print(known)


# --- keeping and restoring ------------------------------------------------------------------------------------------


@snapshot_app.command("create")
def snapshot_create(
    target: Annotated[Path | None, typer.Argument(help="Where to write it. Default: snapshot.dir.")] = None,
) -> None:
    """Write Postgres, vectors, settings and the model's manifest into one checked bundle.

    Example: `edge snapshot create /mnt/usb`
    """
    from edge.roles.snapshot import create

    with _spinner("writing the snapshot"):
        bundle = create(_settings(), target, settings_file=_Loaded.file)
    _out.print(str(bundle), highlight=False, soft_wrap=True)


@snapshot_app.command("verify")
def snapshot_verify(bundle: Annotated[Path, typer.Argument(exists=True, help="The bundle.")]) -> None:
    """Check every file of a bundle against its manifest.

    Example: `edge snapshot verify snapshots/andon-20260305-0200.tar`
    """
    from edge.roles.snapshot import verify

    manifest = verify(bundle)
    _out.print(f"whole: {len(manifest.files)} files, taken {manifest.taken_at}", highlight=False)


@snapshot_app.command("restore")
def snapshot_restore(bundle: Annotated[Path, typer.Argument(exists=True, help="The bundle.")]) -> None:
    """Restore a bundle into an empty data directory.

    Example: `EDGE__DATA__DIR=/srv/andon-new edge snapshot restore snapshots/andon-20260305-0200.tar`
    """
    from edge.roles.snapshot import restore

    with _spinner("restoring"):
        restore(_settings(), bundle)
    _out.print("restored; start the appliance with `edge run`")


@app.command()
def reconcile(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Count what differs, mend nothing.")] = False,
) -> None:
    """Prove that Postgres and the index agree, and mend what does not.

    Works beside a running appliance and alone. Ends with 1 when a dry run finds a difference, or when one is left
    after mending.

    Example: `edge reconcile --dry-run`
    """
    from edge.roles.reconcile import reconcile as role

    with _bar() as bar:
        task = bar.add_task("comparing", total=None)
        found, left = role(
            _settings(), mend=not dry_run, progress=lambda done, total: bar.update(
                task, description="mending", completed=done, total=total
            ),
        )  # fmt: skip
    if found.agree:
        _out.print("Postgres and the index agree")
        return
    words = "found" if dry_run else "mended"
    _out.print(f"{words}: {found.missing} missing, {found.orphaned} orphaned, {found.stale} stale", highlight=False)
    if dry_run:
        raise typer.Exit(1)
    if not left.agree:
        _err.print(
            f"[red]still {left.missing} missing, {left.orphaned} orphaned, {left.stale} stale[/]: rows that cannot be "
            "indexed wait in the outbox, each with its reason"
        )
        raise typer.Exit(1)


class _EtlJob(StrEnum):
    ETL = "etl"
    BEHAVIORS = "behaviors"


@etl_app.command("run")
def etl_run(
    job: Annotated[_EtlJob, typer.Argument(help="etl: rows to the index. behaviors: workers' weeks.")] = _EtlJob.ETL,
    since: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day, in plant time.")] = None,
    until: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day, in plant time.")] = None,
) -> None:
    """Run a sweep now; the worker does so by itself, `etl` every 5 minutes and `behaviors` at 00:05.

    Works beside a running appliance and alone. Of two at once the second says so and ends with 1.

    Example: `edge etl run behaviors --since 2026-11-01 --until 2026-11-15`
    """
    from edge.roles.etl import run as role

    with _bar() as bar:
        task = bar.add_task(job.value, total=None)
        found = role(
            _settings(), job.value, since.date() if since else None, until.date() if until else None,
            progress=lambda done, total: bar.update(task, completed=done, total=total),
        )  # fmt: skip
    if "error" in found:
        raise Rejected(str(found["error"]))
    _out.print(", ".join(f"{found[name]} {name}" for name in _SWEPT) + f" in {found['seconds']} s", highlight=False)
    if found["failed"] or found["waiting"]:
        raise typer.Exit(1)


_SWEPT = ("read", "embedded", "updated", "deleted", "skipped", "failed", "waiting")


@etl_app.command("account")
def etl_account(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Account for every source row: in the index, waiting for it, or refused by it.

    Example: `edge etl account`
    """
    from edge.roles.etl import account as role

    if as_json:
        print(json.dumps(list(role(_settings())), ensure_ascii=False, indent=2))
        return
    table = Table("collection", "source rows", "points", "pending", "failed", "left over")
    for row in role(_settings()):
        figures = (row[name] for name in ("rows", "points", "pending", "failed", "left_over"))
        table.add_row(row["collection"], *(f"{figure:,}" for figure in figures))
    _out.print(table)


@index_app.command("optimize")
def index_optimize() -> None:
    """Build the graphs of the embedded index over what was written since the last time; `edge worker` does so nightly.

    Works on a copy in a process of its own: searches and writes go on. A Qdrant server does this by itself.

    Example: `edge index optimize`
    """
    from edge.indexing.versions import optimize
    from edge.roles.alone import beside_or_alone

    with beside_or_alone(_settings()) as parts, _bar() as bar:
        task = bar.add_task("optimizing", total=None)
        changed = optimize(
            parts.store,
            lambda name, done, total: bar.update(task, description=f"optimizing {name}", completed=done, total=total),
        )
    _out.print(f"optimized: {', '.join(changed)}" if changed else "nothing to do", highlight=False)


FingerprintArgument = Annotated[
    str | None,
    typer.Argument(help="The beginning of a version's fingerprint. Default: the only one that does not serve."),
]


@reindex_app.command("start")
def reindex_start(
    model: Annotated[str | None, typer.Argument(help="A folder in encoder.models_dir. Default: encoder.model.")] = None,
) -> None:
    """Build the index of a model beside the one that serves. Interrupted, it goes on where it was.

    Example: `edge reindex start production-768`
    """
    from edge.roles import reindex as role

    with _bar() as bar:
        task = bar.add_task("encoding", total=None)
        built, refused = role.start(
            _settings(), model, lambda done, total: bar.update(task, completed=done, total=total)
        )
    for row, reason in list(refused.items())[:10]:
        _err.print(f"[yellow]{row} cannot be indexed:[/] {reason}", highlight=False)
    _print_versions([built])
    _out.print("Compare it with `edge reindex compare`, then `edge reindex switch`.")


@reindex_app.command("status")
def reindex_status() -> None:
    """What indexes there are, and how far each is.

    Example: `edge reindex status`
    """
    from edge.roles import reindex as role

    _print_versions(role.status(_settings()))


@reindex_app.command("compare")
def reindex_compare(
    version: FingerprintArgument = None,
    questions: Annotated[int, typer.Option(min=1, max=10_000, help="Ask so many texts of the history.")] = 200,
) -> None:
    """Ask both indexes the same real texts: how many of the first ten do they share?

    Example: `edge reindex compare`
    """
    from edge.roles import reindex as role

    with _bar() as bar:
        task = bar.add_task("asking", total=None)
        chosen, found = role.compare(
            _settings(), version, questions, lambda done, total: bar.update(task, completed=done, total=total)
        )
    _out.print(
        f"{chosen.model}: {found.overlap:.1%} of the first ten are those of the index that serves, over "
        f"{found.questions} questions; the first is the same in {found.same_first:.1%}",
        highlight=False,
    )


@reindex_app.command("switch")
def reindex_switch(
    version: FingerprintArgument = None,
    force: Annotated[bool, typer.Option("--force", help="Even if rows cannot be indexed.")] = False,
) -> None:
    """Let another index answer. Roles that run follow within seconds; the former one is kept.

    Example: `edge reindex switch`
    """
    from edge.roles import reindex as role

    with _bar() as bar:
        task = bar.add_task("catching up", total=None)
        chosen = role.switch_to(
            _settings(), version, lambda done, total: bar.update(task, completed=done, total=total), force=force
        )
    _print_versions([chosen])
    _out.print("Set encoder.model to this model; `edge reindex rollback` goes back.")


@reindex_app.command("rollback")
def reindex_rollback() -> None:
    """Let the index answer that did before.

    Example: `edge reindex rollback`
    """
    from edge.roles import reindex as role

    _print_versions([role.rollback(_settings())])


@reindex_app.command("drop")
def reindex_drop(version: FingerprintArgument = None) -> None:
    """Remove an index that does not serve. It can be built again; going back to it at once cannot be done any more.

    Example: `edge reindex drop 3f9a`
    """
    from edge.roles import reindex as role

    dropped = role.drop_version(_settings(), version)
    _out.print(f"dropped {dropped.fingerprint} ({dropped.model})", highlight=False)


def _print_versions(versions: Iterable[Any]) -> None:
    table = Table(
        "model", "fingerprint", "state", "points", "to do", "agrees with the former", box=None, pad_edge=False
    )
    for each in versions:
        agrees = f"{each.compared['overlap']:.1%}" if each.compared else "not compared"
        table.add_row(each.model, each.fingerprint, each.state, str(each.points), str(each.lacking), agrees)
    _out.print(table)


# --- detectors ------------------------------------------------------------------------------------------------------


@detect_app.command("replay")
def detect_replay(
    file: Annotated[Path, typer.Option("--settings", help="Detector settings to try, as in etc/detectors.toml.")],
    since: Annotated[datetime, typer.Option(help="From when on, in UTC unless it says otherwise.")],
    until: Annotated[datetime | None, typer.Option(help="Until when. Default: now.")] = None,
    examples: Annotated[int, typer.Option(min=0, max=100, help="Findings of one side alone that are shown.")] = 5,
) -> None:
    """Show what the past would have raised with other settings. Changes nothing.

    Both runs begin with detectors that have learnt nothing: let `--since` reach back some days.

    Example: `edge detect replay --settings detectors.toml --since 2026-10-01`
    """
    from edge.roles.detect import compare

    start, end = _aware(since), _aware(until) if until else datetime.now(UTC)
    with _bar() as bar:
        task = bar.add_task("looking again", total=2 * (end - start).total_seconds())
        looked: list[datetime] = [start]

        def progress(at: datetime) -> None:
            bar.advance(task, max(0.0, (at - looked[-1]).total_seconds()))
            looked.append(at)

        found = compare(_settings(), file, since=start, until=end, progress=progress)
    table = Table(box=None)
    for title in ("detector", "zone"):
        table.add_column(title)
    for title in ("as set", "as tried", "difference"):
        table.add_column(title, justify="right")
    for key in sorted({*found.now, *found.then}):
        now, then = found.now[key], found.then[key]
        table.add_row(*key, str(now), str(then), f"{then - now:+d}" if then != now else "")
    table.add_row("all", "", str(found.now.total()), str(found.then.total()), "")
    _out.print(table)
    for title, alone in (("no more", found.only_now), ("new", found.only_then)):
        for one in alone[:examples]:
            _out.print(
                f"{title}: {one.finding.at:%Y-%m-%d %H:%M} {one.zone_id}: {one.finding.words.en}", highlight=False
            )


def _aware(at: datetime) -> datetime:
    return at if at.tzinfo else at.replace(tzinfo=UTC)


# --- model, people --------------------------------------------------------------------------------------------------


@model_app.command("build")
def model_build() -> None:
    """Build the bilingual starter model from its English base, if it is not there yet.

    Example: `edge model build`
    """
    from edge.roles.parts import open_encoder

    with _spinner("building the model"):
        encoder = open_encoder(_settings())
    _out.print(
        f"{encoder.name}: {encoder.dimension} dimensions, {encoder.provider}, {encoder.fingerprint}", highlight=False
    )


@model_app.command("teach")
def model_teach(
    file: Annotated[
        Path | None, typer.Argument(help="A CSV with the columns word and meaning.", exists=True, dir_okay=False)
    ] = None,
    remove: Annotated[list[str] | None, typer.Option(help="Take a word back; repeat for more.")] = None,
    listing: Annotated[bool, typer.Option("--list", help="Show the words taught so far.")] = False,
) -> None:
    """Teach the model this plant's own words: slang and machine names, each with its meaning in English or Thai.

    Several meanings are separated by semicolons. Nothing is trained; the words count from the next start on.

    Example: `edge model teach words.csv`, where words.csv holds "word,meaning" and "น้องส้ม,stretch wrapper; เครื่องพันฟิล์ม"
    """
    from edge.config import words_file
    from edge.embedding.taught import read_words
    from edge.roles import teach as school

    settings = _settings()
    if not (file or remove or listing):
        raise Rejected("Give a CSV with the columns word and meaning, --remove WORD or --list.")
    if file is not None:
        lesson = school.teach(settings, file.read_bytes())
        if lesson.errors:
            for error in lesson.errors:
                _err.print(f"row {error.row}: {error.reason}", highlight=False, markup=False)
            raise Rejected(f"Nothing was taught: {len(lesson.errors)} rows of {file.name} have to be put right first.")
        _out.print(f"{len(lesson.new)} words taught, {len(lesson.changed)} changed", highlight=False)
        for word in lesson.replaced:
            _out.print(f"“{word}” was known; now this plant's meaning counts", highlight=False, markup=False)
    if remove:
        left = school.forget(settings, remove)
        _out.print(f"{len(remove)} words taken back, {len(left)} left", highlight=False)
    if listing:
        for word, meanings in sorted(read_words(words_file(settings)).items()):
            _out.print(f"{word}: {'; '.join(meanings)}", highlight=False, markup=False)
    if file or remove:
        _out.print(school.what_next(settings), highlight=False)


class _Provider(StrEnum):
    cpu = "cpu"
    cuda = "cuda"
    tensorrt = "tensorrt"


class _Precision(StrEnum):
    int8 = "int8"
    fp16 = "fp16"
    fp32 = "fp32"


@model_app.command("export")
def model_export(
    source: Annotated[
        str, typer.Argument(metavar="[NAME|DIR]", help="A name on the hub, or a sentence-transformers directory.")
    ] = "sentence-transformers/paraphrase-multilingual-mpnet-base-v2",
    provider: Annotated[_Provider, typer.Option("--for", help="What it shall run on.")] = _Provider.cpu,
    precision: Annotated[
        _Precision | None, typer.Option(help="cpu: int8 or fp32; cuda and tensorrt: fp16. Default: the first.")
    ] = None,
    revision: Annotated[str | None, typer.Option(help="Of a model on the hub: a commit, tag or branch.")] = None,
    whole_vocabulary: Annotated[
        bool, typer.Option("--whole-vocabulary", help="Keep the pieces of scripts other than Thai and Latin.")
    ] = False,
    again: Annotated[bool, typer.Option("--again", help="Make everything anew, the reference too.")] = False,
) -> None:
    """Export a sentence encoder for this appliance, measured against the original before anybody may load it.

    Writes MODELS/NAME/PROVIDER-PRECISION. What is finished is kept: a run that was interrupted goes on where it stopped.
    Needs the environment of `make export-env` until the reference in MODELS/NAME/.work is there.

    Examples: `.venv-export/bin/edge model export`; `.venv-export/bin/edge model export /media/usb/my-model --for cuda`
    """
    from edge.embedding.export import export_model

    settings = _settings()
    with _bar() as bar:
        made = export_model(
            source, config.model_folders(settings)[0], config.resources() / "models" / "golden.txt",
            provider=provider.value, precision=precision and precision.value, revision=revision,
            whole_vocabulary=whole_vocabulary, again=again, progress=_steps(bar),
        )  # fmt: skip
    for words in made.refused:
        _err.print(f"[yellow]below the bar:[/] {words}", highlight=False, soft_wrap=True)
    if not made.fresh:
        _err.print("already there, and whole")
    _print_model(made.folder, made.manifest)


@model_app.command("verify")
def model_verify(
    model: Annotated[
        str | None, typer.Argument(metavar="[NAME|DIR]", help="Default: the model of the settings.")
    ] = None,
) -> None:
    """Check a model: every file, its dimension, its golden vectors and, for an export, the bar it had to reach.

    Where the float32 reference is still at hand, in MODELS/NAME/.work, it is asked once more.

    Examples: `edge model verify`; `edge model verify paraphrase-multilingual-mpnet-base-v2/cuda-fp16`
    """
    from edge.embedding.export import verify_model
    from edge.roles.parts import model_folder

    folder = model_folder(_settings(), model)
    with _bar() as bar:
        found = verify_model(folder, _steps(bar))
    _print_model(found.folder, found.manifest, found.fidelity.as_figures() if found.fidelity else {})
    _out.print("verified" + (", the reference asked again" if found.reference else ""))


def _print_model(folder: Path, manifest: Any, figures: dict[str, float] | None = None) -> None:
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file()) / 1e6
    table = Table(box=None, show_header=False, pad_edge=False)
    rows = {"model": manifest.name, "precision": f"{manifest.precision}, for {manifest.provider}"}
    rows |= {"licence": manifest.licence, "size": f"{size:.0f} MB"}
    rows |= {"pieces": pieces} if (pieces := manifest.sources.get("pieces")) else {}
    labels = {
        "sentences": "golden sentences", "cosine_mean": "cosine, mean", "cosine_min": "cosine, least",
        "spearman": "Spearman of pairs", "apart": "alone against batched",
    }  # fmt: skip
    rows |= {labels[name]: f"{value:g}" for name, value in (figures or manifest.fidelity).items() if name in labels}
    for label, value in rows.items():
        table.add_row(label, value)
    _out.print(table)
    _out.print(str(folder), highlight=False, soft_wrap=True)


@account_app.command("add")
def account_add(
    username: Annotated[str, typer.Argument(help="Lower-case letters, digits, dots and dashes.")],
    role: Annotated[str, typer.Option(help="viewer, supervisor, engineer or admin.")] = "supervisor",
    password: Annotated[str, typer.Option(prompt=True, hide_input=True, confirmation_prompt=True)] = "",
) -> None:
    """Add a person. Needs the database: set EDGE__DATABASE__DSN, or stop the appliance first.

    Example: `edge account add nok --role supervisor`
    """
    from edge.dashboard.accounts import create_account
    from edge.roles.alone import database_of

    with database_of(_settings()) as database:
        create_account(database, username, password, role)  # type: ignore[arg-type]
    _out.print(f"{username} may sign in as {role}", highlight=False)


@account_app.command("token")
def account_token(
    name: Annotated[str, typer.Argument(help="What the token is for.")],
    scope: Annotated[list[str] | None, typer.Option(help="read, write or admin; repeat for more.")] = None,
    days: Annotated[int, typer.Option(min=1, max=3650, help="How long it lives.")] = 365,
) -> None:
    """Make a token for a program. It is shown once.

    Example: `edge account token mes-gateway --scope read --days 90`
    """
    from edge.dashboard.accounts import create_token
    from edge.roles.alone import database_of

    with database_of(_settings()) as database:
        print(create_token(database, name, scope or ["read"], days))


@model_app.command("bench")
def model_bench(
    name: Annotated[str | None, typer.Argument(help="The model; that of the settings by default.")] = None,
    seconds: Annotated[float, typer.Option(min=1, max=600, help="How long to measure, about.")] = 20.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure a model here: one text at a time, many at once, memory, and the share of what this machine can do.

    Example: `edge model bench`, `edge model bench starter --json`
    """
    from dataclasses import asdict

    from edge.roles.parts import bench

    with _spinner("measuring"):
        speed = bench(_settings(), name, seconds)
    if as_json:
        print(json.dumps(asdict(speed), ensure_ascii=False, indent=2))
        return
    table = Table(title=f"{speed.model} on {speed.provider}", caption=speed.precision)
    for column in ("tokens", "p50 ms", "p95 ms", "of the peak"):
        table.add_column(column, justify="right")
    for tokens, (middle, late) in speed.latency.items():
        reached = speed.share_of_peak.get(tokens)
        table.add_row(str(tokens), f"{middle:.2f}", f"{late:.2f}", "–" if reached is None else f"{reached:.2f}")
    _out.print(table)
    peaks = ", ".join(f"{kind} {value:.0f}" for kind, value in speed.peak_gops.items())
    _out.print(
        f"{speed.texts_per_second:.0f} texts/s over 128 mixed texts; loaded in {speed.load_seconds:.2f} s, "
        f"{speed.loaded_mb:.0f} MB of {speed.resident_mb:.0f} MB resident; {speed.threads} thread(s) an inference, "
        f"peak of the CPU {peaks} Gop/s",
        highlight=False,
    )


# --- the quarantine -------------------------------------------------------------------------------------------------

_Source = Annotated[str | None, typer.Option(help="Only from this source.")]
_Topic = Annotated[str | None, typer.Option(help="Only where the topic holds this.")]
_Reason = Annotated[str | None, typer.Option(help="Only where the reason holds this.")]
_Text = Annotated[str | None, typer.Option(help="Only where the payload holds this.")]
_Since = Annotated[datetime | None, typer.Option(help="Came from this time on (UTC).")]
_Until = Annotated[datetime | None, typer.Option(help="Came before this time (UTC).")]
_Ids = Annotated[list[int] | None, typer.Option("--id", help="Only this one; repeat for more.")]


def _utc(time: datetime | None) -> datetime | None:
    return time.replace(tzinfo=UTC) if time and time.tzinfo is None else time


@quarantine_app.command("list")
def quarantine_list(
    source: _Source = None, topic: _Topic = None, reason: _Reason = None, text: _Text = None,
    since: _Since = None, until: _Until = None, limit: Annotated[int, typer.Option("-n", min=1)] = 50,
) -> None:  # fmt: skip
    """Show what is in quarantine, latest first.

    Example: `edge quarantine list --reason "no zone" --source cam-asm-1`
    """
    from edge.intake import quarantine
    from edge.roles.alone import database_of

    wanted = quarantine.Wanted(None, source, topic, reason, text, _utc(since), _utc(until))
    table = Table("id", "came", "source", "reason", "bytes", box=None, pad_edge=False)
    with database_of(_settings()) as database:
        for row in islice(quarantine.every(database, wanted), limit):
            came = f"{row['received_at']:%Y-%m-%d %H:%M:%S}"
            cells = (str(row["inbox_id"]), came, row["source"], row["reason"], str(len(row["payload"])))
            table.add_row(*(Text(cell) for cell in cells))
    _out.print(table)


@quarantine_app.command("export")
def quarantine_export(
    source: _Source = None, topic: _Topic = None, reason: _Reason = None, text: _Text = None,
    since: _Since = None, until: _Until = None, ids: _Ids = None,
) -> None:  # fmt: skip
    """Write it to standard output as NDJSON, the bytes as Base64.

    Example: `edge quarantine export --since 2026-03-05 > poison.ndjson`
    """
    from edge.intake import quarantine
    from edge.roles.alone import database_of

    wanted = quarantine.Wanted(tuple(ids) if ids else None, source, topic, reason, text, _utc(since), _utc(until))
    with database_of(_settings()) as database:
        for row in quarantine.every(database, wanted):
            sys.stdout.write(quarantine.line(row))


@quarantine_app.command("replay")
def quarantine_replay(
    source: _Source = None, topic: _Topic = None, reason: _Reason = None, text: _Text = None,
    since: _Since = None, until: _Until = None, ids: _Ids = None,
    everything: Annotated[bool, typer.Option("--all", help="All of it.")] = False,
) -> None:  # fmt: skip
    """Try events again, after the sender, the plant file or the appliance was corrected.

    Examples: `edge quarantine replay --reason "no zone"`; `edge quarantine replay --id 4711`
    """
    from edge.intake import quarantine
    from edge.roles.alone import database_of

    wanted = quarantine.Wanted(tuple(ids) if ids else None, source, topic, reason, text, _utc(since), _utc(until))
    if (wanted == quarantine.ANY) != everything:
        raise Rejected("Say which events to try again, such as --reason or --id, or --all and nothing else.")
    with database_of(_settings()) as database:
        count = quarantine.replay(database, wanted)
    _out.print(f"{count} event{'' if count == 1 else 's'} put back into the inbox", highlight=False)


@webhook_app.command("add")
def webhook_add(
    name: Annotated[str, typer.Argument(help="What you call it.")],
    url: Annotated[str, typer.Argument(help="Where events are posted to, such as https://mes.example/andon.")],
    event: Annotated[
        list[str] | None, typer.Option(help="Only this event; may be given several times. Default: every event.")
    ] = None,
    internal: Annotated[bool, typer.Option("--internal", help="It may be in the plant's own network.")] = False,
    plain: Annotated[bool, typer.Option("--plain", help="http:// is good enough: nobody listens in.")] = False,
) -> None:
    """Have events posted to an address. Prints the key of the signature, this once.

    Examples: `edge webhook add phone https://push.example/andon --event opened --event escalated`;
    `edge webhook add mes http://10.1.2.3/andon --internal --plain`
    """
    from edge import outbound
    from edge.roles.alone import database_of

    with database_of(_settings()) as database:
        secret = outbound.add(database, name, url, events=event or (), internal=internal, plain=plain)
    _err.print(f"The webhook {name} is added. Its secret, shown this once:", highlight=False)
    sys.stdout.write(f"{secret}\n")


@webhook_app.command("list")
def webhook_list() -> None:
    """Show who is told, and what waits or could not be delivered.

    Example: `edge webhook list`
    """
    from edge import outbound
    from edge.roles.alone import database_of

    table = Table(
        "name", "place", "events", "waiting", "dead", "last delivered", "last problem", box=None, pad_edge=False
    )
    with database_of(_settings()) as database:
        for one in outbound.every(database):
            last = f"{one.last_done:%Y-%m-%d %H:%M:%S}" if one.last_done else "never"
            cells = (
                one.name, one.place, ", ".join(one.events) or "all", str(one.pending), str(one.dead), last,
                one.last_error or "",
            )  # fmt: skip
            table.add_row(*(Text(cell) for cell in cells))
    _out.print(table)


@webhook_app.command("remove")
def webhook_remove(name: Annotated[str, typer.Argument(help="What you call it.")]) -> None:
    """Post nothing there any more. What was waiting for it is dropped.

    Example: `edge webhook remove phone`
    """
    from edge import outbound
    from edge.roles.alone import database_of

    with database_of(_settings()) as database:
        outbound.remove(database, name)
    _out.print(f"The webhook {name} is removed.", highlight=False)


@webhook_app.command("test")
def webhook_test(name: Annotated[str, typer.Argument(help="What you call it.")]) -> None:
    """Post the event `test` now, signed like every other one. Ends with 1 when it was not taken.

    Example: `edge webhook test phone`
    """
    from edge import outbound
    from edge.roles.alone import database_of

    with database_of(_settings()) as database:
        outbound.test(database, name)
    _out.print(f"The webhook {name} has taken the test.", highlight=False)


@webhook_app.command("dead")
def webhook_dead(
    name: Annotated[str | None, typer.Argument(help="Only those of this webhook.")] = None,
    limit: Annotated[int, typer.Option("-n", min=1)] = 50,
) -> None:
    """Show what could not be delivered, latest first.

    Example: `edge webhook dead phone`
    """
    from edge import outbound
    from edge.roles.alone import database_of

    table = Table("webhook", "when", "event", "case", "tries", "problem", box=None, pad_edge=False)
    with database_of(_settings()) as database:
        for row in outbound.dead(database, name, limit):
            cells = (
                row["name"], f"{row['at']:%Y-%m-%d %H:%M:%S}", row["event"], row["record_id"], str(row["attempts"]),
                row["last_error"] or "",
            )  # fmt: skip
            table.add_row(*(Text(cell) for cell in cells))
    _out.print(table)


@webhook_app.command("replay")
def webhook_replay(name: Annotated[str | None, typer.Argument(help="Only those of this webhook.")] = None) -> None:
    """Try what could not be delivered again.

    Example: `edge webhook replay phone`
    """
    from edge import outbound
    from edge.roles.alone import database_of

    with database_of(_settings()) as database:
        count = outbound.replay(database, name)
    _out.print(f"{count} event{'' if count == 1 else 's'} will be delivered again", highlight=False)


# --- the plant's documents ------------------------------------------------------------------------------------------


@knowledge_app.command("add")
def knowledge_add(
    files: Annotated[list[Path], typer.Argument(help="PDF, DOCX, TXT or Markdown.", exists=True, dir_okay=False)],
    title: Annotated[str | None, typer.Option(help="Of one file. Default: the title in the file.")] = None,
    document_type: Annotated[
        str, typer.Option("--type", help="sop, work_instruction, manual, safety or other.")
    ] = "sop",
    zone: Annotated[
        list[str] | None, typer.Option(help="Where it applies; repeat for more. Default: everywhere.")
    ] = None,
    version: Annotated[str | None, typer.Option(help="Of one file. Default: the next number.")] = None,
    effective: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="In force from this day.")] = None,
    tag: Annotated[list[str] | None, typer.Option(help="A keyword; repeat for more.")] = None,
) -> None:
    """Add documents. One with the title of a document that is there is its new version, and the old one retires.

    Ends with 1 when a file could not be taken; the others are.

    Examples: `edge knowledge add sop-017.pdf --zone ASM-3 --version C --effective 2026-03-01`;
    `edge knowledge add manuals/*.docx --type manual`
    """
    from edge.knowledge.library import Library, NewDocument
    from edge.roles.alone import beside_or_alone
    from edge.roles.desk import read_card

    settings = _settings()
    if len(files) > 1 and (title or version):
        raise Rejected("--title and --version are of one document: add its file alone.")
    failed = 0
    with beside_or_alone(settings) as parts:
        library = Library(parts.database, settings.knowledge)
        for file in files:
            new = NewDocument(
                file.name, file.read_bytes(), title, document_type, tuple(zone or ()), tuple(tag or ()), version,
                effective.date() if effective else None,
            )  # fmt: skip
            try:
                with _spinner(f"reading {file.name}"):
                    added = library.add(new, parts.encoder, actor="command line")
            except Rejected as error:
                failed += 1
                _err.print(str(error), markup=False, highlight=False, soft_wrap=True)
                continue
            document = added.document
            words = {
                "added": "added", "replaced": f"replaces version {added.replaced}", "reinstated": "in force again",
                "duplicate": "was there already, nothing was added",
            }[added.result]  # fmt: skip
            line = f"{document.title}, version {document.version}: {words} ({document.passages} passages)"
            _out.print(line, markup=False, highlight=False, soft_wrap=True)
            if document.empty_pages:
                _err.print(f"  pages without text: {', '.join(map(str, document.empty_pages))}", highlight=False)
        if read_card(settings) is None:
            parts.indexer.open()
            while parts.indexer.step(64):
                pass
    if failed:
        raise typer.Exit(1)


@knowledge_app.command("list")
def knowledge_list(
    retired: Annotated[bool, typer.Option("--retired", help="Versions that are not in force any more, too.")] = False,
) -> None:
    """Show the documents.

    Example: `edge knowledge list --retired`
    """
    from edge.knowledge.library import Library
    from edge.roles.alone import database_of

    settings = _settings()
    table = Table("id", "title", "version", "type", "zones", "in force from", "passages", box=None, pad_edge=False)
    with database_of(settings) as database:
        for one in Library(database, settings.knowledge).documents(retired=retired):
            since = "retired" if one.retired_at else str(one.effective_date or "")
            cells = (str(one.id), one.title, one.version, one.document_type, ", ".join(one.zones) or "all", since)
            table.add_row(*(Text(cell) for cell in (*cells, str(one.passages))))
    _out.print(table)


@knowledge_app.command("retire")
def knowledge_retire(
    id: Annotated[str, typer.Argument(help="As `edge knowledge list` shows it, or the title.")],
) -> None:
    """Take a document out of force: searches no longer find it; it can still be read.

    Example: `edge knowledge retire "Belt cleaning"`
    """
    from edge.knowledge.library import Library, title_key
    from edge.roles.alone import database_of

    settings = _settings()
    with database_of(settings) as database:
        library = Library(database, settings.knowledge)
        wanted = [one for one in library.documents() if id == str(one.id) or title_key(id) == title_key(one.title)]
        if not wanted:
            raise Rejected(f"No document in force has the id or the title {id!r}.")
        library.retire(wanted[0].id, actor="command line")
    _out.print(f"{wanted[0].title}, version {wanted[0].version}: retired", markup=False, highlight=False)


# --- showing progress -----------------------------------------------------------------------------------------------


def _bar() -> Progress:
    return Progress(
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        console=_err, transient=True,
    )  # fmt: skip


def _steps(bar: Progress) -> Callable[[str, int, int], None]:
    """One line a step; the lines of the steps before it stay, finished."""
    tasks: dict[str, TaskID] = {}

    def told(words: str, done: int, total: int) -> None:
        if words not in tasks:
            for earlier in tasks.values():
                total_before = bar.tasks[earlier].total or 1
                bar.update(earlier, total=total_before, completed=total_before)
            tasks[words] = bar.add_task(words, total=None)
        bar.update(tasks[words], total=total or None, completed=done)

    return told


def _spinner(words: str) -> Any:
    return _err.status(words)


def _chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _until_settled(counts: Iterator[int], patience: float = 600) -> Iterator[int]:
    """Bounded by progress: gives up when nothing moved for `patience` seconds."""
    import time

    best, since = None, time.monotonic()
    for left in counts:
        if best is None or left < best:
            best, since = left, time.monotonic()
        if time.monotonic() - since > patience:
            logging.getLogger(__name__).warning("%d rows are still waiting to be indexed; the worker goes on.", left)
            return
        yield left
        if left:
            time.sleep(0.2)
