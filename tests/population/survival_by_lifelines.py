"""Write `survival.json`: what lifelines says of data with ties. Run it with lifelines installed (it needs pandas < 3).

python tests/population/survival_by_lifelines.py > tests/population/survival.json
"""

import json
from importlib.metadata import version

import numpy as np


def data(seed, size=60):
    """Return times in whole months (many ties), events, groups, strata and weights whose sums are exact, as lists."""
    draw = np.random.default_rng(seed)
    groups = draw.integers(0, 3, size)
    times = np.ceil(draw.exponential(12.0 / (1.0 + 0.5 * groups)))
    strata, weights = draw.integers(0, 2, size), draw.integers(1, 24, size) / 8.0
    events = draw.uniform(size=size) < 0.7
    columns = {"times": times, "events": events.astype(int), "groups": groups, "strata": strata, "weights": weights}
    return {name: column.tolist() for name, column in columns.items()}


def curve(times, events, weights=None):
    import lifelines
    from lifelines.utils import median_survival_times

    fit = lifelines.KaplanMeierFitter().fit(times, events, weights=weights)
    table = fit.event_table.iloc[1:] if fit.event_table.index[0] == 0.0 else fit.event_table
    at = table.index
    interval = fit.confidence_interval_.loc[at]
    bounds = median_survival_times(fit.confidence_interval_).to_numpy().ravel()
    return {
        "times": at.tolist(),
        "survival": fit.survival_function_.loc[at].to_numpy().ravel().tolist(),
        "low": interval.iloc[:, 0].tolist(),
        "high": interval.iloc[:, 1].tolist(),
        "at_risk": table["at_risk"].tolist(),
        "events": table["observed"].tolist(),
        "censored": table["censored"].tolist(),
        "median": [fit.median_survival_time_, *bounds.tolist()],
    }


def answers(case):
    import lifelines
    import pandas as pd
    from lifelines.statistics import multivariate_logrank_test

    times, events, groups, strata = (np.array(case[name]) for name in ("times", "events", "groups", "strata"))
    test = multivariate_logrank_test(times, groups, events)
    two = groups < 2
    pair = multivariate_logrank_test(times[two], groups[two], events[two])
    table = pd.DataFrame({"T": times, "E": events, "treated": (groups == 1), "stratum": strata})[two].astype(float)
    found = {}
    for name, layers in (("cox", None), ("stratified_cox", ["stratum"])):
        shown = table if layers else table.drop(columns="stratum")
        fit = lifelines.CoxPHFitter().fit(shown, "T", "E", strata=layers, fit_options={"precision": 1e-14})
        found[name] = [
            *np.exp([fit.params_.iloc[0], *fit.confidence_intervals_.to_numpy()[0]]),
            fit.summary["p"].iloc[0],
        ]
    return {
        "curve": curve(times, events),
        "weighted_survival": curve(times, events, np.array(case["weights"]))["survival"],
        "log_rank": [test.test_statistic, test.p_value],
        "pair": [pair.test_statistic, pair.p_value],
        **found,
    }


if __name__ == "__main__":
    cases = [data(seed) for seed in range(3)]
    written = [{"data": case, "answers": answers(case)} for case in cases]
    print(json.dumps({"by": f"lifelines {version('lifelines')}", "cases": written}).replace("}, {", "},\n{"))  # noqa: T201
