"""Lexical terms: numbers match exactly, languages touch, and everything found can be shown."""

from __future__ import annotations

import pytest

from edge.embedding import sparse_terms, terms
from edge.embedding.text import normalise

MOTOR = 2855686708
"""The index of "motor". If it changes, every stored sparse vector is void and `LEXICAL` must change with it."""


def names(text: str) -> set[str]:
    return {term.term for term in terms(text)}


def score(one: str, other: str) -> float:
    a = sparse_terms(one)
    found = sparse_terms(other)
    b = dict(zip(found.indices, found.values, strict=True))
    return sum(value * b.get(index, 0.0) for index, value in zip(a.indices, a.values, strict=True))


@pytest.mark.parametrize("typed", ["CONV-002", "conv-002", "CONV002", "Conv_2", "conv 2", "CONV‑๐๐๒"])
def test_a_machine_number_is_one_term_however_it_is_typed(typed: str) -> None:
    assert "n:conv|2" in names(f"{typed} stopped")


def test_part_numbers_do_not_match_their_neighbours() -> None:
    assert "n:m|8" in names("น็อต M8 หลวม")
    assert not {"n:m|8", "n:8"} & names("น็อต M80 หลวม")
    assert score("E-204", "alarm E204") > score("E-204", "alarm E205")


def test_a_line_number_is_the_same_in_thai_and_english() -> None:
    assert "n:line|4" in names("ไลน์ 4 หยุด") & names("line 4 stopped") & names("Line-04 down")


def test_endings_do_not_separate_english_words() -> None:
    assert names("leaks leaked leaking") == {"w:leak"}
    assert len(names("bearing bearings")) == 1


def test_irregular_spellings_of_one_english_word_are_one_term() -> None:
    assert names("scratch scratches scratched scratching") == {"w:scratch"}
    assert names("lubricate lubrication lubricated lubricant") >= {"w:lubric"}


@pytest.mark.parametrize("typed", ["ปี ๒๕๖๙", "2569", "in 2026", "เดือน 3/2569", "พ.ศ.2569"])
def test_a_year_is_the_same_in_both_eras(typed: str) -> None:
    assert "n:2026" in names(typed)


@pytest.mark.parametrize("typed", ["15/3/2569", "๑๕/๐๓/๒๕๖๙", "15-03-2026", "2026-03-15", "15.3.2026"])
def test_a_day_is_one_term_however_it_is_written(typed: str) -> None:
    assert "d:2026|3|15" in names(f"เสียวันที่ {typed}")


@pytest.mark.parametrize("typed", ["15/3/69", "2569/40/2", "192.168.1.1", "0-0-2026"])
def test_what_is_no_day_stays_a_number(typed: str) -> None:
    assert not any(name.startswith("d:") for name in names(typed))


def test_thai_meets_english_lightly_and_thai_strongly() -> None:
    assert score("มอเตอร์ไหม้", "motor burnt") > 0
    assert score("มอเตอร์ไหม้", "มอเตอร์ไหม้") > 3 * score("มอเตอร์ไหม้", "motor burnt")
    assert score("มอเตอร์ไหม้", "label crooked") == 0


def test_a_compound_matches_its_parts() -> None:
    assert names("น้ำมันไฮดรอลิก") >= {"w:น้ำมันไฮดรอลิก", "w:น้ำมัน", "w:ไฮดรอลิก"}
    assert score("น้ำมันไฮดรอลิก", "ไฮดรอลิก") > score("น้ำมันไฮดรอลิก", "hydraulic") > 0


def test_unknown_thai_matches_by_overlapping_trigrams() -> None:
    assert {term for term in names("ซซูชิมง") if term.startswith("g:")}
    assert score("ซซูชิมง", "ซซูชิมงค์") > 0


def test_function_words_and_particles_are_no_terms() -> None:
    assert names("it was not on the") == set()
    assert sparse_terms("ครับ ๆ").indices == ()


def test_a_sparse_vector_is_sorted_unique_and_saturates() -> None:
    once, often = sparse_terms("leak"), sparse_terms("leak " * 50)
    assert once.indices == often.indices
    assert once.values[0] < often.values[0] < 2.3
    many = sparse_terms("มอเตอร์ CONV-002 สายพาน belt motor ๆ ไหม้ sensor 12")
    assert list(many.indices) == sorted(set(many.indices))
    assert all(0 <= index < 2**32 for index in many.indices)
    assert all(value > 0 for value in many.values)


def test_the_same_term_has_the_same_number_in_every_process() -> None:
    assert sparse_terms("motor").indices == sparse_terms("MOTORS").indices == (MOTOR,)


def test_found_words_can_be_shown_where_they_were_typed() -> None:
    typed = "เเบริ่ง  CONV-002 มีน\u0e4d\u0e49\u0e32มันรั่ว"
    shown = {term.term: typed[term.start : term.end] for term in terms(typed) if term.surface}
    assert shown["w:แบริ่ง"] == "เเบริ่ง"
    assert shown["n:conv|2"] == "CONV-002"
    assert normalise(next(text for term, text in shown.items() if "น้ำมัน" in term)).startswith("น้ำมัน")
