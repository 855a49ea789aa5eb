"""Counts in place of numbers: the same bits however patients are divided, and quantiles within the error they name."""

import jax
import numpy as np
import pytest

import qspjax as qsp
from qspjax.execute import Chunked, Histogram, Quantiles, Stored, Vmap
from tests.test_stored import last, simulated


def parts(counts):
    return {name: array.tobytes() for name, array in counts.arrays().items()}


def peak_and_course(solution):
    concentration = solution.observed["concentration"]
    return {"last": concentration[-1], "course": concentration - 1.0}


@pytest.mark.parametrize("kind", [Quantiles, lambda function: Histogram(function, np.linspace(-1.0, 4.0, 21))])
def test_chunks_do_not_matter(tmp_path, kind):
    pytest.importorskip("zarr", reason="needs the extra `data`")
    pytest.importorskip("pyarrow", reason="needs the extra `data`")
    sketch = kind(peak_and_course)
    chunks = Stored(tmp_path, Chunked(32))
    results = [
        simulated(executor, save=(), reduce=sketch).reduced for executor in (Vmap(), Chunked(32), chunks, chunks)
    ]
    whole = {name: parts(counts) for name, counts in results[0].items()}
    for other in results[1:]:
        assert {name: parts(counts) for name, counts in other.items()} == whole
    assert results[0]["last"].counts.sum() == 99
    assert results[0]["last"].missing == 1
    assert results[0]["course"].missing.tolist() == [1] * 9


@pytest.mark.parametrize("damage", [lambda content: content[:40], lambda content: content[:-40], lambda _: b"", None])
def test_damaged_sketches_are_named(tmp_path, damage):
    pytest.importorskip("zarr", reason="needs the extra `data`")
    pytest.importorskip("pyarrow", reason="needs the extra `data`")

    def kept():
        return simulated(Stored(tmp_path, Chunked(50)), save=(), reduce=Quantiles(last)).reduced

    whole, sketches = parts(kept()), tmp_path / "sketches" / "00001.npz"
    content = sketches.read_bytes()
    sketches.unlink()
    if damage is not None:
        sketches.write_bytes(damage(content))
    with pytest.raises(ValueError, match=r"00001.npz must be sketches of .* damaged \(.*: remove tables.00001.parquet"):
        kept()
    (tmp_path / "tables" / "00001.parquet").unlink()
    assert parts(kept()) == whole


@pytest.mark.parametrize("bits", [4, 10])
def test_quantiles_are_within_the_error_that_is_said(bits):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(10_001, 2, 3)) * np.exp(5 * rng.normal(size=(10_001, 2, 3)))
    values[:3, 0, 0] = 0.0, -0.0, 5e-324
    values[:, 1, 1] = np.inf
    values[:, 1, 2] = np.nan
    got = Quantiles(last, bits).counted(values)
    shares = np.array([[0.0, 0.01, 0.25], [0.5, 0.975, 1.0]])
    expected = np.quantile(values, shares, axis=0, method="inverted_cdf")
    assert got.quantile(shares).shape == (2, 3, 2, 3)
    np.testing.assert_allclose(got.quantile(shares), expected, rtol=2.0 ** -(bits + 1), atol=5e-324)
    assert got.quantile(0.5).shape == (2, 3)
    assert got.missing.tolist() == [[0, 0, 0], [0, 0, 10_001]]
    assert Quantiles(last).counted(np.ones(3)).quantile(0.5) == pytest.approx(1.0, rel=2.0**-11)


def test_a_histogram_is_that_of_numpy():
    values = np.random.default_rng(1).normal(size=(1000, 2))
    edges = np.linspace(-2.0, 2.0, 9)
    counts = Histogram(last, edges).counted(values).counts
    for i in range(2):
        np.testing.assert_array_equal(counts[i, 1:-1], np.histogram(values[:, i], edges)[0])
        assert counts[i].sum() == 1000


def test_arguments_are_checked():
    for edges in ([1.0], [1.0, 1.0], [[0.0, 1.0]], [1.0, 0.0]):
        with pytest.raises(ValueError, match="Argument `edges` must"):
            Histogram(last, edges)
    for edges in (1.0, [], [1.0]):
        with pytest.raises(ValueError, match=r"be two or more numbers, of shape \(edges,\), but is of shape"):
            Histogram(last, edges)
    for sketch in (Quantiles, lambda function: Histogram(function, [0.0, 1.0])):
        with pytest.raises(ValueError, match="Argument `function` must be a function of one patient's solution"):
            sketch("concentration")
    for bits in (0, 21, 1.5):
        with pytest.raises(ValueError, match="Argument `bits` must"):
            Quantiles(last, bits)
    with pytest.raises(ValueError, match="Argument `q` must be from 0 to 1"):
        Quantiles(last).counted(np.ones(3)).quantile(1.5)


def test_inside_jit_there_is_nothing_to_count():
    def reduced(V):
        typical = qsp.models.OneCompartmentOral(CL=3.0, V=V, ka=1.2)
        return simulated(Vmap(), typical=typical, reduce=Quantiles(last)).reduced.counts

    with pytest.raises(ValueError, match="Argument `reduce` must be no sketch inside `jit`"):
        jax.jit(reduced)(30.0)
