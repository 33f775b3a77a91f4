"""Reads one document in a process of its own, within limits: `python -m edge.knowledge.extract FORMAT PAGES CHARACTERS`.

The file comes on standard input; one JSON object goes to standard output: either `error`, a reason to put after the name
of the file, or `title`, `pages`, `empty_pages` and `blocks`. A block: `section` (the headings above it), `page`, `sentences`.
Whatever a file does to its reader, it does to this process alone.
"""

from __future__ import annotations

import io
import json
import re
import resource
import sys
import unicodedata
import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

#: Of the process that reads: address space and one file's worth of time.
MEMORY = 1_536 * 2**20
CPU_SECONDS = 90

#: What a .docx, which is an archive, may hold when it is unpacked.
UNPACKED = 100 * 2**20
MEMBERS = 5_000

#: A sentence longer than this is cut between words.
LONGEST_SENTENCE = 160

#: A line this much larger than the body of a PDF is a heading.
HEADING_SIZE = 1.15

_THAI = re.compile(r"[\u0e01-\u0e5b]")
_END = re.compile(r"(?<=[.!?;])\s+(?=[A-Z0-9\"'(])|\n+")
_ITEM = re.compile(r"\s*(?:[-*+•·▪●○–]|\(?(?:\d{1,3}|[a-zก-ฮ])[.)])\s+")
_NUMBERED = re.compile(r"\d{1,2}(?:\.\d{1,2})*[.)]?\s+\S")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")


class Unreadable(Exception):
    """Why, in words that go on from the name of the file."""


@dataclass
class Reading:
    """What has been read so far. `headings`: those above the current place, by level."""

    most: int
    title: str = ""
    pages: int | None = None
    empty_pages: list[int] = field(default_factory=list)
    blocks: list[dict[str, Any]] = field(default_factory=list)
    headings: list[tuple[int, str]] = field(default_factory=list)
    characters: int = 0

    def heading(self, level: int, words: str) -> None:
        words = cleaned(words)[:200]
        if words:
            self.headings = [(above, name) for above, name in self.headings if above < level] + [(level, words)]
            self.title = self.title or words

    def text(self, words: str, page: int | None = None) -> None:
        words = cleaned(words)
        if not words:
            return
        self.characters += len(words)
        if self.characters > self.most:
            raise Unreadable(f"holds more than {self.most:,} characters of text (knowledge.max_pages)")
        section = [name for _, name in self.headings]
        self.blocks.append({"section": section, "page": page, "sentences": sentences(words)})


def cleaned(words: str) -> str:
    """One spelling, without what is no text; line ends stay."""
    words = _CONTROL.sub("", unicodedata.normalize("NFC", words).replace("\u00a0", " ").replace("\u00ad", ""))
    return "\n".join(" ".join(line.split()) for line in words.split("\n") if line.strip())


def sentences(words: str) -> list[str]:
    """In order, each with the space that follows it: joined, they are `words` again, and a line end."""
    found: list[str] = []
    for line in words.split("\n"):
        parts = thai_sentences(line) if _THAI.search(line) else [part for part in _END.split(line) if part]
        for part in exactly(line, parts):
            found += pieces(part)
        if found:
            found[-1] = found[-1].rstrip() + "\n"
    return found


def exactly(line: str, parts: Iterable[str]) -> Iterator[str]:
    """The parts as they stand in the line, with the space after each that is there, and no other."""
    at = 0
    for part in parts:
        end, letters = at, len("".join(part.split()))
        while letters or (end < len(line) and line[end].isspace()):
            letters -= not line[end].isspace()
            end += 1
        yield line[at:end]
        at = end


def thai_sentences(line: str) -> list[str]:
    from pythainlp.tokenize import sent_tokenize

    found = [str(part) for part in sent_tokenize(line, engine="thaisum")]
    # The engine marks places inside the text and takes its marks out again; where that cost a letter, spaces decide.
    if "".join("".join(found).split()) != "".join(line.split()):
        found = [str(part) for part in sent_tokenize(line, engine="whitespace+newline")]
    return [part for part in found if part.strip()]


def pieces(sentence: str) -> list[str]:
    """The sentence whole, or cut between words where it is too long to be one."""
    if len(sentence) <= LONGEST_SENTENCE:
        return [sentence]
    if _THAI.search(sentence):
        from pythainlp.tokenize import word_tokenize

        words = [str(word) for word in word_tokenize(sentence, engine="newmm", keep_whitespace=True)]
    else:
        words = re.findall(r"\S+\s*", sentence)
    found, part = [], ""
    for word in words:
        # A word without an end is cut, too: nothing may grow without bound.
        for at in range(0, len(word), LONGEST_SENTENCE):
            bit = word[at : at + LONGEST_SENTENCE]
            if part and len(part) + len(bit) > LONGEST_SENTENCE:
                found.append(part)
                part = ""
            part += bit
    return [*found, part]


# --- text and Markdown ----------------------------------------------------------------------------------------------


def read_text(data: bytes, reading: Reading, most_pages: int) -> None:
    text = decoded(data)
    sheets = text.split("\f")
    if len(sheets) > most_pages:
        raise Unreadable(f"has {len(sheets):,} pages; {most_pages:,} are read (knowledge.max_pages)")
    reading.pages = len(sheets) if len(sheets) > 1 else None
    for number, sheet in enumerate(sheets, 1):
        page = number if reading.pages else None
        lines = ["", *sheet.splitlines(), ""]
        paragraph: list[str] = []
        skip = False
        for before, line, after in zip(lines, lines[1:], lines[2:], strict=False):
            if skip:
                skip = False
                continue
            level = _plain_heading(before, line, after)
            if level or not line.strip():
                reading.text("\n".join(paragraph), page)
                paragraph = []
            if level:
                reading.heading(level, line)
                skip = _underline(after) is not None
            elif line.strip():
                paragraph.append(line)
        reading.text("\n".join(paragraph), page)


def _underline(line: str) -> int | None:
    mark = line.strip()
    return {"=": 1, "-": 2}.get(mark[0]) if len(mark) >= 3 and len(set(mark)) == 1 else None


def _plain_heading(before: str, line: str, after: str) -> int | None:
    words = line.strip()
    if not words or len(words) > 100 or before.strip():
        return None
    if level := _underline(after):
        return level
    if words.isupper() and len(re.findall(r"[A-Z]", words)) > 3:
        return 1
    # "2.1 Tools" above its text, and not the first of several numbered steps.
    if _NUMBERED.match(words) and after.strip() and not _ITEM.match(after) and not _NUMBERED.match(after.strip()):
        return 1 + words.split()[0].rstrip(".)").count(".")
    return None


def read_markdown(data: bytes, reading: Reading, _: int) -> None:
    paragraph: list[str] = []
    fenced = False
    lines = decoded(data).splitlines()
    for line, after in pairwise([*lines, ""]):
        if line.lstrip().startswith(("```", "~~~")):
            fenced = not fenced
            continue
        heading = None if fenced else re.match(r" {0,3}(#{1,6})\s+(.*?)\s*#*\s*$", line)
        under = None if fenced or not line.strip() or _ITEM.match(line) else _underline(after)
        if heading or under or not line.strip():
            reading.text("\n".join(paragraph))
            paragraph = []
        if heading:
            reading.heading(len(heading[1]), _plain(heading[2]))
        elif under and "|" not in line:
            reading.heading(under, _plain(line))
        elif line.strip() and not re.fullmatch(r"[\s|:=-]+", line):
            paragraph.append(line if fenced else _plain(line))
    reading.text("\n".join(paragraph))


def _plain(line: str) -> str:
    """Without the marks of Markdown that are no words."""
    line = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", line)
    line = re.sub(r"(\*\*|__|`)(.+?)\1", r"\2", line)
    line = re.sub(r"(?<![\w*])\*(\S(?:.*?\S)?)\*(?![\w*])", r"\1", line)
    return re.sub(r"^\s*>+\s?", "", line).strip("| ").replace(" | ", " · ")


def decoded(data: bytes) -> str:
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return data.decode(name, "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        # Notepad on a Thai machine still writes this code page.
        return data.decode("cp874", "replace")


# --- Word -----------------------------------------------------------------------------------------------------------


def read_docx(data: bytes, reading: Reading, most_pages: int) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            names = {member.filename for member in members}
            size = sum(member.file_size for member in members)
            if any(member.flag_bits & 1 for member in members):
                raise Unreadable("is protected by a password. Save it without one")
            if len(members) > MEMBERS or size > UNPACKED:
                raise Unreadable(f"unpacks to {size / 2**20:,.0f} MB in {len(members):,} parts: that is no document")
            if "word/document.xml" not in names:
                raise Unreadable("is an archive, but no Word document")
    except zipfile.BadZipFile as error:
        raise Unreadable(f"is damaged: {error}") from error

    import docx
    from docx.table import Table

    document = docx.Document(io.BytesIO(data))
    page, seen = 1, False
    title = cleaned(document.core_properties.title or "")
    for part in document.iter_inner_content():
        if isinstance(part, Table):
            for row in part.rows:
                cells = [cleaned(cell.text).replace("\n", " ") for cell in row.cells]
                # A merged cell is told once for each place it covers.
                reading.text(" · ".join(dict.fromkeys(cell for cell in cells if cell)), page)
            continue
        breaks = len(part.rendered_page_breaks)
        style = (part.style.name or "") if part.style is not None else ""
        level = re.fullmatch(r"(?i)heading (\d)", style)
        # The text before the first break of a paragraph is what somebody looks for.
        begins = page + (1 if breaks and part.rendered_page_breaks[0].preceding_paragraph_fragment is None else 0)
        if style.lower() == "title":
            title = title or cleaned(part.text)
        elif level:
            reading.heading(int(level[1]), part.text)
        else:
            reading.text(part.text, begins)
        page, seen = page + breaks, seen or breaks > 0
        if page > most_pages:
            raise Unreadable(f"has more than {most_pages:,} pages (knowledge.max_pages)")
    reading.title = title or reading.title
    reading.pages = page if seen else None
    if not seen:
        # Word has not noted where its pages end.
        for block in reading.blocks:
            block["page"] = None


# --- PDF ------------------------------------------------------------------------------------------------------------


@dataclass
class Line:
    page: int
    text: str
    size: float


def read_pdf(data: bytes, reading: Reading, most_pages: int) -> None:
    import pypdfium2

    try:
        document = pypdfium2.PdfDocument(data)
        pages = len(document)
    except pypdfium2.PdfiumError as error:
        if "assword" in str(error):
            raise Unreadable("is protected by a password. Save it without one") from error
        raise Unreadable(f"is damaged, or no PDF at all ({error})") from error
    if pages > most_pages:
        raise Unreadable(f"has {pages:,} pages; {most_pages:,} are read (knowledge.max_pages)")
    if not pages:
        raise Unreadable("has no pages")
    reading.pages = pages
    lines: list[Line] = []
    empty: list[int] = []
    characters = 0
    for number in range(1, pages + 1):
        try:
            page = document[number - 1]
            found = list(pdf_lines(page, number))
            page.close()
        except pypdfium2.PdfiumError as error:
            raise Unreadable(f"is damaged at page {number} ({error})") from error
        characters += sum(len(line.text) for line in found)
        if characters > reading.most:
            raise Unreadable(f"holds more than {reading.most:,} characters of text (knowledge.max_pages)")
        lines += found
        if not found:
            empty.append(number)
    if not lines:
        raise Unreadable(
            "holds pictures of pages and no text: it was scanned. Run it through text recognition (OCR) first"
        )
    reading.empty_pages = empty
    outline(lines, reading)
    reading.title = cleaned(str(document.get_metadata_dict().get("Title") or "")) or reading.title


def pdf_lines(page: Any, number: int) -> Iterator[Line]:
    import pypdfium2.raw as pdfium

    words = page.get_textpage()
    text = words.get_text_range()
    if len(text) != words.count_chars():
        # Letters and places do not count alike, so no size can be told.
        found = [(line, 0.0) for line in text.splitlines()]
    elif _THAI.search(text):
        found = thai_lines(words.raw, text)
    else:
        found, at = [], 0
        for line in text.splitlines(keepends=True):
            start = at + len(line) - len(line.lstrip())
            at += len(line)
            found.append((line, pdfium.FPDFText_GetFontSize(words.raw, min(start, len(text) - 1))))
    words.close()
    for line, size in found:
        if cleaned(line):
            yield Line(number, cleaned(line), round(size, 1))


@dataclass
class Glyphs:
    """Letters that were drawn at once. `left` to `right` on the line at `base`; `size` of the font."""

    text: str
    left: float
    right: float
    bottom: float
    top: float
    base: float
    size: float


def thai_lines(words: Any, text: str) -> list[tuple[str, float]]:
    """Lines and their sizes, with what Thai suffers in PDFs undone.

    Writers such as browsers say for a vowel or tone mark that it stands for its whole syllable, so that syllables come
    twice, and the mark's height looks like a line of its own; after SARA AM a space is seen that nobody typed.
    """
    import ctypes

    import pypdfium2.raw as pdfium

    left, right, bottom, top, x, base = (ctypes.c_double() for _ in range(6))
    found: list[Glyphs] = []
    gap = ""
    for at, letter in enumerate(text):
        if pdfium.FPDFText_IsGenerated(words, at) == 1:
            gap += letter
            continue
        pdfium.FPDFText_GetCharBox(words, at, left, right, bottom, top)
        pdfium.FPDFText_GetCharOrigin(words, at, x, base)
        size = pdfium.FPDFText_GetFontSize(words, at)
        box = (bottom.value, top.value)
        last = found[-1] if found else None
        if last and not gap and box == (last.bottom, last.top) and abs(left.value - last.right) < 0.05:
            last.text += letter
            last.right = right.value
            continue
        if gap:
            found.append(Glyphs(gap, 0, 0, 0, 0, 0, 0))
            gap = ""
        found.append(Glyphs(letter, left.value, right.value, *box, base.value, size))
    lines: list[tuple[str, float]] = []
    kept: list[Glyphs] = []
    line, gap = "", ""
    for one in found:
        if not one.size and not one.right:
            gap += one.text
            continue
        middle = (one.left + one.right) / 2
        if any(
            one.text == other.text and other.left <= middle <= other.right and abs(one.base - other.base) < one.size
            for other in kept[-4:]
        ):
            continue
        if kept:
            last = kept[-1]
            # SARA AM is two strokes, of which only the first has a place of its own.
            near = one.left - last.right < (0.45 if line.endswith("\u0e33") else 0.12) * one.size
            if "\n" in gap and abs(one.base - last.base) > 0.2 * one.size:
                lines.append((line, last.size))
                line = ""
            elif gap and not (near and _THAI.match(one.text) and _THAI.match(line[-1:])):
                line += " "
        gap = ""
        line += one.text
        kept = [*kept[-3:], one]
    return [*lines, (line, kept[-1].size)] if kept else lines


def outline(lines: list[Line], reading: Reading) -> None:
    """Headings are what is set larger than most of the text; other lines are put together to paragraphs."""
    sizes = Counter[float]()
    for line in lines:
        sizes[line.size] += len(line.text)
    body = sizes.most_common(1)[0][0]
    larger = sorted({line.size for line in lines if line.size >= body * HEADING_SIZE and body}, reverse=True)
    longest = max(len(line.text) for line in lines)
    paragraph, page, before = "", 0, ""
    for line in lines:
        heading = line.size in larger and len(line.text) <= 150
        begins = not paragraph or heading or line.page != page or _ITEM.match(line.text) or len(before) < 0.6 * longest
        if begins:
            reading.text(paragraph, page)
            paragraph = ""
        page, before = line.page, line.text
        if heading:
            reading.heading(1 + larger.index(line.size), line.text)
            before = ""
        elif not paragraph:
            paragraph = line.text
        else:
            # Thai is broken between words and written without spaces; anything else had one there.
            glued = _THAI.match(line.text) and _THAI.fullmatch(paragraph[-1])
            paragraph += line.text if glued else f" {line.text}"
    reading.text(paragraph, page)


# --- the process ----------------------------------------------------------------------------------------------------

READERS = {"txt": read_text, "md": read_markdown, "docx": read_docx, "pdf": read_pdf}


def read(kind: str, data: bytes, most_pages: int, most_characters: int) -> dict[str, Any]:
    """What the process answers."""
    reading = Reading(most_characters)
    try:
        READERS[kind](data, reading, most_pages)
        if not reading.blocks:
            raise Unreadable("holds no text")
    except Unreadable as error:
        return {"error": str(error)}
    except MemoryError:
        return {"error": "takes more memory to read than a document may"}
    except Exception as error:  # noqa: BLE001 - a damaged file fails anywhere in the libraries, in any way
        return {"error": f"is damaged ({(str(error).strip() or type(error).__name__)[:200]})"}
    return {
        "title": reading.title[:300],
        "pages": reading.pages,
        "empty_pages": reading.empty_pages,
        "blocks": reading.blocks,
    }


def main(arguments: Iterable[str]) -> None:
    kind, pages, characters = arguments
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    # It writes no file and leaves no core.
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    found = read(kind, sys.stdin.buffer.read(), int(pages), int(characters))
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
