"""The kinds of problem a model remembers draw what is near them, and nothing else about a vector depends on company."""

from __future__ import annotations

import numpy as np
import pytest

from edge.embedding.graph import kinds_int8
from edge.embedding.kinds import Kinds, unit
from edge.embedding.runtime import integer_product
from edge.errors import Stop

WIDTH = 384


@pytest.fixture(scope="module")
def centres():
    return unit(np.random.default_rng(4).normal(size=(3_000, WIDTH)).astype(np.float32))


def near(centres, at, noise, seed=0):
    wobble = np.random.default_rng(seed).normal(size=(len(at), WIDTH)).astype(np.float32)
    return unit(centres[at] + noise * unit(wobble))


def test_two_tellings_of_a_kind_meet_and_two_kinds_stay_apart(centres):
    kinds = Kinds.of(centres)
    one, other = near(centres, [5, 6], 1.2, seed=1), near(centres, [5, 6], 1.2, seed=2)
    before, after = one @ other.T, kinds.drawn(one) @ kinds.drawn(other).T
    assert (np.diag(after) > np.diag(before) + 0.1).all()
    assert (np.abs(after[[0, 1], [1, 0]]) < 0.2).all()


def test_it_is_the_step_that_it_says(centres):
    kinds = Kinds.of(centres)
    rows = near(centres, range(40), 1.0)
    kept = kinds.tensors()
    exact = kept["centres"] * kept["scale"][:, None]
    say = np.exp((rows @ exact.T) / 0.015)
    say /= say.sum(axis=1, keepdims=True)
    wanted = unit((rows + 0.5 * say @ exact).astype(np.float32))
    assert (kinds.drawn(rows) * wanted).sum(axis=1).min() > 0.9999


def test_alone_and_in_any_batch_the_bits_are_the_same(centres):
    kinds = Kinds.of(centres)
    rows = near(centres, range(300), 1.5)
    together = kinds.drawn(rows)
    for size in (1, 2, 3, 7, 64):
        parts = [kinds.drawn(rows[start : start + size]) for start in range(0, 300, size)]
        assert np.array_equal(np.concatenate(parts), together), size
    shuffled = np.random.default_rng(1).permutation(300)
    assert np.array_equal(kinds.drawn(np.asfortranarray(rows[shuffled])), together[shuffled])


def test_the_sums_are_exact_at_their_largest():
    top = np.full((1, 1024), 127, np.float32) @ np.full((1024, 1), 127, np.float32)
    assert int(top[0, 0]) == 1024 * 127 * 127 < 2**24
    with pytest.raises(ValueError, match="1025 dimensions"):
        Kinds(np.zeros((2, 1025), np.float32), np.ones(2, np.float32))


def test_the_product_of_onnx_runtime_is_that_of_numpy(centres, tmp_path):
    product, whole, scale = kinds_int8(centres)
    (tmp_path / Kinds.PRODUCT).write_bytes(product)
    rows = near(centres, range(70), 1.2)
    by_numpy, by_ort = Kinds(whole, scale), Kinds(whole, scale, product=integer_product(tmp_path / Kinds.PRODUCT))
    together = by_numpy.drawn(rows)
    assert np.array_equal(by_ort.drawn(rows), together)
    assert np.array_equal(np.concatenate([by_ort.drawn(rows[at : at + 1]) for at in range(70)]), together)
    # On processors that add two products in 16 bits, no two neighbours may overflow together.
    size = np.abs(whole.astype(np.int64))
    assert 255 * (size[:, 1:] + size[:, :-1]).max() <= 2**15 - 1
    assert ((unit(by_numpy.vectors()) * centres).sum(axis=1) > 0.999).all()
    (tmp_path / Kinds.PRODUCT).write_bytes(b"torn")
    with pytest.raises(Stop, match=r"kinds\.onnx"):
        integer_product(tmp_path / Kinds.PRODUCT)


def test_what_is_written_is_read_again(centres, tmp_path):
    rows = near(centres, range(20), 1.0)
    kinds = Kinds.of(centres)
    kinds.write(tmp_path / Kinds.FILE)
    assert np.array_equal(Kinds.read(tmp_path / Kinds.FILE).drawn(rows), kinds.drawn(rows))


def test_few_kinds_and_an_empty_vector(centres):
    kinds = Kinds.of(centres[:3])
    drawn = kinds.drawn(np.concatenate([np.zeros((1, WIDTH), np.float32), centres[:1]]))
    assert np.isfinite(drawn).all()
    assert (drawn[1] @ centres[0]) > 0.999
