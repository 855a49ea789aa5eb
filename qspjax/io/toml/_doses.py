"""The `[arms]` of a trial file: doses with units as regimens."""

import functools
import math
import operator
import re
from typing import Any

from qspjax._dosing._amounts import AbstractAmount, Banded, Limited, PerSurfaceArea, Proportional, Rounded, RoundedUp
from qspjax._dosing._doses import bolus, infusion, no_doses
from qspjax._dosing._regimen import Regimen
from qspjax._units import convert, per
from qspjax.io.toml._model import Described
from qspjax.io.toml._table import REQUIRED, Table, shown
from qspjax.population import Arm

_MOST_DOSES = 100_000


def read_arms(table: Table, described: Described) -> list[Arm]:
    """Read the arms, in the order of the file."""
    found = [_arm(name, own, described) for name, own in table.children().items()]
    if not found and not table.bad:
        table.issue("", "must have at least one arm, such as [arms.placebo], but has none.")
    return [arm for arm in found if arm is not None]


def _arm(name: str, table: Table, described: Described) -> Arm | None:
    if "regimen" not in table:
        regimen = read_regimen(table, described) if table.values else no_doses()
        return None if regimen is None else Arm(name, regimen)
    parts = [read_regimen(part, described) for part in table.tables("regimen")]
    table.close()
    given = [part for part in parts if part is not None]
    if table.bad:
        return None
    return Arm(name, functools.reduce(operator.add, given) if given else no_doses())


def read_regimen(table: Table, described: Described) -> Regimen | None:
    """Read one part of a treatment: a dose, and how it is repeated."""
    units = described.units
    amount: Any = _amount(table, described)
    to = table.name("to", described.targets, "a dose target of the model")
    start = table.number("start", units.time, default=0.0)
    over = table.number("over", units.time, default=None, above=0)
    rate = table.number("rate", per(units.dose, units.time), default=None, above=0)
    repeated = "every" in table or "doses" in table
    interval = table.number("every", units.time, default=REQUIRED if repeated else None, above=0)
    doses = table.whole("doses", default=REQUIRED if repeated else None, minimum=1, maximum=_MOST_DOSES)
    if "over" in table and "rate" in table:
        table.issue("rate", "must be left out where `over` is given, but both are.")

    def build() -> Regimen:
        given = over is not None or rate is not None
        once = infusion(amount, to=to, over=over, rate=rate, at=start) if given else bolus(amount, to=to, at=start)
        return once.every(interval, doses=doses) if repeated else once

    return table.make(build)


def _amount(table: Table, described: Described) -> float | AbstractAmount | None:
    if not isinstance(table.values.get("dose"), dict):
        return table.read("dose", REQUIRED, lambda value: _amount_of(value, described))
    own, unit = table.table("dose"), described.units.dose
    if "table" in own:
        amount = _banded(own.table("table"), described)
    elif "per" in own:
        amount = _proportional(own, described)
    else:
        amount = own.read("amount", REQUIRED, lambda value: _amount_of(value, described))
    limits = {key: own.number(key, unit, default=None) for key in ("at_least", "at_most")}
    steps = {key: own.number(key, unit, default=None, above=0) for key in ("round_to", "round_up_to")}
    if "round_to" in own and "round_up_to" in own:
        own.issue("round_to", "must be left out where `round_up_to` is given, but both are.")
    if isinstance(amount, float):
        must = "must depend on the patient (such as 5 mg/kg, or with `per`) in a table"
        own.issue("amount", f"{must}, but is {shown(own.values['amount'])}.")
    return own.make(_adjusted, amount, limits, steps)


def _adjusted(amount: Any, limits: dict[str, float | None], steps: dict[str, float | None]) -> AbstractAmount:
    ends = {key: value for key, value in limits.items() if value is not None}
    if ends:
        amount = Limited(amount, **ends)
    if steps["round_to"] is not None:
        return Rounded(amount, to=steps["round_to"])
    return amount if steps["round_up_to"] is None else RoundedUp(amount, to=steps["round_up_to"])


def _proportional(table: Table, described: Described) -> AbstractAmount | None:
    """Read an amount for so much of each covariate: `amount = "5 mg", per = { WT = "1 kg" }`."""
    amount, each = table.number("amount", described.units.dose, above=0), table.table("per")
    names = [name for name in described.covariates if name in each]
    divisors = [each.number(name, described.covariates[name], above=0) for name in names]
    each.close("a covariate that is a number", described.covariates)
    if not names and not each.bad:
        each.issue("", 'must name a covariate, such as per = { WT = "1 kg" }, but is empty.')
    if each.bad or amount is None or None in divisors:
        return None
    return Proportional(amount / math.prod(divisors), tuple(names))


def _banded(table: Table, described: Described) -> AbstractAmount | None:
    """Read amounts by bands: `table = { covariate = "WT", edges = ["60 kg"], amounts = ["150 mg", "300 mg"] }`."""
    covariate = table.name("covariate", described.covariates, "a covariate that is a number")
    edges = table.numbers("edges", described.covariates.get(covariate))
    amounts = table.numbers("amounts", described.units.dose)
    if amounts is not None and min(amounts) < 0:
        table.issue("amounts", f"must be at least 0, but are {shown(table.values['amounts'])}.")
    return table.make(lambda: Banded(covariate, edges=edges, amounts=amounts))


def _amount_of(value: Any, described: Described) -> float | AbstractAmount:
    """Return an amount, or an amount per kilogram or square metre."""
    dose = described.units.dose
    if isinstance(value, str) and re.search(r"/\s*kg\s*$", value):
        kilogram = _covariate_unit("WT", "1 kg", described)
        return Proportional(_not_negative(value, per(dose, "kg")) / kilogram, ("WT",))
    if isinstance(value, str) and re.search(r"/\s*m(\^|\*\*)?2\s*$", value):
        if _covariate_unit("WT", "1 kg", described) != 1.0 or _covariate_unit("HT", "1 cm", described) != 1.0:
            must = "must go with the covariates WT in kg and HT in cm"
            raise ValueError(f"{must}, but the population has them in other units.")
        return PerSurfaceArea(_not_negative(value, per(dose, "m2")))
    return _not_negative(value, dose)


def _covariate_unit(name: str, one: str, described: Described) -> float:
    try:
        return convert(one, to=described.covariates[name] or "")
    except (KeyError, ValueError):
        unit = one.split()[1]
        raise ValueError(f"must go with a covariate {name} in {unit}, but the population has none.") from None


def _not_negative(value: Any, unit: str) -> float:
    found = convert(value, to=unit)
    if found < 0:
        raise ValueError(f"must be at least 0, but is {shown(value)}.")
    return found
