"""The guides hold what the program does: links, examples, command lines, and the names they must not leave out."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
import shlex
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer
from serving_tools import Serving

import crayon
from crayon.adapters import EncoderRecord, Gate, Manifest
from crayon.cli.shared.app import app
from crayon.completion import Reason
from crayon.config import NOT_SETTINGS, load, setting_keys, variable
from crayon.errors import CrayonError
from crayon.server.engines.echo import EchoEngine
from crayon.training.recipe import MemberRecipe, Recipe, load_recipe
from crayon.wire.status import TABLE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).resolve().parents[2]
PAGES = [path for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))) if path.exists()]
GUIDES = (
    "explanation/routing",
    "how-to/customising",
    "how-to/deployment",
    "how-to/models",
    "how-to/observability",
    "how-to/pools",
    "how-to/privacy",
    "how-to/server",
    "reference/sdk",
)
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)$")
COMMENT = re.compile(r"^ *<!-- (run|run with a server|output) -->$")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")  # images, too
SPAN = re.compile(r"(?<!`)`(crayon(?: [^`]*)?)`(?!`)")
OPERATOR = re.compile(r"[();<>|&]+")
ASSIGNMENT = re.compile(r"[A-Z_][A-Z0-9_]*=.*")
EXAMPLE_ADDRESS = "localhost:50051"


@dataclass
class Block:
    """A fenced block: where it begins, its language, the comment right above it, and its text."""

    page: Path
    line: int
    language: str
    comment: str
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


@dataclass
class Page:
    """A page's blocks, and what is not in them."""

    path: Path
    blocks: list[Block] = field(default_factory=list)
    prose: str = ""


def read(path: Path) -> Page:
    page, comment, indent = Page(path), "", 0
    block: Block | None = None
    prose: list[str] = []
    body: list[str] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        fence = FENCE.match(line)
        if block is not None:
            if line.strip() == "```":
                block.text = "\n".join(body) + "\n"
                block, comment = None, ""
            else:
                body.append(line[indent:])
        elif fence:
            block, body, indent = Block(path, number, fence["language"], comment, ""), [], len(fence["indent"])
            page.blocks.append(block)
        else:
            assert "```" not in line, f"{path.name}:{number}: {line}"
            found = COMMENT.match(line)
            assert found or not line.lstrip().startswith("<!-- run"), f"{path.name}:{number}: {line}"
            comment = found[1] if found else "" if line.strip() else comment
            prose.append(line)
    assert block is None, f"{path.name}: a block never ends"
    for i, output in enumerate(page.blocks):
        if output.comment == "output":
            assert i, f"{output}: there is no block that could have said this"
            assert page.blocks[i - 1].comment.startswith("run"), f"{output}: the block above is not run"
            page.blocks[i - 1].output = output.text
    page.prose = "\n".join(prose)
    return page


READ = [read(path) for path in PAGES]
BLOCKS = [block for page in READ for block in page.blocks]
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUN = [block for block in PYTHON if block.comment.startswith("run")]


def shell_words(block: Block) -> Iterator[tuple[int, list[str]]]:
    """Yield each simple command of a shell block as its words, with its line."""
    lines = block.text.splitlines()
    number = 0
    while number < len(lines):
        start, line = number, lines[number]
        if block.language == "console":
            number += 1
            if not line.startswith("$ "):
                continue  # what a command printed
            line = line.removeprefix("$ ")
        else:
            number += 1
        while line.endswith("\\") and number < len(lines):
            line = f"{line[:-1]} {lines[number].strip()}"
            number += 1
        for words in simple_commands(line):
            yield block.line + 1 + start, words


def simple_commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    redirected = False
    for word in [*lexer, ";"]:
        if OPERATOR.fullmatch(word):
            redirected = word[0] in "<>"
            if not redirected and words:
                yield words
                words = []
        elif redirected:
            redirected = False
        elif words or not ASSIGNMENT.fullmatch(word):
            words.append(word)


COMMAND_LINES = [
    (f"{block.page.name}:{line}", words[1:])
    for block in BLOCKS
    if block.language in {"console", "sh"}
    for line, words in shell_words(block)
    if Path(words[0]).name == "crayon"
]
SPANS = [
    (f"{page.path.name}: {found[1]}", found[1])
    for page in READ
    if page.path.name != "cli.md"  # written from the program itself
    for found in SPAN.finditer(page.prose)
]


def command_of(words: list[str]) -> tuple[Any, list[str]]:
    """Return the command that words name, and its own arguments."""
    command = typer.main.get_command(app)
    words = list(words)
    while getattr(command, "commands", None) is not None:
        while words and words[0].startswith("-"):
            check_option(command, words.pop(0))
        if not words:
            return command, []
        name = words.pop(0)
        assert name in command.commands, f"there is no command {name!r}"
        command = command.commands[name]
    return command, words


def check_option(command: Any, word: str) -> None:
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    name = word.partition("=")[0]
    assert name in known | {"--help", "-h"}, f"{command.name} has no option {name}"


# -- the pages


@pytest.mark.parametrize("name", GUIDES)
def test_the_guide_is_there(name: str) -> None:
    assert ROOT / "docs" / f"{name}.md" in PAGES


def test_relative_links_lead_somewhere() -> None:
    assert [f"{page.path.name}: {wrong}" for page in READ for wrong in dead_links(page)] == []


def dead_links(page: Page) -> Iterator[str]:
    """Yield the links of a page that lead nowhere."""
    for target in LINK.findall(page.prose):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.path.parent / name).resolve() if name else page.path
        if not path.is_relative_to(ROOT):
            yield f"{target} leaves the repository"
        elif not path.exists():
            yield f"{target} does not exist"
        elif anchor and anchor not in anchors(path):
            yield f"{target}: no such heading"


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+ (.+)$", read(path).prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_block_names_its_language() -> None:
    assert [str(block) for page in READ for block in page.blocks if not block.language] == []


def test_variables_are_settings() -> None:
    known = {variable(key) for key in setting_keys()} | NOT_SETTINGS
    for path in PAGES:
        named = set(re.findall(r"\bCRAYON_[A-Z0-9_]*[A-Z0-9]", path.read_text(encoding="utf-8")))
        assert named <= known, path.name


# -- examples in Python


def test_python_compiles() -> None:
    tried = {str(block): fault_of(partial(compile, block.text, str(block), "exec")) for block in PYTHON}
    assert {block: fault for block, fault in tried.items() if fault} == {}


def test_what_python_imports_from_crayon_exists() -> None:
    pattern = re.compile(r"^(?:from crayon.*? import (?:\([^)]*\)|.*)|import crayon.*)$", re.MULTILINE)
    tried = {str(block): fault_of(partial(exec, "\n".join(pattern.findall(block.text)), {})) for block in PYTHON}
    assert {block: fault for block, fault in tried.items() if fault} == {}


@pytest.mark.parametrize("block", RUN, ids=str)
def test_python_runs_and_says_what_the_page_says(block: Block) -> None:
    text, said = block.text, io.StringIO()
    with contextlib.ExitStack() as stack:
        if block.comment == "run with a server":
            server = stack.enter_context(Serving(EchoEngine))
            assert EXAMPLE_ADDRESS in text
            text = text.replace(EXAMPLE_ADDRESS, server.address)
        stack.enter_context(contextlib.redirect_stdout(said))
        exec(compile(text, str(block), "exec"), {"__name__": "__main__"})
    if block.output is not None:
        assert said.getvalue() == block.output


@pytest.mark.parametrize("name", ["sdk", "server"])
def test_the_guide_has_examples_that_run(name: str) -> None:
    assert [block for block in RUN if block.page.stem == name]


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language == "toml"], ids=str)
def test_scope_files_recipes_and_settings_load(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file.toml"
    path.write_text(block.text, encoding="utf-8")
    if block.page.stem in ("deployment", "scaling"):
        monkeypatch.setenv("CRAYON_CONFIG", str(path))
        assert load().sources
    elif block.page.stem == "pools":
        assert load_recipe(str(path)).members
    else:
        assert crayon.load_scope(str(path)).examples


# -- command lines


def parse(words: list[str]) -> None:
    """Read and check a command line as running it would, and run nothing."""
    command, arguments = command_of(words)
    if not {"--help", "-h"} & set(arguments):
        command.make_context(command.name, arguments).close()


def fault_of(check: Callable[[], object]) -> str | None:
    """Return why a check fails, if it does; a command line that is refused ends typer's parser."""
    try:
        check()
    except (Exception, SystemExit) as fault:  # noqa: BLE001 - told together with the others
        return f"{type(fault).__name__}: {fault}"
    return None


def test_command_lines_parse() -> None:
    tried = {where: fault_of(partial(parse, words)) for where, words in COMMAND_LINES}
    assert {line: fault for line, fault in tried.items() if fault} == {}


def check_span(text: str) -> None:
    command, arguments = command_of(shlex.split(text.replace("...", ""))[1:])
    for word in arguments:
        if word.startswith("-"):
            check_option(command, word)


def test_commands_in_the_text_exist() -> None:
    tried = {where: fault_of(partial(check_span, text)) for where, text in SPANS}
    assert {where: fault for where, fault in tried.items() if fault} == {}


@pytest.mark.parametrize(
    "words",
    [
        ["asc", "Why?"],
        ["--fast", "ask", "Why?"],
        ["models", "get", "x"],
    ],
)
def test_unknown_commands_are_noticed(words: list[str]) -> None:
    with pytest.raises(AssertionError):
        parse(words)


@pytest.mark.parametrize(
    "words",
    [
        ["ask", "--fast", "Why?"],
        ["ask", "--mode", "sometimes", "Why?"],
        ["serve", "--slots", "0"],
        ["models", "show"],
    ],
)
def test_wrong_arguments_are_noticed(words: list[str]) -> None:
    with pytest.raises(typer.TyperException):
        parse(words)


def test_shell_lines_are_split_into_commands() -> None:
    block = Block(ROOT / "x.md", 0, "sh", "", "A=1 crayon ask 'a | b' | cat > f; crayon \\\n  models ls # all\n")
    assert [words for _, words in shell_words(block)] == [
        ["crayon", "ask", "a | b"],
        ["cat"],
        ["crayon", "models", "ls"],
    ]


# -- what the guides must name


def test_routing_names_every_reason() -> None:
    text = (ROOT / "docs" / "explanation" / "routing.md").read_text(encoding="utf-8")
    assert [reason for reason in Reason if f"| `{reason}` |" not in text] == []


def test_pools_names_every_field_of_a_manifest_and_every_key_of_a_recipe() -> None:
    text = (ROOT / "docs" / "how-to" / "pools.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`\[*(\w+)\]*`", text))
    keys = {
        field.name
        for kind in (Manifest, EncoderRecord, Gate, Recipe, MemberRecipe)
        for field in dataclasses.fields(kind)
    }
    assert sorted(keys - named) == []


def test_sdk_names_every_public_error() -> None:
    text = (ROOT / "docs" / "reference" / "sdk.md").read_text(encoding="utf-8")
    public = [
        name
        for name in crayon.__all__
        if isinstance(value := getattr(crayon, name), type) and issubclass(value, CrayonError)
    ]
    assert len(public) > 20
    assert [name for name in public if f"`{name}`" not in text] == []


def test_server_names_every_status() -> None:
    text = (ROOT / "docs" / "how-to" / "server.md").read_text(encoding="utf-8")
    rows = [f"| `{code.name}` | `{kind.__name__}` | `{reason}` |" for kind, code, reason in TABLE]
    assert [row for row in rows if row not in text] == []
