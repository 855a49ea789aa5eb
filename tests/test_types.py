"""Annotations are true: the README's code and a small trial, with every annotation of qspjax checked at run time."""

import subprocess
import sys
from pathlib import Path

import pytest

CODE = """
import functools, re, sys
from beartype import BeartypeConf, beartype
import jaxtyping

root, out = sys.argv[1:]
sys.path.insert(0, root)
sys.modules["checker"] = type(sys)("checker")
sys.modules["checker"].check = functools.partial(beartype, conf=BeartypeConf(is_pep484_tower=True))
with jaxtyping.install_import_hook("qspjax", "checker.check"):
    from qspjax.cli import main
for block in re.findall(r"^```python\\n(.*?)^```", open(root + "/README.md").read(), flags=re.DOTALL | re.MULTILINE):
    exec(block, globals())
sys.exit(main(["trial", "--patients", "3", "--out", out]))
"""


@pytest.mark.slow
def test_annotations_are_true(tmp_path):
    root = Path(__file__).resolve().parents[1]
    (tmp_path / "examples").symlink_to(root / "examples")
    arguments = [sys.executable, "-c", CODE, str(root), str(tmp_path / "out")]
    done = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
