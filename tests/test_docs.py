"""Hold the documents to the program: examples run, options exist and are documented, links lead somewhere."""

from __future__ import annotations

import ast
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import paramisp_cli as paramisp

ROOT = Path(__file__).parents[1]
IGNORED = {".venv", "venv", "build", "dist", "node_modules"}
MARKDOWN = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in sorted(ROOT.rglob("*.md"))
    if not any(part in IGNORED or part.startswith(".") for part in path.relative_to(ROOT).parts)
}
CARDS = [name for name in MARKDOWN if re.fullmatch(r"weights/\w+/.*", name)]
PROSE = [name for name in MARKDOWN if name not in CARDS]
"""The documents; cards of weights are written by `paramisp train`."""
README, OPTIONS = MARKDOWN["README.md"], MARKDOWN["docs/options.md"]
EXAMPLES = [name for name in PROSE if name == "README.md" or name.startswith("docs/")]
RUNS = "<!-- runs -->\n"
COMMANDS = (
    "unprocess", "render", "transfer", "hdr", "inspect", "cameras", "weights list", "weights info", "weights verify",
    "weights import", "weights export", "doctor", "deblur", "blur-dataset", "synth", "fit", "pairs", "simulate",
    "train", "evaluate", "look export", "report",
)  # fmt: skip
FOREIGN = ("pytest", "python ", "python3 ", "make", "pip ", "uv ", "find ", "ruff", "parallel ", "exiftool ")
"""Beginnings of code whose options are another program's."""


def blocks(name: str, language: str) -> list[str]:
    """Return the code blocks of a document that are marked as running."""
    return re.findall(rf"{re.escape(RUNS)}```{language}\n(.*?)```", MARKDOWN[name], re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE))


# --- examples ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make photo.jpg, shot.dng and a tree of photos, as the examples use them; and a `paramisp` command."""
    rng = np.random.default_rng(0)
    pixels = np.clip(rng.normal(110, 25, (64, 96, 3)), 0, 255).astype(np.uint8)
    (tmp_path / "photos" / "trip").mkdir(parents=True)
    for name in ("photo.jpg", "photos/one.jpg", "photos/trip/two.jpg"):
        Image.fromarray(pixels).save(tmp_path / name)
    paramisp.write(paramisp.unprocess(tmp_path / "photo.jpg"), tmp_path / "shot.dng")
    command = tmp_path / "bin" / "paramisp"
    command.parent.mkdir()
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m paramisp_cli "$@"\n')
    command.chmod(0o755)
    return tmp_path


def run(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(folder / "bin"), os.environ["PATH"]])
    python = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python, "PARAMISP_WEIGHTS": "", "COLUMNS": "200"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300, check=False
    )


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


MADE = {
    "README.md": {"photo.dng", "shot.jpg", "raws/one.dng", "raws/trip/two.dng", "pictures/trip/two.png", "log.jsonl",
                  "found/one.dng", "found/two.dng"},
    "docs/options.md": {"piped.dng", "checked.dng", "checked.png", "linear.tif"},
    "docs/dng.md": {"linear.dng"},
    "docs/arrays.md": {"set/one_005.npy", "set/one_005.npy.json", "from-npy.png", "index.jsonl"},
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if blocks(name, "sh")])
def test_shell_examples(folder: Path, name: str) -> None:
    """Run a document's blocks in order, in one folder, each as a script that stops at the first failure."""
    for block in blocks(name, "sh"):
        done = run(folder, "sh", "-e", "-x", "-c", block)
        assert done.returncode == 0, f"{block}\n{done.stdout}\n{done.stderr}"
        assert "Traceback" not in done.stderr
    made = files(folder)
    assert made >= MADE.get(name, set())
    assert "other.dng" not in made  # --dry-run
    for path in folder.rglob("*.dng"):
        assert isinstance(paramisp.read(path), paramisp.RawImage)
    if name == "README.md":
        with Image.open(folder / "shot.jpg") as picture:
            assert picture.size == (96, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in EXAMPLES if blocks(name, "python")])
def test_python_examples(folder: Path, name: str) -> None:
    if name == "docs/torch.md":  # it reads the files of its commands
        for block in blocks(name, "sh"):
            assert run(folder, "sh", "-e", "-c", block).returncode == 0
    shown = ""
    for block in blocks(name, "python"):
        done = run(folder, sys.executable, "-W", "error", "-c", block)
        assert done.returncode == 0, f"{block}\n{done.stderr}"
        shown += done.stdout
    if name == "docs/torch.md":
        assert "12 (16, 16, 4) uint16 Nikon D90 " in shown
    if name == "README.md":
        assert (folder / "new.dng").exists()
    if name == "docs/python.md":
        assert (folder / "linear.dng").exists()
        picture = paramisp.read(folder / "picture.tif")
        assert isinstance(picture, paramisp.SrgbImage)
        assert picture.pixels.dtype == np.uint16


def test_every_document_with_examples_is_run() -> None:
    """A mark outside README.md and docs/ would promise a run that does not happen."""
    assert {name for name in MARKDOWN if RUNS in MARKDOWN[name]} <= set(EXAMPLES)
    assert sum(len(blocks(name, "sh")) for name in EXAMPLES) >= 8
    assert sum(len(blocks(name, "python")) for name in EXAMPLES) >= 5
    for name in EXAMPLES:  # a mark that no block follows
        assert MARKDOWN[name].count(RUNS) == len(blocks(name, "sh")) + len(blocks(name, "python")), name


@pytest.mark.slow
def test_ray_command(folder: Path) -> None:
    """Run it as it stands, on a cluster of its own; Ray leaves no line on the streams."""
    pytest.importorskip("ray", reason="needs Ray")
    (command,) = re.findall(r"<!-- ray -->\n```sh\n(.*?)```", MARKDOWN["docs/scaling-out.md"], re.DOTALL)
    (folder / "photos" / "bad.jpg").write_bytes(b"not a picture")
    done = run(folder, "sh", "-c", command)
    assert done.returncode == 1, done.stderr
    assert sorted(done.stdout.split()) == ["raws/one.dng", "raws/trip/two.dng"]
    lines = re.sub(r"\d/3|\d+\.\d s", "", done.stderr).splitlines()
    files_of, notices, last = lines[:3], lines[3:-2], lines[-2:]
    bad, *others = sorted(files_of, reverse=True)
    assert bad.startswith("paramisp: photos/bad.jpg: not a JPEG")
    assert others == ["[] photos/trip/two.jpg: done ()", "[] photos/one.jpg: done ()"]
    assert all(line.startswith("2 files: ") for line in notices), notices
    assert last == ["2 done, 0 skipped, 1 failed", "failed: photos/bad.jpg"]
    assert files(folder / "raws") == {"one.dng", "trip/two.dng"}


# --- options and commands ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def helps() -> dict[str, str]:
    """Return --help of every command; "" is the program's own. One interpreter prints them all."""
    script = (
        "import contextlib, io, json, sys\n"
        "from paramisp_cli.cli import app\n"
        "found = {}\n"
        "for name in json.loads(sys.argv[1]):\n"
        "    sys.argv, told = ['paramisp', *name.split(), '--help'], io.StringIO()\n"
        "    with contextlib.redirect_stdout(told):\n"
        "        try:\n"
        "            app.main()\n"
        "        except SystemExit as stop:\n"
        "            assert stop.code == 0, name\n"
        "    found[name] = told.getvalue()\n"
        "print(json.dumps(found))\n"
    )
    words = [sys.executable, "-c", script, json.dumps(["", *COMMANDS])]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    found: dict[str, str] = json.loads(done.stdout)
    assert all(f"paramisp {name}".strip() in text for name, text in found.items())
    return found


def options(text: str) -> set[str]:
    """Return every word that looks like an option."""
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][a-z-]*\b", text))


def command_lines(text: str) -> list[str]:
    """Return the lines of shell blocks that run paramisp, from its name on, up to a comment or a pipe."""
    shell = "\n".join(re.findall(r"^```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE))
    lines = re.findall(r"^(?:\w+=\S+ )*(?:.*&& \S*/)?paramisp (.*)$", shell, re.MULTILINE)
    return [re.split(r" [#|>]", line)[0] for line in lines]


def mentioned(text: str) -> set[str]:
    """Return the options of paramisp in a document's code; other programs' are left out."""
    code = [piece for piece in re.findall(r"`([^`\n]+)`", text) if not piece.startswith(FOREIGN)]
    return options("\n".join([*code, *command_lines(text)]))


@pytest.mark.parametrize("name", PROSE)
def test_every_option_mentioned_exists(name: str, helps: dict[str, str]) -> None:
    assert mentioned(MARKDOWN[name]) - options("\n".join(helps.values())) == set()


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_documented(command: str, helps: dict[str, str]) -> None:
    """Every option of a command stands in a section of docs/options.md whose heading names the command."""
    sections = re.split(r"^## ", OPTIONS, flags=re.MULTILINE)
    own = [text for text in sections[1:] if re.search(rf"`(paramisp )?{command}\b", text.splitlines()[0])]
    assert own, f"docs/options.md has no section for {command}"
    known = set().union(*(mentioned(text) for text in own)) | mentioned(sections[0])
    assert options(helps[command].split("Examples:")[0]) - known == set()


def test_options_of_the_program_are_documented(helps: dict[str, str]) -> None:
    assert options(helps[""].split("Examples:")[0]) - mentioned(OPTIONS) == set()


def test_every_command_is_documented(helps: dict[str, str]) -> None:
    body = helps[""].split("\nOptions:")[0]
    sections = re.split(r"^[A-Z][\w ]*:$", body, flags=re.MULTILINE)[1:]
    listed = {line.split()[0] for text in sections for line in text.splitlines() if re.match(r"  \w", line)}
    assert listed == {name.split()[0] for name in COMMANDS}, "a new command needs a section, and its name in COMMANDS"
    for text in MARKDOWN.values():
        used = {*re.findall(r"`paramisp ([a-z][a-z-]*)\b", text), *(line.split()[0] for line in command_lines(text))}
        assert used - {"--version"} <= listed


def test_each_example_uses_its_commands_own_options(helps: dict[str, str]) -> None:
    """An option of another command is wrong, too; also in blocks that are not run."""
    seen = set()
    for document in PROSE:
        for line in command_lines(MARKDOWN[document]):
            words = line.split()
            name = " ".join(words[: 2 if words[0] in ("weights", "look") else 1])
            assert options(" ".join(words)) <= options(helps[name]), f"{document}: {line}"
            seen.add(name)
    assert seen >= {"unprocess", "render", "hdr", "inspect", "pairs", "train", "evaluate", "simulate", "weights import"}


def test_commands_of_scripts_exist() -> None:
    """Every `python tests/….py --option` names a script that knows the option; every `pytest …` names a file."""
    count = 0
    for name, text in MARKDOWN.items():
        for command in re.findall(r"(?:`|^)(?:python|pytest) ([^`\n]+)", text, re.MULTILINE):
            scripts = re.findall(r"tests/[\w/]+\.py", command)
            if scripts and not command.startswith("-"):
                source = (ROOT / scripts[0]).read_text(encoding="utf-8")
                for option in re.findall(r"--[a-z-]+", command):
                    assert f'"{option}"' in source, f"{name}: {command}"
                count += 1
            assert all((ROOT / script).is_file() for script in scripts), f"{name}: {command}"
    assert count >= 15


def test_recipes_exist() -> None:
    from paramisp_cli.training import config

    table = MARKDOWN["docs/training.md"].split("| recipe | purpose |")[1].split("\n\n")[0]
    named = {name for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
    assert named == set(config.names())


# --- facts ------------------------------------------------------------------------------------------------------------


def test_every_exit_code_is_documented() -> None:
    from paramisp_cli import errors

    codes = {kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and hasattr(kind, "exit_code")}
    table = README[README.index("| code | meaning |") :].split("\n\n")[0]
    told = {int(number) for number in re.findall(r"\| (\d+) (?=\|)", table)}
    assert codes | {0, 1, 2, 3, 130} == told


def test_set_up_commands_are_makes() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    known = set(re.findall(r"^([a-z]+)\b.*:", (ROOT / "Makefile").read_text(), re.MULTILINE))
    targets = {target for text in MARKDOWN.values() for target in re.findall(r"(?:`|^)make ([a-z]+)\b", text, re.M)}
    assert {"install", "test", "dev", "format", "bench", "clean", "lint", "types", "unit", "fuzz"} <= targets <= known
    assert {"quick", "hooks", "wheel", "docs", "lock"} <= targets
    for target in targets:
        done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    assert "make install && .venv/bin/paramisp unprocess photo.jpg\nmake test\n" in README


def test_readme_is_short_and_its_picture_goes_alone() -> None:
    """The package build strips the picture's line for the package index."""
    assert len(README.splitlines()) <= 200
    assert re.search(r"(?m)^!\[[^\]]+\]\(tests/readme/before_after\.jpg\)\n\n", README)


def test_the_number_of_cameras() -> None:
    from paramisp_cli import cameras

    assert f"{len(cameras.all_cameras())} cameras" in MARKDOWN["docs/parameters.md"]


def test_limits_are_those_of_the_code() -> None:
    from paramisp_cli import formats
    from paramisp_cli.types import FALLBACK_OPTICAL

    limit: Any = getattr(formats, "MAX_PIXELS", 250_000_000)
    assert f"{limit // 1_000_000} megapixels" in README
    assert f"{limit // 1_000_000} megapixels" in OPTIONS
    assert f"ISO {FALLBACK_OPTICAL.iso}, 1/125 s, f/2.8, 80 mm" in MARKDOWN["docs/parameters.md"]


# --- links and language -----------------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("name", MARKDOWN)
def test_links_lead_somewhere(name: str) -> None:
    for link in re.findall(r"\]\(([^)]+)\)", without_code(MARKDOWN[name])):
        if link.startswith(("https://", "http://")):
            continue
        target, _, anchor = link.partition("#")
        path = (ROOT / name).parent / target if target else ROOT / name
        assert path.exists(), link
        if anchor:
            assert anchor in anchors(path.read_text(encoding="utf-8")), link


def test_every_document_is_reached_from_the_readme() -> None:
    reached, left = {"README.md"}, ["README.md"]
    while left:
        name = left.pop()
        for link in re.findall(r"\]\(([^)#]+\.md)", MARKDOWN[name]):
            target = ((ROOT / name).parent / link).resolve().relative_to(ROOT.resolve()).as_posix()
            if target in MARKDOWN and target not in reached:
                reached.add(target)
                left.append(target)
    assert set(PROSE) - reached == set()


BANNED = (
    "that one", "this one's", "is said", "are said", "was said", "and that is said", "is told", "are told", "what",
    "what lies", "for who", "for whom", "for which", "for want of", "is for who", "to be had", "may be had",
    "has to be asked for", "has to be said", "it is the shorter way", "goes that way", "nothing by nobody", "anew",
    "as it were", "beyond doubt", "begin with all that", "likewise", "kept", "that go", "none is", "but for the",
)  # fmt: skip
"""Phrases that make a reader stop: stand-ins for nouns, inversions, archaisms (the style is in CONTRIBUTING.md)."""


BANNED_IN_CODE = (
    *BANNED, "this one", "said", "told", "tell of", "who", "nobody", "somebody", "anybody", "whatever", "whoever",
    "by way of", "used up", "of no use", "seen to it", "want of", "wants", "asked for", "as it is", "as they are",
    "go on", "went on", "goes on", "looked at", "looks at", "worked on at", "is to come", "in words", "costs no",
    "costs only", "takes it", "all the same", "plays? no part", "where there is none", "beside each other", "goes that",
    "by hand", "is ours", "are ours", "of ours", "a person", "for people", "made from it", "would be taken",
)  # fmt: skip
"""The same for docstrings, comments and messages; an expression matches whole words."""
CODE = {
    path.relative_to(ROOT / "paramisp_cli").as_posix(): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "paramisp_cli").rglob("*.py"))
}


def banned_in(lines: Iterator[tuple[int, str]], phrases: tuple[str, ...]) -> list[str]:
    """Return "line: phrase" for each banned phrase in numbered lines."""
    return [
        f"{number}: {phrase!r}"
        for number, line in lines
        for phrase in phrases
        if re.search(rf"\b{phrase}\b", line, re.IGNORECASE)
    ]


def prose_of(source: str) -> Iterator[tuple[int, str]]:
    """Yield the numbered lines of a module's comments, docstrings and messages (strings of two words and more)."""
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], without_code(token.string)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value.strip():
            text = re.sub(r"``[^`]*``", "", node.value)
            yield from enumerate(without_code(text).splitlines(), node.lineno)


@pytest.mark.parametrize("name", PROSE)
def test_plain_english(name: str) -> None:
    found = banned_in(enumerate(without_code(MARKDOWN[name]).splitlines(), 1), BANNED)
    assert not found, f"{name}: {', '.join(found)}"


@pytest.mark.parametrize("name", CODE)
def test_plain_english_in_code(name: str) -> None:
    found = banned_in(prose_of(CODE[name]), BANNED_IN_CODE)
    assert not found, f"{name}: {', '.join(found)}"


def test_prose_of_code_is_found() -> None:
    source = '"""A\nkept thing."""\nkept = 1  # told\nraise E(f"{kept}: said so")\n"kept", "`what` works"\n'
    assert banned_in(prose_of(source), ("kept", "told", "said", "what")) == ["3: 'told'", "2: 'kept'", "4: 'said'"]


@pytest.mark.parametrize("name", CODE)
def test_docstrings_of_functions_begin_with_a_verb(name: str) -> None:
    """Ruff's D401 checks the mood of a first word that it knows; here: that the first word can be a verb."""
    for node in ast.walk(ast.parse(CODE[name])):
        if isinstance(node, ast.FunctionDef) and (text := ast.get_docstring(node)):
            is_property = any(isinstance(each, ast.Name) and each.id == "property" for each in node.decorator_list)
            word = text.split()[0]
            is_verb = re.fullmatch(r"[A-Z][a-z]+,?", word) and word not in ("What", "Whether", "How", "Where", "For")
            assert is_property or is_verb, f"{name}:{node.lineno}: {text.splitlines()[0]}"


@pytest.mark.parametrize("name", PROSE)
def test_sentences_are_short(name: str) -> None:
    """No sentence of more than 45 words; tables and lists of links are left out."""
    text = "\n".join(line for line in without_code(MARKDOWN[name]).splitlines() if not line.startswith(("|", "#")))
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:\*|\d+\.) )", text):
        for sentence in re.split(r"(?<=[.:;?!])\s+", " ".join(paragraph.split())):
            assert len(sentence.split()) <= 45, sentence


def test_spelling() -> None:
    pytest.importorskip("codespell_lib", reason="needs codespell")
    # Run as `make lint` does.
    command = re.search(r"^\t\$\(BIN\)/codespell (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert command
    words = [str(path) for word in command[1].split() for path in sorted(ROOT.glob(word))]
    assert {str(ROOT / name) for name in PROSE} <= {*words, *map(str, (ROOT / "docs").rglob("*.md"))}
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", *words], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr
