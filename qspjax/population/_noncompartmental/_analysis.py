"""Noncompartmental analysis of measured data: one row of parameters per dose, and their summary."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from qspjax._checks import check_above, check_instance, refuse
from qspjax._extras import require
from qspjax._text import aligned, number
from qspjax.population._noncompartmental._profile import Curve, Profile, curve_of, parameters_of, partial_area
from qspjax.population._noncompartmental._records import Place, profiles_of, records_of
from qspjax.population._noncompartmental._rules import AbstractTerminal, BelowLimit, BestFit

if TYPE_CHECKING:
    import pandas

_SHOWN = ("Cmax", "Tmax", "half_life", "AUClast", "AUCinf", "extrapolated", "CL", "MRT")


class Summary(NamedTuple):
    """One parameter over all subjects: `cv` is the geometric coefficient of variation, a fraction."""

    parameter: str
    kind: object
    dose: int
    subjects: int
    mean: float
    sd: float
    geometric_mean: float
    cv: float
    median: float
    minimum: float
    maximum: float


class Analysed(NamedTuple):
    """One profile as it was analysed, for plots."""

    place: Place
    profile: Profile
    curve: Curve


@dataclasses.dataclass(frozen=True, eq=False)
class NCA:
    """The result of `nca`; print it to see the most important parameters.

    Attributes:
        table: One row per dose: ID, DVID (if there are several kinds), DOSE (its number), TIME (of the dose), AMT, the
            parameters, and NOTE, what could not be computed and why.
        profiles: The samples and the terminal slope behind each row.

    Example:
        >>> import numpy as np, qspjax as qsp
        >>> time = np.array([0.0, 1.0, 2.0, 4.0])
        >>> result = qsp.population.nca({"ID": np.ones(4), "TIME": time, "DV": 8.0 * 0.5**time})
        >>> float(result.table["half_life"][0].round(6))
        1.0
    """

    table: dict[str, np.ndarray]
    profiles: tuple[Analysed, ...]

    def __str__(self) -> str:
        names = [name for name in self.table if name in ("ID", "DVID", "DOSE", *_SHOWN)]
        sampled = [i for i, analysed in enumerate(self.profiles) if analysed.profile.time.size]
        rows = [names] + [[_text(self.table[name][i]) for name in names] for i in sampled]
        lines = [aligned(rows)]
        for i in sampled:
            place, note = self.profiles[i].place, self.table["NOTE"][i]
            if note:
                lines.append(f"{place.subject}, dose {place.dose}: {note}")
        if unsampled := len(self.profiles) - len(sampled):
            lines.append(f"doses without a sample: {unsampled}")
        return "\n".join(lines)

    def summary(self, parameters: Sequence[str] | None = None) -> list[Summary]:
        """Summarise parameters over subjects, for each dose number (and kind of sample).

        $$ \\text{geometric mean} = e^{\\overline{\\ln x}}, \\qquad CV = \\sqrt{e^{s^2_{\\ln x}} - 1} $$

        Args:
            parameters: Names of columns; by default all that have a value.

        Raises:
            ValueError: If a name is no parameter.
        """
        known = [name for name in self.table if name not in ("ID", "DVID", "DOSE", "TIME", "AMT", "NOTE")]
        names = known if parameters is None else list(parameters)
        for name in names:
            if name not in known:
                refuse("parameters", f"name parameters ({', '.join(known)})", name)
        kinds = self.table.get("DVID", np.full(len(self.profiles), None, dtype=object))
        groups = dict.fromkeys(zip(kinds.tolist(), self.table["DOSE"].tolist(), strict=True))
        rows = []
        for name in names:
            for kind, dose in groups:
                selected = np.array([k == kind for k in kinds.tolist()], dtype=bool) & (self.table["DOSE"] == dose)
                values = self.table[name][selected]
                values = values[np.isfinite(values)]
                if values.size or parameters is not None:
                    rows.append(_summary(name, kind, int(dose), values))
        return rows

    def to_dataframe(self) -> "pandas.DataFrame":
        """Return the table as a data frame (extra `data`)."""
        return require("pandas", extra="data").DataFrame(self.table)


def nca(
    data: object,
    *,
    terminal: AbstractTerminal = BestFit(),
    below: BelowLimit = BelowLimit(),
    limit: float | None = None,
    intravenous: bool | None = None,
    partial: Sequence[tuple[float, float]] = (),
    until: float = math.inf,
) -> NCA:
    """Analyse measured concentrations without a model: exposure, terminal slope and disposition, by subject and dose.

    $$ AUC_\\infty = AUC_{last} + C_{last} / \\lambda_z, \\quad CL = D / AUC_\\infty, \\quad
       MRT = AUMC_\\infty / AUC_\\infty - T_{inf} / 2, \\quad V_{ss} = CL \\cdot MRT, \\quad V_z = CL / \\lambda_z $$

    Areas are linear-up log-down. CL, Vz and MRT of a dose that is not intravenous are CL/F, Vz/F and the mean residence
    time with absorption, and it has no Vss. They need a first dose, or for CL and Vz one at steady state (SS = 1), then
    by the area over the interval II; other repeated doses have none. Exposure of a *simulation* is integrated with the
    model instead (`endpoints.AUC`). Before a first dose that is no bolus the value is 0; a bolus is extrapolated back
    by its first two samples; before a repeated dose it is that of the last sample, if that is no further away than
    5 % of the interval. A sample at the time of a dose belongs to both intervals, except that before a bolus.

    Reference: Gabrielsson and Weiner, Methods Mol Biol 929:377 (2012), doi:10.1007/978-1-62703-050-2_16.

    Args:
        data: What `io.read_nonmem` returns, or a table (a data frame, or arrays by name) with columns ID, TIME and DV,
            and optionally, as in NONMEM, AMT, RATE or TINF, EVID, MDV, CENS, II, ADDL, SS and DVID.
            Missing samples (NaN, MDV = 1) are left out; those below the limit have CENS = 1 (with any DV and MDV), a DV
            that is not positive, or one below `limit`.
        terminal: The choice of samples from which lambda_z is estimated: `BestFit`, `LastPoints` or `Window`.
        below: The values that replace samples below the limit of quantification.
        limit: The limit of quantification.
        intravenous: Whether doses are intravenous; by default infusions are and others are not.
        partial: Windows of partial areas, times after the dose; beyond the last positive sample by lambda_z. Each is a
            column such as `AUC_0_24`.
        until: Use only samples up to this time after each dose.

    Returns:
        The parameters: Cmax, Tmax, Cmin, Clast, Tlast, C0 (of a bolus), lambda_z, half_life, r2, r2_adjusted,
        lambda_z_points, lambda_z_start, lambda_z_end, span (in half-lives), AUClast, AUCinf, AUCinf_pred (by the fitted
        C_last), extrapolated (the share of AUCinf beyond T_last), AUMClast, AUMCinf, MRT, CL, Vz, Vss, tau, AUCtau,
        Cavg = AUCtau / tau and fluctuation = (Cmax - Cmin) / Cavg. Those that are not defined are NaN.

    Raises:
        ValueError: If the table lacks a column, or has two samples of a kind at one time.

    Example:
        >>> import numpy as np
        >>> import qspjax as qsp
        >>> time = np.array([0.0, 1.0, 2.0, 4.0, 8.0])
        >>> table = {"ID": np.ones(6), "TIME": np.append(0.0, time), "AMT": [100.0, 0, 0, 0, 0, 0]}
        >>> table["DV"] = np.append(np.nan, 5.0 * np.exp(-0.2 * time))
        >>> result = qsp.population.nca(table, intravenous=True, partial=[(0, 12)])
        >>> [round(float(result.table[name][0]), 3) for name in ("AUCinf", "CL", "Vss", "half_life", "AUC_0_12")]
        [25.0, 4.0, 20.0, 3.466, 22.732]
        >>> [row.mean for row in result.summary(["Tmax"])]
        [0.0]
    """
    check_instance("terminal", terminal, AbstractTerminal, "BestFit(), LastPoints(3) or Window(8.0, 24.0)")
    check_instance("below", below, BelowLimit, "a BelowLimit")
    if limit is not None:
        check_above("limit", limit, 0.0)
    if not until > 0:
        refuse("until", "be positive", until)
    windows = [_window(window) for window in partial]
    table = records_of(data)
    rows, profiles = [], []
    for place, profile in profiles_of(table, limit, intravenous, until):
        curve = curve_of(profile, below, terminal)
        areas = {f"AUC_{start:g}_{end:g}": partial_area(curve, start, end) for start, end in windows}
        rows.append(parameters_of(profile, curve) | areas)
        profiles.append(Analysed(place, profile, curve))
    if not rows:
        refuse("data", "have samples with a DV", "without any")
    return NCA(_table(rows, profiles), tuple(profiles))


def _window(window: tuple[float, float]) -> tuple[float, float]:
    start, end = window
    if not 0 <= start < end < math.inf:
        refuse("partial", "be windows (start, end) with 0 <= start < end", window)
    return float(start), float(end)


def _table(rows: list[dict[str, float]], profiles: list[Analysed]) -> dict[str, np.ndarray]:
    places = [analysed.place for analysed in profiles]
    table: dict[str, np.ndarray] = {"ID": np.asarray([place.subject for place in places])}
    if any(place.kind is not None for place in places):
        table["DVID"] = np.asarray([place.kind for place in places])
    table |= {
        "DOSE": np.asarray([place.dose for place in places]),
        "TIME": np.asarray([place.time for place in places]),
        "AMT": np.asarray([analysed.profile.amount for analysed in profiles]),
    }
    table |= {name: np.asarray([float(row[name]) for row in rows]) for name in rows[0]}
    table["NOTE"] = np.asarray(["; ".join(analysed.curve.notes) for analysed in profiles], dtype=object)
    return table


def _summary(name: str, kind: object, dose: int, values: np.ndarray) -> Summary:
    nothing = math.nan
    size = values.size
    logs = np.log(values) if size and (values > 0).all() else np.empty(0)
    return Summary(
        parameter=name,
        kind=kind,
        dose=dose,
        subjects=size,
        mean=float(values.mean()) if size else nothing,
        sd=float(values.std(ddof=1)) if size > 1 else nothing,
        geometric_mean=float(np.exp(logs.mean())) if logs.size else nothing,
        cv=float(np.sqrt(np.expm1(logs.var(ddof=1)))) if logs.size > 1 else nothing,
        median=float(np.median(values)) if size else nothing,
        minimum=float(values.min()) if size else nothing,
        maximum=float(values.max()) if size else nothing,
    )


def _text(value: object) -> str:
    return number(value) if isinstance(value, (float, np.floating)) else str(value)
