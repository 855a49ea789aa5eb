"""The latent hybrid model against its rivals, on the simulation of its paper: the order of methods is reproduced.

    python benchmarks/lhm.py --out lhm.json --markdown
    python benchmarks/lhm.py --quick

Set-up, after Qian et al. 2021 (arXiv:2106.02875) and the code that its authors published
(github.com/vanderschaarlab/Hybrid-ODE-NeurIPS-2021), with data made here: dexamethasone in COVID-19, four expert states
(disease, immune reaction, immunity, drug in tissue) with all constants 1 and Hill coefficients 2, driven by drug in
plasma; two more states with slopes tanh(A z), A half sparse; 20 measurements, linear in the six states with half of the
coefficients 0, noise 0.2, standardised. States start at exponential draws of mean 0.01; one dose, up to 10, on one of
days 0 to 13; days 0 to 14, of whose measurements half are missing at random. 10, 100 or 500 patients to train, 100 to
validate, 1000 to test: days 5 to 14 are predicted from days 0 to 4.

All methods have the encoder of the paper (recurrent, backwards; `RecurrentEncoder`), a linear decoder, and maximise the
evidence lower bound by Adam (0.01, batches of 10, 400 steps, the best of 3 starts on validation patients); what the
expert knows is true and fixed.

    LHM        the expert's ODE, a latent neural ODE beside it (`LatentHybrid`)
    expert     the expert's ODE and the decoder
    NODE       a neural ODE of 6 states with 60 hidden units. In the published code it sees a dose at its instant only,
               which a solver hardly ever meets: here it sees no dose (its encoder does), to the same effect
    residual   the expert, and a NODE for what it leaves unexplained in validation patients
    ensemble   non-negative weights of expert and NODE, for each day, from validation patients
    NODE, told a NODE that sees how much was given until now; not in the paper

What differs: the encoder is a GRU (there an LSTM), and gaps and masks are inputs of it, too. The first data set has the
coefficients of the paper, with patients and noise of its own; the others have coefficients of their own.
"""

import argparse
import json
import time
from pathlib import Path
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from scipy.optimize import nnls

import qspjax as qsp

SIZES = (10, 100, 500)
VALIDATION, TEST = 100, 1000
OUTPUTS = tuple(f"x{i}" for i in range(20))
LATENT, LARGEST, SEEN, LAST = 2, 10.0, 5, 14  # latent states, the largest dose, days that are seen, the last day
DAYS = jnp.arange(LAST + 1.0)
METHODS = ("LHM", "ensemble", "residual", "expert", "NODE", "NODE, told")
PUBLISHED = {  # RMSE of the authors' run, results/results_sample.txt
    "LHM": (0.6176, 0.6246, 0.6214),
    "ensemble": (0.7305, 0.7132, 0.7403),
    "expert": (0.7588, 0.7295, 0.8552),
    "residual": (0.8043, 0.6859, 0.8348),
    "NODE": (0.8416, 0.8009, 0.7743),
}
SOLVER = qsp.solve.Explicit(rtol=1e-5, atol=1e-7)


class DiseaseState(NamedTuple):
    disease: jax.Array
    reaction: jax.Array
    immunity: jax.Array
    plasma: jax.Array
    tissue: jax.Array


class Dexamethasone(qsp.AbstractModel):
    """The expert's model: a virus, the immune system that clears it, and harms, and a drug that calms it."""

    def initial(self):
        return DiseaseState(0.0, 0.0, 0.0, 0.0, 0.0)

    def vector_field(self, t, y):
        harm = y.reaction**2 / (1.0 + y.reaction**2)
        return DiseaseState(
            disease=y.disease * (1.0 - y.immunity**2 - y.reaction),
            reaction=y.disease - y.reaction + y.disease * y.reaction + harm - y.tissue * y.reaction,
            immunity=y.reaction,
            plasma=-y.plasma,
            tissue=y.plasma - y.tissue,
        )

    def observe(self, t, y):
        return {}


class Given(NamedTuple):
    plasma: jax.Array


class Doses(qsp.AbstractModel):
    """What a model without pharmacology knows: how much was given until now."""

    def initial(self):
        return Given(0.0)

    def vector_field(self, t, y):
        return Given(0.0)

    def observe(self, t, y):
        return {}


class Bounded(eqx.Module):
    """A network whose slopes are between -1 and 1."""

    layers: tuple[eqx.nn.Linear, ...]

    def __call__(self, z):
        for layer in self.layers:
            z = jnp.tanh(layer(z))
        return z


class Patients(NamedTuple):
    """Measurements (patients, days, 20), whether they were made, and one dose each."""

    values: jax.Array
    made: jax.Array
    amount: jax.Array
    at: jax.Array

    def some(self, which):
        return Patients(*(leaf[which] for leaf in self))


EXPERT = ("disease", "reaction", "immunity", "tissue")


def nothing(_):
    """Return the slopes of no latent states."""
    return jnp.zeros(0)


def simulated(hybrid, patients, start):
    """Return the measurements of a model, shape (patients, days, 20)."""
    cohort = qsp.Cohort.of(hybrid, {}, size=len(patients.amount))
    doses = qsp.bolus(patients.amount, to="plasma", at=patients.at)
    solution = qsp.simulate_cohort(cohort, doses, DAYS, initial=jax.vmap(hybrid.starting)(start), method=SOLVER)
    return jnp.stack([solution.observed[name] for name in OUTPUTS], axis=-1)


def coefficients(seed, keys):
    """Return those of the two states that the expert does not know, shape (2, 6), and of measurements, (20, 7).

    Of seed -1 they are those of the paper: the first numbers of numpy's generator, as its code draws them.
    """
    states = len(EXPERT) + LATENT
    if seed == -1:
        legacy = np.random.RandomState(666)
        shapes = (len(OUTPUTS), states + 1), (states, LATENT)
        measured, unknown = (legacy.randn(*shape) * legacy.binomial(1, 0.5, shape) for shape in shapes)
        return jnp.asarray(unknown.T) / states, jnp.asarray(measured)

    def sparse(key, shape):
        first, second = jax.random.split(key)
        return jax.random.normal(first, shape) * jax.random.bernoulli(second, 0.5, shape)

    return sparse(keys[0], (LATENT, states)) / states, sparse(keys[1], (len(OUTPUTS), states + 1))


def data_set(seed):
    """Return the patients of one data set: those to train, to validate and to test."""
    keys = jax.random.split(jax.random.key(100 + seed), 9)
    size, states = SIZES[-1] + VALIDATION + TEST, len(EXPERT) + LATENT
    unknown, measured = coefficients(seed, keys[1:3])
    slopes = eqx.nn.Linear(states, LATENT, use_bias=False, key=keys[0])
    slopes = eqx.tree_at(lambda m: m.weight, slopes, unknown)
    decoder = eqx.nn.Linear(states, len(OUTPUTS), key=keys[0])
    decoder = eqx.tree_at(lambda m: (m.weight, m.bias), decoder, (measured[:, :-1], measured[:, -1]))
    truth = qsp.models.LatentHybrid(Dexamethasone(), Bounded((slopes,)), decoder, OUTPUTS, LATENT, EXPERT)
    start = 0.01 * jax.random.exponential(keys[3], (size, states))
    amount = LARGEST * jax.random.uniform(keys[4], (size,))
    patients = Patients(None, None, amount, jax.random.randint(keys[5], (size,), 0, LAST).astype(float))
    values = simulated(truth, patients, start)
    values = values + 0.2 * jax.random.normal(keys[6], values.shape)
    values = (values - values.mean((0, 1))) / values.std((0, 1))
    patients = patients._replace(values=values, made=jax.random.bernoulli(keys[7], 0.5, values.shape))
    ends = np.cumsum([SIZES[-1], VALIDATION, TEST])
    return tuple(patients.some(slice(end - n, end)) for end, n in zip(ends, (SIZES[-1], VALIDATION, TEST), strict=True))


class Learner(eqx.Module):
    """A model and its encoder; with an expert, states begin near 0 and are positive, else anywhere."""

    hybrid: qsp.models.LatentHybrid
    encoder: qsp.models.RecurrentEncoder
    expert: bool = eqx.field(static=True)
    told: jax.Array  # whether a model without an expert sees doses; no weight, as it is no float

    @classmethod
    def of(cls, method, key):
        keys = jax.random.split(key, 4)
        latent = {"LHM": LATENT, "expert": 0}.get(method, len(EXPERT) + LATENT)
        expert = method in ("LHM", "expert")
        sees = EXPERT if expert else ("plasma",)
        states = len(sees) + latent
        if not expert:
            slopes = Bounded((eqx.nn.Linear(states, 60, key=keys[0]), eqx.nn.Linear(60, latent, key=keys[1])))
        else:
            slopes = Bounded((eqx.nn.Linear(states, latent, key=keys[0]),)) if latent else nothing
        decoder = eqx.nn.Linear(states, len(OUTPUTS), key=keys[2])
        model = Dexamethasone() if expert else Doses()
        hybrid = qsp.models.LatentHybrid(model, slopes, decoder, OUTPUTS, latent, sees)
        begins = states if expert else latent
        encoder = qsp.models.RecurrentEncoder(
            len(OUTPUTS), 1, states=begins, hidden=2 * len(OUTPUTS), key=keys[3], horizon=float(LAST)
        )
        return cls(hybrid, encoder, expert, told=jnp.array(method == "NODE, told"))

    def encoded(self, patients, days):
        """Return where states begin, as seen from the first days: means and logarithms of variances."""
        given = jnp.where(patients.at[:, None] == DAYS, patients.amount[:, None] / LARGEST, 0.0)[..., None]
        read = jax.vmap(lambda *seen: self.encoder(DAYS[:days], *(one[:days] for one in seen)))
        mean, log_variance = read(patients.values, patients.made, given)
        return (jnp.exp(mean) / 10.0, log_variance - 5.0) if self.expert else (mean, log_variance)

    def predicted(self, patients, start):
        if not self.expert:  # what was given until now begins at 0, and is of the size 1
            start = jnp.concatenate([jnp.zeros((len(start), 1)), start], axis=1)
            patients = patients._replace(amount=jnp.where(self.told, patients.amount / LARGEST, 0.0))
        return simulated(self.hybrid, patients, start)

    def loss(self, patients, key):
        """Return the negative evidence lower bound of a patient, up to a constant."""
        first, second = jax.random.split(key)
        mean, log_variance = self.encoded(patients, LAST + 1)
        sd = jnp.exp(0.5 * log_variance)
        misfit = self.predicted(patients, mean + sd * jax.random.normal(first, mean.shape)) - patients.values
        fit = jnp.sum(jnp.where(patients.made, misfit, 0.0) ** 2, axis=(1, 2))
        if self.expert:  # against an exponential prior of mean 0.01, from 100 draws
            noise = jax.random.normal(second, (100, *mean.shape))
            draws = jnp.maximum(mean + sd * noise, 1e-7)
            log_q = -0.5 * ((draws - mean) / sd) ** 2 - jnp.log(sd)
            apart = jnp.mean(jnp.sum(log_q + 100.0 * draws, axis=-1), axis=0)
        else:
            apart = 0.5 * jnp.sum(mean**2 + sd**2 - 1.0 - log_variance, axis=-1)
        return jnp.mean(fit + apart)


OPTIMISER = optax.apply_if_finite(optax.adam(0.01), 50)


@eqx.filter_jit
def step(learner, state, patients, key):
    gradient = eqx.filter_grad(Learner.loss)(learner, patients, key)
    updates, state = OPTIMISER.update(gradient, state)
    return eqx.apply_updates(learner, updates), state


@eqx.filter_jit
def validated(learner, patients, key):
    return learner.loss(patients, key)


@eqx.filter_jit
def point(learner, patients, days):
    """Return the prediction from what was seen on the first days."""
    return learner.predicted(patients, learner.encoded(patients, days)[0])


def trained(method, train, validate, key, *, steps, starts):
    """Return the learner that is best on validation patients, of several starts."""
    best, least = None, np.inf
    for i in range(starts):
        first, fixed = jax.random.split(jax.random.fold_in(key, i))
        learner = Learner.of(method, first)
        state, own, since = OPTIMISER.init(eqx.filter(learner, eqx.is_inexact_array)), np.inf, 0
        for number in range(1, steps + 1):
            batch = train.some((np.arange(10) + 10 * number) % len(train.amount))
            learner, state = step(learner, state, batch, jax.random.fold_in(fixed, number))
            if number % 10 == 0:
                now = float(validated(learner, validate, fixed))
                own, since = (now, 0) if now < own else (own, since + 1)
                if now < least:
                    best, least = learner, now
                if since == 10:
                    break
    return best


def error(predicted, patients):
    """Return the root of the mean squared error of later days, of measurements that were made."""
    misfit = jnp.where(patients.made, predicted - patients.values, 0.0)[:, SEEN:]
    each = jnp.sum(misfit**2, axis=(1, 2)) / jnp.sum(patients.made[:, SEEN:], axis=(1, 2))
    return float(jnp.sqrt(jnp.mean(each)))


def weights(expert, network, patients):
    """Return the weights of an ensemble for each day, shape (2, days, 1)."""
    made = np.asarray(patients.made)
    columns, values = [np.asarray(a) for a in (expert, network)], np.asarray(patients.values)
    both = [nnls(np.stack([c[:, d][made[:, d]] for c in columns], 1), values[:, d][made[:, d]])[0] for d in range(15)]
    return np.array(both).T[:, :, None]


def compared(data, size, seed, *, steps, starts):
    """Return the errors of all methods for one number of patients."""
    everybody, validate, test = data
    train = everybody.some(slice(0, size))
    few = validate.some(slice(0, min(size, VALIDATION)))
    budget = {"steps": steps, "starts": starts}
    key = jax.random.fold_in(jax.random.key(seed), size)
    learners = {}
    for i, method in enumerate(("LHM", "expert", "NODE", "NODE, told")):
        learners[method] = trained(method, train, validate, jax.random.fold_in(key, i), **budget)
    predicted = {method: point(learner, test, SEEN) for method, learner in learners.items()}
    fitted = {method: point(learners[method], few, LAST + 1) for method in ("expert", "NODE")}
    w = weights(fitted["expert"], fitted["NODE"], few)
    predicted["ensemble"] = w[0] * predicted["expert"] + w[1] * predicted["NODE"]

    # as published: it learns to read what the expert leaves unexplained, but reads measurements of test patients
    rest = few._replace(values=few.values - fitted["expert"])
    learner = trained("NODE", rest, rest, jax.random.fold_in(key, 4), **budget)
    predicted["residual"] = predicted["expert"] + point(learner, test, SEEN)
    return {method: error(predicted[method], test) for method in METHODS}


def table(results):
    """Return the mean over data sets, the range, and the published figures."""
    lines = ["| method | " + " | ".join(f"{n} patients: published | ours (range)" for n in SIZES) + " |"]
    lines.append("|---|" + "--:|--:|" * len(SIZES))
    for method in METHODS:
        cells = []
        for i, size in enumerate(SIZES):
            ours = [one["errors"][method] for one in results if one["size"] == size]
            mean = f"{np.mean(ours):.3f} ({min(ours):.2f} to {max(ours):.2f})" if ours else ""
            published = f"{PUBLISHED[method][i]:.3f}" if method in PUBLISHED else ""
            cells.append(f"{published} | {mean}")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(
        description="The latent hybrid model against its rivals, on its paper's simulation."
    )
    parser.add_argument("--out", type=Path, help="where results are kept; what is there is not computed again")
    parser.add_argument("--sets", type=int, default=3, help="data sets: the first with the coefficients of the paper")
    parser.add_argument("--starts", type=int, default=3, help="starts of each training")
    parser.add_argument("--quick", action="store_true", help="one data set, 10 patients, 40 steps, one start")
    parser.add_argument("--markdown", action="store_true", help="print a table with the published figures")
    options = parser.parse_args()
    steps, starts, sets = (40, 1, 1) if options.quick else (400, options.starts, options.sets)
    results = json.loads(options.out.read_text()) if options.out and options.out.exists() else []
    for seed in range(-1, sets - 1):
        data = None
        for size in SIZES[:1] if options.quick else SIZES:
            if any((one["seed"], one["size"]) == (seed, size) for one in results):
                continue
            data = data_set(seed) if data is None else data
            began = time.process_time()
            errors = compared(data, size, seed, steps=steps, starts=starts)
            results.append({"seed": seed, "size": size, "errors": errors, "cpu_s": time.process_time() - began})
            print(json.dumps(results[-1]), flush=True)
            if options.out:
                options.out.write_text(json.dumps(results, indent=1))
    if options.markdown:
        print(table(results))


if __name__ == "__main__":
    main()
