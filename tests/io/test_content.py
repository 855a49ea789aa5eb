"""The door that files come through: compression, archives, encodings, ends of lines, numbers at the very end."""

import bz2
import gzip
import io as streams
import lzma
import zipfile

import numpy as np
import pytest

pytest.importorskip("antimony")
pytest.importorskip("libsbml")

import qspjax as qsp
from qspjax import io
from qspjax.io import _content
from qspjax.io._content import text_of
from qspjax.io._model_files import contents_of
from qspjax.models import Network, Reaction

MANIFEST = (
    '<omexManifest xmlns="http://identifiers.org/combine.specifications/omex-manifest">'
    '<content location="." format="http://identifiers.org/combine.specifications/omex"/>{}</omexManifest>'
)
CONTENT = '<content location="{}" format="http://identifiers.org/combine.specifications/sbml{}"{}/>'


def model(k):
    network = Network(species={"A": 1.0}, parameters={"k": k}, reactions={"loss": Reaction("A ->", "k * A")})
    return io.write_sbml(network)


def archive(path, *contents, **files):
    """Write a COMBINE archive; `contents` are rows of its manifest."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as target:
        if contents:
            target.writestr("manifest.xml", MANIFEST.format("".join(contents)))
        for name, text in files.items():
            target.writestr(name.replace("__", "/") + ".xml", text)
    return path


def rate(path):
    return float(io.read_sbml(path).values["k"])


@pytest.mark.parametrize("number", ["1e-2", "1E5", "2.5e3", ".1", "7", "0.12345678901234567", "123456789012345678"])
@pytest.mark.parametrize("end", ["", "\n", ";", "\r", "\r\n", " // 1e9"])
def test_a_number_at_the_end_of_antimony_is_that_number(tmp_path, number, end):
    text = f"S -> ; k*S; S = 1; k = {number}{end}"
    path = tmp_path / "model.ant"
    path.write_bytes(text.encode())
    for what in (text, path):
        assert float(io.read_antimony(what).values["k"]) == float(number)


@pytest.mark.parametrize(
    ("number", "message"),
    [
        ("1e400", "text:1: must be a number of at most 1.8e308, but is 1e400."),
        ("0x1F", "text:1: must be a decimal number, but is 0x1F."),
        ("1_000", "text:1: must be a decimal number, but is 1_000."),
        ("1d2", "text:1: must be a decimal number, but is 1d2."),
    ],
)
def test_what_antimony_would_take_for_a_unit_is_refused(number, message):
    with pytest.raises(io.FileIssues) as caught:
        io.read_antimony(f"S -> ; k*S; S = 1; k = {number}")
    assert str(caught.value) == message
    assert float(io.read_antimony("unit d2 = 1e-2 mole; k = 1 d2; k2 = 1d2").values["k2"]) == 1.0


def test_antimony_keeps_every_bit_of_random_numbers():
    rng = np.random.default_rng(0)
    numbers = rng.choice([-1.0, 1.0], 40) * 10.0 ** rng.uniform(-300, 300, 40)
    powers = " + ".join(f"({x!r})^2 - {x!r} * A" for x in rng.normal(size=8).tolist())
    brackets = {"two": "(-2)^2 - -(-3)", "three": "(1.2^A)^3 - -(-A * 3)", "four": "-(-A)^2 / (A / 3)"}
    network = Network(
        species={"A": 0.1 + 0.2},
        parameters={f"k{i}": x for i, x in enumerate(numbers.tolist())} | {"most": 1.7976931348623157e308},
        rules={"r": f"2^-(0.1 + {0.1 + 0.2!r}) + {powers}", **brackets},
    )
    again = io.read_antimony(io.write_antimony(network))
    before, after = (one.observe(0.0, one.initial()) for one in (network, again))
    assert {id: float(after[id]) for id in before} == {id: float(before[id]) for id in before}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_is_the_same_in_every_encoding(encoding, end):
    assert text_of(f"a = 1{end}b = 2".encode(encoding), "name") == "a = 1\nb = 2\n"


def test_compressed_files(tmp_path):
    text = model(0.3).encode()
    for ending, pack in ((".gz", gzip.compress), (".bz2", bz2.compress), (".xz", lzma.compress)):
        path = tmp_path / f"model.xml{ending}"
        path.write_bytes(pack(text))
        assert rate(path) == 0.3
        assert contents_of(path).counts["Reactions"] == 1
        assert io.validate(path) == ()
    (tmp_path / "model.ant.gz").write_bytes(gzip.compress(b"k = 1e-2"))
    assert float(io.read_antimony(tmp_path / "model.ant.gz").values["k"]) == 0.01
    assert contents_of(tmp_path / "model.ant.gz").format == "Antimony"


def test_the_model_of_an_archive(tmp_path):
    path = tmp_path / "one.omex"
    one, other = model(0.1), model(0.2)
    master = CONTENT.format("./sub/b.xml", ".level-3.version-2", ' master="true"')
    assert rate(archive(path, CONTENT.format("a.xml", "", ""), master, a=one, sub__b=other)) == 0.2
    assert contents_of(path).issues == ()
    assert rate(archive(path, CONTENT.format("/a.xml", "", ""), a=one, notes="<other/>")) == 0.1
    assert rate(archive(path, a=one)) == 0.1
    assert rate(archive(path, a=one, metadata="<rdf/>")) == 0.1
    archive(path, a=one, sub__b=other)
    with pytest.raises(io.FileIssues) as caught:
        io.read_sbml(path)
    told = "one.omex: must be an archive with one model in SBML, but has a.xml, sub/b.xml; one.omex/a.xml names one."
    assert str(caught.value) == told
    assert rate(path / "a.xml") == 0.1
    assert rate(f"{path}/sub/b.xml") == 0.2
    assert contents_of(path / "a.xml").file == "a.xml"


@pytest.mark.parametrize(
    ("contents", "files", "message"),
    [
        ([CONTENT.format("c.xml", "", "")], {"a": "<x/>"}, "must hold the file c.xml, but has manifest.xml, a.xml."),
        ([CONTENT.format("../../etc/passwd", "", "")], {"a": "<x/>"}, "must hold the file ../../etc/passwd, but has"),
        (["<content"], {"a": "<x/>"}, "must have a manifest in XML, but it is not: "),
        ([], {"readme": "<x/>", "other": "<y/>"}, "must be an archive with one model in SBML, but has none."),
    ],
)
def test_archives_that_are_refused(tmp_path, contents, files, message):
    with pytest.raises(io.FileIssues) as caught:
        io.read_sbml(archive(tmp_path / "m.omex", *contents, **files))
    assert str(caught.value).startswith(f"m.omex: {message}")


def test_bombs_and_damage(tmp_path, monkeypatch):
    text = model(0.1).encode()
    packed = gzip.compress(text)
    (tmp_path / "damaged.xml.gz").write_bytes(packed[:-20])
    path = tmp_path / "damaged.omex"
    path.write_bytes(archive(path, a=model(0.1)).read_bytes()[:-30])
    inner = streams.BytesIO()
    with zipfile.ZipFile(inner, "w") as target:
        target.writestr("a.xml", text)
    (tmp_path / "model.ant").write_bytes(inner.getvalue())
    large = gzip.compress(b" " * 10**6)
    (tmp_path / "bomb.xml.gz").write_bytes(large)
    archive(tmp_path / "bomb.zip", a=" " * 10**6)
    monkeypatch.setattr("qspjax.io.sbml._text.MOST_BYTES", 10**5)
    monkeypatch.setattr(_content, "MOST_MEMBERS", 3)
    archive(tmp_path / "many.zip", a="1", b="2", c="3", d="4")
    for read, name, message in (
        (io.read_sbml, "damaged.xml.gz", "must be compressed with gzip as its beginning says, but is damaged"),
        (io.read_sbml, "damaged.omex", "must be an archive (zip) as its beginning says, but is damaged"),
        (io.read_sbml, "bomb.xml.gz", "must have at most 100000 bytes when it is unpacked, but has more."),
        (io.read_sbml, "bomb.zip", "must have at most 100000 bytes when it is unpacked, but has more."),
        (io.read_sbml, "many.zip", "must be an archive of at most 3 files, but has 4."),
        (io.read_antimony, "model.ant", "must be a file, but is an archive (zip) of files."),
    ):
        with pytest.raises(io.FileIssues) as caught:
            read(tmp_path / name)
        assert str(caught.value).startswith(f"{name}: {message}"), name


def test_trials_and_toml(tmp_path):
    (tmp_path / "model.xml.gz").write_bytes(gzip.compress(model(0.1).encode()))
    (tmp_path / "fit.toml").write_bytes(b"data = 'x'\rmodel = 'y'\rthreshold = 1e400")
    with pytest.raises(io.FileIssues, match="fit.toml:3: must be a number of at most 1.8e308, but is 1e400."):
        io.read_fit(tmp_path / "fit.toml")
    network = qsp.io.read_sbml(tmp_path / "model.xml.gz")
    assert network.definition.name in ("model", "")
