"""Texts of several callers share batches; one caller's mishap and one caller's bulk are not another's."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from edge.embedding.batches import Batches
from edge.embedding.manifest import Floats

Row = tuple[int, ...]


class Sums:
    """Adds up each row, which tells whether every caller got the answers to its own texts, and in order."""

    def __init__(self) -> None:
        self.seen: list[list[Row]] = []
        self.running = self.most = 0
        self.lock = threading.Lock()
        self.gate = threading.Event()
        self.gate.set()

    def shape_of(self, tokens: int) -> int:
        return tokens

    def rows_of(self, shape: int) -> int:
        return max(1, 64 // shape)

    def run(self, rows: Sequence[Row]) -> Floats:
        with self.lock:
            self.seen.append(list(rows))
            self.running += 1
            self.most = max(self.most, self.running)
        assert self.gate.wait(20)
        with self.lock:
            self.running -= 1
        if any(row[0] == 666 for row in rows):
            raise RuntimeError("this row can not be read")
        return np.array([[sum(row)] for row in rows], np.float32)


def _row(length: int, number: int) -> Row:
    return (number, *[1] * (length - 1))


def _until(device: Sums, batches: int) -> None:
    for _ in range(2000):
        if len(device.seen) >= batches:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{len(device.seen)} batches instead of {batches}")


def test_every_caller_gets_its_own_answers_in_its_own_order() -> None:
    device = Sums()
    batches = Batches(device, 2)

    def call(number: int) -> None:
        rows = [_row(1 + (number * 7 + i * 3) % 9, number * 100 + i) for i in range(40)]
        assert [float(v[0]) for v in batches(rows)] == [float(sum(row)) for row in rows]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(call, range(24)))
    assert device.most <= 2
    assert batches.waiting == 0
    assert batches([]) == []
    for batch in device.seen:
        assert len({len(row) for row in batch}) == 1
        assert len(batch) <= device.rows_of(len(batch[0]))


def test_a_call_is_run_from_its_shortest_texts_to_its_longest() -> None:
    device = Sums()
    Batches(device, 1)([_row(length, 1) for length in (9, 2, 30, 2, 9, 1)])
    assert [len(batch[0]) for batch in device.seen] == [1, 2, 9, 30]


def test_texts_that_gathered_while_a_batch_ran_share_the_next_one() -> None:
    device = Sums()
    device.gate.clear()
    batches = Batches(device, 1)
    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(batches, [_row(4, 0)])
        _until(device, 1)
        others = [pool.submit(batches, [_row(4, n)]) for n in range(1, 6)]
        for _ in range(2000):
            if batches.waiting == 5:
                break
            threading.Event().wait(0.005)
        device.gate.set()
        assert [float(f.result(20)[0][0]) for f in (first, *others)] == [3, 4, 5, 6, 7, 8]
    assert [len(batch) for batch in device.seen] == [1, 5]


def test_one_question_does_not_wait_behind_a_bulk() -> None:
    device = Sums()
    device.gate.clear()
    batches = Batches(device, 1)
    with ThreadPoolExecutor(2) as pool:
        bulk = pool.submit(batches, [_row(8, n) for n in range(200)])
        _until(device, 1)
        question = pool.submit(batches, [_row(5, 7)])
        for _ in range(2000):
            if batches.waiting == 193:
                break
            threading.Event().wait(0.005)
        device.gate.set()
        assert float(question.result(20)[0][0]) == 11
        assert len(bulk.result(20)) == 200
    # The batch that ran when it came, at most one more of the bulk, then the question.
    assert [batch for batch in device.seen[:3] if batch[0] == _row(5, 7)]


def test_a_batch_that_fails_fails_its_callers_alone() -> None:
    device = Sums()
    batches = Batches(device, 1)
    with pytest.raises(RuntimeError, match="can not be read"):
        batches([_row(3, 666), *(_row(9, n) for n in range(50))])
    assert batches.waiting == 0
    assert len(device.seen) == 1  # the rest would have been encoded for nobody
    assert [float(v[0]) for v in batches([_row(3, 1), _row(9, 1)])] == [3, 9]


def test_a_long_call_uses_every_place() -> None:
    device = Sums()
    device.gate.clear()
    batches = Batches(device, 2)
    with ThreadPoolExecutor(1) as pool:
        bulk = pool.submit(batches, [_row(8, n) for n in range(64)])
        _until(device, 2)
        device.gate.set()
        assert len(bulk.result(20)) == 64
    assert device.most == 2
