"""Write docs/paramisp.1 (the man page) and llms.txt (the program in brief, for language models) from the code.

    python docs/generate.py            # write both files; `make docs` does it
    python docs/generate.py --check    # exit code 1 if a file is stale

Commands, options, defaults and examples come from the command line itself, public names from the package, exit codes
from README.md, whose table a test holds to the code. A width of the terminal has no influence.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

import paramisp_cli
from paramisp_cli import weights
from paramisp_cli.cli import app

ROOT = Path(__file__).resolve().parents[1]
MAN, LLMS = ROOT / "docs" / "paramisp.1", ROOT / "llms.txt"

REVISED = "2026-11-30"  # the date in the man page's footer: a man page without one is refused by mandoc
ENVIRONMENT = {
    weights.ENVIRONMENT: "A file of weights, or a folder that is searched for weights first.",
    "PARAMISP_VERIFY": "1: open every output again and compare it, as --verify does.",
    "PARAMISP_DEBUG": "1: show the traceback of an internal error.",
    "NO_COLOR": "Any value: no colours.",
}


@dataclass(frozen=True, slots=True)
class Page:
    """One command: its words ("weights list"), its help, its options by section, and its examples."""

    words: str
    usage: str
    help: str
    sections: dict[str, list[tuple[str, str]]]
    examples: list[str]


def pages() -> Iterator[Page]:
    """Yield the program itself, then every command, and every command of a group after the group's name."""
    root = app.command()
    context = root.make_context("paramisp", [], resilient_parsing=True)

    def below(group: Any, context: Any, words: tuple[str, ...]) -> Iterator[Page]:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            inner = typer.Context(command, parent=context, info_name=name)
            if hasattr(command, "list_commands"):
                yield from below(command, inner, (*words, name))
            else:
                yield _page(command, inner, " ".join((*words, name)))

    yield _page(root, context, "")
    yield from below(root, context, ())


def _page(command: Any, context: Any, words: str) -> Page:
    sections: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(context):
        record = param.get_help_record(context)
        if record is None:
            continue
        argument = param.param_type_name == "argument"
        name = re.sub(r" <[^>]*>$", "", record[0]) if argument else record[0]
        name = re.sub(r"[<\[{]([^\]>}]*)[>\]}]", r"\1", name)  # choices; their brackets depend on Typer's version
        panel = getattr(param, "rich_help_panel", None) or ("Arguments" if argument else "Options")
        sections.setdefault(panel, []).append((name, " ".join(record[1].split())))
    usage = " ".join(command.collect_usage_pieces(context))
    examples = (command.epilog or "").splitlines()
    return Page(words, usage, " ".join((command.help or "").split()), sections, examples)


def exit_codes() -> list[tuple[int, str]]:
    """Return the exit codes with their meanings, from README.md's table of two columns."""
    table = (ROOT / "README.md").read_text(encoding="utf-8").split("| code | meaning |")[1].split("\n\n")[0]
    return sorted((int(code), text) for code, text in re.findall(r"\| (\d+) \| ([^|]+?) (?=\|)", table))


# --- the man page -----------------------------------------------------------------------------------------------------


def roff(text: str) -> str:
    """Return text with roff's own characters escaped."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    for character, name in (("×", "\\(mu"), ("–", "\\(en"), ("…", "..."), ("→", "\\(->")):
        text = text.replace(character, name)
    return re.sub(r"^\.", r"\\&.", text)


def entries(records: list[tuple[str, str]]) -> list[str]:
    """Return a list of terms with their meanings."""
    return [line for name, text in records for line in (".TP", f"\\fB{roff(name)}\\fR", roff(text))]


def listing(lines: list[str]) -> list[str]:
    """Return lines that roff leaves as they are."""
    return [".nf", ".RS", *(roff(line) for line in lines), ".RE", ".fi"]


def man_page() -> str:
    """Return the man page: one section for each command."""
    program, *commands = pages()
    lines = [
        '.\\" Written by docs/generate.py; do not edit.',
        f'.TH PARAMISP 1 "{REVISED}" "paramisp {paramisp_cli.__version__}" "User Commands"',
        ".SH NAME",
        "paramisp \\- " + roff("turn a JPEG into its camera's RAW (DNG), and render RAW files as that camera would"),
        ".SH SYNOPSIS",
    ]
    for page in commands:
        lines += [f"\\fBparamisp {roff(page.words)}\\fR {roff(page.usage)}", ".br"]
    lines[-1:] = [".SH DESCRIPTION", roff(program.help), ".PP"]
    lines += [roff("The paths of written files go to stdout, messages to stderr.")]
    lines += [roff("A file is written under a temporary name and renamed when it is complete."), ".SH OPTIONS"]
    lines += [line for records in program.sections.values() for line in entries(records)]
    lines += [".SH COMMANDS"]
    for page in commands:
        lines += [f".SS paramisp {roff(page.words)}", roff(page.help)]
        for title, records in page.sections.items():
            shown = [record for record in records if "--help" not in record[0]]
            lines += [".PP", f"\\fI{roff(title)}\\fR", *entries(shown)] if shown else []
        lines += [".PP", "\\fIExamples\\fR", ".PP", *listing(page.examples)] if page.examples else []
    lines += [".SH EXIT STATUS", *entries([(str(code), text) for code, text in exit_codes()])]
    lines += [".SH ENVIRONMENT", *entries(list(ENVIRONMENT.items()))]
    lines += [".SH EXAMPLES", *listing(program.examples)]
    return "\n".join(lines) + "\n"


# --- llms.txt ---------------------------------------------------------------------------------------------------------


def documents() -> list[str]:
    """Return a line for each document: a link, and the first sentence below its heading."""
    lines = []
    for path in [*sorted((ROOT / "docs").glob("*.md")), ROOT / "weights" / "README.md", ROOT / "CONTRIBUTING.md"]:
        title, *blocks = re.split(r"\n{2,}", path.read_text(encoding="utf-8"))
        prose = next(block for block in blocks if re.match(r"[A-Z`\[]", block) and not block.startswith("```"))
        words = " ".join(re.sub(r"\[([^\]]+)\]\([^)]*\)", r"\1", prose).split())
        sentence = re.split(r"(?<=\.) |:(?= |$)", words)[0].rstrip(".")
        lines.append(f"- [{title.lstrip('# ')}]({path.relative_to(ROOT).as_posix()}): {sentence}.")
    return lines


def names() -> list[str]:
    """Return a line for each public name: the parameters of a function, and the first line of the docstring."""
    lines = []
    for name in paramisp_cli.__all__:
        value = getattr(paramisp_cli, name)
        call = f"({', '.join(inspect.signature(value).parameters)})" if inspect.isfunction(value) else ""
        lines.append(f"- `paramisp.{name}{call}`: {(inspect.getdoc(value) or '').splitlines()[0]}")
    return lines


def llms() -> str:
    """Return llms.txt: a title, a summary, links to the documents, then commands, exit codes and public names."""
    program, *commands = pages()
    lines = ["# paramisp", "", f"> {program.help}", "", "Written by docs/generate.py; do not edit.", ""]
    lines += ["## Documents", "", "- [README](README.md): Set-up, use, quality, speed and limits.", *documents(), ""]
    lines += ["## Commands", "", "Results go to stdout, messages to stderr.", ""]
    for page in commands:
        lines += [f"### paramisp {page.words}", "", page.help, "", f"Usage: `paramisp {page.words} {page.usage}`", ""]
        for title, records in page.sections.items():
            lines += [f"- {title}: `{name}`: {text}" for name, text in records if "--help" not in name]
        lines += ["", "```sh", *page.examples, "```", ""] if page.examples else [""]
    lines += ["## Exit codes", "", *(f"- {code}: {text}" for code, text in exit_codes()), ""]
    lines += ["## Environment", "", *(f"- `{name}`: {text}" for name, text in ENVIRONMENT.items()), ""]
    lines += ["## Python", "", "`import paramisp_cli as paramisp`", "", *names(), ""]
    return "\n".join(lines)


def main() -> int:
    """Write the files, or compare them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    check = parser.parse_args().check
    stale = []
    for path, text in ((MAN, man_page()), (LLMS, llms())):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif not path.is_file() or path.read_text(encoding="utf-8") != text:
            stale.append(path.relative_to(ROOT).as_posix())
    if stale:
        print(f"{', '.join(stale)}: stale; run `make docs`")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
