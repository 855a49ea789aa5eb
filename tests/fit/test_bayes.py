"""Posteriors: closed forms, exact slopes, priors that integrate to one, calibration, files, bad input."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.integrate import dblquad, quad

import qspjax as qsp
from qspjax.fit import (
    M1,
    M3,
    NUTS,
    SMC,
    Additive,
    Experiment,
    Free,
    Measurements,
    Output,
    Problem,
    Proportional,
    RandomEffects,
    nlme,
    sample,
    simulation_based_calibration,
)
from qspjax.fit.bayes import _convergence, _priors, _sample
from qspjax.fit.bayes._density import Density
from qspjax.fit.bayes._line import Line
from qspjax.fit.bayes._metric import local
from tests.systems.marks import slow_for
from tests.systems.mixed import TIMES, Level, decays, levels

KEY = jax.random.key(0)


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


needs_numpyro, needs_blackjax = needs("numpyro"), needs("blackjax")
SHORT = NUTS(warmup=100, samples=50, chains=2, key=KEY)


# --- problems with known posteriors ---------------------------------------------------------------------------------

SD = 0.4
MEAN, SPREAD = np.array([3.0, 0.0]), np.array([2.0, 1.0])


def line(**parameters):
    """Return a straight line with normal priors, and its measurements."""
    value = np.array([4.1, 4.6, 6.2])
    priors = {
        "base": Free(4.0, transform=qsp.Identity(), prior=qsp.Normal(MEAN[0], sd=SPREAD[0])),
        "slope": Free(0.1, transform=qsp.Identity(), prior=qsp.Normal(MEAN[1], sd=SPREAD[1])),
    }
    problem = Problem(
        Level(base=4.0, slope=0.1),
        Experiment(Measurements(TIMES, value, output="level")),
        {"level": Output("level", Additive(SD))},
        priors | parameters,
    )
    return problem, value


def conjugate(value):
    """Return mean, covariance and log evidence of the straight line."""
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    covariance = np.linalg.inv(np.diag(SPREAD**-2) + A.T @ A / SD**2)
    mean = covariance @ (MEAN / SPREAD**2 + A.T @ value / SD**2)
    law = stats.multivariate_normal(A @ MEAN, A @ np.diag(SPREAD**2) @ A.T + SD**2 * np.eye(TIMES.size))
    return mean, covariance, law.logpdf(value)


def decay(**settings):
    """Return an exponential decay with parameters of every kind: with and without a prior, and one of the scale."""
    rng = np.random.default_rng(0)
    value = 10.0 * np.exp(-0.1 * TIMES) * (1.0 + 0.1 * rng.normal(size=TIMES.size))
    parameters = {
        "CL": Free(2.5, prior=qsp.LogNormal(3.0, cv=0.5)),
        "V": Free(28.0, bounds=(10.0, 60.0)),
        "cv": Free(
            0.15, bounds=(0.01, 1.0), transform=qsp.Log(10.0), prior=qsp.Normal(-1.0, sd=0.3), prior_scaled=True
        ),
    }
    return Problem(
        qsp.models.OneCompartment(CL=3.0, V=30.0),
        Experiment(Measurements(TIMES, value, output="concentration"), qsp.bolus(300.0, to="central")),
        {"concentration": Output("concentration", Proportional("cv"), below=settings.pop("below", None))},
        parameters,
        **settings,
    )


def close_to(posterior, mean, covariance, errors=4.0):
    """Check mean and standard deviation of draws within so many Monte Carlo errors."""
    for k, draws in enumerate(posterior.parameters.values()):
        sd, worth = np.sqrt(covariance[k, k]), _convergence.bulk_ess(draws)
        assert abs(draws.mean() - mean[k]) < errors * sd / np.sqrt(worth)
        assert abs(draws.std() / sd - 1.0) < errors / np.sqrt(2.0 * worth)


LONG = NUTS(warmup=300, samples=500, key=jax.random.key(1))


@pytest.fixture(scope="module")
def half_way(tmp_path_factory):
    """Return draws, the checkpoint at the end, and one from the middle of the run."""
    pytest.importorskip("numpyro")
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_sample, "SAVED_EVERY", 0.0)
        return run_with_copy(line()[0], LONG, folder, 450)


@pytest.fixture(scope="module")
def straight(half_way):
    return half_way[0]


def run_with_copy(problem, method, folder, middle):
    """Sample with a checkpoint, and keep a copy of it as it is after some iterations."""
    file, early = folder / "state.npz", folder / "early.npz"

    def keep(standing):
        if standing.done >= middle and not early.exists():
            early.write_bytes(file.read_bytes())

    return sample(problem, method, checkpoint=file, progress=keep), file, early


def test_nuts_finds_a_posterior_in_closed_form(straight):
    mean, covariance, _ = conjugate(line()[1])
    close_to(straight, mean, covariance)
    assert straight.divergences == 0
    assert straight.log_evidence is None
    assert (straight.summary()["rhat"] < 1.02).all()


@needs_blackjax
def test_smc_finds_a_posterior_in_closed_form_and_its_evidence():
    problem, value = line()
    seen = []
    posterior = sample(problem, SMC(particles=400, key=KEY), progress=seen.append)
    mean, covariance, evidence = conjugate(value)
    close_to(posterior, mean, covariance)
    spread = posterior.evidences.std(ddof=1)
    assert abs(posterior.log_evidence - evidence) < 4.0 * max(spread, 0.02)
    assert seen[-1].figures["temperature"] == 1.0
    assert "log evidence" in str(posterior)


@pytest.mark.slow
@needs_numpyro
def test_a_population_with_a_known_posterior():
    """Levels alone, with Omega and the noise known: mu is normal, and each eta given the data."""
    mixed, values = levels(subjects=8)
    known = {"mu": Free(4.5, transform=qsp.Identity(), prior=qsp.Normal(4.0, sd=1.5)), "slope": 0.3, "sigma": 0.3}
    omega = np.array([[1.0, 0.1], [0.1, 0.08]])
    mixed = type(mixed)(
        mixed.model,
        mixed.experiments,
        mixed.outputs,
        parameters=known,
        individual=mixed.individual,
        random=[RandomEffects(["eta_base", "eta_slope"], omega, fixed=True)],
    )
    A = np.stack([np.ones_like(TIMES), TIMES], axis=1)
    V = A @ omega @ A.T + 0.09 * np.eye(3)
    one = np.ones(3) @ np.linalg.inv(V)
    precision = 1.0 / 1.5**2 + len(values) * one.sum()
    mean = (4.0 / 1.5**2 + one @ (values - 0.3 * TIMES).sum(axis=0)) / precision
    posterior = sample(mixed, NUTS(warmup=300, samples=500, target=0.9, key=KEY))
    close_to(posterior, [mean], np.array([[1.0 / precision]]))
    gain = omega @ A.T @ np.linalg.inv(V)
    etas = (values - mean - 0.3 * TIMES) @ gain.T
    found = posterior.etas.mean(axis=(0, 1))
    sd = posterior.etas.std(axis=(0, 1))
    worth = [_convergence.bulk_ess(posterior.etas[..., i, k]) for i in range(8) for k in range(2)]
    assert (np.abs(found - etas) < 5.0 * sd / np.sqrt(np.reshape(worth, (8, 2)))).all()
    np.testing.assert_allclose(posterior.covariance, np.broadcast_to(omega, (4, 500, 2, 2)), rtol=1e-12)
    assert "eta_base[0]" in posterior.summary(effects=True).index


# --- slopes and densities -------------------------------------------------------------------------------------------

EXACT = qsp.solve.MatrixExponential()


SLOPES = {
    "problem": lambda: decay(method=EXACT),
    "censored": lambda: decay(method=EXACT, below=M3(6.0)),
    "mixed": lambda: decays(method=EXACT),
    "mixed, censored": lambda: decays(method=EXACT, below=M3(5.0)),
    "correlated": lambda: levels()[0],
}


@pytest.mark.parametrize("problem", slow_for([*SLOPES], "problem", "censored", "mixed"))
def test_slopes_against_central_differences(problem):
    density = Density(SLOPES[problem]())
    z = density.start + 0.3 * jnp.asarray(np.random.default_rng(0).normal(size=density.size))
    program = jax.jit(density)
    slope = jax.jit(jax.grad(density))(z)
    central = [(program(z + h) - program(z - h)) / 2e-5 for h in 1e-5 * np.eye(density.size)]
    np.testing.assert_allclose(slope, central, rtol=1e-6, atol=1e-6)
    here = jax.jit(lambda z: local(density, z, None))(z)
    np.testing.assert_allclose(here.value, program(z), rtol=1e-10)
    np.testing.assert_allclose(here.slope, slope, rtol=1e-8, atol=1e-8)
    assert (np.linalg.eigvalsh(here.covariance) > 0).all()


def test_a_density_is_that_of_natural_values():
    problem = decay(method=EXACT)
    density = Density(problem)
    x, natural = problem.start, problem.natural(problem.start)
    prior = (
        stats.lognorm(np.sqrt(np.log1p(0.25)), scale=3.0).logpdf(natural[0])
        + np.log(natural[0])
        - np.log(np.log(60.0) - np.log(10.0))
        + stats.norm(-1.0, 0.3).logpdf(x[2])
        - np.log(stats.norm(-1.0, 0.3).cdf(0.0) - stats.norm(-1.0, 0.3).cdf(-2.0))
    )
    np.testing.assert_allclose(density.log_prior_of(x), prior, rtol=1e-10)
    np.testing.assert_allclose(density.log_likelihood(density.start), problem.log_likelihood(x), rtol=1e-10)


@pytest.mark.parametrize("name", ["CL", "V", "cv"])
def test_priors_integrate_to_one(name):
    density = Density(decay(method=EXACT))
    k = density.names.index(name)
    one = jax.jit(lambda z: density.priors[k].log_density(density.line.point(z)[k]) + density.line.log_slope(z)[k])
    spread = float(density.line._width[k])
    mass, _ = quad(lambda z: float(np.exp(one(jnp.zeros(3).at[k].set(z)))), -9 * spread, 9 * spread, limit=200)
    np.testing.assert_allclose(mass, 1.0, atol=1e-6)


def test_points_of_the_line_and_back():
    bounds = Line(np.array([-1.0, 0.0, -np.inf, -np.inf]), np.array([3.0, np.inf, 2.0, np.inf]))
    z = jnp.array([0.7, -0.3, 0.4, 5.0])
    np.testing.assert_allclose(bounds.from_point(bounds.point(z)), z, rtol=1e-12)
    slope = jnp.diag(jax.jacfwd(bounds.point)(z))
    np.testing.assert_allclose(bounds.log_slope(z), jnp.log(jnp.abs(slope)), rtol=1e-12)
    assert np.isfinite(bounds.from_point(jnp.array([-1.0, 0.0, 2.0, 0.0]))).all()


@pytest.mark.parametrize("lkj", [1.0, 3.5])
def test_the_prior_of_a_covariance_integrates_to_one(lkj):
    one = RandomEffects({"a": 0.3}, sd_prior=qsp.LogNormal(0.5, omega=0.4), lkj=lkj)
    mass, _ = quad(lambda x: float(np.exp(_priors.log_density(one, jnp.array([x])))), -4.0, 3.0)
    np.testing.assert_allclose(mass, 1.0, atol=1e-6)
    pair = RandomEffects(["a", "b"], np.eye(2), sd_prior=qsp.LogNormal(0.5, omega=0.4), lkj=lkj)
    grid = np.stack(np.meshgrid(np.linspace(-3, 2, 81), np.linspace(-4.5, 2, 111), np.linspace(-2.5, 2.5, 201)), -1)
    values = jnp.exp(jax.jit(jax.vmap(lambda x: _priors.log_density(pair, x)))(jnp.asarray(grid.reshape(-1, 3))))
    cell = np.prod([5.0 / 80, 6.5 / 110, 5.0 / 200])
    np.testing.assert_allclose(values.sum() * cell, 1.0, atol=5e-3)


@pytest.mark.parametrize("lkj", [1.0, 3.5])
def test_the_prior_of_correlations_of_three(lkj):
    """Its constant by integration over correlations, and draws of it against the known beta law of each."""
    block = RandomEffects(["a", "b", "c"], np.eye(3), sd_prior=qsp.LogNormal(1.0, omega=0.2), lkj=lkj)

    def inner(rho, sigma):
        left = (1.0 - rho**2) * (1.0 - sigma**2)
        root = np.sqrt(left)
        part, _ = quad(lambda t: (left - t**2) ** (lkj - 1.0), -root, root)
        return part

    mass, _ = dblquad(inner, -1.0, 1.0, -1.0, 1.0, epsabs=1e-6)
    np.testing.assert_allclose(_priors._log_constant(3, lkj), np.log(mass), atol=1e-5)
    keys = jax.random.split(jax.random.key(0), 4000)
    factors = np.asarray(jax.jit(jax.vmap(lambda key: block.factor(_priors.drawn(block, key))))(keys))
    whole = factors @ factors.swapaxes(1, 2)
    sd = np.sqrt(np.diagonal(whole, axis1=1, axis2=2))
    law = stats.beta(lkj + 0.5, lkj + 0.5, loc=-1.0, scale=2.0)
    for i, j in ((1, 0), (2, 0), (2, 1)):
        assert stats.kstest(whole[:, i, j] / sd[:, i] / sd[:, j], law.cdf).pvalue > 0.001
    assert stats.kstest(np.log(sd[:, 2]) / 0.2, "norm").pvalue > 0.001


def test_draws_from_the_prior_are_those_of_its_density():
    """With draws from a density p on the whole space, E[d log p / dx_i] = 0 and E[x_j d log p / dx_i] = -1 (i = j)."""
    block = RandomEffects(["a", "b", "c"], np.eye(3), sd_prior=qsp.LogNormal(0.7, omega=0.3), lkj=2.5)
    keys = jax.random.split(jax.random.key(2), 8000)
    x = jax.jit(jax.vmap(lambda key: _priors.drawn(block, key)))(keys)
    slope = np.asarray(jax.jit(jax.vmap(jax.grad(lambda x: _priors.log_density(block, x))))(x))
    for found, expected in ((slope, 0.0), (np.asarray(x)[:, :, None] * slope[:, None], -np.eye(6))):
        error = found.std(axis=0) / np.sqrt(len(found))
        assert (np.abs(found.mean(axis=0) - expected) < 4.5 * error).all()


# --- runs -----------------------------------------------------------------------------------------------------------


def goes_on(method, whole, file, early):
    problem = line()[0]
    later = sample(problem, method, checkpoint=early)
    np.testing.assert_array_equal(later.z, whole.z)
    for name, values in whole.stats.items():
        np.testing.assert_array_equal(later.stats[name], values)
    other = line(base=Free(4.0, transform=qsp.Identity(), prior=qsp.Normal(3.0, sd=2.5)))[0]
    with pytest.raises(ValueError, match="must be the checkpoint of this sampling, but is that of another one"):
        sample(other, method, checkpoint=file)
    early.write_text("nothing")
    with pytest.raises(ValueError, match="must be a checkpoint, but cannot be read"):
        sample(problem, method, checkpoint=early)


def test_chains_go_on_from_where_they_were(half_way):
    goes_on(LONG, *half_way)


@pytest.mark.slow
@needs_blackjax
def test_particles_go_on_from_where_they_were(tmp_path, monkeypatch):
    monkeypatch.setattr(_sample, "SAVED_EVERY", 0.0)
    method = SMC(particles=50, runs=2, moves=2, steps=4, share=0.9, key=KEY)
    goes_on(method, *run_with_copy(line()[0], method, tmp_path, 3))


class Fragile(Level):
    """A level whose slope is no number above 0.5."""

    def vector_field(self, t, y):
        return {"level": jnp.where(self.slope > 0.5, jnp.nan, self.slope)}


def fragile(start=0.1):
    problem, value = line(slope=Free(start, transform=qsp.Identity(), bounds=(-2.0, 2.0)))
    return Problem(Fragile(base=4.0, slope=0.1), problem.experiments, problem.outputs, problem.parameters)


def test_where_a_simulation_fails_the_density_is_zero():
    density = Density(fragile())
    bad = density.packed(jnp.array([4.0, 0.7]), jnp.zeros((0, 0)))
    value, slope = jax.jit(jax.value_and_grad(density))(bad)
    assert value == -np.inf
    assert np.isfinite(slope).all()


@pytest.mark.slow
@needs_numpyro
def test_chains_stay_where_a_problem_can_be_simulated():
    posterior = sample(fragile(), SHORT)
    assert np.isfinite(posterior.z).all()
    assert posterior.parameters["slope"].max() <= 0.5
    assert np.isfinite(posterior.stats["lp"]).all()


def test_a_start_that_fails_is_explained():
    with pytest.raises(RuntimeError, match="No chain can begin at the start. Experiment `experiment` failed"):
        sample(fragile(start=1.5), NUTS(jitter=0.0, key=KEY))


@pytest.mark.slow
@needs_numpyro
def test_a_population_from_its_mode_and_its_files(tmp_path):
    mixed = decays(method=EXACT)
    fit = nlme(mixed)
    posterior = sample(mixed, SHORT, start=fit)
    assert abs(np.median(posterior.parameters["tCL"]) / fit.parameters["tCL"] - 1.0) < 0.3
    assert posterior.etas.shape == (2, 50, 5, 1)
    np.testing.assert_allclose(posterior.covariance[..., 0, 0], posterior.parameters["var(eta_CL)"], rtol=1e-12)
    file = tmp_path / "posterior.nc"
    posterior.to_netcdf(file)
    check_netcdf(file, posterior, {"chain": 2, "draw": 50, "subject": 5, "effect": 1, "effect_other": 1})
    table = posterior.densities(points=400)
    for name in mixed.names:
        mine = table["PARAMETER"] == name
        mass = np.trapezoid(table["POSTERIOR"][mine], table["VALUE"][mine])
        np.testing.assert_allclose(mass, 1.0, atol=0.05)


def test_a_file_of_draws(straight, tmp_path):
    file = tmp_path / "posterior.nc"
    straight.to_netcdf(file)
    check_netcdf(file, straight, {"chain": 4, "draw": 500})
    assert not [path for path in tmp_path.iterdir() if path != file]


def check_netcdf(file, posterior, dims):
    """Read a file with xarray, and with ArviZ where it is installed."""
    import xarray

    problem = posterior.problem
    with xarray.open_dataset(file, group="posterior", engine="h5netcdf") as own:
        assert dict(own.sizes) == dims
        for name in problem.free:
            np.testing.assert_array_equal(own[name], posterior.parameters[name])
        if "eta" in own:
            np.testing.assert_array_equal(own["eta"], posterior.etas)
    with xarray.open_dataset(file, group="sample_stats", engine="h5netcdf") as own:
        np.testing.assert_array_equal(own["diverging"], posterior.stats["diverging"])
        np.testing.assert_array_equal(own["lp"], posterior.stats["lp"])
    if importlib.util.find_spec("arviz") is not None:
        import arviz

        read = arviz.from_netcdf(file)
        groups = {"posterior", "sample_stats", "log_likelihood", "posterior_predictive", "observed_data"}
        assert groups == {name.strip("/") for name in (read.groups() if callable(read.groups) else read.groups)} - {""}
        (name,) = problem.outputs
        draws = read["log_likelihood"][name]
        assert draws.dims == ("chain", "draw", f"{name}_row")
        total = draws.sum(f"{name}_row").values[0, 0]
        np.testing.assert_allclose(total, posterior._density.log_likelihood(posterior.z[0, 0]), rtol=1e-8)
        np.testing.assert_array_equal(read["observed_data"][name], posterior._density.likelihood.rows[0].value)
        assert np.isfinite(read["posterior_predictive"][name]).all()


def test_diagnostics_are_those_of_arviz(straight):
    arviz = pytest.importorskip("arviz")
    rng = np.random.default_rng(0)
    walk = np.cumsum(rng.normal(size=(4, 301)), axis=1) * 0.05 + rng.standard_t(2, size=(4, 301))
    for draws in (walk, rng.normal(size=(2, 100)), straight.parameters["base"]):
        np.testing.assert_allclose(_convergence.rhat(draws), float(arviz.rhat(draws)), rtol=1e-10)
        np.testing.assert_allclose(_convergence.bulk_ess(draws), float(arviz.ess(draws)), rtol=1e-10)
        np.testing.assert_allclose(_convergence.tail_ess(draws), float(arviz.ess(draws, method="tail")), rtol=1e-10)
    assert _convergence.bulk_ess(np.ones((2, 10))) == 20.0
    assert np.isnan(_convergence.rhat(np.ones((2, 3))))


def test_pictures_and_their_tables(straight):
    table = straight.columns()
    assert [*table] == ["CHAIN", "DRAW", "DIVERGING", "base", "slope"]
    assert qsp.plot.traces(table).axes[0].get_title() == "base"
    ranks = straight.ranks(bins=10)
    assert ranks["COUNT"].sum() == 2 * straight.z[..., 0].size
    assert len(qsp.plot.ranks(ranks, names=["slope"]).axes) >= 1
    densities = straight.densities()
    mine = densities["PARAMETER"] == "base"
    expected = stats.norm(MEAN[0], SPREAD[0]).pdf(densities["VALUE"][mine])
    np.testing.assert_allclose(densities["PRIOR"][mine], expected, rtol=1e-8)
    mean, covariance, _ = conjugate(line()[1])
    exact = stats.norm(mean[0], np.sqrt(covariance[0, 0])).pdf(densities["VALUE"][mine])
    np.testing.assert_allclose(densities["POSTERIOR"][mine], exact, atol=0.15 * exact.max())
    assert len(qsp.plot.posteriors(densities).axes) >= 2
    with pytest.raises(ValueError, match="must name a parameter of the table"):
        qsp.plot.traces(table, names=["nothing"])


@pytest.mark.slow
@needs_numpyro
def test_calibration():
    problem, _ = line()
    seen = []
    method = NUTS(warmup=150, samples=150, key=KEY)
    found = simulation_based_calibration(
        problem, method, simulations=60, lanes=60, progress=lambda *counts: seen.append(counts), key=KEY
    )
    assert found.rank.shape == (60, 2)
    assert min(found.p_values.values()) > 0.005
    assert seen == [(60, 60)]
    assert found.failed == 0
    assert len(found.to_dataframe()) == 120
    assert found.ranks(bins=5)["COUNT"].sum() == 120
    wrong = found.__class__(**{**vars(found), "rank": found.rank // 2})
    assert max(wrong.p_values.values()) < 1e-6


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: sample(1, SHORT), "Argument `problem` must be a Problem or a MixedModel, but is of type int."),
        (
            lambda: sample(line()[0], 3),
            r"Argument `method` must be a method such as NUTS\(key=...\), but is of type int.",
        ),
        (lambda: sample(line()[0], SHORT, start=[1.0]), "Argument `start` must have 2 finite numbers"),
        (
            lambda: NUTS(samples=0, key=KEY),
            "Argument `samples` must be a whole number of at least 1, but is 0.",
        ),
        (lambda: NUTS(target=1.5, key=KEY), "Argument `target` must lie between 0 and 1, but is 1.5."),
        (lambda: NUTS(jitter=-1.0, key=KEY), "Argument `jitter` must be at least 0, but is -1."),
        (lambda: SMC(share=0.0, key=KEY), "Argument `share` must lie between 0 and 1, but is 0."),
        (
            lambda: SMC(particles=1, key=KEY),
            "Argument `particles` must be a whole number of at least 10, but is 1.",
        ),
        (
            lambda: sample(line()[0], SMC(key=KEY), start=[1.0, 2.0]),
            r"Argument `start` must be left out with SMC\(\)",
        ),
        (
            lambda: sample(line(base=Free(1.0, transform=qsp.Identity()))[0], SMC(key=KEY)),
            "Argument `prior` must have a distribution, or no prior but bounds, .* of `base` has neither.",
        ),
        (
            lambda: simulation_based_calibration(line(base=Free(1.0, prior=lambda value: -value))[0], key=KEY),
            "Argument `prior` must have a distribution, or no prior but bounds, .* of `base` has a function.",
        ),
        (
            lambda: Density(line(base=Free(1.0, bounds=(0.1, 2.0), prior=qsp.Uniform(3.0, 4.0)))[0]),
            "Argument `prior` must have a density within the bounds of `base`, but has none.",
        ),
        (
            lambda: simulation_based_calibration(line()[0], SMC(key=KEY), key=KEY),
            r"Argument `method` must be NUTS\(...\)",
        ),
        (
            lambda: simulation_based_calibration(decay(below=M1(1.0)), key=KEY),
            "Argument `problem` must keep measurements below",
        ),
        (lambda: RandomEffects({"a": 0.1}, lkj=0.0), "Argument `lkj` must be positive, but is 0."),
        (lambda: RandomEffects({"a": 0.1}, sd_prior=1.0), "Argument `sd_prior` must be a distribution"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_missing_package_is_named(monkeypatch):
    from qspjax import _extras

    def absent(name):
        raise ImportError(name)

    monkeypatch.setattr(_extras.importlib, "import_module", absent)
    with pytest.raises(ImportError, match=r"needs the package numpyro. Install it with: pip install 'qspjax\[bayes\]'"):
        sample(line()[0], SHORT)
