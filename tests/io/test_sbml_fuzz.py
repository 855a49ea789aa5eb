"""Mutated SBML: whatever the file, there is a definition or a list of issues, no traceback, no crash and no hang."""

import copy
import random
import re
import time
from xml.etree import ElementTree

import pytest

from qspjax.io import FileIssues
from qspjax.io.sbml import read_definition
from tests.io.sbml_texts import SEEDS
from tests.systems.data import data_folder

pytest.importorskip("libsbml")

MUTANTS = 2000
LONGEST = 10.0  # s, for one file

ELEMENT = re.compile(r"<([A-Za-z:]+)(?:\s[^<>]*)?(?:/>|>[^<]*</\1>)")
ATTRIBUTE = re.compile(r'\s[A-Za-z:]+="[^"]*"')
ID = re.compile(r'(?<=")[A-Za-z_]\w*(?=")|(?<=<ci>) *\w+ *(?=</ci>)')
NUMBER = re.compile(r'(?<=")[-+]?\d+\.?\d*(?:e[-+]?\d+)?(?=")|(?<=>) *-?\d+\.?\d* *(?=<)')
TAG = re.compile(r"</?[A-Za-z:]+(?=[\s/>])")
BAD_NUMBERS = ("NaN", "INF", "-INF", "1e999", "-1e-999", "0", "-1", "1e308", "99999999999", "", "one", "1,5", "0x1f")
BAD_IDS = ("", "time", "1a", "a b", "pi", "\u00e9", "nothing", "a" * 300)
STRANGE = (
    "<",
    ">",
    "&",
    '"',
    "&#0;",
    "&lol;",
    "]]>",
    "<![CDATA[",
    "\x00",
    "\ud800",
    "\ufffe",
    "<!--",
    "<?x ?>",
    "{",
    "%n%s",
)
TAGS = ("apply", "math", "cn", "ci", "piecewise", "lambda", "species", "listOfRules", "model", "sbml", "x:y", "notes")


def mutated(text, seed):
    """Change a text at one to four places: its elements, so that it stays XML, or its characters."""
    rng = random.Random(seed)
    if rng.random() < 0.6:
        return restructured(rng, text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        text = rng.choice(CHANGES)(rng, text)
    return text


def restructured(rng, text):
    root = ElementTree.fromstring(text)
    for _ in range(rng.choice((1, 1, 2, 4))):
        parents = [one for one in root.iter() if len(one)]
        everything = list(root.iter())
        if not parents or len(everything) > 2000:
            break
        parent, other = rng.choice(parents), rng.choice(everything)
        place = rng.randrange(len(parent))
        kind = rng.randrange(8)
        if kind == 0:
            parent.remove(parent[place])
        elif kind == 1:
            parent.insert(place, copy.deepcopy(other))
        elif kind == 2:
            parent[place] = copy.deepcopy(other)
        elif kind == 3:
            other.tag = rng.choice(everything).tag
        elif kind == 4 and other.attrib:
            del other.attrib[rng.choice(list(other.attrib))]
        elif kind == 5 and other.attrib:
            donors = [value for one in everything for value in one.attrib.values()]
            other.attrib[rng.choice(list(other.attrib))] = rng.choice((*donors, *BAD_NUMBERS, *BAD_IDS))
        elif kind == 6:
            name, value = rng.choice([item for one in everything for item in one.attrib.items()] or [("id", "x")])
            other.set(name, value)
        else:
            leaves = [one for one in everything if one.text and one.text.strip()] or [other]
            rng.choice(leaves).text = rng.choice((*(one.text for one in leaves), *BAD_NUMBERS, *BAD_IDS))
    return ElementTree.tostring(root, encoding="unicode")


def replaced(rng, text, pattern, other):
    found = list(pattern.finditer(text))
    if not found:
        return text
    one = rng.choice(found)
    return text[: one.start()] + other(one[0], found) + text[one.end() :]


def flipped(rng, text):
    place = rng.randrange(len(text) or 1)
    return text[:place] + chr(rng.randrange(1, 0x250)) + text[place + 1 :]


def cut(rng, text):
    return text[: rng.randrange(len(text) or 1)]


def without(rng, text):
    start = rng.randrange(len(text) or 1)
    return text[:start] + text[start + rng.randrange(80) :]


def moved(rng, text):
    elements = [one[0] for one in ELEMENT.finditer(text)]
    places = [one.end() for one in re.finditer(r">", text)]
    if not elements or not places:
        return text
    place = rng.choice(places)
    return text[:place] + rng.choice(elements) + text[place:]


CHANGES = (
    flipped,
    cut,
    without,
    moved,
    lambda rng, text: replaced(rng, text, ELEMENT, lambda one, _: ""),
    lambda rng, text: replaced(rng, text, ELEMENT, lambda one, _: one * 2),
    lambda rng, text: replaced(rng, text, ELEMENT, lambda _, found: rng.choice(found)[0]),
    lambda rng, text: replaced(rng, text, ATTRIBUTE, lambda one, _: ""),
    lambda rng, text: replaced(rng, text, ATTRIBUTE, lambda one, _: one * 2),
    lambda rng, text: replaced(rng, text, ATTRIBUTE, lambda _, found: rng.choice(found)[0]),
    lambda rng, text: replaced(rng, text, ID, lambda _, found: rng.choice(found)[0]),
    lambda rng, text: replaced(rng, text, ID, lambda _, found: rng.choice(BAD_IDS)),
    lambda rng, text: replaced(rng, text, NUMBER, lambda one, _: rng.choice(BAD_NUMBERS)),
    lambda rng, text: replaced(rng, text, NUMBER, lambda one, _: rng.choice(BAD_NUMBERS)),
    lambda rng, text: replaced(rng, text, TAG, lambda one, _: "<" + rng.choice(TAGS)),
    lambda rng, text: replaced(rng, text, re.compile(r"[\s\S]"), lambda one, _: one + rng.choice(STRANGE)),
)


def seeds():
    """The small texts, and, where they are, small files of the suite."""
    found = list(SEEDS.values())
    folder = data_folder()
    if folder is not None:
        files = sorted((folder / "sbml-test-suite" / "cases" / "semantic").glob("*/*.xml"))
        found += [path.read_text() for path in files[::40] if path.stat().st_size < 15_000]
    return found


def outcome(text):
    """Return what is wrong with a text; nothing, if it is read."""
    try:
        read_definition(text)
    except FileIssues as error:
        return error.issues
    return ()


def test_every_mutant_gives_a_definition_or_issues():
    texts = seeds()
    read = 0
    for seed in range(MUTANTS):
        text = mutated(texts[seed % len(texts)], seed)
        if not text.lstrip().startswith("<"):
            text = "<" + text
        start = time.monotonic()
        try:
            issues = outcome(text)
        except Exception as error:
            raise AssertionError(f"mutant {seed} gives {error!r}") from error
        read += not issues
        assert all(issue.message for issue in issues)
        assert time.monotonic() - start < LONGEST, f"mutant {seed} takes too long"
    assert 0.05 * MUTANTS < read < 0.9 * MUTANTS
