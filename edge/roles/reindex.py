"""`edge reindex`: the index of another model, beside a running appliance or alone."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge.config import Settings
from edge.embedding import Encoder
from edge.errors import Rejected, Stop
from edge.indexing.versions import Comparison, IndexVersion, Reindex, drop, index_versions, real_questions, switch
from edge.indexing.versions import rollback as go_back
from edge.knowledge.library import Library
from edge.roles.alone import beside_or_alone
from edge.roles.parts import Parts, find_model, open_encoder, opened
from edge.upkeep.snapshots import fingerprint_here

_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]

#: Questions two encoders are compared by.
_QUESTIONS = 200


class Successor:
    """In the worker: builds the index of the settings' model while another serves, and switches when it is whole.

    Only for a model that never was in use here: who goes back to a former model says so with `edge reindex rollback`.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._building: Reindex | None = None
        if fingerprint_here(parts.settings) == parts.encoder.fingerprint:
            return
        wanted = open_encoder(parts.settings)
        if any(
            each.fingerprint == wanted.fingerprint and each.state == "kept" for each in index_versions(parts.database)
        ):
            _log.warning(
                "encoder.model names %s, but the index of %s serves. `edge reindex switch` changes over.",
                wanted.name, parts.encoder.name,
            )  # fmt: skip
            return
        _log.warning("The index of %s is built; %s answers until it is whole.", wanted.name, parts.encoder.name)
        recut(parts, wanted)
        self._wanted = wanted
        self._building = Reindex(parts.database, parts.store, wanted)
        self._building.start()

    def step(self) -> bool:
        """Build a little. True if there was anything to do. Raises `Unavailable`."""
        if self._building is None:
            return False
        if self._building.step(16):
            return True
        if self._building.left():
            return False
        serving = self._parts.encoder
        if questions := real_questions(self._parts.database, _QUESTIONS):
            found = self._building.compare(serving, questions)
            _log.warning(
                "Of the first ten of %s and %s %.0f %% agree.", serving.name, self._wanted.name, found.overlap * 100
            )
        switch(self._parts.database, self._parts.store, self._wanted.fingerprint)
        self._building = None
        return True


def recut(parts: Parts, wanted: Encoder) -> None:
    """Before its index is built: no passage may be longer than the model reads. The one that serves learns them, too."""
    for document in Library(parts.database, parts.settings.knowledge).recut(wanted):
        _log.warning("“%s” was cut anew, since %s reads less at a time.", document.title, wanted.name)


def start(settings: Settings, model: str | None, progress: Progress) -> tuple[IndexVersion, dict[str, str]]:
    """Build the index of `model` (default: that of the settings) beside the one that serves, or go on building it.

    Returns what was built, and the rows that were refused. Raises `Rejected` where that model serves already, `Stop`.
    """
    with beside_or_alone(settings) as parts:
        wanted = open_encoder(settings, model=model)
        if wanted.fingerprint == parts.encoder.fingerprint:
            raise Rejected(f"{wanted.name} serves already. Name another model: `edge reindex start MODEL`.")
        recut(parts, wanted)
        building = Reindex(parts.database, parts.store, wanted)
        building.start()
        total = building.left()
        progress(0, total)
        while building.step():
            progress(max(0, total - building.left()), total)
        refused = {f"{collection}/{entity_id}": reason for (collection, entity_id), reason in building.refused.items()}
        return _version(parts, wanted.fingerprint), refused


def status(settings: Settings) -> list[IndexVersion]:
    """Every version, oldest first."""
    with beside_or_alone(settings) as parts:
        return index_versions(parts.database)


def compare(
    settings: Settings, fingerprint: str | None, questions: int, progress: Progress
) -> tuple[IndexVersion, Comparison]:
    """Ask a version and the one that serves the same, and keep how much they agree. Raises `Rejected`, `Stop`."""
    with beside_or_alone(settings) as parts:
        chosen = _chosen(parts, fingerprint)
        other = Reindex(parts.database, parts.store, _encoder(parts, chosen))
        found = other.compare(parts.encoder, real_questions(parts.database, questions), progress)
        return _version(parts, chosen.fingerprint), found


def switch_to(settings: Settings, fingerprint: str | None, progress: Progress, *, force: bool = False) -> IndexVersion:
    """Catch up with what came since, then let that version answer. Raises `Rejected` where it lacks rows, `Stop`."""
    with beside_or_alone(settings) as parts:
        chosen = _chosen(parts, fingerprint)
        building = Reindex(parts.database, parts.store, _encoder(parts, chosen))
        total = building.left()
        while building.step():
            progress(max(0, total - building.left()), total)
        if building.refused and not force:
            raise Rejected(
                f"{len(building.refused)} rows cannot be indexed by {chosen.model}: {next(iter(building.refused.values()))} "
                "Mend them, or switch without them: --force."
            )
        switch(parts.database, parts.store, chosen.fingerprint)
        return _version(parts, chosen.fingerprint)


def rollback(settings: Settings) -> IndexVersion:
    """Let the version answer that did before. What changed since is indexed by the worker. Raises `Rejected`."""
    with beside_or_alone(settings) as parts:
        former = go_back(parts.database, parts.store)
        return _version(parts, former.fingerprint)


def drop_version(settings: Settings, fingerprint: str | None) -> IndexVersion:
    """Remove a version that does not serve. Raises `Stop`, `Rejected`."""
    with beside_or_alone(settings) as parts:
        chosen = _chosen(parts, fingerprint)
        if chosen.fingerprint == fingerprint_here(settings):
            raise Stop(
                f"encoder.model still names {chosen.model}, so the worker would build its index again. Set encoder.model "
                "to the model that serves first."
            )
        drop(parts.database, parts.store, chosen.fingerprint)
        return chosen


def _chosen(parts: Parts, fingerprint: str | None) -> IndexVersion:
    """The version that is meant: by the beginning of its fingerprint, or the only one that does not serve."""
    others = [each for each in index_versions(parts.database) if each.state != "serving"]
    found = [each for each in others if each.fingerprint.startswith(fingerprint or "")]
    if len(found) == 1:
        return found[0]
    known = ", ".join(f"{each.fingerprint} ({each.model})" for each in others) or "none"
    if not found:
        raise Rejected(f"There is no such index beside the one that serves. Known: {known}.")
    raise Rejected(f"Name one of the indexes by the beginning of its fingerprint: {known}.")


def _version(parts: Parts, fingerprint: str) -> IndexVersion:
    return next(each for each in index_versions(parts.database) if each.fingerprint == fingerprint)


def _encoder(parts: Parts, version: IndexVersion) -> Encoder:
    found = find_model(parts.settings, version.fingerprint)
    if found is None:
        raise Stop(f"The model {version.model} ({version.fingerprint}) is not among those in encoder.models_dir.")
    return opened(parts.settings, found)
