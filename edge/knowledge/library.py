"""The documents of the plant: added whole or not at all, retired, never lost."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import threading
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import PurePath
from typing import Any, Literal, get_args
from uuid import UUID

from edge.config import Knowledge
from edge.db import Database, Row, Transaction
from edge.embedding import Encoder, Language, detect_language
from edge.errors import Rejected, Unavailable
from edge.indexing.knowledge import told
from edge.knowledge import extract
from edge.knowledge.passages import Passage, cut

DocumentType = Literal["sop", "work_instruction", "manual", "safety", "other"]
DOCUMENT_TYPES: tuple[DocumentType, ...] = get_args(DocumentType)

#: Suffix → format.
FORMATS = {".pdf": "pdf", ".docx": "docx", ".txt": "txt", ".md": "md", ".markdown": "md"}

MEDIA_TYPES = {
    "pdf": "application/pdf",
    "docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    "txt": "text/plain; charset=utf-8",
    "md": "text/plain; charset=utf-8",
}

#: Characters that count as a page where a format has none.
PAGE = 4_000

#: Seconds until the process that reads a file is ended, and how long another file waits for its turn.
PATIENCE = 180

#: What other files begin with, in words.
_BEGINNINGS = (
    (b"\x89PNG", "a PNG picture"), (b"\xff\xd8\xff", "a JPEG picture"), (b"GIF8", "a GIF picture"),
    (b"%PDF-", "a PDF"), (b"PK\x03\x04", "a ZIP archive or an Office file"),
    (b"\xd0\xcf\x11\xe0", "an Office file of the old kind or one with a password"), (b"{\\rtf", "an RTF file"),
    (b"\x1f\x8b", "a gzip archive"), (b"\x7fELF", "a program"), (b"MZ\x90\x00", "a program"),
)  # fmt: skip

_log = logging.getLogger(__name__)

#: One file is read at a time: the box has better things to do than to unpack ten manuals at once.
_turn = threading.Lock()


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A file and what is known of it. `title` None: its own; `version` None: the next number. No `zones`: the whole plant."""

    file_name: str
    data: bytes
    title: str | None = None
    document_type: str = "sop"
    zones: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    version: str | None = None
    effective_date: date | None = None


@dataclass(frozen=True, slots=True)
class Document:
    """`pages` None: a format without pages. `empty_pages`: pictures without text, where nothing is found.

    `retired_at` None: this version is the one in force.
    """

    id: UUID
    title: str
    version: str
    document_type: DocumentType
    language: Language
    zones: tuple[str, ...]
    tags: tuple[str, ...]
    effective_date: date | None
    file_name: str
    format: str
    pages: int | None
    empty_pages: tuple[int, ...]
    bytes: int
    passages: int
    added_by: str
    added_at: datetime
    retired_by: str | None
    retired_at: datetime | None


@dataclass(frozen=True, slots=True)
class Added:
    """`result`: "added"; "replaced" an earlier version; "reinstated" a retired one; "duplicate" of a file that is there.

    `replaced`: the version that was retired.
    """

    document: Document
    result: Literal["added", "replaced", "reinstated", "duplicate"]
    replaced: str | None = None


@dataclass(frozen=True, slots=True)
class Part:
    """A passage as it is read. `position` counts from 1."""

    position: int
    section: str
    page: int | None
    language: Language
    text: str


@dataclass(frozen=True, slots=True)
class Original:
    file_name: str
    format: str
    data: bytes


class Library:
    """The documents in Postgres. Whatever changes what is in force tells the index in the same transaction."""

    def __init__(self, database: Database, settings: Knowledge) -> None:
        self._database = database
        self._settings = settings

    def add(self, new: NewDocument, encoder: Encoder, *, actor: str, ours: bool = False) -> Added:
        """Read, cut and store a document; the version in force until now retires.

        `ours`: it ships with the appliance, so it is read here, without a process and limits of its own.

        Raises `Rejected`, in words, for whatever cannot be read or is not allowed, and nothing is stored then;
        `Unavailable` when another file is being read for too long, or the database does not answer.
        """
        kind = self._checked(new)
        digest = hashlib.sha256(new.data).digest()
        with self._database.transaction() as tx:
            _zones_exist(tx, new.zones)
            if same := _in_force(tx, digest):
                return Added(_one(tx, same), "duplicate")
        found = self._read(new, kind, ours)
        title = _line(new.title or found["title"] or PurePath(new.file_name).stem, "title", 300)
        version = _line(new.version, "version", 40) if new.version else None
        passages = _cut(found, title, encoder)
        with self._database.transaction() as tx:
            tx.one("document_lock")
            if same := _in_force(tx, digest):
                return Added(_one(tx, same), "duplicate")
            return _stored(tx, new, kind, digest, title, version, found, passages, actor)

    def recut(self, encoder: Encoder) -> list[Document]:
        """Cut the documents in force anew that hold passages longer than `encoder` reads. Returns those.

        For a model that reads less than the one they were cut for: it would embed the beginnings of passages alone.
        Each document changes whole or not at all. Raises `Unavailable`; a file that can no longer be read stays as it
        is, with a word in the log.
        """
        changed = []
        for document in self.documents():
            parts = self.passages(document.id)
            if all(_fits(encoder, document.title, part) for part in parts):
                continue
            original = self.original(document.id)
            if original is None:
                continue
            try:
                new = NewDocument(original.file_name, original.data)
                passages = _cut(self._read(new, original.format, ours=False), document.title, encoder)
            except Rejected as error:
                _log.warning("“%s” keeps passages longer than %s reads: %s", document.title, encoder.name, error)
                continue
            with self._database.transaction() as tx:
                tx.one("document_lock")
                now = _one(tx, document.id)
                if now.retired_at is not None or now.passages != len(parts):
                    continue
                tx.one("passage_outbox", document_id=document.id, operation="delete")
                tx.run("passage_clear", document_id=document.id)
                _put_passages(tx, document.id, passages)
                tx.one("passage_outbox", document_id=document.id, operation="upsert")
                changed.append(_one(tx, document.id))
        return changed

    def retire(self, id: UUID, *, actor: str) -> bool:
        """Take a document out of force: it leaves the index and stays readable. False when it was already."""
        with self._database.transaction() as tx:
            tx.one("document_lock")
            return _retired(tx, id, actor)

    def documents(self, *, retired: bool = False) -> list[Document]:
        """By title, the version in force first. `retired`: the others, too."""
        with self._database.transaction() as tx:
            return [_document(row) for row in tx.all("document_list", id=None, title_key=None, retired=retired)]

    def get(self, id: UUID) -> Document | None:
        with self._database.transaction() as tx:
            row = tx.one("document_list", id=id, title_key=None, retired=True)
            return _document(row) if row else None

    def versions(self, document: Document) -> list[Document]:
        """Every version of a document, the one in force first, then the latest."""
        with self._database.transaction() as tx:
            key = title_key(document.title)
            return [_document(row) for row in tx.all("document_list", id=None, title_key=key, retired=True)]

    def passages(self, id: UUID) -> list[Part]:
        with self._database.transaction() as tx:
            return [Part(**row) for row in tx.all("passage_list", document_id=id)]

    def original(self, id: UUID) -> Original | None:
        """The file as it came."""
        with self._database.transaction() as tx:
            row = tx.one("document_original", id=id)
            return Original(row["file_name"], row["format"], bytes(row["original"])) if row else None

    def unknown(self, files: Sequence[bytes]) -> list[bytes]:
        """Those of some files that are in no version of any document."""
        digests = [hashlib.sha256(data).digest() for data in files]
        with self._database.transaction() as tx:
            known = {bytes(row["sha256"]) for row in tx.all("document_known_files", hashes=digests)}
        return [data for data, digest in zip(files, digests, strict=True) if digest not in known]

    def _checked(self, new: NewDocument) -> str:
        """The format. What a file is called and what it is must agree."""
        name = new.file_name
        kind = FORMATS.get(PurePath(name).suffix.lower())
        if kind is None:
            raise Rejected(f"{name} is none of {', '.join(sorted(FORMATS))}.")
        if not new.data:
            raise Rejected(f"{name} is empty.")
        if len(new.data) > self._settings.max_mb * 2**20:
            raise Rejected(
                f"{name} has {len(new.data) / 2**20:.1f} MB; {self._settings.max_mb} are taken (knowledge.max_mb)."
            )
        if new.document_type not in DOCUMENT_TYPES:
            raise Rejected(f"The type {new.document_type!r} is none of {', '.join(DOCUMENT_TYPES)}.")
        _checked_tags(new.tags)
        begins = new.data[:1_024].lstrip()
        if kind == "pdf":
            # Some writers put a few bytes before it.
            right = b"%PDF-" in begins
        elif kind == "docx":
            right = begins.startswith(b"PK\x03\x04")
        else:
            wide = new.data.startswith((b"\xff\xfe", b"\xfe\xff"))
            right = not begins.startswith(tuple(mark for mark, _ in _BEGINNINGS)) and (wide or b"\x00" not in new.data)
        if not right:
            other = next((words for mark, words in _BEGINNINGS if begins.startswith(mark)), None)
            raise Rejected(f"{name} is named .{kind}, but it is {other or 'something else'}.")
        return kind

    def _read(self, new: NewDocument, kind: str, ours: bool) -> dict[str, Any]:
        """What `edge.knowledge.extract` found, in a process of its own."""
        pages = self._settings.max_pages
        if ours:
            return _found(new, extract.read(kind, new.data, pages, pages * PAGE))
        command = [sys.executable, "-m", "edge.knowledge.extract", kind, str(pages), str(pages * PAGE)]
        if not _turn.acquire(timeout=PATIENCE):
            raise Unavailable("Another document is being read. Try again in a moment.")
        try:
            done = subprocess.run(
                command, input=new.data, capture_output=True, timeout=PATIENCE, check=False,
                # Only what ships with PyThaiNLP is used: nothing is fetched, and nothing is written anywhere.
                env={"PYTHAINLP_READ_ONLY": "1", "PYTHAINLP_OFFLINE": "1", "HOME": "/nonexistent", "LC_ALL": "C.UTF-8",
                     "PYTHONPATH": ":".join(path for path in sys.path if path), "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        except subprocess.TimeoutExpired as error:
            raise Rejected(f"{new.file_name} takes longer to read than a document may ({PATIENCE} s).") from error
        finally:
            _turn.release()
        try:
            found = dict(json.loads(done.stdout)) if done.returncode == 0 else {}
        except ValueError:
            found = {}
        if not found:
            raise Rejected(f"{new.file_name} takes more time or memory to read than a document may.")
        return _found(new, found)


def _found(new: NewDocument, found: dict[str, Any]) -> dict[str, Any]:
    if "error" in found:
        raise Rejected(f"{new.file_name} {found['error'].rstrip('.')}.")
    return found


def title_key(title: str) -> str:
    """The one spelling under which two titles are the same document's."""
    return " ".join(unicodedata.normalize("NFKC", title).casefold().split())


def _stored(
    tx: Transaction, new: NewDocument, kind: str, digest: bytes, title: str, version: str | None,
    found: dict[str, Any], passages: Sequence[Passage], actor: str,
) -> Added:  # fmt: skip
    key = title_key(title)
    versions = tx.all("document_versions", title_key=key)
    former = next((row for row in versions if row["retired_at"] is None), None)
    known = {row["version"]: row for row in versions}
    back = next((row for row in versions if bytes(row["sha256"]) == digest and version in (None, row["version"])), None)
    if back is None and version in known:
        raise Rejected(
            f"There is a version {version} of “{title}” with another content. Give this one another version."
        )
    replaced = former["version"] if former else None
    if former:
        _retired(tx, former["id"], actor)
    if back is not None:
        tx.run("document_reinstate", id=back["id"])
        tx.run("passage_touch", document_id=back["id"])
        tx.one("passage_outbox", document_id=back["id"], operation="upsert")
        return Added(_one(tx, back["id"]), "reinstated", replaced)
    number = len(versions) + 1
    while version is None or version in known:
        version, number = str(number), number + 1
    whole = " ".join(passage.text for passage in passages)
    document_id = tx.value(
        "document_add", title=title, title_key=key, version=version, document_type=new.document_type,
        language=detect_language(whole), zones=list(dict.fromkeys(new.zones)), tags=list(_checked_tags(new.tags)),
        effective_date=new.effective_date, file_name=PurePath(new.file_name).name[:300], format=kind, sha256=digest,
        pages=found["pages"], empty_pages=found["empty_pages"], original=new.data, added_by=actor,
    )  # fmt: skip
    _put_passages(tx, document_id, passages)
    tx.one("passage_outbox", document_id=document_id, operation="upsert")
    return Added(_one(tx, document_id), "replaced" if former else "added", replaced)


def _cut(found: dict[str, Any], title: str, encoder: Encoder) -> list[Passage]:
    for block in found["blocks"]:
        # A document that begins with its title would name it twice in every citation.
        if block["section"] and title_key(block["section"][0]) == title_key(title):
            block["section"] = block["section"][1:]
    return cut(found["blocks"], title, encoder.token_count, encoder.max_tokens)


def _fits(encoder: Encoder, title: str, part: Part) -> bool:
    return encoder.token_count(told(title, part.section, part.text)) <= encoder.max_tokens


def _put_passages(tx: Transaction, document_id: UUID, passages: Sequence[Passage]) -> None:
    tx.many(
        "passage_add",
        [
            {
                "document_id": document_id,
                "position": position,
                "section": " › ".join(passage.section),
                "page": passage.page,
                "language": detect_language(passage.text),
                "text": passage.text,
            }
            for position, passage in enumerate(passages, 1)
        ],
    )


def _retired(tx: Transaction, id: UUID, actor: str) -> bool:
    if not tx.run("document_retire", id=id, actor=actor):
        return False
    tx.run("passage_touch", document_id=id)
    tx.one("passage_outbox", document_id=id, operation="delete")
    return True


def _in_force(tx: Transaction, digest: bytes) -> UUID | None:
    found = tx.one("document_same_file", sha256=digest)
    return found["id"] if found and found["retired_at"] is None else None


def _one(tx: Transaction, id: UUID) -> Document:
    row = tx.one("document_list", id=id, title_key=None, retired=True)
    assert row is not None
    return _document(row)


def _document(row: Row) -> Document:
    return Document(
        **{**row, "zones": tuple(row["zones"]), "tags": tuple(row["tags"]), "empty_pages": tuple(row["empty_pages"])}
    )


def _zones_exist(tx: Transaction, zones: Sequence[str]) -> None:
    if unknown := tx.all("document_zones_unknown", zones=list(zones)):
        known = ", ".join(row["id"] for row in tx.all("zones")[:30])
        raise Rejected(f"There is no zone {unknown[0]['id']}. The zones are {known}.")


def _checked_tags(tags: Sequence[str]) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_line(tag, "tag", 100).lower() for tag in tags if tag.strip()))
    if len(found) > 50:
        raise Rejected("A document has at most 50 tags.")
    return found


def _line(words: str, what: str, longest: int) -> str:
    words = " ".join(words.split())
    if not words or len(words) > longest or re.search(r"[\x00-\x1f\ud800-\udfff]", words):
        raise Rejected(f"The {what} must be a line of 1 to {longest} characters.")
    return words
