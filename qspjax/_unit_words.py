"""The words that units are made of: a misspelt one is named when a model is defined, without a library of units.

Words in brackets, such as `[effect]` or `1/[time]`, are whatever unit the author has in mind.
"""

import functools
import re

from qspjax._checks import nearest, warn

COUNTED = {
    **{f"{name}s": name for name in ("animal", "beat", "breath", "cell", "dose", "event", "lesion", "subject")},
    **{f"{name}s": name for name in ("patient", "person", "point", "receptor", "seizure", "virion", "visit")},
    "copies": "copy",
    "mice": "mouse",
}
"""What is counted, by its plural: each is a dimension of its own."""

_PREFIXES = ("", *"afpnuµμmcdhkMGT", "da")
_PREFIXED = """g L l m mol M s Da IU U Eq eq Osm osm osmol Hz Pa J cal W V A K N Bq Ci Gy Sv rad ohm lx bp"""
_PREFIX_NAMES = ("", "femto", "pico", "nano", "micro", "milli", "centi", "deci", "kilo", "mega", "giga")
_PREFIXED_NAMES = """gram gramme liter litre meter metre mole molar second dalton mol joule calorie pascal volt watt
newton hertz becquerel curie gray sievert kelvin osmole equivalent base"""
_OTHERS = """min h hr hour d day wk week mo month y yr year minute sec cc mcg mcL mcM mcmol lb oz ppm ppb bpm cpm dpm
rpm % percent permille fold fraction ratio score point unit count item particle molecule dimensionless radian degree
degC degF celsius mmHg cmH2O torr atm bar ft inch katal kat enzyme_unit international_unit square_meter CFU cfu PFU pfu
TCID AU au RU OD RLU RFU MFI FEU DDU e x log ln site virus bead a u FFU Svedberg"""
_LIKELY = """g kg mg ug ng pg L mL uL dL m cm mm um mol mmol umol nmol pmol fmol M mM uM nM pM s min h hr day week month
year kDa Da IU mIU cell cells subject subjects patient patients event events molecule molecules copies percent"""
_OWN = re.compile(r"\[[^\[\]]*\]")
_WORD = re.compile(r"(?:\d+\.?\d*(?:[eE][-+]?\d+)?)|([^\W\d]\w*|%)")


@functools.cache
def _known() -> frozenset[str]:
    """Return all words that are known; those of four letters or more in lower case."""
    short = {prefix + unit for prefix in _PREFIXES for unit in _PREFIXED.split()}
    long = {prefix + unit for prefix in _PREFIX_NAMES for unit in _PREFIXED_NAMES.split()} | {
        *COUNTED,
        *COUNTED.values(),
    }
    words = short | long | {*_OTHERS.split()}
    return frozenset({_folded(word) for word in words} | {_folded(f"{word}s") for word in {*long, *_OTHERS.split()}})


def _folded(word: str) -> str:
    return word.lower() if len(word) > 3 else word


def unknown_words(unit: str) -> list[str]:
    """Return the words of a unit that are none.

    Example:
        >>> unknown_words("mgg/L"), unknown_words("10^6 cells/mL/[score]"), unknown_words("mg/m2")
        (['mgg'], [], [])
    """
    words = dict.fromkeys(word for word in _WORD.findall(_OWN.sub(" ", unit)) if word)
    return [word for word in words if _folded(word.rstrip("0123456789")) not in _known()]


def likely_unit(unit: str) -> str:
    """Return a unit with each unknown word replaced by the known one that is closest to it, "" if there is none.

    Example:
        >>> likely_unit("mgg/L"), likely_unit("nmoll"), likely_unit("furlong")
        ('mg/L', 'nmol', '')
    """
    likely = unit
    for word in unknown_words(unit):
        near = nearest(word, _LIKELY.split())
        if near is None:
            return ""
        likely = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", near, likely)
    return likely if likely != unit else ""


def warn_of_unit(unit: object, argument: str = "unit") -> None:
    """Warn of a unit with words that are not known; a unit need not be known, so that it is no error."""
    if not isinstance(unit, str):
        return
    unknown = unknown_words(unit)
    if unknown:
        likely = likely_unit(unit)
        remedy = (
            f"Did you mean `{likely}`?" if likely else f"A unit of your own is written in brackets: `[{unknown[0]}]`."
        )
        shown = f"`{unknown[0]}`" + (f" in `{unit}`" if unknown[0] != unit else "")
        warn(f"Argument `{argument}` must be a known unit, but {shown} is not known. {remedy}")
