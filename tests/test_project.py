"""pyproject.toml, uv.lock, the Makefile and the hooks agree with each other."""

import ast
import importlib.util
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
LOCK = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))


def requirement(text: str) -> tuple[str, str]:
    """Return the name and the version rule of a requirement; extras of other packages are left out."""
    name, rule = re.fullmatch(r"([\w-]+)(?:\[\w+\])?(.*)", text).groups()
    return name, rule


def test_the_lock_has_what_the_project_requires():
    """`make lock` writes it."""
    project = PROJECT["project"]
    wanted = {("", *requirement(each)) for each in project["dependencies"]}
    for extra, names in project["optional-dependencies"].items():
        wanted |= {(extra, *requirement(each)) for each in names}
    (own,) = (package for package in LOCK["package"] if package["name"] == "paramisp")
    locked = {
        (re.sub(r"extra == '(\w+)'", r"\1", each.get("marker", "")), each["name"], each["specifier"])
        for each in own["metadata"]["requires-dist"]
    }
    assert locked == wanted
    assert LOCK["requires-python"] == project["requires-python"]


def test_the_lock_names_the_public_index_alone():
    """A lock made behind a mirror would lead others to it."""
    hosts = set(re.findall(r"\w+://([^/\"]+)", (ROOT / "uv.lock").read_text(encoding="utf-8")))
    assert hosts == {"pypi.org", "files.pythonhosted.org"}
    for package in LOCK["package"]:
        if package["name"] != "paramisp":
            files = [*package.get("wheels", ()), *([package["sdist"]] if "sdist" in package else ())]
            assert files, package["name"]
            assert all(file["hash"].startswith("sha256:") for file in files), package["name"]


def test_the_lock_has_the_torch_of_ci():
    (locked,) = {package["version"] for package in LOCK["package"] if package["name"] == "torch"}
    assert f"TORCH=torch=={locked}" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_hooks_run_the_checks_of_make_from_the_environment():
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    make = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"- repo: (.*)", hooks) == ["local"]
    entries = re.findall(r"entry: \.venv/bin/(.*)", hooks)
    assert len(entries) == len(re.findall("entry:", hooks)) == len(re.findall("language: system", hooks)) == 4
    for entry in entries:
        assert f"$(BIN)/{entry.removesuffix(' --force-exclude')}" in make, entry


def test_types_are_strict():
    assert PROJECT["tool"]["mypy"]["strict"] is True
    for path in (ROOT / "paramisp_cli").rglob("*.py"):
        assert not re.search(r"# *mypy: |# type: ignore(?!\[)", path.read_text(encoding="utf-8")), path


@pytest.mark.parametrize("script", sorted((ROOT / "tests" / "bench").glob("*.py")), ids=lambda path: path.stem)
def test_a_bench_imports_what_exists(script):
    """No test runs the benches, so a module that moves would break them unseen."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("paramisp_cli"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), (node.module, name)
