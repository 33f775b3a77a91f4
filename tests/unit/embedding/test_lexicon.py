"""Thai words are found where they begin and end, mistyped ones too."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.embedding.lexicon import Lexicon, default_lexicon
from edge.embedding.text import normalise
from edge.errors import Stop

SMALL = Lexicon.parse(
    "น้ำมัน = oil\nน้ำ = water\nมัน = grease\nรั่ว = leak\nไฮดรอลิก = hydraulic\nคอมเพรสเซอร์ = compressor\nครับ =\n"
)


def words(lexicon: Lexicon, text: str) -> list[str | None]:
    return [piece.form for piece in lexicon.segment(normalise(text))]


def test_the_longer_word_wins_over_its_parts() -> None:
    assert words(SMALL, "น้ำมันไฮดรอลิกรั่วครับ") == ["น้ำมัน", "ไฮดรอลิก", "รั่ว", "ครับ"]


@pytest.mark.parametrize("typed", ["ไฮดรอลิค", "ไฮดรอริก", "ไฮดอรลิก", "ไฮดรอลลิก", "ไฮดอลิก"])
def test_a_mistyped_word_is_the_word_it_was_meant_to_be(typed: str) -> None:
    assert words(SMALL, f"น้ำมัน{typed}รั่ว") == ["น้ำมัน", "ไฮดรอลิก", "รั่ว"]


def test_an_unknown_word_is_kept_whole_and_unknown() -> None:
    pieces = SMALL.segment("น้ำซซูชิรั่ว")
    assert [piece.form for piece in pieces] == ["น้ำ", None, "รั่ว"]
    assert (pieces[1].start, pieces[1].end) == (3, 8)


def test_pieces_cover_the_run_without_gaps() -> None:
    for run in ("คอมเพลสเซ่อร์รั่วมากๆ", "ๆๆ", "เแโ", "์์", "กกกกกกกก"):
        pieces = default_lexicon().segment(run)
        assert [piece.start for piece in pieces] == [0, *(piece.end for piece in pieces[:-1])]
        assert pieces[-1].end == len(run)


def test_the_lexicon_that_ships_knows_the_trade() -> None:
    lexicon = default_lexicon()
    assert len(lexicon.glosses) > 5500
    assert all(form == normalise(form) for form in lexicon.glosses)
    assert words(lexicon, "เปลี่ยนตลับลูกปืนแล้วเดินเครื่องต่อได้")[:2] == ["เปลี่ยน", "ตลับลูกปืน"]


def test_a_malformed_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.txt"
    path.write_text("น้ำ = water\nน้ำมัน oil\n", "utf-8")
    with pytest.raises(Stop, match=r"Line 2 .* '='"):
        Lexicon.read(path)
    with pytest.raises(Stop, match="can not be read"):
        Lexicon.read(tmp_path / "none.txt")
