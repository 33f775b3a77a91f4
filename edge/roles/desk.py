"""What `edge import` and `edge search` work with: a running appliance through its API, or else the stores themselves."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import quote

import httpx

from edge.config import Settings
from edge.errors import Rejected, Stop, Unavailable

if TYPE_CHECKING:
    # A search beside a running appliance needs neither spreadsheets nor an inference engine.
    from edge.importing import RowResult, SourceRow


class Desk(Protocol):
    """Both kinds answer alike: hits as the JSON API gives them, best first."""

    def search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """`asked` and the answer as `POST /api/v1/search` has them."""

    def batch(self, asked: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        """As `POST /api/v1/search/batch`."""

    def similar(self, record_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        """As `POST /api/v1/cases/{id}/similar`."""

    def import_batch(self, rows: Sequence[SourceRow], *, dry_run: bool) -> list[RowResult]: ...

    def settle(self) -> Iterator[int]:
        """Bring the index up to date, yielding how many rows are left."""


@contextlib.contextmanager
def open_desk(settings: Settings) -> Iterator[Desk]:
    """The running appliance on these data if there is one, else its stores, opened for us alone.

    Raises `Stop` or `Unavailable` in words.
    """
    card = read_card(settings)
    if card is not None:
        try:
            token = (settings.run_dir / "local-token").read_text("utf-8").strip()
        except OSError as error:
            raise Stop(
                f"An appliance runs on {settings.data.dir}, but its token in {settings.run_dir} cannot be read "
                f"({error.strerror}). Run this as the user who started it."
            ) from error
        with httpx.Client(
            base_url=card["web"], headers={"Authorization": f"Bearer {token}"}, timeout=60, trust_env=False
        ) as client:
            yield _Beside(client)
        return
    # Only now: the engines take seconds to load, and beside a running appliance nobody needs them here.
    from edge.roles.alone import Alone, alone

    with alone(settings) as parts:
        yield Alone(parts)


def read_card(settings: Settings) -> dict[str, Any] | None:
    """What a running appliance wrote about itself, if it is still there."""
    try:
        card = json.loads((settings.run_dir / "appliance.json").read_text("utf-8"))
        httpx.get(f"{card['web']}/livez", timeout=3, trust_env=False)
    except (OSError, ValueError, KeyError, TypeError, httpx.HTTPError):
        return None
    return dict(card)


class _Beside:
    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def search(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._post("/api/v1/search", asked))

    def batch(self, asked: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
        return dict(self._post("/api/v1/search/batch", asked))

    def similar(self, record_id: str, asked: Mapping[str, Any]) -> dict[str, Any]:
        return dict(self._post(f"/api/v1/cases/{quote(record_id, safe='')}/similar", asked))

    def import_batch(self, rows: Sequence[SourceRow], *, dry_run: bool) -> list[RowResult]:
        asked = {"rows": json.loads(json.dumps([asdict(row) for row in rows], default=str)), "dry_run": dry_run}
        from edge.importing import RowResult

        return [RowResult(**row) for row in self._post("/api/v1/import", asked)]

    def settle(self) -> Iterator[int]:
        while True:
            answer = self._client.get("/api/v1/status")
            left = int(self._checked(answer)["counts"]["outbox_pending"])
            yield left
            if not left:
                return

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        try:
            return self._checked(self._client.post(path, json=body))
        except httpx.HTTPError as error:
            raise Unavailable(f"The running appliance does not answer: {error}.") from error

    def _checked(self, answer: httpx.Response) -> Any:
        if answer.is_success:
            return answer.json()
        try:
            detail = str(answer.json().get("detail"))
        except ValueError:
            detail = f"the appliance answered {answer.status_code}"
        if answer.status_code in (503, 429):
            raise Unavailable(detail)
        raise Rejected(detail)


#: Names a person may use for a filter, in the singular as they stand on a case.
_SINGULAR = {
    "kind": "kinds", "status": "statuses", "type": "types", "severity": "severities", "language": "languages",
    "outcome": "outcomes", "zone_id": "zone_ids", "zone": "zone_ids", "camera_id": "camera_ids",
    "worker_id": "worker_ids", "tag": "tags", "from": "since", "to": "until",
}  # fmt: skip


def plural_filters(values: Mapping[str, Any]) -> dict[str, Any]:
    """Filters as the JSON API takes them; a single value stands for a list of one."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        name = _SINGULAR.get(name, name)
        if name not in ("since", "until", "last", "must", "should", "must_not") and not isinstance(value, list | tuple):
            value = [] if value is None else [value]
        plain[name] = value
    return plain


def conditions(
    written: Mapping[str, Sequence[str] | None], collections: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    """Conditions as a person types them, by clause, as the JSON API takes them. Raises `BadFilter`."""
    if not any(written.values()):
        return {}
    from edge.search import CASES
    from edge.search.filters import parse

    found = {}
    for clause, conditions_ in written.items():
        parsed = [asdict(parse(one, tuple(collections) or CASES)) for one in conditions_ or ()]
        found[clause] = [
            {
                name: value.isoformat() if isinstance(value, datetime) else value
                for name, value in one.items()
                if value != ()
            }
            for one in parsed
        ]
    return {clause: one for clause, one in found.items() if one}
