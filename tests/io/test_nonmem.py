"""Data sets: every column and event, the message for every mistake, real files, and the same data after writing."""

import re

import numpy as np
import pytest

import qspjax as qsp
from qspjax import io
from qspjax._dosing._regimen import Action
from tests.systems.data import data_folder, needs_data

TABLES = ("ts", "order", "time", "dv", "evid", "cmt", "dvid", "cens", "limit", "tad", "occ", "subject")


def read(tmp_path, text, **options):
    path = tmp_path / "data.csv"
    path.write_text(text)
    return io.read_nonmem(path, **options)


def found(tmp_path, text, **options):
    """Return the issues of a table as (line, column, message)."""
    with pytest.raises(io.FileIssues) as caught:
        read(tmp_path, text, **options)
    return [(issue.line, issue.column, issue.message) for issue in caught.value.issues]


def dose(**fields):
    """Return a table of one record."""
    record = {"ID": 1, "TIME": 0, "EVID": 1, "AMT": 100, "DV": "."} | fields
    return ",".join(record) + "\n" + ",".join(map(str, record.values())) + "\n"


def same(first, second):
    for name in TABLES:
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)
    for name in ("records", "covariates", "varying"):
        one, two = getattr(first, name), getattr(second, name)
        assert list(one) == list(two)
        for key in one:
            np.testing.assert_array_equal(one[key], two[key], err_msg=key)
            if one[key].dtype.kind == "f":
                np.testing.assert_array_equal(np.signbit(one[key]), np.signbit(two[key]))
    assert (first.ids, first.labels, first.regimen.targets) == (second.ids, second.labels, second.regimen.targets)
    for name in ("time", "kind", "index", "amount", "duration", "rate", "ordered", "order", "interval", "steady"):
        np.testing.assert_array_equal(getattr(first.regimen, name), getattr(second.regimen, name), err_msg=name)


def rows(regimen, *names, subject=0):
    """Return columns of the table of doses of one subject, without padding."""
    live = np.isfinite(np.asarray(regimen.time)[subject])
    return tuple(np.asarray(getattr(regimen, name))[subject][live].tolist() for name in names)


SMALL = """id,time,amt,dv,wt,sex,dvid
1,0,100,.,70,m,cp
1,1.5,.,3.25,70,m,cp
1,3,,2.5,70,m,pca
2,0,80,.,60,f,cp
2,1,.,.,61,f,cp
"""


def test_a_table_is_read(tmp_path):
    data = read(tmp_path, SMALL, categories=["sex", "DVID"])
    assert data.ids == (1, 2)
    assert data.subjects == 2
    assert list(data.records) == ["ID", "TIME", "AMT", "DV", "wt", "sex", "DVID", "EVID", "MDV"]
    assert data.labels == {"sex": ("f", "m"), "DVID": ("cp", "pca")}
    np.testing.assert_array_equal(data.line, [2, 3, 4, 5, 6])
    np.testing.assert_array_equal(data.subject, [0, 0, 0, 1, 1])
    np.testing.assert_array_equal(data.evid, [[1, 0, 0], [1, 0, -1]])
    np.testing.assert_array_equal(data.records["MDV"], [1, 0, 0, 1, 1])
    np.testing.assert_array_equal(data.ts, [[0, 1.5, 3], [0, 1, np.inf]])
    np.testing.assert_array_equal(data.time, [[0, 1.5, 3], [0, 1, np.nan]])
    np.testing.assert_array_equal(data.order, [[1, 2, 3], [1, 2, np.inf]])
    np.testing.assert_array_equal(data.dv, [[np.nan, 3.25, 2.5], [np.nan, np.nan, np.nan]])
    np.testing.assert_array_equal(data.dvid, [[0, 0, 1], [0, 0, np.nan]])
    np.testing.assert_array_equal(data.covariates["sex"], [1, 0])
    assert data.covariates["sex"].dtype.kind == "i"
    np.testing.assert_array_equal(data.varying["wt"], [[70, 70, 70], [60, 61, 61]])
    assert data.regimen.targets == (0,)
    assert rows(data.regimen, "time", "amount", "kind", "order", subject=1) == ([0], [80], [Action.BOLUS], [1])


def test_the_summary_says_what_is_there(tmp_path):
    data = read(
        tmp_path, SMALL.replace("2,1,.,.,61", "2,1,.,.,."), categories=["sex", "DVID"], interpolation=qsp.LOCF()
    )
    assert str(data).split("\n", 1)[1] == (
        "Subjects:     2\n"
        "Records:      5\n"
        "Times:        0 to 3\n"
        "Doses:        2 in 2 records, into the model's default\n"
        "Observations: 2 with a value, 1 without; none censored; by DVID 1 cp, 1 pca\n"
        "Covariates:   wt, sex (constant within every subject)\n"
        "Between:      last observation carried forward (where a covariate varies within a subject)\n"
        "Missing:      wt in 1 records\n"
        "  sex:        0 = f, 1 = m\n"
        "  DVID:       0 = cp, 1 = pca"
    )


@pytest.mark.parametrize(
    ("fields", "column", "message"),
    [
        ({"EVID": 101}, "EVID", 'must be 0, 1, 2, 3 or 4 (dialect "rxode" has others), but is 101.'),
        ({"EVID": 5}, "EVID", "must be 0, 1, 2, 3 or 4, but is 5."),
        ({"EVID": 0.5}, "EVID", "must be 0, 1, 2, 3 or 4, but is 0.5."),
        ({"MDV": 2}, "MDV", "must be 0 or 1, but is 2."),
        ({"AMT": -5}, "AMT", "must not be negative, but is -5."),
        ({"AMT": "."}, "AMT", "must be positive on a dose record (EVID 1 or 4), but is 0."),
        ({"AMT": 0, "EVID": 4}, "AMT", "must be positive on a dose record (EVID 1 or 4), but is 0."),
        (
            {"AMT": 0, "RATE": 5},
            "AMT",
            "must be positive with RATE > 0, unless SS is 1 or 2 (a constant infusion), but is 0.",
        ),
        ({"AMT": 0, "RATE": -2, "SS": 1}, "AMT", "must be positive on a dose record (EVID 1 or 4), but is 0."),
        ({"EVID": 0}, "AMT", "must be 0 on an observation (EVID 0), but is 100."),
        ({"EVID": 2}, "AMT", "must be 0 on a record of another event (EVID 2), but is 100."),
        ({"EVID": 3}, "AMT", "must be 0 on a reset (EVID 3), but is 100."),
        ({"EVID": 0, "AMT": 0, "RATE": 3}, "RATE", "must be 0 on an observation (EVID 0), but is 3."),
        ({"EVID": 0, "AMT": 0, "II": 12}, "II", "must be 0 on an observation (EVID 0), but is 12."),
        ({"EVID": 2, "AMT": 0, "ADDL": 1}, "ADDL", "must be 0 on a record of another event (EVID 2), but is 1."),
        ({"RATE": -3}, "RATE", "must be 0, positive, -1 (a modelled rate) or -2 (a modelled duration), but is -3."),
        ({"RATE": 5, "TINF": 2}, "RATE", "must be 0 where TINF (or DUR) gives the duration, but is 5."),
        ({"DUR": -1}, "TINF", "must not be negative, but is -1."),
        ({"SS": 99}, "SS", "must be 0, 1 or 2, but is 99."),
        ({"SS": 3, "II": 12}, "SS", "must be 0, 1 or 2, but is 3."),
        ({"SS": 1}, "II", "must be positive with SS, unless AMT is 0 (a constant infusion), but is missing."),
        ({"SS": 1, "II": 0}, "II", "must be positive with SS, unless AMT is 0 (a constant infusion), but is 0."),
        (
            {"AMT": 0, "RATE": 5, "SS": 1, "II": 12},
            "II",
            "must be 0 for the steady state of a constant infusion (AMT = 0), but is 12.",
        ),
        (
            {"AMT": 0, "RATE": 5, "SS": 1, "II": 0, "ADDL": 2},
            "ADDL",
            "must be 0 for the steady state of a constant infusion (AMT = 0), but is 2.",
        ),
        ({"II": -1}, "II", "must not be negative, but is -1."),
        ({"ADDL": -1, "II": 12}, "ADDL", "must not be negative, but is -1."),
        ({"ADDL": 1.5, "II": 12}, "ADDL", "must be a whole number, but is 1.5."),
        ({"ADDL": 1e9, "II": 12}, "ADDL", "must be at most 100000, but is 1000000000."),
        ({"ADDL": 3}, "II", "must be positive with ADDL, but is missing."),
        ({"ADDL": 3, "II": 0}, "II", "must be positive with ADDL, but is 0."),
        ({"CMT": -1}, "CMT", "must not be negative (turning a compartment off is not supported), but is -1."),
        ({"CMT": 1.5}, "CMT", "must be the number or the name of a compartment, but is 1.5."),
        ({"CMT": "-gut"}, "CMT", "must be the number or the name of a compartment, but is -gut."),
        ({"CENS": 2}, "CENS", "must be 0, 1 (below DV) or -1 (above DV), but is 2."),
        ({"EVID": 0, "AMT": 0, "MDV": 0, "CENS": -1}, "DV", "must be the limit where CENS is -1, but is missing."),
        ({"EVID": 0, "AMT": 0, "CENS": -1}, "DV", "must be the limit where CENS is -1, but is missing."),
        (
            {"EVID": 0, "AMT": 0, "DV": 1, "CENS": 1, "LIMIT": 2},
            "LIMIT",
            "must be less than DV where CENS is 1, but is 2.",
        ),
        (
            {"EVID": 0, "AMT": 0, "DV": 1, "CENS": -1, "LIMIT": 0},
            "LIMIT",
            "must be greater than DV where CENS is -1, but is 0.",
        ),
        (
            {"DV": "BLQ", "EVID": 0, "AMT": 0, "MDV": 0},
            "DV",
            "must be a number, but is BLQ: write the limit, and 1 in a column CENS.",
        ),
        (
            {"DV": "<0.5", "EVID": 0, "AMT": 0, "MDV": 0},
            "DV",
            "must be a number, but is <0.5: write the limit, and 1 in a column CENS.",
        ),
        ({"AMT": "1_000"}, "AMT", "must be a number, but is 1_000."),
        ({"AMT": "inf"}, "AMT", "must be a number, but is inf."),
        ({"AMT": "1e999"}, "AMT", "must be a number, but is 1e999."),
        ({"WT": "heavy"}, "WT", "must be a number (or a category: `categories`), but is heavy."),
        ({"ID": "."}, "ID", "must be given, but is missing."),
        ({"TIME": "."}, "TIME", "must be a number or a clock time (H:MM), but is missing."),
        ({"TIME": "noon"}, "TIME", "must be a number or a clock time (H:MM), but is noon."),
        ({"TIME": "9:75"}, "TIME", "must be a number of hours or a clock time (H:MM), but is 9:75."),
        ({"DATE": "13-1-86"}, "DATE", "must be a date (month day year), but is 13-1-86."),
        ({"DAT2": "1-Jan-86"}, "DAT2", "must be a date (year month day), but is 1-Jan-86."),
        ({"DAT1": "29/2"}, "DAT1", "must be a date (day month year), but is 29/2."),
        ({"DATE": "."}, "DATE", "must be a date (month day year), but is missing."),
    ],
    ids=str,
)
def test_an_issue_of_a_record(tmp_path, fields, column, message):
    assert found(tmp_path, dose(**fields)) == [(2, column, message)]


@pytest.mark.parametrize(
    ("text", "issues"),
    [
        ("", [(None, "", "must have a line of names and records, but is empty.")]),
        ("\n \n", [(None, "", "must have a line of names and records, but is empty.")]),
        ("ID,TIME,DV\n", [(None, "", "must have records, but has none.")]),
        ("ID,TIME,DV\n#1,0,1\n", [(None, "", "must have records, but has none.")]),
        ("ID,DV\n1,2\n", [(1, "TIME", "must be a column, but is missing: there are ID, DV.")]),
        ("TIME,DV\n1,2\n", [(1, "ID", "must be a column, but is missing: there are TIME, DV.")]),
        ("ID,TIME\n1,2\n", [(1, "DV", "must be a column, unless AMT is, but is missing: there are ID, TIME.")]),
        ("ID,TIME,DV,dv\n1,2,3,4\n", [(1, "DV", "must occur once, but occurs 2 times.")]),
        ("ID,TIME,DV,TINF,DUR\n1,2,3,0,0\n", [(1, "TINF", "must occur once, but occurs 2 times.")]),
        (",ID,TIME,DV\n1,1,2,3\n", [(1, "", "must have a name for each column, but column 1 has none.")]),
        ("ID,TIME,DATE,DAT1,DV\n1,0,1,1,2\n", [(1, "DATE", "must be the only date, but there is also DAT1.")]),
        (
            "ID,TIME,DV\n1,0,1,9\n1,1\n1,x,1\n",
            [
                (2, "", "must have 3 fields, one for each name, but has 4."),
                (3, "", "must have 3 fields, one for each name, but has 2."),
                (4, "TIME", "must be a number or a clock time (H:MM), but is x."),
            ],
        ),
        (
            'ID,TIME,DV\n1,0,"1\n1,2,"3"x\n',
            [(line, "", 'must have quotes (") in pairs around whole fields, but does not.') for line in (2, 3)],
        ),
        (
            "ID,TIME,DV\n1,0,1\n2,0,1\n\n1,1,1\n",
            [(5, "ID", "must have its records together, but 1 comes back after another ID.")],
        ),
        (
            "ID,TIME,DV\n1,0,1\n1,2,1\n1,1,1\n2,0,1\n",
            [(4, "TIME", "must not decrease within a subject, except at EVID 3 or 4, but is 1 after 2.")],
        ),
        (
            "ID,TIME,DATE,DV\n1,0,10-1-86,1\n1,2,3,1\n",
            [(3, "DATE", "must have as many parts as the first date of the subject (10-1-86), but is 3.")],
        ),
        (
            "ID,TIME,DV,WT\n1,0,x,70\n1,1,2,\n1,2,y,z\n",
            [
                (2, "DV", "must be a number, but is x."),
                (4, "DV", "must be a number, but is y."),
                (4, "WT", "must be a number (or a category: `categories`), but is z."),
            ],
        ),
    ],
    ids=range(17),
)
def test_issues_of_a_table(tmp_path, text, issues):
    assert found(tmp_path, text) == issues


def test_issues_of_a_file(tmp_path):
    def issue(path):
        with pytest.raises(io.FileIssues) as caught:
            io.read_nonmem(path)
        return str(caught.value).replace(str(path), "data.csv")

    path = tmp_path / "data.csv"
    assert issue(path) == "data.csv: must be a file, but does not exist."
    assert issue(tmp_path).endswith("must be a file, but is a directory.")
    path.write_bytes(b"ID,TIME,DV\n1,0,\xff\n")
    assert issue(path) == "data.csv:2: must be text in UTF-8, but is not."
    path.write_bytes(b"ID,TIME,DV\n1,0,\0\n")
    assert issue(path) == "data.csv:2: must be text, but is binary."
    path.write_text(dose(AMT=-1))
    assert issue(path) == "data.csv:2: AMT: must not be negative, but is -1."


def test_large_files_and_large_tables_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("qspjax.io.nonmem._text.MOST_BYTES", 10)
    assert found(tmp_path, SMALL) == [(None, "", f"must have at most 10 bytes, but has {len(SMALL)}.")]
    monkeypatch.undo()
    monkeypatch.setattr("qspjax.io.nonmem._read.MOST_ROWS", 10)
    message = "must have at most 10 doses, with all subjects padded, but has more."
    assert found(tmp_path, dose(ADDL=20, II=1)) == [(None, "ADDL", message)]


def test_a_covariate_like_a_constant(tmp_path):
    data = read(tmp_path, "ID,TIME,AMT,DV,pi\n1,0,10,.,7\n1,1,.,3,7\n")
    with pytest.raises(ValueError, match="Argument `set` must write `pi` in backticks"):
        io.experiments(data, "c", set={"V": "tV / pi"})
    (subject,) = io.experiments(data, "c", set={"V": "tV / `pi`"}).values()
    assert str(subject.begin.set["V"]) == "tV / 7"


def test_the_text_shows_what_repeats_once(tmp_path):
    text = "ID,TIME,DV,EVID,SS\n" + "".join(f"{i},0,1,0,99\n" for i in range(500))
    path = tmp_path / "data.csv"
    path.write_text(text)
    with pytest.raises(io.FileIssues) as caught:
        io.read_nonmem(path)
    assert len(caught.value.issues) == 500
    lines = str(caught.value).split("\n")
    assert lines[1:] == [
        f"{path}:3: SS: must be 0, 1 or 2, but is 99.",
        f"{path}:4: SS: must be 0, 1 or 2, but is 99. (and in 497 more lines)",
    ]
    path.write_text("ID,TIME,DV\n" + "".join(f"{i},0,x{i}\n" for i in range(500)))
    with pytest.raises(io.FileIssues) as caught:
        io.read_nonmem(path)
    assert str(caught.value).endswith("\n... and 400 more issues")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ignore": "DVID"}, 'Argument `ignore` must be one character or conditions such as "DVID.EQ.2"'),
        ({"ignore": ["__import__('os')=1"]}, "Argument `ignore` must be one character or conditions"),
        ({"accept": ["#"]}, "Argument `accept` must be conditions such as"),
        ({"accept": [3]}, "Argument `accept` must hold conditions"),
        ({"ignore": ["TIME>late"]}, "Argument `ignore` must compare by order with a number, but is `TIME>late`."),
        ({"ignore": "TIME>2", "accept": "TIME<3"}, "Argument `accept` must be left out where `ignore` has conditions"),
        ({"columns": "ID"}, "Argument `columns` must be a sequence of names, but is `ID`."),
        ({"categories": "sex"}, "Argument `categories` must be a sequence of names, but is `sex`."),
        ({"categories": ["DV"]}, "Argument `categories` must name covariates, ID or DVID, but is `DV`."),
        ({"recode": {"sex": "f"}}, "Argument `recode` must give a mapping of values to values for each column"),
        ({"dialect": "monolix"}, "Argument `dialect` must name a dialect (nonmem, rxode), but is `monolix`."),
        (
            {"interpolation": "NOCB"},
            "Argument `interpolation` must be NOCB(), LOCF() or LinearInterpolation(), but is of type str.",
        ),
        ({"categories": ["race"]}, "race: must be a column, for `categories`, but is none of ID, TIME, AMT, DV"),
        ({"recode": {"race": {}}}, "race: must be a column, for `recode`, but is none of ID, TIME, AMT, DV"),
        ({"rename": {"Y": "DV"}}, "Y: must be a column, to be renamed, but is none of id, time, amt, dv"),
        ({"ignore": ["race.EQ.1"]}, "race: must be a column, for race.EQ.1, but is none of ID, TIME, AMT, DV"),
        ({"ignore": ["sex>1"]}, ":2: sex: must be a number, for sex>1, but is m."),
    ],
    ids=str,
)
def test_wrong_options(tmp_path, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(tmp_path, SMALL, **options)


def test_layouts_of_a_file_agree(tmp_path):
    plain = read(tmp_path, "ID,TIME,AMT,DV\n1,0,100,.\n1,1,.,2.5\n")
    for text, options in [
        ("ID TIME AMT DV\n 1  0.  1.D2  .\n\n1 1 . 25E-1\n", {}),
        ("id\tTime\tamt\tdv\r\n1\t0\t100\t\r\n1\t1\t\t2.5\r\n", {}),
        ('\ufeff"ID", "TIME","AMT","DV"\n1,0,"100",.\n1,"1",.,2.5', {}),
        ("# made by hand\nID,TIME,AMT,DV\n#1,0,3,4\n1,0,100,.\n1,1,.,2.5\n", {}),
        ("TABLE NO. 1\n ID TIME AMT DV\n 1 0 100 .\n@ more\n 1 1 . 2.5\n", {"ignore": "@"}),
        ("C,ID,TIME,AMT,DV\n.,1,0,100,.\nC,1,0.5,.,9\n.,1,1,.,2.5\n", {"ignore": "C", "rename": {}}),
        ("1,0,100,.\n1,1,.,2.5\n", {"columns": ["ID", "TIME", "AMT", "DV"]}),
        ("NR,DAY,DOSE,Y\n1,0,100,.\n1,1,.,2.5\n", {"columns": ["ID", "TIME", "AMT", "DV=CONC"]}),
        ("1,9,0,100,.,x\n1,9,1,.,2.5,y\n", {"columns": ["ID", "DROP", "TIME", "AMT", "DV", "NOTE=SKIP"]}),
        ("ID,TIME,AMT,Y\n1,0,100,.\n1,1,.,2.5\n", {"rename": {"y": "DV"}}),
    ]:
        data = read(tmp_path, text, **options)
        data.records.pop("C", None)
        data.covariates.pop("C", None)
        same(plain, data)


def test_conditions_choose_records(tmp_path):
    text = "ID,TIME,DV,DVID,GEN\n1,0,1,1,M\n1,1,2,2.0,M\n1,25,3,1,F\n1,30,.,1,.\n"

    def times(**options):
        return read(tmp_path, text, categories=["GEN"], **options).records["TIME"].tolist()

    assert times(ignore=["DVID.EQ.2"]) == [0, 25, 30]
    assert times(ignore=["dvid.eqn.2", "TIME > 24"]) == [0]
    assert times(ignore="(DVID=2,TIME>=30)") == [0, 25]
    assert times(accept=["GEN='M'"]) == [0, 1]
    assert times(accept=["GEN.NE.M"]) == [25, 30]
    assert times(ignore=['GEN=="F"']) == [0, 1, 30]
    assert times(ignore=["DV.EQ.."]) == [0, 1, 25]
    assert times(accept=["DV.LT.2", "DV/=."], ignore="#") == [0, 1, 25]
    assert times(accept=["DV<=1"]) == [0]
    assert times(accept=["TIME.GE.25"]) == [25, 30]
    assert found(tmp_path, text, accept=["TIME>99"], categories=["GEN"]) == [
        (None, "", "must have records, but has none that are not ignored.")
    ]
    kept = read(tmp_path, text, columns=["ID", "TIME", "DV", "DVID", "GEN=DROP"], ignore=["GEN.EQ.M"])
    assert list(kept.records) == ["ID", "TIME", "DV", "DVID", "EVID", "MDV"]
    assert kept.line.tolist() == [4, 5]


def test_categories_and_replaced_values(tmp_path):
    text = "ID,TIME,DV,SEX,SS\nb-2,0,1,f,99\nb-2,1,2,f,0\na 1,0,-99,.,99\n"
    data = read(tmp_path, text, categories=["ID", "sex"], recode={"ss": {99: 0}, "DV": {"-99": None}})
    assert data.ids == ("b-2", "a 1")
    assert data.labels == {"ID": ("a 1", "b-2"), "SEX": ("f",)}
    np.testing.assert_array_equal(data.covariates["SEX"], [0, np.nan])
    np.testing.assert_array_equal(data.dv, [[1, 2], [np.nan, np.nan]])
    assert not data.records["SS"].any()
    same(data, read(tmp_path, io.write_nonmem(tmp_path / "o.csv", data).read_text(), categories=["ID", "SEX"]))


def test_clock_times_and_dates(tmp_path):
    """The example of NONMEM's help for DATE, and times of a night."""
    data = read(
        tmp_path,
        "ID DATE TIME DV\n1 10-1-86 9:15 1\n1 10-1-86 14:40 1\n1 10-2-86 8:30 1\n2 10-12 8 1\n2 10-14 10 1\n",
    )
    np.testing.assert_array_equal(data.time, [[0, 325 / 60, 23.25], [0, 50, np.nan]])
    data = read(
        tmp_path, "ID,TIME,DV,II,AMT,ADDL\n1,8:00,.,1:30,1,1\n1,14:45,1,.,.,.\n1,14.75,1,.,.,.\n1,20:00:36,1,,,\n"
    )
    np.testing.assert_array_equal(data.time, [[0, 6.75, 6.75, 12.01]])
    assert rows(data.regimen, "time") == ([0, 1.5],)
    for name, dates in {
        "DATE": ("12/31/99", "1/1/2000"),
        "DAT1": ("31/12/1999", "1.1.0"),
        "DAT2": ("99-12-31", "2000-01-01"),
        "DAT3": ("1999 31 12", "00 1 1"),
    }.items():
        text = f"ID,TIME,{name},DV\n5,23:30,{dates[0]},1\n5,0:30,{dates[1]},1\n"
        np.testing.assert_array_equal(read(tmp_path, text).time, [[0, 1]])
        assert list(read(tmp_path, text).records) == ["ID", "TIME", "DV", "EVID", "MDV"]
    columns = ["ID", "TIME", "DATE=DROP", "DV"]
    np.testing.assert_array_equal(read(tmp_path, "1,3,-1,1\n1,1,0,2\n", columns=columns).time, [[0, 22]])


def test_kinds_of_doses(tmp_path):
    text = (
        "ID,TIME,AMT,RATE,DUR,CMT,SS,II\n"
        "1,0,100,0,0,2,0,0\n1,1,100,50,0,gut,0,0\n1,2,100,-1,0,2,0,0\n1,3,100,-2,0,0,0,0\n1,4,100,0,3,2,0,0\n"
        "1,5,0,20,0,2,1,0\n1,6,0,-1,0,2,1,0\n1,7,60,0,0,gut,2,12\n"
    )
    data = read(tmp_path, text)
    assert data.regimen.targets == (2, "gut", 0)
    kind, index, amount, duration, rate, steady, interval = rows(
        data.regimen, "kind", "index", "amount", "duration", "rate", "steady", "interval"
    )
    assert kind == [
        Action.BOLUS,
        Action.INFUSION_RATE,
        Action.INFUSION_MODEL_RATE,
        Action.INFUSION_MODEL_DURATION,
        Action.INFUSION_OVER,
        Action.INFUSION_RATE,
        Action.INFUSION_MODEL_RATE,
        Action.BOLUS,
    ]
    assert index == [0, 1, 0, 2, 0, 0, 0, 1]
    assert amount == [100, 100, 100, 100, 100, 0, 0, 60]
    assert duration == [1, 1, 1, 1, 3, 1, 1, 1]
    assert rate == [1, 50, 1, 1, 1, 20, 1, 1]
    assert steady == [0, 0, 0, 0, 0, 1, 1, 2]
    assert interval == [0, 0, 0, 0, 0, 0, 0, 12]
    assert data.cmt.tolist() == [[2, "gut", 2, 0, 2, 2, 2, "gut"]]
    same(data, read(tmp_path, io.write_nonmem(tmp_path / "o.csv", data).read_text()))


RESETS = """ID,TIME,AMT,ADDL,II,EVID,DV
1,0,100,2,12,1,.
1,6,.,.,.,0,5
1,24,.,.,.,0,6
1,30,.,.,.,3,.
1,0,50,1,24,4,.
1,0,.,.,.,0,1
1,24,.,.,.,0,2
2,5,.,.,.,0,3
"""


def test_additional_doses_resets_and_the_clock(tmp_path):
    data = read(tmp_path, RESETS)
    np.testing.assert_array_equal(data.ts[0], [0, 6, 24, 30, 30, 30, 54])
    np.testing.assert_array_equal(data.time[0], [0, 6, 24, 30, 0, 0, 24])
    np.testing.assert_array_equal(data.tad[0], [0, 6, 0, np.nan, 0, 0, 0])
    np.testing.assert_array_equal(data.occ[0], [1, 1, 1, 1, 2, 2, 2])
    assert np.isnan(data.tad[1]).all()
    assert not data.occ[1].any()
    reset = Action.RESET
    assert rows(data.regimen, "time", "kind", "amount", "ordered", "order", "interval") == (
        [0, 12, 24, 30, 30, 30, 54],
        [0, 0, 0, reset, reset, 0, 0],
        [100, 100, 100, 0, 0, 50, 50],
        [0, 0, 0, 30, 30, 30, 30],
        [1, -1, -1, 4, 5, 5, -1],
        [12, 12, 12, 0, 0, 24, 24],
    )
    assert data.regimen.time.shape == (2, 7)
    assert rows(data.regimen, "time", subject=1) == ([],)


def test_time_after_dose_and_occasion(tmp_path):
    text = "ID,TIME,AMT,ADDL,II,SS,EVID,DV\n" + "".join(
        f"1,{time},{'10' if evid else '.'},{addl},{interval},{steady},{evid},1\n"
        for time, addl, interval, steady, evid in [
            (0, 0, 0, 0, 0),  # before any dose
            (1, 9, 2, 0, 1),  # at 1, 3, 5, 7, ...
            (2.5, 0, 0, 0, 0),
            (3, 0, 0, 0, 0),  # the additional dose comes before the record
            (4, 0, 0, 0, 0),
            (4, 0, 0, 0, 1),  # two doses at one time are one occasion
            (4, 0, 0, 0, 1),
            (4.5, 0, 0, 0, 0),
            (6, 0, 8, 1, 1),  # a steady state cancels the additional doses to come
            (10, 0, 0, 0, 0),
        ]
    )
    data = read(tmp_path, text)
    np.testing.assert_array_equal(data.tad[0], [np.nan, 0, 1.5, 0, 1, 0, 0, 0.5, 0, 4])
    np.testing.assert_array_equal(data.occ[0], [0, 1, 1, 1, 1, 2, 2, 2, 3, 3])
    rounded = read(tmp_path, "ID,TIME,AMT,ADDL,II,DV\n1,0,10,3,0.1,.\n1,0.3,.,.,.,1\n")
    np.testing.assert_array_equal(rounded.tad[0], [0, 0])


def test_censored_values(tmp_path):
    data = read(tmp_path, "ID,TIME,DV,CENS,LIMIT\n1,0,1,.,.\n1,1,0.5,1,.\n1,2,0.5,1,0\n1,3,9,-1,.\n")
    np.testing.assert_array_equal(data.cens, [[0, 1, 1, -1]])
    np.testing.assert_array_equal(data.limit, [[np.nan, np.nan, 0, np.nan]])
    assert "4 with a value, 0 without; 2 below and 1 above a limit" in str(data)


def test_a_record_below_a_limit_needs_no_value(tmp_path):
    text = "ID,TIME,AMT,DV,CENS,LIMIT\n1,0,9,.,0,.\n1,1,.,2,0,.\n1,2,.,.,1,.\n1,3,.,.,1,0.1\n1,4,.,.,0,.\n"
    data = read(tmp_path, text)
    np.testing.assert_array_equal(data.records["MDV"], [1, 0, 0, 0, 1])
    assert "1 with a value, 3 without; 2 below and 0 above a limit" in str(data)
    again = io.read_nonmem(io.write_nonmem(tmp_path / "again.csv", data))
    for table in (data, again):
        measured = io.experiments(table, "out")["1"].measurements
        assert measured.time.tolist() == [1, 2, 3]
        assert measured.side.tolist() == [0, 1, 1]
        np.testing.assert_array_equal(measured.value, [2, np.nan, np.nan])
        np.testing.assert_array_equal(measured.lower, [np.nan, -np.inf, 0.1])
        assert np.isnan(measured.upper).all()


def test_what_is_odd_about_a_record_below_a_limit(tmp_path):
    text = "ID,TIME,AMT,DV,CENS,MDV\n1,0,9,.,0,1\n1,1,.,2,0,0\n1,2,.,.,1,1\n1,3,.,0.5,1,1\n1,4,.,0,1,0\n"
    with pytest.warns(UserWarning, match="line") as found:
        data = read(tmp_path, text)
    said = [str(warning.message).partition("data.csv: ")[2] for warning in found]
    assert said == [
        "line 6: DV is 0 and CENS is 1, so the value is below 0: DV must be the limit, or missing for that of the "
        "output.",
        "lines 4, 5: MDV is 1, but CENS says that the value is beyond a limit, and it counts as such: CENS 0 leaves it "
        "out.",
    ]
    np.testing.assert_array_equal(data.dv, [[np.nan, 2, np.nan, 0.5, 0]])
    assert io.experiments(data, "out")["1"].measurements.rows == 4


def test_values_are_data_only_where_nonmem_has_them(tmp_path):
    text = "ID,TIME,AMT,EVID,MDV,DV\n1,0,10,1,0,7\n1,1,.,0,0,1\n1,2,.,0,1,2\n1,3,.,2,0,3\n1,4,.,0,0,.\n1,5,.,0,.,5\n"
    data = read(tmp_path, text)
    np.testing.assert_array_equal(data.dv, [[np.nan, 1, np.nan, np.nan, np.nan, 5]])
    assert "MDV is 0 on 1 of them: their DV is not used" in str(data)
    assert "2 with a value, 2 without" in str(data)
    assert "(1 of other events)" in str(data)


RXODE = """ID,TIME,EVID,AMT,CMT,II,DV
1,0,101,10,.,.,.
1,1,119901,5,.,.,.
1,3,119901,-5,.,.,.
1,4,20201,3,2,.,.
1,4,20201,4,2,.,.
1,6,20201,-4,2,.,.
1,7,20201,-3,2,.,.
1,8,0,NA,.,NA,2.5
1,9,110,20,.,12,.
1,10,10220,6,.,24,.
1,12,10220,-6,.,24,.
1,20,10140,2,.,.,.
1,30,2,.,.,.,.
1,31,3,.,.,.,.
"""


def test_the_events_of_rxode(tmp_path):
    data = read(tmp_path, RXODE, dialect="rxode")
    expected = {
        "EVID": [1, 1, 2, 1, 1, 2, 2, 0, 1, 1, 2, 1, 2, 3],
        "AMT": [10, 10, 0, 9, 8, 0, 0, 0, 20, 12, 0, 0, 0, 0],
        "RATE": [0, 5, 0, 0, 0, 0, 0, 0, 0, 6, 0, 2, 0, 0],
        "TINF": [0, 0, 0, 3, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0],
        "SS": [0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 1, 0, 0],
        "II": [0, 0, 0, 0, 0, 0, 0, 0, 12, 24, 0, 0, 0, 0],
        "CMT": [1, 199, 199, 2, 2, 2, 2, 0, 1, 2, 2, 1, 0, 0],
    }
    for name, values in expected.items():
        assert data.records[name].tolist() == values, name
    assert data.regimen.targets == (1, 199, 2)
    same(data, read(tmp_path, io.write_nonmem(tmp_path / "o.csv", data).read_text()))


@pytest.mark.parametrize(
    ("record", "column", "message"),
    [
        ("40101,5,1", "EVID", "must be an event that is known, but is 40101: replacing an amount is not supported."),
        ("50101,5,1", "EVID", "must be an event that is known, but is 50101: multiplying an amount is not supported."),
        (
            "80101,5,1",
            "EVID",
            "must be an event that is known, but is 80101: a modelled duration must be written as EVID 1 with RATE -2.",
        ),
        (
            "90101,5,1",
            "EVID",
            "must be an event that is known, but is 90101: a modelled rate must be written as EVID 1 with RATE -1.",
        ),
        ("30101,5,1", "EVID", "must be an event that is known, but is 30101: its kind 3 is not supported."),
        ("130,5,1", "EVID", "must be an event that is known, but is 130: turning a compartment off is not supported."),
        ("150,5,1", "EVID", "must be an event that is known, but is 150: a phantom dose is not supported."),
        ("107,5,1", "EVID", "must be an event that is known, but is 107: its suffix 07 is not supported."),
        (
            "140,5,1",
            "EVID",
            "must be an event that is known, but is 140: the steady state of a constant infusion has kind 1.",
        ),
        ("10001,5,0", "EVID", "must be an event that is known, but is 10001: it has no compartment."),
        ("5,5,1", "EVID", "must be an event that is known, but is 5: replacing an amount is not supported."),
        ("7,5,1", "EVID", "must be an event that is known, but is 7: a phantom dose is not supported."),
        (
            "10140,-1,1",
            "AMT",
            "must be positive, since turning off a constant infusion is not supported, but is -1.",
        ),
        ("101,5,2", "CMT", "must be 1, as EVID says, but is 2."),
        ("10101,0,1", "AMT", "must be the rate of an infusion, but is 0."),
        ("10101,5,1", "AMT", "must be followed by a record that turns the infusion off (minus AMT), but is not."),
        ("10101,-5,1", "AMT", "must turn off an infusion that was turned on, but none at rate 5 is running."),
        ("10101,5,1\n1,0,10101,-5,1", "TIME", "must be later than the record that turned the infusion on, but is not."),
        ("101,-5,1", "AMT", "must not be negative, but is -5."),
        ("101.5,5,1", "EVID", 'must be 0, 1, 2, 3 or 4 (dialect "rxode" has others), but is 101.5.'),
    ],
    ids=str,
)
def test_events_of_rxode_that_are_refused(tmp_path, record, column, message):
    assert [(c, m) for _, c, m in found(tmp_path, f"ID,TIME,EVID,AMT,CMT\n1,0,{record}\n", dialect="rxode")] == [
        (column, message)
    ]


def test_the_rate_column_of_rxode_must_agree(tmp_path):
    text = "ID,TIME,EVID,AMT,RATE\n1,0,10101,5,6\n1,2,10101,-5,-5\n"
    assert (2, "RATE", "must be 0 or AMT, which is the rate here, but is 6.") in found(tmp_path, text, dialect="rxode")


@pytest.mark.parametrize("text", [SMALL, RESETS], ids=["small", "resets"])
def test_some_subjects(tmp_path, text):
    options = {"categories": ["sex", "DVID"]} if "sex" in text else {}
    data = read(tmp_path, text, **options)
    second = data.take([1])
    assert second.ids == (2,)
    for name in TABLES[:-1]:
        np.testing.assert_array_equal(getattr(second, name), getattr(data, name)[1:])
    assert second.regimen.time.shape == (1, data.regimen.rows)
    assert second.subject.tolist() == [0] * len(second.line)
    assert second.line.tolist() == data.line[data.subject == 1].tolist()
    same(data, data.take(slice(None)))
    same(second, data.take(np.array([False, True])))
    same(data.take([1, 0]).take([1, 0]), data)
    with pytest.raises(ValueError, match="must be numbers of subjects \\(0 to 1\\) or a mask of 2"):
        data.take([2])
    with pytest.raises(ValueError, match="but is an empty selection"):
        data.take([])


def test_a_cohort_has_the_covariates(tmp_path):
    data = read(tmp_path, "ID,TIME,AMT,DV,CLI,WT\n1,0,100,.,3,70\n1,1,.,2,3,71\n2,0,50,.,4,60\n2,2,.,1,4,60\n")
    patient = qsp.models.OneCompartment(CL=1.0, V=30.0)
    cohort = data.cohort(patient, {"CL": "CLI"})
    assert (cohort.size, cohort.varying, list(cohort.covariates)) == (2, ("CL",), ["CLI"])
    np.testing.assert_array_equal(cohort.model.CL, [3, 4])
    with pytest.raises(ValueError, match="must name a covariate that is constant within every subject \\(CLI\\)"):
        data.cohort(patient, {"CL": "WT"})


def test_parameters_follow_varying_covariates(tmp_path):
    text = "ID,TIME,AMT,DV,CLI,VI\n1,0,1,.,1,2\n1,1,.,.,1,2\n1,2,.,.,0.5,2\n2,0,1,.,2,1\n2,1,.,.,3,1\n2,3,.,.,3,1\n"
    patient = qsp.models.OneCompartment(CL=1.0, V=1.0)
    found = {}
    for how in (qsp.NOCB(), qsp.LOCF(), qsp.LinearInterpolation()):
        data = read(tmp_path, text, interpolation=how)
        assert str(how) in str(data)
        cohort, regimen = data.patients(patient, {"CL": "CLI", "V": lambda c: 1.0 * c["VI"]})
        np.testing.assert_array_equal(cohort.model.V, [2, 1])
        solution = qsp.simulate_cohort(cohort, regimen, data.ts, order=data.order)
        found[type(how)] = np.log(np.asarray(solution.observed["concentration"]) * cohort.model.V[:, None])
    np.testing.assert_allclose(found[qsp.NOCB], [[0, -0.5, -0.75], [0, -3, -9]], atol=1e-5)
    np.testing.assert_allclose(found[qsp.LOCF], [[0, -0.5, -1.0], [0, -2, -8]], atol=1e-5)
    np.testing.assert_allclose(found[qsp.LinearInterpolation], [[0, -0.5, -0.875], [0, -2.5, -8.5]], atol=1e-5)
    with pytest.raises(ValueError, match="must name a parameter of the model"):
        data.patients(patient, {"KA": "CLI"})
    negative = read(tmp_path, text.replace("1,1,.,.,1,2", "1,1,.,.,-1,2"))
    with pytest.raises(ValueError, match="Argument `CL` must be positive, but is -1."):
        negative.patients(patient, {"CL": "CLI"})
    missing = read(tmp_path, text.replace("1,1,.,.,1,2", "1,1,.,.,.,2"))
    with pytest.raises(ValueError, match="columns without missing values, but is NaN for `CL`"):
        missing.patients(patient, {"CL": "CLI"})


def test_a_model_says_which_compartments_it_has(tmp_path):
    patient = qsp.models.OneCompartmentOral(CL=1.0, V=30.0, ka=1.0)
    text = (
        "ID,TIME,AMT,CMT,DV\n1,0,100,1,.\n1,1,.,7,2\n1,2,100,3,.\n1,3,1,gut,.\n1,4,1,central,.\n1,5,1,0,.\n1,6,1,3,.\n"
    )
    data = read(tmp_path, text)
    issues = data.check(patient)
    assert [(issue.line, issue.column) for issue in issues] == [(4, "CMT"), (5, "CMT"), (8, "CMT")]
    assert issues[0].message == "must be a compartment number from 1 to 2 (1 depot, 2 central), but is 3."
    assert "must name a dose target of the model" in issues[1].message
    assert str(issues[0]).endswith(
        "data.csv:4: CMT: must be a compartment number from 1 to 2 (1 depot, 2 central), but is 3."
    )
    assert data.take([0]).check(qsp.models.OneCompartment(CL=1.0, V=1.0))
    assert not read(tmp_path, dose()).check(patient)


def test_a_regimen_becomes_a_table(tmp_path):
    regimen = (
        qsp.bolus(100.0, to="depot").every(12.0, doses=3)
        + qsp.infusion(np.array([60.0, 50.0]), to="central", rate=20.0, at=1.0)
        + qsp.infusion(30.0, to="central", over=0.1, at=2.0)
        + qsp.bolus(5.0, to="depot", at=3.0).every(24.0, doses=2).at_steady_state()
    )
    observed = np.array([[1.0, np.nan, 3.0], [4.0, 1 / 3, np.nan]])
    ts = np.array([[0.0, 2.0, 30.0], [1.0, 24.0, np.inf]])
    data = io.NonmemData.of(
        regimen, ts, observed=observed, cmt="central", ids=["p2", "p1"], covariates={"WT": [70.0, 60.5]}
    )
    assert data.ids == ("p2", "p1")
    assert data.records["TIME"].tolist() == [0, 0, 1, 2, 2, 3, 27, 30, 0, 1, 1, 2, 3, 24, 27][: data.line.size]
    assert data.records["EVID"].tolist()[:8] == [1, 0, 1, 1, 0, 1, 1, 0]
    assert data.records["TINF"][3] == 0.1
    assert data.records["RATE"][2] == 20
    assert (data.records["SS"][5], data.records["II"][5]) == (1, 24)
    np.testing.assert_array_equal(data.dv[1], [np.nan, np.nan, 4, np.nan, np.nan, 1 / 3, np.nan, np.nan])
    written = io.write_nonmem(tmp_path / "trial.csv", data)
    same(data, io.read_nonmem(written, categories=["ID"]))
    assert {entry.name for entry in tmp_path.iterdir()} == {"trial.csv"}
    plain = io.NonmemData.of(qsp.no_doses(), [1.0, 2.0])
    assert plain.records["MDV"].tolist() == [1, 1]


def test_a_regimen_with_resets_and_modelled_infusions(tmp_path):
    regimen = (
        qsp.bolus(10.0, to=1).every(6.0, doses=4)
        + qsp.reset(at=9.0)
        + qsp.infusion(5.0, to=1, over=qsp.MODELLED, at=9.0)
        + qsp.infusion(5.0, to=0, rate=qsp.MODELLED, at=10.0)
    )
    data = io.NonmemData.of(regimen, [9.0])
    assert data.records["TIME"].tolist() == [0, 6, 9, 9, 9, 10]
    assert data.records["EVID"].tolist() == [1, 1, 3, 1, 0, 1]
    assert data.records["RATE"].tolist() == [0, 0, 0, -2, 0, -1]
    same(data, io.read_nonmem(io.write_nonmem(tmp_path / "data.csv", data)))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"regimen": 3}, "Argument `regimen` must be a regimen, but is of type int."),
        ({"regimen": qsp.bolus(qsp.Proportional(1.0, "WT"), to=1)}, "must have amounts that are numbers"),
        ({"observed": [1.0]}, "Argument `observed` must have the shape of the outputs, (1, 2), but is of shape (1,)."),
        (
            {"ids": [1, 2], "covariates": {"WT": [1.0]}},
            "Argument `WT` must be for 2 patients, as ids is, but is for 1.",
        ),
        ({"ids": [1, 1]}, "Argument `ids` must differ from each other, but is one that is there twice."),
        ({"covariates": {"evid": [1.0]}}, "Argument `covariates` must have names of their own, but is `evid`."),
        ({"covariates": {"WT": 1.0}}, "Argument `WT` must have one number per patient (1), but is of shape ()."),
        ({"ts": [2.0, 1.0]}, "Argument `ts` must not decrease, but is 1 after 2, at position 1."),
        (
            {"ts": [np.inf, np.inf]},
            "Argument `ts` must give each patient without doses a time, but is without any for patient 0.",
        ),
    ],
    ids=str,
)
def test_tables_that_cannot_be_made(arguments, message):
    arguments = {"regimen": qsp.no_doses(), "ts": [1.0, 2.0]} | arguments
    with pytest.raises(ValueError, match=re.escape(message)):
        io.NonmemData.of(arguments.pop("regimen"), arguments.pop("ts"), **arguments)


def test_rows_without_a_record_are_refused():
    setting = qsp.set_parameter("CL", 1.0, at=2.0)
    with pytest.raises(ValueError, match="Argument `regimen` must have doses and resets only"):
        io.NonmemData.of(setting, [1.0])
    two = (qsp.bolus(1.0, to=1) + qsp.bolus(2.0, to=1, at=3.0)).every(12.0, doses=2).at_steady_state()
    with pytest.raises(ValueError, match="must have one dose in each pattern at steady state"):
        io.NonmemData.of(two, [1.0])


def test_numbers_keep_their_bits(tmp_path):
    values = [0.1 + 0.2, 1e-300, -0.0, 1e22, 123456789012345678.0, 5e-324, 1 / 3, 2.0**53, np.pi]
    text = "ID,TIME,DV,X\n" + "".join(f"1,{i},{value!r},{value!r}\n" for i, value in enumerate(values))
    data = read(tmp_path, text)
    assert [x.hex() for x in data.records["X"].tolist()] == [float(x).hex() for x in values]
    again = io.read_nonmem(io.write_nonmem(tmp_path / "o.csv", data))
    same(data, again)
    assert [x.hex() for x in again.records["X"].tolist()] == [float(x).hex() for x in values]


def test_text_keeps_its_letters(tmp_path):
    text = 'ID,TIME,DV,"a ""name"", odd",@y\n"#1",0,1,"x, ""y"" z","é"\n"#1",1,1,"@",b c\n'
    options = {"categories": ["ID", 'a "name", odd', "@y"]}
    data = read(tmp_path, text, **options)
    assert data.ids == ("#1",)
    assert data.labels['a "name", odd'] == ("@", 'x, "y" z')
    same(data, io.read_nonmem(io.write_nonmem(tmp_path / "o.csv", data), **options))


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    data = read(tmp_path, SMALL, categories=["sex", "DVID"])
    old = (tmp_path / "data.csv").read_text()

    def broken(self, target):
        raise OSError("the disk is gone")

    monkeypatch.setattr(type(tmp_path), "replace", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        io.write_nonmem(tmp_path / "data.csv", data)
    assert (tmp_path / "data.csv").read_text() == old
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.csv"]
    with pytest.raises(ValueError, match="Argument `data` must have each subject once"):
        io.write_nonmem(tmp_path / "o.csv", data.take([0, 0]))


def test_validate(tmp_path):
    path = tmp_path / "data.csv"
    path.write_text(SMALL)
    assert io.validate(path, categories=["sex", "DVID"]) == ()
    assert {issue.column for issue in io.validate(path)} == {"sex", "DVID"}
    assert io.validate(tmp_path / "none.toml")[0].message == "must be a file, but does not exist."
    with pytest.raises(ValueError, match="must name a dialect"):
        io.validate(path, dialect="x")


def test_mutated_tables_give_data_or_issues(tmp_path):
    """Whatever is done to a table, it is read or refused by name."""
    generator = np.random.default_rng(20)
    alphabet = list("0123456789.,:-+eE#@\"'\n\t ;ACDxyµ\r=") + ["NA", "101", "-1", "1e9", "99", ",,", "ID"]
    for base, options in [
        (SMALL, {"categories": ["sex", "DVID"]}),
        (RESETS, {}),
        (RXODE, {"dialect": "rxode"}),
        ("ID DATE TIME DV\n1 10-1-86 9:15 1\n1 10-1-86 14:40 1\n2 10-12 8 1\n", {"ignore": "@"}),
    ]:
        outcomes = set()
        for _ in range(100):
            text = base
            for _ in range(generator.integers(1, 4)):
                at = int(generator.integers(0, len(text)))
                text = text[:at] + str(generator.choice(alphabet)) + text[at + int(generator.integers(0, 2)) :]
            try:
                data = read(tmp_path, text, **options)
                io.write_nonmem(tmp_path / "o.csv", data)
                assert str(data)
                outcomes.add("data")
            except io.FileIssues:
                outcomes.add("issues")
        assert outcomes == {"data", "issues"}


LINEAR = ["Bolus_1CPT", "Bolus_2CPT", "Infusion_1CPT", "Oral_1CPT"]
REAL = {
    **{f"nlmixr2data/{name}.csv": {"recode": {"SS": {99: 0}}} for name in LINEAR},
    **{f"nlmixr2data/{name}.csv": {} for name in ("Bolus_1CPTMM", "Infusion_1CPTMM", "Infusion_2CPTMM", "Oral_2CPTMM")},
    "nlmixr2data/Wang2007.csv": {"rename": {"Y": "DV"}},
    "nlmixr2data/pheno_sd.csv": {},
    "nlmixr2data/theo_sd.csv": {"dialect": "rxode"},
    "nlmixr2data/theo_md.csv": {"dialect": "rxode"},
    "nlmixr2data/wbcSim.csv": {"dialect": "rxode"},
    "nlmixr2data/warfarin.csv": {"categories": ["dvid", "sex"]},
    "pheno/pheno.dta": {"ignore": "@"},
    "nmtests/doses_and_observations.csv": {},
}
SIZES = {
    "Bolus_1CPT": (120, 960, 6951),
    "Bolus_1CPTMM": (120, 960, 6950),
    "Bolus_2CPT": (120, 960, 6960),
    "Infusion_1CPT": (120, 960, 6953),
    "Infusion_1CPTMM": (120, 960, 6955),
    "Infusion_2CPTMM": (120, 960, 6960),
    "Oral_1CPT": (120, 960, 6947),
    "Oral_2CPTMM": (120, 960, 6960),
    "Wang2007": (10, 0, 20),
    "pheno_sd": (59, 589, 155),
    "theo_sd": (12, 12, 132),
    "theo_md": (12, 84, 264),
    "wbcSim": (45, 52, 176),
    "warfarin": (32, 32, 483),
    "pheno": (59, 589, 155),
    "doses_and_observations": (22, 88, 0),
}
"""Subjects, doses and observed values of each file."""


@needs_data
@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_and_written(tmp_path, name):
    path = data_folder() / name
    data = io.read_nonmem(path, **REAL[name])
    doses = np.isfinite(data.regimen.time) & (data.regimen.kind != Action.RESET)
    assert (data.subjects, int(doses.sum()), int((~np.isnan(data.dv)).sum())) == SIZES[path.stem]
    options = {key: value for key, value in REAL[name].items() if key == "categories"}
    same(data, io.read_nonmem(io.write_nonmem(tmp_path / "o.csv", data), **options))


@needs_data
@pytest.mark.parametrize(
    ("name", "first"),
    [
        *((f"nlmixr2data/{name}.csv", ":2: SS: must be 0, 1 or 2, but is 99.") for name in LINEAR),
        ("nlmixr2data/theo_sd.csv", ':2: EVID: must be 0, 1, 2, 3 or 4 (dialect "rxode" has others), but is 101.'),
        ("nlmixr2data/theo_md.csv", ':2: EVID: must be 0, 1, 2, 3 or 4 (dialect "rxode" has others), but is 101.'),
        ("nlmixr2data/wbcSim.csv", ':2: EVID: must be 0, 1, 2, 3 or 4 (dialect "rxode" has others), but is 10101.'),
        ("nlmixr2data/Wang2007.csv", ":1: DV: must be a column, unless AMT is, but is missing: there are ID, TIME, Y."),
        ("nlmixr2data/warfarin.csv", ":2: DVID: must be a number (or a category: `categories`), but is cp."),
    ],
)
def test_real_files_are_refused_with_the_reason(name, first):
    path = data_folder() / name
    assert str(io.validate(path)[0]) == f"{path}{first}"


@needs_data
def test_real_infusions_and_covariates():
    folder = data_folder()
    data = io.read_nonmem(folder / "nlmixr2data" / "wbcSim.csv", dialect="rxode")
    kind, amount, rate = rows(data.regimen, "kind", "amount", "rate")
    assert (kind[0], rate[0]) == (Action.INFUSION_RATE, 137)
    np.testing.assert_allclose(amount[0], 410.0, rtol=1e-12)
    assert list(data.covariates) == ["V2I", "V1I", "CLI"]
    data = io.read_nonmem(folder / "nmtests" / "doses_and_observations.csv")
    assert list(data.covariates) == ["C", "MODE", "DUR2", "RAT2"]
    assert list(data.varying) == ["LAGT", "BIOAV"]
    assert data.regimen.targets == (1, 2)
    assert np.isnan(data.covariates["C"]).all()
