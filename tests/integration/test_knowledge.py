"""Documents as they come, through the reader's own process into Postgres and the real index, and cited from there."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import struct
import zipfile
import zlib
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import docx
import psycopg
import pypdfium2
import pytest
from docx.oxml import OxmlElement
from fastapi.testclient import TestClient
from playwright.sync_api import Browser
from typer.testing import CliRunner

from edge.cases import Casebook, NewCase
from edge.cases.casebook import import_cases
from edge.cli import app as command
from edge.config import Settings, resources
from edge.dashboard import create_app
from edge.dashboard.accounts import create_account, create_token
from edge.db import Database
from edge.embedding import Encoder, ensure_built
from edge.errors import Rejected
from edge.indexing import Indexer, reconcile
from edge.indexing.knowledge import told
from edge.knowledge.library import Added, Library, NewDocument
from edge.search import Question, SearchEngine
from edge.simulation import load_sample_documents
from edge.vectors import EmbeddedStore, physical_name

MARKDOWN = "# Belt cleaning\n\n## Weekly\n\nWipe the rollers with a dry cloth and check the tension.\n"
PASSWORD = "long enough to pass"
ORIGIN = "http://testserver"
NOON = datetime(2026, 3, 5, 5, tzinfo=UTC)


class Shelf:
    """A library, its index, and the search over both."""

    def __init__(self, settings: Settings, db: Database, index: EmbeddedStore, encoder: Encoder) -> None:
        self.settings, self.db, self.index, self.encoder = settings, db, index, encoder
        self.library = Library(db, settings.knowledge)
        self.casebook = Casebook(db)
        self.engine = SearchEngine(self.casebook, index, encoder, settings.search)
        self.indexer = Indexer(db, index, encoder)
        self.indexer.open()

    def settle(self) -> None:
        while self.indexer.step(64):
            pass

    def add(self, name: str, data: bytes | str, **facts: object) -> Added:
        raw = data.encode() if isinstance(data, str) else data
        return self.library.add(NewDocument(name, raw, **facts), self.encoder, actor="nok")  # type: ignore[arg-type]

    def ask(self, text: str) -> list[dict[str, object]]:
        hits = self.engine.search(Question(text, collections=("knowledge_base",))).hits
        return [{"title": hit.record.title, "text": hit.record.text, **hit.record.facts} for hit in hits]  # type: ignore[union-attr]

    def rows(self) -> tuple[int, int, int]:
        """Documents, passages, and what waits for the index."""
        with psycopg.connect(self.settings.database.dsn.get_secret_value()) as connection:
            counts = [
                connection.execute(f"SELECT count(*) FROM {t}").fetchone() for t in ("document", "passage", "outbox")
            ]
        return tuple(row[0] for row in counts if row)  # type: ignore[return-value]


@pytest.fixture
def shelf(settings: Settings, db: Database, tmp_path: Path, encoder: Encoder) -> Iterator[Shelf]:
    with EmbeddedStore(tmp_path / "vectors") as index:
        yield Shelf(settings, db, index, encoder)
    shutil.rmtree(tmp_path / "vectors")


# --- real files -----------------------------------------------------------------------------------------------------


def picture() -> bytes:
    """A white PNG of 40 by 40 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 40, 40, 8, 0, 0, 0, 0)
    rows = zlib.compress((b"\x00" + b"\xff" * 40) * 40)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def printed(browser: Browser) -> dict[str, bytes]:
    """PDFs as a browser prints them: one with Thai on two pages, one that is nothing but a picture."""
    faces = ""
    for script in ("thai", "latin"):
        font = (resources() / f"web/static/vendor/sarabun-{script}-400.woff2").read_bytes()
        faces += (
            f"@font-face{{font-family:S{script};src:url(data:font/woff2;base64,{base64.b64encode(font).decode()})}}"
        )
    thai = f"""<meta charset=utf-8><style>{faces} body{{font:16px Sthai,Slatin}}
    h1,h2{{font-weight:400}} h1{{font-size:30px}} h2{{font-size:23px}} .next{{break-before:page}}
    </style><title>คู่มือเครื่องอัดลม</title>
    <h1>คู่มือเครื่องอัดลม</h1><h2>เดินเครื่อง</h2>
    <p>เปิดวาล์วน้ำหล่อเย็นก่อนกดสตาร์ต แล้วรอจนแรงดันถึงเจ็ดบาร์จึงจ่ายลมเข้าไลน์ผลิต ห้ามเปิดวาล์วจ่ายทันที</p>
    <h2 class=next>เปลี่ยนไส้กรอง</h2><p>ไส้กรองตันทำให้แรงดันตก ให้ระบายลมจนเกจเป็นศูนย์ ถอดฝาครอบ แล้วเปลี่ยนไส้กรองทุกสองพันชั่วโมง</p>"""
    scan = f"<img src='data:image/png;base64,{base64.b64encode(picture()).decode()}'>"
    page = browser.new_page()
    found = {}
    for name, html in (("thai", thai), ("scan", scan)):
        page.set_content(html)
        page.evaluate("document.fonts.ready.then(() => 0)")
        found[name] = page.pdf()
    page.close()
    return found


def encrypted() -> bytes:
    """A PDF that asks for a password (PDF 1.7, 7.6.3: RC4, 40 bits)."""

    def rc4(key: bytes, data: bytes) -> bytes:
        box, j, out = list(range(256)), 0, bytearray()
        for i in range(256):
            j = (j + box[i] + key[i % len(key)]) % 256
            box[i], box[j] = box[j], box[i]
        i = j = 0
        for byte in data:
            i = (i + 1) % 256
            j = (j + box[i]) % 256
            box[i], box[j] = box[j], box[i]
            out.append(byte ^ box[(box[i] + box[j]) % 256])
        return bytes(out)

    pad = bytes.fromhex("28BF4E5E4E758A4164004E56FFFA01082E2E00B6D0683E802F0CA9FE6453697A")
    password = (b"secret" + pad)[:32]
    owner = rc4(hashlib.md5(password).digest()[:5], password)
    identity = b"0123456789abcdef"
    key = hashlib.md5(password + owner + struct.pack("<i", -4) + identity).digest()[:5]
    user = rc4(key, pad)
    parts = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 200 200] >>",
        b"<< /Filter /Standard /V 1 /R 2 /P -4 /O <%s> /U <%s> >>" % (owner.hex().encode(), user.hex().encode()),
    ]
    out, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, part)
    table = b"xref\n0 5\n0000000000 65535 f \n" + b"".join(b"%010d 00000 n \n" % place for place in places)
    trailer = b"trailer << /Size 5 /Root 1 0 R /Encrypt 4 0 R /ID [<%s> <%s>] >>" % ((identity.hex().encode(),) * 2)
    return out + table + trailer + b"\nstartxref\n%d\n%%%%EOF\n" % len(out)


def word() -> bytes:
    document = docx.Document()
    document.add_heading("ล้างหัวฉีดกาว", 1)
    document.add_paragraph("หัวฉีดกาวตันให้ปิดความร้อนก่อน")
    document.add_heading("Flushing", 2)
    run = document.add_paragraph("Flush with solvent until it runs clear.").add_run()
    run._r.append(OxmlElement("w:lastRenderedPageBreak"))
    table = document.add_table(rows=1, cols=2)
    table.rows[0].cells[0].text, table.rows[0].cells[1].text = "Solvent", "S-77"
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def archive(**members: bytes) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as made:
        for name, data in members.items():
            made.writestr(name.replace("__", "/").replace("_xml", ".xml"), data)
    return out.getvalue()


def laughing() -> bytes:
    """A Word document whose XML would grow beyond all memory."""
    entities = '<!ENTITY a0 "ha">' + "".join(
        f'<!ENTITY a{n} "{f"&a{n - 1};" * 10}">' for n in range(1, 10)
    )  # fmt: skip
    body = (
        f'<?xml version="1.0"?><!DOCTYPE d [{entities}]><w:document xmlns:w='
        '"http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body><w:p><w:r><w:t>&a9;</w:t></w:r></w:p>'
        "</w:body></w:document>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(word())) as good, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name in good.namelist():
            made.writestr(name, body if name == "word/document.xml" else good.read(name))
    return out.getvalue()


def blank_pages(count: int) -> bytes:
    document = pypdfium2.PdfDocument.new()
    for _ in range(count):
        document.new_page(100, 100)
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


# --- what comes in --------------------------------------------------------------------------------------------------


def test_real_files_are_read_indexed_and_cited(shelf: Shelf, printed: dict[str, bytes]) -> None:
    pdf = shelf.add(
        "air.pdf", printed["thai"], document_type="manual", zones=("UTL-1",), effective_date=date(2026, 1, 1)
    )
    assert (pdf.result, pdf.document.title, pdf.document.version, pdf.document.pages) == (
        "added", "คู่มือเครื่องอัดลม", "1", 2,
    )  # fmt: skip
    glue = shelf.add("glue.docx", word(), tags=("Glue", "glue"))
    assert (glue.document.title, glue.document.tags, glue.document.language) == ("ล้างหัวฉีดกาว", ("glue",), "mixed")
    parts = shelf.library.passages(glue.document.id)
    assert [(part.section, part.page) for part in parts] == [
        ("", 1), ("Flushing", 1),
    ]  # fmt: skip
    assert parts[1].text.endswith("Solvent · S-77")
    shelf.add("belt.md", MARKDOWN)
    shelf.add("notes.txt", "Night shift notes\n=================\nThe chiller alarm 17 means a dirty condenser.\n")
    shelf.settle()

    thai = shelf.ask("ไส้กรองตัน แรงดันลมตก")[0]
    assert (thai["title"], thai["section"], thai["page"]) == ("คู่มือเครื่องอัดลม", "เปลี่ยนไส้กรอง", 2)
    assert (thai["document_version"], thai["effective_date"], thai["zones"]) == ("1", "2026-01-01", ["UTL-1"])
    english = shelf.ask("how to clean the rollers of the belt")[0]
    assert (english["title"], english["section"], english["page"]) == ("Belt cleaning", "Weekly", None)
    assert shelf.ask("chiller alarm 17")[0]["title"] == "Night shift notes"
    assert "เปิดวาล์วน้ำหล่อเย็นก่อนกดสตาร์ต แล้วรอจนแรงดันถึงเจ็ดบาร์" in shelf.library.passages(pdf.document.id)[0].text
    kept = shelf.library.original(pdf.document.id)
    assert kept is not None
    assert kept.data == printed["thai"]


def test_nothing_of_a_file_that_cannot_be_read_is_stored(shelf: Shelf, printed: dict[str, bytes]) -> None:
    bomb = archive(word__document_xml=b"\0" * 110 * 2**20)
    assert len(bomb) < 2**20
    refused: list[tuple[str, bytes, str]] = [
        ("locked.pdf", encrypted(), "password"),
        ("cut.pdf", printed["thai"][: len(printed["thai"]) // 3], "damaged|no text"),
        ("noise.pdf", b"%PDF-1.7\nnothing of the kind", "damaged"),
        ("scan.pdf", printed["scan"], r"scanned.*OCR"),
        ("photo.pdf", picture(), "named .pdf, but it is a PNG picture"),
        ("photo.txt", picture(), "named .txt, but it is a PNG picture"),
        ("binary.md", b"a\x00b", "something else"),
        ("thick.pdf", blank_pages(1_001), "1,001 pages; 1,000 are read .knowledge.max_pages."),
        ("bomb.docx", bomb, "unpacks to 110 MB"),
        ("laugh.docx", laughing(), "."),
        ("torn.docx", word()[:2_000], "damaged"),
        ("book.docx", archive(xl__workbook_xml=b"<x/>"), "no Word document"),
        ("old.docx", b"\xd0\xcf\x11\xe0 old Word", "old kind or one with a password"),
        ("sheet.xlsx", archive(a=b"b"), "none of .docx"),
        ("empty.md", b"", "empty"),
        ("large.txt", b"word " * 2_200_000, "10.5 MB; 10 are taken .knowledge.max_mb."),
    ]
    for name, data, said in refused:
        with pytest.raises(Rejected, match=said):
            shelf.add(name, data)
    with pytest.raises(Rejected, match="no zone NOWHERE"):
        shelf.add("belt.md", MARKDOWN, zones=("NOWHERE",))
    with pytest.raises(Rejected, match="none of sop"):
        shelf.add("belt.md", MARKDOWN, document_type="poem")
    assert shelf.rows() == (0, 0, 0)


def test_a_new_version_retires_the_one_before_in_the_index(shelf: Shelf) -> None:
    first = shelf.add("belt.md", MARKDOWN, version="A")
    shelf.settle()
    same = shelf.add("copy.md", MARKDOWN, title="Another name")
    assert (same.result, same.document.id) == ("duplicate", first.document.id)
    with pytest.raises(Rejected, match="version A .* another content"):
        shelf.add("belt.md", MARKDOWN + "\nMore.\n", version="A")

    second = shelf.add("belt.md", MARKDOWN.replace("a dry cloth", "alcohol"), title="  belt CLEANING ", version="B")
    assert (second.result, second.replaced) == ("replaced", "A")
    shelf.settle()
    found = shelf.ask("wipe the rollers")
    assert [(hit["document_version"], "alcohol" in str(hit["text"])) for hit in found] == [("B", True)]
    assert shelf.index.count(physical_name("knowledge_base", shelf.encoder.fingerprint)) == 1
    assert [part.text for part in shelf.library.passages(first.document.id)] != []
    assert [document.version for document in shelf.library.versions(second.document)] == ["B", "A"]

    back = shelf.add("belt.md", MARKDOWN)
    assert (back.result, back.replaced, back.document.id) == ("reinstated", "B", first.document.id)
    shelf.settle()
    assert [hit["document_version"] for hit in shelf.ask("wipe the rollers")] == ["A"]
    for document in shelf.library.documents():
        shelf.library.retire(document.id, actor="nok")
    shelf.settle()
    assert shelf.ask("wipe the rollers") == []
    assert shelf.library.documents() == []
    report = reconcile(shelf.db, shelf.index, fingerprint=shelf.encoder.fingerprint)
    assert (report.missing, report.orphaned, report.stale) == (0, 0, 0)


# --- what people and programs see -------------------------------------------------------------------------------------


def test_the_sample_documents_answer_in_both_languages_beside_cases_and_searches(shelf: Shelf) -> None:
    assert load_sample_documents(shelf.db, lambda: shelf.encoder) == 10
    assert load_sample_documents(shelf.db, lambda: shelf.encoder) == 0
    shelf.settle()
    assert shelf.ask("battery of the forklift gets hot")[0]["file_name"] == "forklift-battery.th.md"
    crash = shelf.ask("หุ่นยนต์เชื่อมชนแล้วต้องทำยังไง")[0]
    assert (crash["title"], crash["document_version"]) == ("Resetting the robot welding cell", "3")

    with shelf.db.transaction() as tx:
        import_cases(
            tx,
            [
                NewCase(
                    kind="anomaly", type="jam", severity="medium", origin="import", language="th", zone_id=zone,
                    description="สายพานหยุดเอง จอขึ้นว่างานติด แต่ไม่มีอะไรติด", occurred_at=NOON, closed_at=NOON,
                    record_id=f"CASE-{zone}", outcome="held",
                )
                for zone in ("ASM-3", "WH-1")
            ],
        )  # fmt: skip
    shelf.settle()
    create_account(shelf.db, "viewer", PASSWORD, "viewer")
    app = create_app(shelf.settings, shelf.db, shelf.casebook, shelf.engine)
    with TestClient(app, headers={"Origin": ORIGIN}, cookies={"andon_language": "en"}) as client:
        client.post("/sign-in", data={"username": "viewer", "password": PASSWORD})
        page = client.get("/cases/CASE-ASM-3").text
        assert "SOPs for this case" in page
        assert "เคลียร์งานติดสายพานลำเลียง" in page
        assert "in force since 1 Feb 2026" in page
        assert "เคลียร์งานติดสายพานลำเลียง" not in client.get("/cases/CASE-WH-1").text, "it is for other zones"
        found = client.get("/search", params={"q": "boiler low water"}).text
        assert "From manuals and SOPs" in found
        link = re.search(r'class="cited-what"><a href="(/knowledge/[0-9a-f-]+)#p(\d+)">น้ำในหม้อไอน้ำต่ำ', found)
        assert link
        assert f'id="p{link[2]}"' in client.get(link[1]).text


def test_documents_over_http_by_role_and_scope(shelf: Shelf, printed: dict[str, bytes]) -> None:
    app = create_app(shelf.settings, shelf.db, shelf.casebook, shelf.engine)
    with TestClient(app) as client:
        reader = {"Authorization": f"Bearer {create_token(shelf.db, 'r', ['read'], 1)}"}
        writer = {"Authorization": f"Bearer {create_token(shelf.db, 'w', ['read', 'write'], 1)}"}
        files = {"file": ("air.pdf", printed["thai"])}
        form = {"document_type": "manual", "zones": ["UTL-1"], "effective_date": "2026-01-01"}
        assert client.post("/api/v1/documents", files=files, headers=reader).status_code == 403
        made = client.post("/api/v1/documents", files=files, data=form, headers=writer)
        assert made.status_code == 201, made.text
        id = made.json()["document"]["id"]
        assert client.post("/api/v1/documents", files=files, headers=writer).json()["result"] == "duplicate"
        locked = client.post("/api/v1/documents", files={"file": ("x.pdf", encrypted())}, headers=writer)
        assert (locked.status_code, "password" in locked.json()["detail"]) == (422, True)
        assert [one["id"] for one in client.get("/api/v1/documents", headers=reader).json()] == [id]
        assert client.get(f"/api/v1/documents/{id}", headers=reader).json()["text"][1]["page"] == 2
        kept = client.get(f"/api/v1/documents/{id}/original", headers=reader)
        assert (kept.content, kept.headers["content-type"]) == (printed["thai"], "application/pdf")
        assert "object-src 'self'" in kept.headers["content-security-policy"]
        shelf.settle()
        asked = {"text": "แรงดันตก ไส้กรองตัน", "collections": ["knowledge_base"]}
        hit = client.post("/api/v1/search", json=asked, headers=reader).json()["results"][0]["record"]
        assert (hit["facts"]["document_id"], hit["facts"]["page"], hit["facts"]["document_version"]) == (id, 2, "1")
        assert client.delete(f"/api/v1/documents/{id}", headers=reader).status_code == 403
        assert client.delete(f"/api/v1/documents/{id}", headers=writer).json()["retired_at"]
        assert client.get("/api/v1/documents", headers=reader).json() == []


def test_engineers_fill_the_shelf_and_everybody_reads_it(shelf: Shelf, printed: dict[str, bytes]) -> None:
    for role in ("supervisor", "engineer"):
        create_account(shelf.db, role, PASSWORD, role)  # type: ignore[arg-type]
    app = create_app(shelf.settings, shelf.db, shelf.casebook, shelf.engine)
    with TestClient(app, headers={"Origin": ORIGIN}, cookies={"andon_language": "en"}) as client:
        client.post("/sign-in", data={"username": "supervisor", "password": PASSWORD})
        files = {"file": ("air.pdf", printed["thai"])}
        assert client.post("/knowledge", files=files).status_code == 403
        assert "Add a document" not in client.get("/knowledge").text
        client.post("/sign-in", data={"username": "engineer", "password": PASSWORD})
        page = client.post("/knowledge", files=files, data={"version": "7", "tags": "air, filter", "zones": ["UTL-1"]})
        assert page.status_code == 200
        assert "Document added." in page.text
        assert re.search(r'href="/knowledge/[0-9a-f-]+/original#page=2"', page.text)
        wide = client.post("/knowledge", files={"file": ("thick.pdf", b"%PDF-" + b"0" * 11 * 2**20)})
        assert wide.status_code == 413
        wrong = client.post("/knowledge", files={"file": ("photo.pdf", picture())}, data={"title": "Kept <words>"})
        assert wrong.status_code == 422
        assert "PNG picture" in wrong.text
        assert "Kept &lt;words&gt;" in wrong.text
        client.post(f"/knowledge/{shelf.library.documents()[0].id}/retire")
        assert "คู่มือเครื่องอัดลม" not in client.get("/knowledge").text
        assert "คู่มือเครื่องอัดลม" in client.get("/knowledge?retired=1").text


def test_the_command_line_adds_lists_and_retires(settings: Settings, tmp_path: Path) -> None:
    """On its own, beside nothing: what it adds is found at once."""
    environment = {
        "EDGE__DATA__DIR": str(settings.data.dir), "EDGE__DATABASE__DSN": settings.database.dsn.get_secret_value(),
        "COLUMNS": "200",
    }  # fmt: skip
    (tmp_path / "belt.md").write_text(MARKDOWN, "utf-8")
    (tmp_path / "photo.pdf").write_bytes(picture())
    files = [str(tmp_path / "belt.md"), str(tmp_path / "photo.pdf")]
    done = CliRunner().invoke(
        command, ["knowledge", "add", *files, "--zone", "ASM-3", "--tag", "belt"], env=environment
    )
    assert done.exit_code == 1
    listed = CliRunner().invoke(command, ["knowledge", "list"], env=environment)
    assert listed.exit_code == 0
    with Database(environment["EDGE__DATABASE__DSN"]).wait() as db:
        library = Library(db, settings.knowledge)
        assert [(one.title, one.zones, one.tags) for one in library.documents()] == [
            ("Belt cleaning", ("ASM-3",), ("belt",))
        ]
        with db.transaction() as tx:
            waiting = tx.one("outbox_pending")
        assert waiting is not None
        assert waiting["pending"] == 0, "it is in the index"
        done = CliRunner().invoke(command, ["knowledge", "retire", "belt cleaning"], env=environment)
        assert done.exit_code == 0, done.exception
        assert library.documents() == []


def test_passages_longer_than_another_model_reads_are_cut_anew_whole_or_not_at_all(
    shelf: Shelf, caplog: pytest.LogCaptureFixture
) -> None:
    steps = " ".join(f"Turn valve V-{n} by a quarter and watch the gauge until it rests." for n in range(60))
    shelf.add("valves.md", f"# Filling the tank\n\n## In the morning\n\n{steps}\n")
    shelf.add("belt.md", MARKDOWN)
    gone = shelf.add("old.md", f"# Draining the tank\n\n{steps}\n").document
    shelf.settle()
    assert shelf.library.recut(shelf.encoder) == []
    # The same model with a shorter reach: what a text counts is as before.
    short = Encoder.open(ensure_built(resources() / "models"))
    short.max_tokens = 48
    with psycopg.connect(shelf.settings.database.dsn.get_secret_value()) as connection:
        connection.execute("UPDATE document SET original = '\\xff00', format = 'pdf' WHERE id = %s", [gone.id])
    before = {document.title: document for document in shelf.library.documents()}
    (cut,) = shelf.library.recut(short)
    assert (cut.title, cut.id) == ("Filling the tank", before["Filling the tank"].id)
    assert cut.passages > 2 * before["Filling the tank"].passages
    assert "“Draining the tank” keeps passages longer than starter reads" in caplog.text
    parts = shelf.library.passages(cut.id)
    assert [part.position for part in parts] == list(range(1, len(parts) + 1))
    assert all(short.token_count(told(cut.title, part.section, part.text)) <= 48 for part in parts)
    said = "".join(part.text for part in parts)
    assert all(f"V-{n} " in said for n in range(60))
    shelf.settle()
    assert reconcile(shelf.db, shelf.index, fingerprint=shelf.encoder.fingerprint, mend=False).agree
    with psycopg.connect(shelf.settings.database.dsn.get_secret_value()) as connection:
        connection.execute("DELETE FROM document WHERE id = %s", [gone.id])
    assert shelf.library.recut(short) == []
    (first, *_) = shelf.ask("valve V-41")
    assert "V-41 " in str(first["text"])
