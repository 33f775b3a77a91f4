"""The examples, and every input that ever broke a parser, through the targets of the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest
from fuzz_targets import TARGETS, seeds
from hypothesis import given, settings
from hypothesis import strategies as st

_FOUND = sorted(path for path in (Path(__file__).parent / "regressions").glob("*/*") if path.is_file())


@pytest.mark.parametrize("name", TARGETS)
def test_the_examples_pass_every_target(name: str) -> None:
    found = seeds()[name]
    assert found
    for data in found:
        TARGETS[name](data)


@pytest.mark.parametrize("path", _FOUND, ids=lambda path: f"{path.parent.name}-{path.name[:14]}")
def test_what_once_broke_a_parser_does_not_any_more(path: Path) -> None:
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_cut_and_damaged_examples_pass_every_target(name: str) -> None:
    found = seeds()[name]

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.sampled_from(found), st.integers(0, 10_000), st.binary(max_size=6), st.integers(0, 3))
    def damaged(data: bytes, at: int, put: bytes, gone: int) -> None:
        at %= len(data) + 1
        TARGETS[name](data[:at] + put + data[at + gone :])

    damaged()
