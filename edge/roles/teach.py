"""The plant's own words: taught from a CSV, listed, taken back. They count from the next start on."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from edge.config import Settings, words_file
from edge.embedding.lexicon import Lexicon, default_text
from edge.embedding.taught import RowError, Words, form_of, parse_words, read_words, write_words
from edge.errors import Rejected
from edge.roles.alone import database_of
from edge.roles.desk import read_card

__all__ = ["Lesson", "forget", "teach", "what_next"]


@dataclass(frozen=True, slots=True)
class Lesson:
    """What one CSV brought. With `errors` nothing was taught; `replaced` are words the lexicon had with other meanings."""

    new: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    errors: tuple[RowError, ...] = ()


def teach(settings: Settings, data: bytes) -> Lesson:
    """Add the words of a CSV to those of the plant; a word taught before takes its new meanings.

    Raises `Rejected` when it is no such CSV, `Stop` when the words can not be kept.
    """
    lexicon = Lexicon.parse(default_text())
    words, errors = parse_words(data, lexicon)
    if errors:
        return Lesson(errors=tuple(errors))
    if not words:
        raise Rejected("There is no word in the file.")
    kept = read_words(words_file(settings))
    spelt = {form_of(word): word for word in kept}
    new, changed = [], []
    for word, meanings in words.items():
        before = spelt.get(form_of(word))
        if before is None:
            new.append(word)
        elif kept.pop(before) != meanings:
            changed.append(word)
        kept[word] = meanings
    replaced = tuple(word for word in new if lexicon.glosses.get(form_of(word)))
    write_words(words_file(settings), kept)
    return Lesson(tuple(new), tuple(changed), replaced)


def forget(settings: Settings, words: Iterable[str]) -> Words:
    """Take words back; gives those that are left. Raises `Rejected` naming one that was never taught."""
    kept = read_words(words_file(settings))
    spelt = {form_of(word): word for word in kept}
    for word in words:
        if form_of(word) not in spelt:
            raise Rejected(f"“{word}” was not taught. `edge model teach --list` shows what was.")
        kept.pop(spelt.pop(form_of(word)))
    write_words(words_file(settings), kept)
    return kept


def what_next(settings: Settings) -> str:
    """One or two sentences: when the words count, and what that takes."""
    if settings.encoder.model == "starter":
        reach = ""
    else:
        reach = (
            f"The model {settings.encoder.model} brings its own vocabulary and can not be given words: "
            "they help the search by terms, not the search by meaning. "
        )
    running = read_card(settings) is not None
    if not running and not settings.database.dsn.get_secret_value():
        return reach + "They count from the next start on; every case is then embedded anew."
    with database_of(settings) as database, database.transaction() as tx:
        counts = tx.one("case_counts") or {}
    cases = sum(int(counts.get(status, 0)) for status in ("open", "acknowledged", "closed"))
    start = "Restart the appliance" if running else "Start the appliance"
    return (
        reach + f"{start} to use them: {cases} cases are then embedded anew, while search goes on with the old index."
    )
