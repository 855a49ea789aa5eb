"""The `[arms]` of a trial file: doses with units as regimens."""

import functools
import math
import operator
import re

from qspjax._dosing._amounts import AbstractAmount, Banded, Limited, PerSurfaceArea, Proportional, Rounded, RoundedUp
from qspjax._dosing._doses import bolus, infusion, no_doses
from qspjax._dosing._regimen import Regimen
from qspjax._units import convert, per
from qspjax.io.toml._model import ModelInfo
from qspjax.io.toml._table import REQUIRED, Table, shown
from qspjax.population import Arm

_MOST_DOSES = 100_000


def read_arms(table: Table, info: ModelInfo) -> list[Arm]:
    """Read the arms, in the order of the file."""
    arms = [_arm(name, part, info) for name, part in table.children().items()]
    if not arms and not table.bad:
        table.issue("", "must have at least one arm, such as [arms.placebo], but has none.")
    return [arm for arm in arms if arm is not None]


def _arm(name: str, table: Table, info: ModelInfo) -> Arm | None:
    if "regimen" not in table:
        regimen = read_regimen(table, info) if table.values else no_doses()
        return None if regimen is None else Arm(name, regimen)
    parts = [read_regimen(part, info) for part in table.tables("regimen")]
    table.close()
    regimens = [part for part in parts if part is not None]
    if table.bad:
        return None
    return Arm(name, functools.reduce(operator.add, regimens) if regimens else no_doses())


def read_regimen(table: Table, info: ModelInfo) -> Regimen | None:
    """Read one part of a treatment: a dose, and how it is repeated."""
    units = info.units
    amount = _amount(table, info)
    to = table.name("to", info.targets, "a dose target of the model")
    start = table.number("start", units.time, default=0.0)
    over = table.number("over", units.time, default=None, above=0)
    rate = table.number("rate", per(units.dose, units.time), default=None, above=0)
    repeated = "every" in table or "doses" in table
    interval = table.number("every", units.time, default=REQUIRED if repeated else None, above=0)
    doses = table.integer("doses", default=REQUIRED if repeated else None, minimum=1, maximum=_MOST_DOSES)
    if "over" in table and "rate" in table:
        table.issue("rate", "must be left out where `over` is given, but both are.")

    def build(amount: float | AbstractAmount, to: str, at: float) -> Regimen:
        is_bolus = over is None and rate is None
        dose = bolus(amount, to=to, at=at) if is_bolus else infusion(amount, to=to, over=over, rate=rate, at=at)
        return dose if interval is None or doses is None else dose.every(interval, doses=doses)

    return table.make(build, amount, to, start)


def _amount(table: Table, info: ModelInfo) -> float | AbstractAmount | None:
    if not isinstance(table.values.get("dose"), dict):
        return table.read("dose", REQUIRED, lambda value: _amount_of(value, info))
    part, unit = table.table("dose"), info.units.dose
    amount: float | AbstractAmount | None
    if "table" in part:
        amount = _banded(part.table("table"), info)
    elif "per" in part:
        amount = _proportional(part, info)
    else:
        amount = part.read("amount", REQUIRED, lambda value: _amount_of(value, info))
    limits = {key: part.number(key, unit, default=None) for key in ("at_least", "at_most")}
    steps = {key: part.number(key, unit, default=None, above=0) for key in ("round_to", "round_up_to")}
    if "round_to" in part and "round_up_to" in part:
        part.issue("round_to", "must be left out where `round_up_to` is given, but both are.")
    if isinstance(amount, float):
        must = "must depend on the patient (such as 5 mg/kg, or with `per`) in a table"
        part.issue("amount", f"{must}, but is {shown(part.values['amount'])}.")
    return part.make(_adjusted, amount, limits, steps)


def _adjusted(
    amount: AbstractAmount, limits: dict[str, float | None], steps: dict[str, float | None]
) -> AbstractAmount:
    ends = {key: value for key, value in limits.items() if value is not None}
    if ends:
        amount = Limited(amount, **ends)
    if steps["round_to"] is not None:
        return Rounded(amount, to=steps["round_to"])
    return amount if steps["round_up_to"] is None else RoundedUp(amount, to=steps["round_up_to"])


def _proportional(table: Table, info: ModelInfo) -> AbstractAmount | None:
    """Read an amount per amount of each covariate: `amount = "5 mg", per = { WT = "1 kg" }`."""
    amount, per_covariate = table.number("amount", info.units.dose, above=0), table.table("per")
    names = [name for name in info.covariates if name in per_covariate]
    divisors = [per_covariate.number(name, info.covariates[name], above=0) for name in names]
    per_covariate.close("a covariate that is a number", info.covariates)
    if not names and not per_covariate.bad:
        per_covariate.issue("", 'must name a covariate, such as per = { WT = "1 kg" }, but is empty.')
    known = [divisor for divisor in divisors if divisor is not None]
    if per_covariate.bad or amount is None or len(known) < len(divisors):
        return None
    return Proportional(amount / math.prod(known), tuple(names))


def _banded(table: Table, info: ModelInfo) -> AbstractAmount | None:
    """Read amounts by bands: `table = { covariate = "WT", edges = ["60 kg"], amounts = ["150 mg", "300 mg"] }`."""
    covariate = table.name("covariate", info.covariates, "a covariate that is a number")
    edges = table.numbers("edges", None if covariate is None else info.covariates[covariate])
    amounts = table.numbers("amounts", info.units.dose)
    if amounts is not None and min(amounts) < 0:
        table.issue("amounts", f"must be at least 0, but are {shown(table.values['amounts'])}.")
    return table.make(Banded, covariate, edges=edges, amounts=amounts)


def _amount_of(value: object, info: ModelInfo) -> float | AbstractAmount:
    """Return an amount, or an amount per kilogram or square metre."""
    dose = info.units.dose
    if isinstance(value, str) and re.search(r"/\s*kg\s*$", value):
        kilogram = _covariate_unit("WT", "1 kg", info)
        return Proportional(_not_negative(value, per(dose, "kg")) / kilogram, ("WT",))
    if isinstance(value, str) and re.search(r"/\s*m(\^|\*\*)?2\s*$", value):
        if _covariate_unit("WT", "1 kg", info) != 1.0 or _covariate_unit("HT", "1 cm", info) != 1.0:
            must = "must go with the covariates WT in kg and HT in cm"
            raise ValueError(f"{must}, but the population has them in other units.")
        return PerSurfaceArea(_not_negative(value, per(dose, "m2")))
    return _not_negative(value, dose)


def _covariate_unit(name: str, quantity: str, info: ModelInfo) -> float:
    try:
        return convert(quantity, to=info.covariates[name] or "")
    except (KeyError, ValueError):
        unit = quantity.split()[1]
        raise ValueError(f"must go with a covariate {name} in {unit}, but the population has none.") from None


def _not_negative(value: object, unit: str) -> float:
    number = convert(value, to=unit)
    if number < 0:
        raise ValueError(f"must be at least 0, but is {shown(value)}.")
    return number
