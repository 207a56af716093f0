"""What the documents say must be so: links resolve, examples run, commands and targets exist."""

import doctest
import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import typer

from inspection_core.cli import app

ROOT = Path(__file__).resolve().parents[2]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "sample_data/README.md", *DOCS]
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# file: (\S+)\n")


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(page.read_text(encoding="utf-8")) if language in languages]


def prose(page: Path) -> str:
    return FENCE.sub("", page.read_text(encoding="utf-8"))


def heading_anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def commands(page: Path) -> list[str]:
    """Return every `inspection ...` command shown: in shell blocks, and whole in backticks."""
    shown = [line.removeprefix("$ ") for text in blocks(page, "sh", "console") for line in text.splitlines()]
    shown += re.findall(r"`([^`\n]+)`", prose(page))
    return [line for line in shown if re.match(r"inspection( |$)", line)]


def targets(page: Path) -> set[str]:
    text = "\n".join([*blocks(page, "sh", "console"), *re.findall(r"`([^`\n]+)`", prose(page))])
    lines = [line.removeprefix("$ ") for line in text.splitlines()]
    words = [word for line in lines if line.startswith("make ") for word in line.split("#")[0].split()[1:]]
    return {word for word in words if "=" not in word}


def check_command(line: str) -> None:
    """Follow the words of a command through the command tree; options must be known there."""
    command = typer.main.get_command(app)
    words = shlex.split(line, comments=True)[1:]
    while hasattr(command, "commands") and words and not words[0].startswith("-"):
        name = words.pop(0)
        assert name in command.commands, f"{line}: there is no command {name}"
        command = command.commands[name]
    known = {option for p in command.params for option in (*p.opts, *p.secondary_opts)} | {"--help"}
    used = {word.split("=")[0] for word in words if word.startswith("-")}
    assert used <= known, f"{line}: {used - known} unknown"


def ids(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_links_resolve(page):
    for target in LINK.findall(prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{ids(page)} links to {target}"
        if anchor:
            assert anchor in heading_anchors(there), f"{ids(page)} links to {target}, which has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_commands_exist(page):
    for line in commands(page):
        check_command(line)


@pytest.mark.parametrize("page", PAGES, ids=ids)
def test_make_targets_exist(page):
    there = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    assert targets(page) <= there


def test_commands_are_found_at_all():
    assert {"make demo", "make test"} <= {f"make {t}" for t in targets(ROOT / "README.md")}
    shown = {line.split()[1] for line in commands(ROOT / "README.md")}
    assert {"fit", "screen", "predict", "evaluate", "doctor"} <= shown


@pytest.mark.parametrize(
    "line", ["inspection fly FOLDER", "inspection fit FOLDER --wings 2", "inspection models show M --out X"]
)
def test_a_wrong_command_is_noticed(line):
    with pytest.raises(AssertionError, match=r"no command|unknown"):
        check_command(line)


@pytest.mark.parametrize("page", [p for p in PAGES if any(">>>" in b for b in blocks(p, "python"))], ids=ids)
def test_examples_run(page, tmp_path, monkeypatch):
    """Blocks that begin with ``# file: NAME`` are written first, and installed where there is a pyproject.toml."""
    site = tmp_path / "site"
    site.mkdir()
    for text in blocks(page, "python", "toml"):
        if name := FILE.match(text):
            (site / name[1]).write_text(text, encoding="utf-8")
    if (site / "pyproject.toml").exists():
        install(tomllib.loads((site / "pyproject.toml").read_text(encoding="utf-8"))["project"], site)
    monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    loaded = set(sys.modules)
    source = "\n".join(text for text in blocks(page, "python") if ">>>" in text)
    test = doctest.DocTestParser().get_doctest(source, {"folder": tmp_path / "model"}, ids(page), str(page), 0)
    assert test.examples
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(test, out=report.append)
    for name in set(sys.modules) - loaded:
        if getattr(sys.modules[name], "__file__", None) and Path(sys.modules[name].__file__).is_relative_to(site):
            del sys.modules[name]
    assert not result.failed, "".join(report)


def install(project: dict, site: Path) -> None:
    """Do what pip does with a project's metadata."""
    info = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
