"""Reading and cutting, without a database: headings, sentences and the room a passage has."""

from __future__ import annotations

import re
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from edge.embedding import Encoder
from edge.indexing.knowledge import told
from edge.knowledge.extract import LONGEST_SENTENCE, cleaned, read, sentences
from edge.knowledge.passages import cut

TEXT = """# เคลียร์งานติด

นำเข้า

## ก่อนเริ่ม

1. กดหยุด **ให้สนิท** แล้วแขวนป้าย [ดูผัง](plan.png)
2. Never pull against the belt. Call a technician!

| Part | Torque |
|------|--------|
| Bolt | 12 Nm |

Setext heading
--------------

```
# not a heading
```
"""


def blocks(kind: str, text: str) -> list[dict[str, Any]]:
    found = read(kind, text.encode(), 10, 100_000)
    assert "error" not in found, found
    return list(found["blocks"])


def test_markdown_keeps_headings_and_loses_its_marks() -> None:
    found = read("md", TEXT.encode(), 10, 100_000)
    assert found["title"] == "เคลียร์งานติด"
    told_ = [(block["section"], "".join(block["sentences"]).strip()) for block in found["blocks"]]
    assert told_[0] == (["เคลียร์งานติด"], "นำเข้า")
    assert told_[1][0] == ["เคลียร์งานติด", "ก่อนเริ่ม"]
    assert "ให้สนิท แล้วแขวนป้าย ดูผัง" in told_[1][1]
    assert "Bolt · 12 Nm" in told_[2][1]
    assert told_[3] == (["เคลียร์งานติด", "Setext heading"], "# not a heading")


def test_plain_text_has_headings_pages_and_old_code_pages() -> None:
    text = (
        "SAFETY FIRST\n\nWear gloves.\n\n2.1 Tools\nA brass rod.\n\fNext page\n=========\nMore.\n\n1. Stop.\n2. Call.\n"
    )
    found = blocks("txt", text)
    assert [(block["section"], block["page"]) for block in found] == [
        (["SAFETY FIRST"], 1), (["SAFETY FIRST", "2.1 Tools"], 1), (["Next page"], 2), (["Next page"], 2),
    ]  # fmt: skip
    thai = read("txt", "ปิดวาล์วก่อน".encode("cp874"), 10, 1_000)
    assert thai["blocks"][0]["sentences"] == ["ปิดวาล์วก่อน\n"]


def test_too_much_text_and_none_at_all_are_said() -> None:
    assert "more than 100 characters" in read("txt", b"word " * 100, 10, 100)["error"]
    assert "holds no text" in read("md", b" \n\n", 10, 100)["error"]
    assert "12 pages" in read("txt", b"a\f" * 11 + b"a", 10, 100)["error"]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.sampled_from(["ปิดเครื่อง", "แล้วรอ", "ลมค้าง", " ", "\n", "Stop. ", "CONV-002", "<stop>", "?", "ๆ"]), max_size=60
    )
)
def test_sentences_lose_nothing_and_add_nothing(words: list[str]) -> None:
    text = cleaned("".join(words))
    assert "".join(sentences(text)).rstrip("\n") == text


def test_thai_is_cut_between_words_and_clauses() -> None:
    long = "กดหยุดฉุกเฉินแล้วแขวนป้ายล็อกเอาต์ที่เมนสวิตช์ก่อนเปิดฝาครอบทุกครั้ง" * 6
    found = sentences(long)
    assert len(found) > 1
    assert all(len(part) <= LONGEST_SENTENCE + 1 for part in found)
    assert not any(re.match(r"[\u0e30-\u0e3a\u0e47-\u0e4e]", part) for part in found), "never inside a written sign"
    assert len(sentences("ปิดวาล์วลมก่อน จากนั้นจึงเปิดประตู")) == 2


def test_passages_fit_the_encoder_overlap_and_stay_under_their_heading(encoder: Encoder) -> None:
    steps = "\n".join(f"{n}. ตรวจลูกกลิ้งตัวที่ {n} ว่าหมุนคล่องและไม่มีเสียงดัง แล้วขันโบลต์ให้แน่น" for n in range(1, 40))
    text = f"# สายพาน\n\n## ตรวจ\n\n{steps}\n\n## Close\n\nClose the cover.\n"
    found = cut(blocks("md", text), "สายพาน", encoder.token_count, encoder.max_tokens)
    checks = [passage for passage in found if passage.section[-1] == "ตรวจ"]
    assert len(checks) > 3
    assert [passage.text for passage in found if passage.section[-1] == "Close"] == ["Close the cover."]
    for passage in found:
        assert encoder.token_count(told("สายพาน", " › ".join(passage.section), passage.text)) <= encoder.max_tokens
    numbers = [[int(n) for n in re.findall(r"ตัวที่ (\d+)", passage.text)] for passage in checks]
    assert sorted({n for group in numbers for n in group}) == list(range(1, 40)), "nothing is lost"
    starts = [passage.text.splitlines()[0] for passage in checks[1:]]
    assert any(first in before.text for first, before in zip(starts, checks, strict=False)), "they overlap"


@settings(max_examples=80, deadline=None)
@given(st.lists(st.text("ab ", min_size=1, max_size=30), min_size=1, max_size=80), st.integers(30, 120))
def test_every_piece_comes_through_in_order(pieces: list[str], limit: int) -> None:
    numbered = [f"<{number}>{piece}" for number, piece in enumerate(pieces)]
    block = {"section": ["s"], "page": 1, "sentences": numbered}
    found = cut([block], "t", lambda text: len(text) // 3 + 2, limit)
    seen = [[int(number) for number in re.findall(r"<(\d+)>", passage.text)] for passage in found]
    assert all(group == list(range(group[0], group[-1] + 1)) for group in seen)
    assert [group[-1] for group in seen] == sorted({group[-1] for group in seen}), "each one goes on"
    assert sorted({number for group in seen for number in group}) == list(range(len(pieces)))
