"""The man page and llms.txt are those of the code, and man reads its page without a warning."""

import importlib.util
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAN = ROOT / "docs" / "paramisp.1"


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    # dataclass looks its module up while the class is made.
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(importlib.sys.modules, "generate", module)
        spec.loader.exec_module(module)
        yield module


def test_the_files_are_fresh(generate):
    """`make docs` writes them."""
    assert generate.man_page() == MAN.read_text(encoding="utf-8")
    assert generate.llms() == (ROOT / "llms.txt").read_text(encoding="utf-8")


def test_a_stale_file_is_found(generate, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(generate, "ROOT", tmp_path.parent)
    for name, text in (("MAN", "man_page"), ("LLMS", "llms")):
        monkeypatch.setattr(generate, name, tmp_path / name)
        monkeypatch.setattr(generate, text, lambda text=text: text)
    monkeypatch.setattr("sys.argv", ["generate.py"])
    assert generate.main() == 0
    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    assert generate.main() == 0
    (tmp_path / "LLMS").write_text("old", encoding="utf-8")
    assert generate.main() == 1
    assert "LLMS: stale; run `make docs`" in capsys.readouterr().out


def test_every_command_and_exit_code_is_in_both(generate):
    commands = [page.words for page in generate.pages()][1:]
    assert {"unprocess", "render", "train", "weights list", "weights import"} <= set(commands)
    documented = re.findall(r"^## .*", (ROOT / "docs" / "options.md").read_text(encoding="utf-8"), re.MULTILINE)
    man, llms = MAN.read_text(encoding="utf-8"), generate.llms()
    for words in commands:
        assert any(re.search(rf"`(paramisp )?{words}\b", heading) for heading in documented), words
        assert f".SS paramisp {generate.roff(words)}\n" in man
        assert f"### paramisp {words}\n" in llms
    assert [code for code, _ in generate.exit_codes()] == [0, 1, 2, 3, 4, 5, 6, 7, 8, 130]


@pytest.mark.parametrize(
    "reader", [("mandoc", "-T", "lint", "-W", "warning"), ("groff", "-man", "-Kutf8", "-Tutf8", "-ww", "-z")]
)
def test_man_reads_its_page_without_a_warning(reader):
    if not shutil.which(reader[0]):
        pytest.skip(f"{reader[0]} is not installed")
    done = subprocess.run([*reader, MAN], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_text_is_escaped(generate):
    assert generate.roff(".a -b 'c' \\d 2×2") == "\\&.a \\-b \\(aqc\\(aq \\ed 2\\(mu2"
    assert not re.search(r"[^\x00-\x7f]", generate.man_page())  # the page reads the same in every locale


def test_the_wheel_installs_the_man_page():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    shared = project["tool"]["hatch"]["build"]["targets"]["wheel"]["shared-data"]
    assert shared == {"docs/paramisp.1": "share/man/man1/paramisp.1"}
