"""However a text is typed, it is one text; and what matched can be shown where it was typed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.config import resources
from edge.embedding import detect_language, normalise
from edge.embedding.text import align


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("เเบริ่งเเตก", "แบริ่งแตก"),
        ("น\u0e4d\u0e49\u0e32มัน", "น้ำมัน"),
        ("น\u0e49\u0e4d\u0e32มัน", "น้ำมัน"),
        ("น\u0e33\u0e49มัน", "น้ำมัน"),
        ("น้\u200bำมัน", "น้ำมัน"),
        ("น้้ำมัน", "น้ำมัน"),
        ("ท\u0e48\u0e35ไลน์", "ที่ไลน์"),
        ("ที\u0e35\u0e48ไลน์", "ที่ไลน์"),
        ("ถ\u0e32\u0e49ฝุ่นเยอะ", "ถ้าฝุ่นเยอะ"),
        ("ร้อนมากกกกก", "ร้อนมาก"),
        ("ร้อนมากก\u200bกก", "ร้อนมาก"),
        ("เครื่อง ๑๒", "เครื่อง 12"),
        ("  CONV‑002\u00a0 หยุด\ufeff ", "conv-002 หยุด"),
        ("ＣＮＣ　Ｍ８", "cnc m8"),
        ("operator’s Ø 5 × 3", "operator's ø 5 x 3"),
    ],
)
def test_typing_habits_do_not_make_another_text(typed: str, meant: str) -> None:
    assert normalise(typed) == normalise(meant) == meant


@pytest.mark.parametrize("word", ["ศักดิ์", "สิทธิ์", "บริษัท", "ไฟล์", "น้ำ", "เป็น", "ฤดู", "กรรม", "สรร"])
def test_well_typed_words_stay_as_they_are(word: str) -> None:
    assert normalise(word) == word


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("กนมเแาะำัิี่้๊์ๆ๑ aBé9ß-\u200b\u0e4d\u0301"), max_size=30))
def test_normalising_twice_is_normalising_once_and_offsets_stay_inside(typed: str) -> None:
    once = align(typed)
    assert normalise(once.text) == once.text
    assert len(once.starts) == len(once.ends) == len(once.text)
    assert all(0 <= start < end <= len(typed) for start, end in zip(once.starts, once.ends, strict=True))
    assert list(once.starts) == sorted(once.starts)


_ALPHABET = (
    "กกกขนมฤฯะเแโไาำๅ\u0e31\u0e34\u0e38\u0e3a\u0e47\u0e48\u0e49\u0e4c\u0e4d"
    "๑ๆ aBZé9ßİ-'’(\t\n\u00a0\u200b\ufeff\u0301\u00b4\u037aﬁＡ中"
)


@settings(max_examples=1500, deadline=None)
@given(st.text(alphabet=st.sampled_from(_ALPHABET), max_size=24) | st.text(max_size=12))
def test_the_short_way_to_a_spelling_is_the_long_one(typed: str) -> None:
    assert normalise(typed) == align(typed).text


def test_the_texts_that_ship_are_spelt_the_same_both_ways() -> None:
    for path in sorted((resources() / "models").rglob("*.txt")):
        for line in path.read_text("utf-8").splitlines():
            assert normalise(line) == align(line).text


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("มอเตอร์ไหม้", "th"),
        ("เครื่อง CONV-002 หยุด", "th"),
        ("conveyor stopped at CONV-002", "en"),
        ("conveyor belt เบี้ยว roller ต้อง adjust", "mixed"),
        ("E-204", "en"),
        ("", "en"),
    ],
)
def test_language_is_told_by_script(text: str, language: str) -> None:
    assert detect_language(text) == language
