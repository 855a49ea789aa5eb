"""The results of a fit as a directory of files, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from qspjax._extras import require, version
from qspjax._files import replaced_directory
from qspjax.fit import Fit, Profile, Uncertainty, save
from qspjax.io._directory import write_csv
from qspjax.io.fit._file import FitFile
from qspjax.io.fit._networks import Curves

if TYPE_CHECKING:
    import pandas
    from matplotlib.figure import Figure

FIT_FILES = (
    "summary.txt",
    "result.fit",
    "estimates.csv",
    "correlation.csv",
    "starts.csv",
    "predictions.csv",
    "curves.csv",
    "history.csv",
    "learned.csv",
    "learned.png",
    "profiles.csv",
    "profiles.fit",
    "diagnostics.png",
    "fits.png",
    "profiles.png",
)
"""The files that a directory of the results of a fit may hold."""

FIT_MARKERS = ("summary.txt", "estimates.csv")


def write_fit(
    path: Path,
    file: FitFile,
    fit: Fit,
    uncertainty: Uncertainty,
    profiles: Mapping[str, Profile],
    figures: Mapping[str, "Figure"],
    curves: Curves | None = None,
) -> None:
    """Write the results of a fit; an earlier result in the directory is replaced at the very end.

    Args:
        path: The directory.
        file: The fit file.
        fit: The optima.
        uncertainty: The uncertainty at the best one.
        profiles: Profiles by parameter, empty if none were requested.
        figures: Figures of matplotlib, by the names of their files.
        curves: What networks learned, see `learned_curves`.

    Raises:
        OSError: If it cannot be written. Nothing is left half-written.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "data.csv").write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n2,0,100,.\\n2,2,.,3.4\\n")
        >>> _ = (folder / "fit.toml").write_text(
        ...     'data = "data.csv"\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'parameters = { V = { start = 30 }, cv = { fixed = 0.1 } }\\n'
        ...     'outputs = { concentration = { error = "proportional", cv = "cv" } }\\n'
        ... )
        >>> file = qsp.io.read_fit(folder / "fit.toml")
        >>> file.problem.names
        ('V',)
        >>> found = qsp.fit.estimate(file.problem)  # doctest: +SKIP
        >>> information = qsp.fit.fisher_information(file.problem, found.x)  # doctest: +SKIP
        >>> uncertainty = qsp.fit.Uncertainty(file.problem, found.x, information)  # doctest: +SKIP
        >>> write_fit(folder / "results", file, found, uncertainty, {}, {})  # doctest: +SKIP
    """
    names, pandas = uncertainty.problem.names, require("pandas", extra="data")

    def write(to: Path) -> None:
        (to / "summary.txt").write_text(fit_summary(file, fit, uncertainty, profiles), encoding="utf-8")
        save(to / "result.fit", fit)
        write_csv(to / "estimates.csv", _estimates(uncertainty, profiles))
        correlation = pandas.DataFrame(uncertainty.correlation, columns=list(names))
        correlation.insert(0, "parameter", names)
        write_csv(to / "correlation.csv", correlation)
        write_csv(to / "starts.csv", fit.to_dataframe())
        write_csv(to / "predictions.csv", fit.problem.table(fit.x))
        write_csv(to / "curves.csv", uncertainty.curves())
        write_csv(to / "history.csv", _history(fit))
        if profiles:
            write_csv(to / "profiles.csv", pandas.concat([profile.to_dataframe() for profile in profiles.values()]))
            save(to / "profiles.fit", profiles)
        if curves:
            write_csv(to / "learned.csv", pandas.concat([_named(*pair) for pair in curves.items()]))
        for name, figure in figures.items():
            figure.savefig(to / name, dpi=200, metadata={"Software": None})

    replaced_directory(path, write)


def fit_summary(file: FitFile, fit: Fit, uncertainty: Uncertainty, profiles: Mapping[str, Profile]) -> str:
    """Return the results of a fit as text.

    Example:
        >>> import pathlib, tempfile, qspjax as qsp
        >>> folder = pathlib.Path(tempfile.mkdtemp())
        >>> _ = (folder / "data.csv").write_text("ID,TIME,AMT,DV\\n1,0,100,.\\n1,2,.,3.1\\n2,0,100,.\\n2,2,.,3.4\\n")
        >>> _ = (folder / "fit.toml").write_text(
        ...     'data = "data.csv"\\n'
        ...     'model = { name = "OneCompartment", parameters = { CL = 3, V = 30 } }\\n'
        ...     'parameters = { V = { start = 30 }, cv = { fixed = 0.1 } }\\n'
        ...     'outputs = { concentration = { error = "proportional", cv = "cv" } }\\n'
        ... )
        >>> file = qsp.io.read_fit(folder / "fit.toml")
        >>> found = qsp.fit.estimate(file.problem)  # doctest: +SKIP
        >>> x, one, none = file.problem.start, np.ones(1, int), np.zeros(1, int)  # what it finds
        >>> found = Fit(file.problem, "one", x[None], x[None], -1.8 * one, one, one, none, none, -1.8 * one[None], 0.1)
        >>> uncertainty = qsp.fit.Uncertainty(file.problem, x, [[2.5]])  # or fisher_information(file.problem, x)
        >>> print(fit_summary(file, found, uncertainty, {}).splitlines()[1])
        Data:        2 measurements in 2 experiments
    """
    problem = fit.problem
    measured = sum(rows.value.size for rows in problem.rows)
    censored = sum(int(rows.censored.sum()) for rows in problem.rows)
    head = {
        "Fit": file.title,
        "Data": f"{measured} measurements in {len(problem.experiments)} experiments"
        + (f", {censored} below the limit of quantification" if censored else ""),
        "Method": fit.method,
        "Log density": f"{fit.log_density:.6g}",
        "Starts": f"{len(fit.values)}, {fit.reached()} within 0.1 of the best, {int((fit.status == 3).sum())} failed",
        "Ended": fit.status_text(0),
        "Evaluations": f"{int(fit.steps.sum())}, {int(fit.failures.sum())} of them failed; {fit.seconds:.1f} s",
        "Versions": ", ".join(f"{name} {version(name)}" for name in ("qspjax", "jax", "diffrax")),
    }
    lines = [f"{key + ':':<13}{value}" for key, value in head.items()]
    low, high = uncertainty.intervals()
    columns = ("parameter", "estimate", "RSE %", "95% interval")
    if profiles:
        columns += ("by profile",)
    rows = []
    for i, name in enumerate(uncertainty.problem.names):
        error = 100 * uncertainty.relative_standard_errors[i]
        cells = [name, f"{fit.parameters[name]:.5g}", f"{error:.1f}", f"{low[i]:.4g} to {high[i]:.4g}"]
        if profiles:
            profile = profiles.get(name)
            cells.append("" if profile is None else f"{profile.interval[0]:.4g} to {profile.interval[1]:.4g}")
        rows.append(cells)
    widths = [max(len(row[k]) for row in [list(columns), *rows]) for k in range(len(columns))]
    lines += [
        "",
        *(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
            for row in [columns, *rows]
        ),
    ]
    for block in problem.weights.blocks:
        lines.append(f"\n{block.name}: {block.size} weights; uncertainty of parameters is that given these")
    for direction in uncertainty.open_directions:
        shown = ", ".join(f"{name} {share:+.2f}" for name, share in list(direction.items())[:6])
        lines.append(f"\nThe data say nothing about the direction: {shown}")
    return "\n".join(lines) + "\n"


def _estimates(uncertainty: Uncertainty, profiles: Mapping[str, Profile]) -> "pandas.DataFrame":
    table = uncertainty.to_dataframe()
    if profiles:
        for k, edge in enumerate(("profile_lower", "profile_upper")):
            table[edge] = [profiles[name].interval[k] if name in profiles else np.nan for name in table["parameter"]]
    return table


def _named(of: tuple[str, str], curve: Mapping[str, np.ndarray]) -> "pandas.DataFrame":
    network, input = of
    columns = {"network": network, "input": input, "value": curve[input], "rate": curve["rate"]}
    return require("pandas", extra="data").DataFrame(columns)


def _history(fit: Fit) -> dict[str, np.ndarray]:
    starts, steps = np.nonzero(np.isfinite(fit.history))
    return {"start": fit.number[starts], "step": steps + 1, "log_density": fit.history[starts, steps]}
