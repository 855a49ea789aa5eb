"""Noncompartmental analysis of measured data: exact answers, PKNCA's theophylline, doses, rules, mistakes."""

from pathlib import Path

import numpy as np
import pytest
from scipy.integrate import quad

import qspjax as qsp
from qspjax.population import BelowLimit, LastPoints, Window, nca

THEOPHYLLINE = Path(__file__).parents[2] / "examples" / "data" / "theophylline_nonmem.csv"


def table(time, value, *, amount=100.0, at=0.0, **more):
    """One subject, one dose, then the samples."""
    size = len(time) + 1
    columns = {
        "ID": np.ones(size),
        "TIME": np.append(at, time).astype(float),
        "DV": np.append(np.nan, np.asarray(value, dtype=float)),
        "AMT": np.append(amount, np.zeros(size - 1)),
    }
    return columns | {name: np.asarray(column, dtype=float) for name, column in more.items()}


def row(*args, **kwargs):
    return {name: column[0] for name, column in nca(*args, **kwargs).table.items()}


DECAY = np.array([0.0, 1.0, 2.0, 4.0, 8.0])


def exponential(c0=8.0, k=0.25, time=DECAY):
    return table(time, c0 * np.exp(-k * time))


def biexponential(time=np.linspace(0.0, 48.0, 4801)):
    return table(time, 6.0 * np.exp(-1.2 * time) + 2.0 * np.exp(-0.1 * time))


HALF = 8.0 * np.exp(-0.25 * DECAY[1:])
EXACT = {
    "bolus, exponential": (exponential(), {"intravenous": True}, {
        "C0": 8.0, "lambda_z": 0.25, "half_life": np.log(2) / 0.25, "AUCinf": 32.0, "AUMCinf": 128.0, "MRT": 4.0,
        "CL": 100 / 32, "Vz": 12.5, "Vss": 12.5, "AUClast": 32 * (1 - np.exp(-2.0)), "r2": 1.0,
        "extrapolated": np.exp(-2.0), "Cmax": 8.0, "Tmax": 0.0, "Clast": 8 * np.exp(-2.0), "Tlast": 8.0,
    }),
    "bolus, extrapolated back": (table(DECAY[1:], HALF), {"intravenous": True}, {
        "C0": 8.0, "AUCinf": 32.0, "Cmax": 8 * np.exp(-0.25), "Tmax": 1.0, "Vss": 12.5,
    }),
    "bolus, first two samples rise": (table([1, 2, 4, 8], [4.0, 5, 3, 1]), {"intravenous": True}, {
        "C0": 4.0, "AUClast": 4 + 4.5 + 4 / np.log(5 / 3) + 8 / np.log(3),
    }),
    "triangle": (table([0, 1, 2, 3], [0.0, 4, 8, 12]), {}, {
        "AUClast": 18.0, "AUMClast": 36.0, "Tmax": 3.0, "CL": np.nan,
    }),
    "no sample at an oral dose": (table([1, 2, 3, 4], [2.0, 1, 0.5, 0.25]), {}, {
        "lambda_z": np.log(2), "AUClast": 1 + 1.75 / np.log(2), "AUCinf": 1 + 2 / np.log(2), "Tlast": 4.0,
    }),
    "plateau": (table([0, 2, 4], [3.0, 3, 3]), {}, {
        "AUClast": 12.0, "AUMClast": 24.0, "lambda_z": np.nan, "Cmin": 3.0,
    }),
    "infusion": (table([0, 2, 4, 6, 8], [0.0, 6, 3, 1.5, 0.75], TINF=[2, 0, 0, 0, 0, 0]), {}, {
        "lambda_z": np.log(2) / 2, "AUClast": 6 + 2 * 5.25 / np.log(2), "AUCinf": 6 + 12 / np.log(2),
        "MRT": (8 + 12 / np.log(2) * (2 + 2 / np.log(2))) / (6 + 12 / np.log(2)) - 1,
    }),
    "infusion by rate": (table([0, 2, 4, 6, 8], [0.0, 6, 3, 1.5, 0.75], RATE=[50, 0, 0, 0, 0, 0]), {}, {
        "AUCinf": 6 + 12 / np.log(2), "CL": 100 / (6 + 12 / np.log(2)),
    }),
    "dose at another time": (table(DECAY + 100, 8 * np.exp(-0.25 * DECAY), at=100.0), {"intravenous": True}, {
        "TIME": 100.0, "C0": 8.0, "AUCinf": 32.0, "MRT": 4.0, "Tmax": 0.0,
    }),
    "missing sample": (table([*DECAY, 9], [*(8 * np.exp(-0.25 * DECAY)), np.nan]), {"intravenous": True}, {
        "AUCinf": 32.0, "Tlast": 8.0,
    }),
    "below the limit, first kept": (table([0, 1, 2, 3, 4, 5], [0.0, 0, 4, 2, 1, 0.5]), {}, {
        "AUClast": 2 + 3.5 / np.log(2), "Cmin": 0.0,
    }),
    "below the limit, middle left out": (table([0, 1, 2, 3, 4, 5], [0.0, 4, 0, 1, 0.5, 0.25]), {}, {
        "AUClast": 2 + 2 * 3 / np.log(4) + 0.75 / np.log(2),
    }),
    "below the limit, last": (table([0, 1, 2, 3, 4], [4.0, 2, 1, 0.5, 0]), {"intravenous": True}, {
        "AUClast": 3.5 / np.log(2), "Tlast": 3.0, "AUCinf": 4 / np.log(2),
    }),
    "below a stated limit": (table([0, 1, 2, 3, 4], [4.0, 2, 1, 0.5, 0.3]), {"intravenous": True, "limit": 0.4}, {
        "AUClast": 3.5 / np.log(2), "Tlast": 3.0,
    }),
    "below the limit, half of it": (
        table([0, 1, 2, 3, 4], [4.0, 2, 1, 0.5, 0.3]),
        {"intravenous": True, "limit": 0.5, "below": BelowLimit(last=0.25), "terminal": LastPoints(5)},
        {"AUClast": 3.75 / np.log(2), "lambda_z": np.log(2), "AUCinf": 4 / np.log(2)},
    ),
    "stated points": (table([0, 1, 2, 3, 4], [9.0, 8, 4, 2, 1.5]), {"terminal": Window(1.0, 3.0)}, {
        "lambda_z": np.log(2), "lambda_z_points": 3.0, "lambda_z_start": 1.0, "lambda_z_end": 3.0, "span": 2.0,
        "AUCinf_pred": 1 / np.log(9 / 8) + 6 / np.log(2) + 0.5 / np.log(4 / 3) + 1 / np.log(2),
    }),
    "partial areas": (exponential(), {"intravenous": True, "partial": [(0, 2), (1, 3), (3, 20), (10, 20)]}, {
        "AUC_0_2": 32 * (1 - np.exp(-0.5)), "AUC_1_3": 32 * (np.exp(-0.25) - np.exp(-0.75)),
        "AUC_3_20": 32 * (np.exp(-0.75) - np.exp(-5.0)), "AUC_10_20": 32 * (np.exp(-2.5) - np.exp(-5.0)),
    }),
    "interval at steady state": (
        table([0, 1, 2, 4, 8], 8 * np.exp(-0.25 * DECAY), SS=[1, 0, 0, 0, 0, 0], II=[12, 0, 0, 0, 0, 0]),
        {"intravenous": True},
        {"tau": 12.0, "AUCtau": 32 * (1 - np.exp(-3.0)), "Cavg": 32 * (1 - np.exp(-3.0)) / 12,
         "CL": 100 / (32 * (1 - np.exp(-3.0))), "MRT": np.nan, "Vss": np.nan},
    ),
    "below the limit, without a value": (
        table([0, 1, 2, 3, 4, 5], [np.nan, 2, 1, np.nan, 0.25, np.nan], CENS=[0, 1, 0, 0, 1, 0, 1],
              MDV=[1, 0, 0, 0, 1, 0, 1]), {}, {
        "Cmin": 0.0, "Cmax": 2.0, "Tlast": 4.0, "AUClast": 1 + 1 / np.log(2) + 1.5 / np.log(4),
    }),
    "all below the limit": (table([0, 1, 2], [0.0, 0, 0]), {}, {
        "AUClast": 0.0, "Cmax": 0.0, "AUCinf": np.nan, "Tlast": np.nan,
    }),
    "until": (exponential(), {"intravenous": True, "until": 4.0}, {"AUClast": 32 * (1 - np.exp(-1.0)), "Tlast": 4.0}),
    "one sample": (table([2.0], [3.0]), {}, {"AUClast": 3.0, "lambda_z": np.nan, "Cmax": 3.0, "Clast": 3.0}),
    "two exponentials, finely": (biexponential(), {"intravenous": True, "terminal": Window(24.0)}, {
        "AUCinf": 25.0, "AUMCinf": 6 / 1.44 + 200, "MRT": (6 / 1.44 + 200) / 25, "Vss": 4 * (6 / 1.44 + 200) / 25,
        "lambda_z": 0.1, "CL": 4.0,
    }),
}  # fmt: skip


@pytest.mark.parametrize("case", EXACT)
def test_exact_answers(case):
    data, options, right = EXACT[case]
    found = row(data, **options)
    tolerance = 2e-5 if "finely" in case else 1e-12
    for name, value in right.items():
        np.testing.assert_allclose(found[name], value, rtol=tolerance, atol=1e-12, err_msg=name)


def test_areas_of_nearly_flat_curves_lose_no_digits():
    for fall in (1e-9, 1e-5, 1e-2, 0.29, 0.31, 3.0):
        found = row(table([0.0, 2.0], [5.0, 5.0 * np.exp(-fall)]))
        for name, power in (("AUClast", 0), ("AUMClast", 1)):
            right, _ = quad(lambda t, p=power, fall=fall: t**p * 5.0 * np.exp(-fall * t / 2.0), 0.0, 2.0, epsabs=1e-14)
            np.testing.assert_allclose(found[name], right, rtol=2e-14)


def test_theophylline_as_pknca_has_it():
    """Values of PKNCA's vignette "Theophylline" and of its tests of half-life (points, and 14.30438 of subject 1)."""
    data = qsp.io.read_nonmem(THEOPHYLLINE)
    result = nca(data)
    assert result.table["lambda_z_points"].tolist() == [3, 4, 3, 3, 4, 7, 4, 6, 3, 3, 3, 3]
    assert round(result.table["half_life"][0], 5) == 14.30438
    rows = {summary.parameter: summary for summary in result.summary()}
    assert f"{rows['Cmax'].geometric_mean:.3g} [{100 * rows['Cmax'].cv:.3g}]" == "8.65 [17]"
    assert [round(x, 3) for x in (rows["Tmax"].minimum, rows["Tmax"].maximum)] == [0.63, 3.55]
    assert round(rows["Tmax"].median, 2) == 1.14
    assert f"{rows['half_life'].mean:.3g} [{rows['half_life'].sd:.3g}]" == "8.18 [2.12]"
    assert f"{rows['AUCinf'].geometric_mean:.3g} [{100 * rows['AUCinf'].cv:.3g}]" == "115 [28.4]"
    (last,) = nca(data, until=24.0).summary(["AUClast"])
    assert f"{last.geometric_mean:.3g} [{100 * last.cv:.3g}]" == "74.6 [24.3]"
    assert result.table["ID"].tolist() == list(range(1, 13))
    assert str(result).splitlines()[1].split()[:5] == ["1", "1", "10.5", "1.12", "14.3"]


def test_doses_are_intervals_of_their_own():
    time = np.arange(0.0, 37.0, 2.0)
    value = 12.0 * (np.exp(-0.2 * time) - np.exp(-1.5 * time))
    value[time >= 12] += 12.0 * (np.exp(-0.2 * (time - 12)) - np.exp(-1.5 * (time - 12)))[time >= 12]
    data = table(time, value, ADDL=np.append(1, np.zeros(time.size)), II=np.append(12, np.zeros(time.size)))
    first, second = nca(data).table["AUCtau"]
    assert nca(data).table["DOSE"].tolist() == [1, 2]
    assert nca(data).table["TIME"].tolist() == [0.0, 12.0]
    assert second > first
    found = nca(data).table
    assert np.isfinite(found["CL"]).tolist() == [True, False]  # of a repeated dose only at steady state
    records = {**data, "AMT": data["AMT"].copy()}
    separate = {name: np.insert(column, 8, 0.0) for name, column in records.items()}
    separate["ID"][8], separate["TIME"][8], separate["AMT"][8] = 1.0, 12.0, 100.0
    separate["DV"][8], separate["ADDL"], separate["II"] = np.nan, np.zeros(time.size + 2), np.zeros(time.size + 2)
    again = nca(separate).table
    np.testing.assert_array_equal(again["AUClast"], found["AUClast"])
    np.testing.assert_array_equal(again["AUCtau"][0], found["AUCtau"][0])


def test_a_sample_before_a_bolus_is_the_end_of_the_interval_before():
    time = [0.0, 6.0, 12.0, 12.0, 18.0, 24.0]
    value = [8.0, 4.0, 2.0, 10.0, 5.0, 2.5]
    size = len(time)
    data = {
        "ID": np.ones(size + 2),
        "TIME": np.array([0.0, 0.0, 6.0, 12.0, 12.0, 12.0, 18.0, 24.0]),
        "AMT": np.array([80.0, 0, 0, 0, 80.0, 0, 0, 0]),
        "DV": np.array([np.nan, *value[:3], np.nan, *value[3:]]),
    }
    found = nca(data, intravenous=True).table
    np.testing.assert_allclose(found["C0"], [8.0, 10.0])
    np.testing.assert_allclose(found["AUCtau"][0], 6.0 / np.log(2) * 6.0)
    np.testing.assert_allclose(found["AUClast"][1], 7.5 / np.log(2) * 6.0)


def test_subjects_and_kinds_in_any_order():
    one, two = exponential(), exponential(k=0.5)
    both = {name: np.concatenate([one[name], two[name]]) for name in one}
    both["ID"] = np.repeat([7.0, 3.0], 6)
    shuffled = np.random.default_rng(1).permutation(12)
    found = nca({name: column[shuffled] for name, column in both.items()}, intravenous=True).table
    by_id = dict(zip(found["ID"].tolist(), found["lambda_z"], strict=True))
    np.testing.assert_allclose([by_id[7.0], by_id[3.0]], [0.25, 0.5])
    kinds = {**both, "ID": np.ones(12), "DVID": np.repeat([1.0, 2.0], 6)}
    kinds = {name: np.delete(column, 6) for name, column in kinds.items()}  # one dose, two kinds of samples
    found = nca(kinds, intravenous=True).table
    assert found["DVID"].tolist() == [1.0, 2.0]
    np.testing.assert_allclose(found["lambda_z"], [0.25, 0.5])


def test_a_data_frame_and_a_data_set_give_the_same():
    data = qsp.io.read_nonmem(THEOPHYLLINE)
    frame = pytest.importorskip("pandas").DataFrame({**data.records, "ID": [data.ids[i] for i in data.subject]})
    one, two = nca(data), nca(frame)
    np.testing.assert_array_equal(one.table["AUCinf"], two.table["AUCinf"])
    assert one.to_dataframe()["half_life"].round(2).iloc[0] == 14.3


def test_what_could_not_be_had_is_said():
    result = nca(table([0, 1, 2], [0.0, 4, 2]))
    assert result.table["NOTE"][0] == "fewer than 3 positive samples after Tmax, so no terminal slope"
    assert nca(table([0, 1, 2, 3, 4], [4.0, 2, 1, 0.5, -0.1])).table["NOTE"][0] == "-0.1 taken as below the limit"
    assert "1, dose 1: fewer than 3 positive samples" in str(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"DV": None}, "Argument `data` must name columns, and one of them must be this"),
        ({"TIME": [0.0, 1, 1, 2, 4, 8]}, "subject 1 has two at TIME 1"),
        ({"EVID": [101.0, 0, 0, 0, 0, 0]}, "EVID 0 to 4 .*dialect='rxode'.*but is 101"),
        ({"AMT": ["a"] * 6}, "must have numbers in column AMT"),
        ({"AMT": [1.0]}, "must have columns of one length"),
    ],
)
def test_mistakes(change, message):
    data = exponential() | change
    data = {name: np.asarray(column) for name, column in data.items() if column is not None}
    with pytest.raises(ValueError, match=message):
        nca(data)


def test_options_are_checked():
    data = exponential()
    for options, message in [
        ({"partial": [(4, 2)]}, "`partial` must be windows"),
        ({"limit": -1.0}, "`limit` must be positive"),
        ({"until": 0.0}, "`until` must be positive"),
        ({"terminal": 3}, "`terminal` must be BestFit"),
    ]:
        with pytest.raises(ValueError, match=message):
            nca(data, **options)
    with pytest.raises(ValueError, match="`parameters` must name parameters"):
        nca(data).summary(["AUC"])
    with pytest.raises(ValueError, match="`data` must be a table"):
        nca(3.0)


def test_picture():
    figure = qsp.plot.nca(nca(qsp.io.read_nonmem(THEOPHYLLINE)), time="time after dose (h)", value="mg/L")
    assert [ax.get_title() for ax in figure.axes[:2]] == ["1", "2"]
    assert figure.axes[0].texts[0].get_text() == "half-life 14.3"
