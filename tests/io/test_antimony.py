"""Antimony: models in and out, mistakes with lines, imports that stay in their folder, no state between two calls."""

import pytest

pytest.importorskip("antimony")
pytest.importorskip("libsbml")

import qspjax as qsp
from qspjax import io
from qspjax.io.antimony import _antimony
from qspjax.models import Network, Reaction
from qspjax.models.network import Compartment, Definition, NetworkEvent, Parameter, Species

TMDD = """
model tmdd
  compartment plasma = 3;
  species drug in plasma, target in plasma, complex in plasma;
  drug = 0; target = 5; complex = 0;
  kon = 0.1; koff = 0.02; CL = 0.5; stock = 100/3;
  stock has gram;
  binding: drug + target -> complex; plasma*(kon*drug*target - koff*complex);
  elimination: drug -> ; CL*drug;
  total := target + complex;
  refill: at 2 after target < 1, priority = 3, persistent = false: target = 5 + total;
end
"""


def test_a_model_in_antimony(tmp_path):
    path = tmp_path / "tmdd.ant"
    path.write_text(TMDD)
    network = io.read_antimony(path)
    definition = network.definition
    assert definition.name == "tmdd"
    assert set(definition.ids()) >= {"drug", "target", "complex", "plasma", "kon", "total", "binding", "elimination"}
    assert definition.compartments["plasma"] == Compartment(3.0)
    assert definition.species["target"] == Species(5.0, "plasma", is_amount=False)
    assert str(definition.assignments["total"]) == "target + complex"
    assert str(definition.initial["stock"]) == "100 / 3"
    assert definition.parameters["stock"].unit == "g"
    (event,) = definition.events
    assert isinstance(event, NetworkEvent)
    assert (event.name, event.persistent, str(event.trigger), str(event.delay)) == ("refill", False, "target < 1", "2")
    assert io.read_antimony(TMDD).definition == definition


def test_antimony_comes_back():
    network = qsp.at(io.read_antimony(TMDD), "CL").set(0.7)
    text = io.write_antimony(network)
    again = io.read_antimony(text).definition
    before = network.definition
    assert again.species == before.species
    assert dict(again.parameters) == dict(before.parameters)
    assert {id: str(one.rate) for id, one in again.reactions.items()} == {
        id: str(one.rate) for id, one in before.reactions.items()
    }
    assert again.events == before.events
    assert again.assignments == before.assignments
    assert again.parameters["CL"].value == 0.7


@pytest.mark.parametrize("id", ["pi", "time"])
def test_an_id_like_a_constant_comes_back(id):
    network = Network(species={"S": 1.0}, parameters={id: 2.0}, reactions={"r": Reaction("S ->", f"{id} * S")})
    for again in (io.read_antimony(io.write_antimony(network)), io.read_sbml(io.write_sbml(network))):
        assert again.observe(0.0, again.initial())["r"] == 2.0


def test_what_antimony_has_no_word_for():
    point = Definition(
        name="m",
        compartments={"compartment": Compartment(None, dimensions=0.0)},
        species={"S": Species(2.0, "compartment")},
        parameters={"at": Parameter(3.0)},
    )
    again = io.read_antimony(io.write_antimony(qsp.models.Network.of(point))).definition
    assert again.species["S"] == Species(2.0, "compartment_", only_substance=True)
    assert again.parameters["at_"] == Parameter(3.0)
    assert again.compartments["compartment_"] == Compartment(1.0)


def test_writing(tmp_path):
    network = io.read_antimony("x = 1; x' = -x;")
    assert network.definition.name == ""
    text = io.write_antimony(network, tmp_path / "x.ant")
    assert (tmp_path / "x.ant").read_text() == text
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.ant"]
    with pytest.raises(
        ValueError, match=r"Argument `network` must be a network \(models.Network\), but is of type One"
    ):
        io.write_antimony(qsp.models.OneCompartment(CL=3.0, V=30.0))


@pytest.mark.parametrize(
    ("text", "issues"),
    [
        (
            "model m\n a = 1;\n b = *;\nend",
            ['text:3: must be Antimony, but is not: In the formula "*": Error when parsing input'],
        ),
        ("model foo\nx=1", ["text:2: must be Antimony, but is not: syntax error, unexpected end of file"]),
        ("a=1;b=a;a=b", ["text:1: must be Antimony, but is not: Loop detected"]),
        ("S1 -> S2; k*S1", ["text: parameter k: must have a value", "text: species S1: must have a value"]),
        ("x' = delay(x, 3 + x); x = 1", ["text: delay: not supported: delay whose length changes"]),
        (
            "a = 1 // \u00e4\nb = 2 \u00b5",
            ["text:2: must have only letters of ASCII outside comments and quotations, but"],
        ),
        ("a = 1\n\0", ["text:2: must be text, but is binary."]),
        (
            "a = " + "(" * 201 + "1" + ")" * 201,
            ["text:1: must have at most 200 nested brackets, but has more."],
        ),
        ('import "x.ant"\n', ["text:1: must import no file, because it is from no folder, but imports x.ant."]),
    ],
)
def test_mistakes(text, issues):
    with pytest.raises(io.FileIssues) as caught:
        io.read_antimony(text)
    found = sorted(str(caught.value).splitlines())
    assert len(found) >= len(issues)
    for issue in issues:
        assert any(line.startswith(issue) for line in found), found


def write(folder, **files):
    for name, text in files.items():
        (folder / f"{name}.ant").write_text(text)


def test_models_of_several_files(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # antimony would look here first
    write(elsewhere, part="model part()\n  wrong = 1;\nend\n")
    folder = tmp_path / "models"
    folder.mkdir()
    write(
        folder,
        part="model part(k)\n  k = 1; q = 2;\nend\n",
        both='import "part.ant"\nmodel both()\n  P: part(); r = 3;\nend\n',
        main='// import "nothing.ant"\nimport "part.ant"\nimport "both.ant"  /* import "part.ant" */\n'
        "model *whole()\n  A: part(); A.k = 7; B: both();\nend\n",
    )
    values = io.read_antimony(folder / "main.ant").values
    assert {name: float(value) for name, value in values.items()} == {
        "A_k": 7.0,
        "A_q": 2.0,
        "B_P_k": 1.0,
        "B_P_q": 2.0,
        "B_r": 3.0,
    }


@pytest.mark.parametrize(
    ("main", "message"),
    [
        ('import "/etc/passwd"', "main.ant:1: must import files of the same folder, but imports /etc/passwd."),
        ('\nimport "../up.ant"', "main.ant:2: must import files of the same folder, but imports ../up.ant."),
        ('import "link.ant"', "main.ant:1: must import files of the same folder, but there is no link.ant."),
        ('import "none.ant"', "main.ant:1: must import files of the same folder, but there is no none.ant."),
        ("import none.ant", "main.ant:1: must import a file in quotation marks, but does not."),
        ('import "main.ant"', "main.ant:1: must not import itself, but does through main.ant."),
        ('import "circle.ant"', "circle.ant:1: must not import itself, but does through main.ant."),
        ('import "wrong.ant"', 'wrong.ant:2: must be Antimony, but is not: In the formula "*":'),
        ('import "model.xml"', "model.xml:3:13: must have no document type (<!DOCTYPE ...>), but has one."),
    ],
)
def test_imports_stay_in_their_folder(tmp_path, main, message):
    (tmp_path / "up.ant").write_text("model up()\n a = 1\nend\n")
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "link.ant").symlink_to(tmp_path / "up.ant")
    (folder / "model.xml").write_text('<?xml version="1.0"?>\n\n<!DOCTYPE a [<!ENTITY b "c">]><sbml/>')
    write(folder, main=main + "\nmodel *m()\n x = 1\nend\n", circle='import "main.ant"\n', wrong="a = 1\nb = *\n")
    with pytest.raises(io.FileIssues) as caught:
        io.read_antimony(folder / "main.ant")
    assert str(caught.value).startswith(message)


def test_files_that_are_none(tmp_path, monkeypatch):
    monkeypatch.setattr(_antimony, "MOST_BYTES", 1000)
    (tmp_path / "long.ant").write_text("a = 1\n" * 200)
    (tmp_path / "latin.ant").write_bytes(b"a = 1 // \xe4\n")
    for name, message in {
        "long.ant": "long.ant: must have at most 1000 bytes, but has 1200.",
        "latin.ant": "latin.ant:1: must be text in UTF-8, but is not.",
        "none.ant": "none.ant: must be a file, but does not exist.",
        "": f"{tmp_path.name}: must be a file, but is a directory.",
    }.items():
        with pytest.raises(io.FileIssues) as caught:
            io.read_antimony(tmp_path / name)
        assert str(caught.value) == message


def test_too_many_files(tmp_path):
    for i in range(60):
        (tmp_path / f"f{i}.ant").write_text(f'import "f{i + 1}.ant"\nmodel m{i}()\nend\n')
    with pytest.raises(io.FileIssues, match=r"f49.ant:1: must import at most 50 files, but imports more\."):
        io.read_antimony(tmp_path / "f0.ant")
