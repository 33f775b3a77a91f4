"""The plant's own words: what a CSV may hold, and that the model and the lexical terms read them without training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.embedding import Encoder, ensure_built, sparse_terms, term_index
from edge.embedding.lexicon import Lexicon, default_lexicon, default_text, take_up, taken_up
from edge.embedding.taught import form_of, parse_words, read_words, write_words
from edge.errors import Rejected, Stop

MODELS = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What one test teaches, the next does not know."""
    yield
    take_up("")


@pytest.fixture(scope="module")
def lexicon() -> Lexicon:
    return Lexicon.parse(default_text())


def test_a_csv_of_words_is_read_in_the_shapes_people_save_it_in(lexicon: Lexicon) -> None:
    text = "word,meaning\nน้องซูม,stretch wrapper; เครื่องพันฟิล์ม\nZOOMER-2,packing machine,เครื่องบรรจุ\nน้องซูม,wrapper\n"
    wanted = {
        "น้องซูม": ("stretch wrapper", "เครื่องพันฟิล์ม", "wrapper"),
        "ZOOMER-2": ("packing machine", "เครื่องบรรจุ"),
    }
    for data in (
        text.encode(),
        text.encode("utf-8-sig"),
        text.encode("cp874"),
        text.replace("\n", "\r\n").encode(),
        text.replace("; ", "|").replace(",", "\t").replace("|", "; ").encode(),
        text.replace("word,meaning", "คำ,ความหมาย").encode(),
    ):
        assert parse_words(data, lexicon) == (wanted, [])


def test_each_wrong_row_is_named_with_its_reason(lexicon: Lexicon) -> None:
    rows = [
        "word,meaning",
        ",pump",
        "น้องซูม,",
        "น้องซูม,น้องซูม",
        "น้องซูม,ฆฌฐฒฬ",
        "ซูม2,pump",
        "7,pump",
        "กขค" * 14 + ",pump",
        "น้องซูม," + "pump " * 30,
        "",
        "ถูกต้อง,pump",
    ]
    words, errors = parse_words("\n".join(rows).encode(), lexicon)
    assert words == {"ถูกต้อง": ("pump",)}
    assert [error.row for error in errors] == [2, 3, 4, 5, 6, 7, 8, 9]
    for error, part in zip(
        errors, ("missing", "no meaning", "own meaning", "known", "Thai letters", "short", "40", "120"), strict=True
    ):
        assert part in error.reason, error


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"a,b\n1,2\n", b'word,meaning\n"x,y\n', b"\0\0word,meaning", b"\x81\xff"]
)
def test_what_is_no_such_csv_is_refused_as_a_whole(data: bytes, lexicon: Lexicon) -> None:
    with pytest.raises(Rejected):
        parse_words(data, lexicon)


def test_words_are_kept_and_taken_away(tmp_path: Path) -> None:
    file = tmp_path / "data" / "words.csv"
    assert read_words(file) == {}
    write_words(file, {"น้องซูม": ("stretch wrapper", "a, b")})
    assert read_words(file) == {"น้องซูม": ("stretch wrapper", "a, b")}
    write_words(file, {})
    assert not file.exists()
    file.mkdir()
    with pytest.raises(Stop, match="words"):
        read_words(file)


def test_a_taught_word_means_what_it_was_taught(tmp_path: Path, encoder: Encoder) -> None:
    file = tmp_path / "words.csv"
    write_words(
        file,
        {"ซูฮกบิ๊กบึ้ม": ("air compressor",), "กระจิ๊ดเขียว": ("เครื่องพันฟิล์ม",), "Grumpy-7": ("boiler",), "สายพาน": ("robot",)},
    )
    built = ensure_built(MODELS, built_dir=tmp_path / "built", words_file=file)
    taught = Encoder.open(built)
    assert taught.fingerprint != encoder.fingerprint
    for word, meaning, other in (
        ("ซูฮกบิ๊กบึ้ม", "air compressor", "stretch wrapper"),
        ("กระจิ๊ดเขียว", "stretch wrapper", "air compressor"),
        ("grumpy-7 leaks", "boiler leaks", "robot leaks"),
        ("สายพาน", "robot", "conveyor belt"),
    ):
        knows, right, wrong = taught.encode([word, meaning, other])
        assert knows @ right > 0.6, word
        assert knows @ right > knows @ wrong + 0.2, word
    assert taught.unknown_rate("ซูฮกบิ๊กบึ้ม") == 0 < encoder.unknown_rate("ซูฮกบิ๊กบึ้ม")
    same = "มอเตอร์ไหม้ motor burnt"
    assert (taught.encode([same])[0] @ encoder.encode([same])[0]) > 0.999, "other texts read as before"

    terms = {term_index("w:boil"), term_index("w:boiler")}
    assert terms & set(sparse_terms("grumpy-7 รั่ว").indices)
    assert default_lexicon().glosses["สายพาน"] == ("robot",)
    # The next model of this process is opened without words: nothing of them is left.
    ensure_built(MODELS, built_dir=tmp_path / "built", words_file=tmp_path / "none.csv")
    assert taken_up() == ""
    assert not terms & set(sparse_terms("grumpy-7 รั่ว").indices)


def test_spellings_of_one_word_are_one_word() -> None:
    assert form_of("น้อง ซูม") == form_of("น้องซูม")
    assert form_of("Big  Blue") == "big blue"
