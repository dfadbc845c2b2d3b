"""Documents from Python code: whole files, docstrings as prose, and instructions from signatures and docstrings.

Reads and parses files; imports and runs none of them.
"""

from __future__ import annotations

import ast
import os
import textwrap
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from model.data.corpora.text_documents import TextDocument

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

# Tests, bundled packages, tables of character codes and wheels have little prose and code.
SKIPPED_FOLDERS = frozenset(
    {
        "test",
        "tests",
        "testing",
        "idle_test",
        "site-packages",
        "dist-packages",
        "encodings",
        "_bundled",
        "__pycache__",
    }
)
SHORTEST_DOCSTRING = 40  # characters
SHORTEST_PROSE = 200
LONGEST_ANSWER = 4_000


@dataclass(frozen=True)
class SourceTree:
    """Python files below `root`, called `name` in paths: "python3.11", "sympy"."""

    name: str
    root: Path
    skipped_files: frozenset[str] = frozenset()  # relative to root

    def paths(self) -> list[str]:
        """Paths of the files relative to the root, in order."""
        found: list[str] = []
        for folder, folders, files in os.walk(self.root):
            folders[:] = [name for name in folders if name not in SKIPPED_FOLDERS]
            relative = Path(folder).relative_to(self.root)
            found += [(relative / name).as_posix() for name in files if name.endswith(".py")]
        return sorted(path for path in found if path not in self.skipped_files)

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield (name and path, text) of each file that is UTF-8 and not empty."""
        for path in self.paths():
            try:
                text = (self.root / path).read_text(encoding="utf-8")
            except (UnicodeDecodeError, OSError):
                continue
            if text.strip():
                yield f"{self.name}/{path}", text


def sources(tree: SourceTree, corpus: str, licence: str) -> Iterator[TextDocument]:
    """One document per file."""
    for path, text in tree.files():
        yield TextDocument(corpus, licence, path, path, text)


def docstrings(tree: SourceTree, corpus: str, licence: str) -> Iterator[TextDocument]:
    """One document per module: its docstrings in order, each under the name of what it describes."""
    for path, text in tree.files():
        module = _parse(text)
        if module is None:
            continue
        parts = [ast.get_docstring(module) or ""]
        for name, definition in _definitions(module):
            described = ast.get_docstring(definition)
            if described and len(described) >= SHORTEST_DOCSTRING:
                parts.append(f"{name}{_arguments(definition)}\n{textwrap.indent(described, '    ')}")
        prose = "\n\n".join(part for part in parts if part)
        if len(prose) >= SHORTEST_PROSE:
            yield TextDocument(corpus, licence, path, path, prose + "\n")


def instructions(tree: SourceTree, corpus: str, licence: str) -> Iterator[TextDocument]:
    """One question and answer per documented function: signature and docstring, and its code without the docstring.

    Left out: functions without a body, and those longer than `LONGEST_ANSWER` characters.
    """
    for path, text in tree.files():
        module = _parse(text)
        if module is None:
            continue
        lines = text.splitlines(keepends=True)
        for name, definition in _definitions(module):
            if isinstance(definition, ast.ClassDef):
                continue
            described = ast.get_docstring(definition)
            code = _without_docstring(definition, lines)
            if (
                not described
                or len(described) < SHORTEST_DOCSTRING
                or code is None
                or len(code) > LONGEST_ANSWER
            ):
                continue
            question = f"Write the Python function `{name}{_arguments(definition)}`.\n\n{described}\n"
            yield TextDocument(corpus, licence, f"{path}:{name}", path, question, code)


def literal_strings(
    tree: SourceTree, file: str, variable: str, corpus: str, licence: str
) -> Iterator[TextDocument]:
    """One document per string of a dict that a module assigns to `variable`; none where it has no such dict."""
    module = _parse((tree.root / file).read_text(encoding="utf-8"))
    for statement in module.body if module else ():
        if not isinstance(statement, ast.Assign) or not isinstance(statement.value, ast.Dict):
            continue
        if [variable] != [target.id for target in statement.targets if isinstance(target, ast.Name)]:
            continue
        for key, text in ast.literal_eval(statement.value).items():
            path = f"{tree.name}/{file}:{key}"
            yield TextDocument(corpus, licence, path, path, str(text))


def _parse(text: str) -> ast.Module | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about invalid escapes in the files
            return ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return None  # another version's syntax, or a file that is a test of the parser


def _definitions(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, Definition]]:
    """Classes, their methods and functions with qualified names, in order; not those inside functions."""
    for child in node.body:
        if isinstance(child, Definition):
            yield prefix + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{prefix}{child.name}.")


def _arguments(definition: Definition) -> str:
    if isinstance(definition, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in definition.bases)
        return f"({bases})" if bases else ""
    returns = f" -> {ast.unparse(definition.returns)}" if definition.returns else ""
    return f"({ast.unparse(definition.args)}){returns}"


def _without_docstring(
    definition: ast.FunctionDef | ast.AsyncFunctionDef, lines: Sequence[str]
) -> str | None:
    """Source of a function without its docstring, not indented; None if it has nothing else."""
    documentation, *body = definition.body
    if not body or all(_is_empty(statement) for statement in body):
        return None
    assert definition.end_lineno is not None and documentation.end_lineno is not None
    if body[0].lineno <= documentation.end_lineno or documentation.lineno <= definition.lineno:
        return None  # on one line with something else
    first = min([definition.lineno, *(decorator.lineno for decorator in definition.decorator_list)])
    kept = [
        *lines[first - 1 : documentation.lineno - 1],
        *lines[documentation.end_lineno : definition.end_lineno],
    ]
    return textwrap.dedent("".join(kept)).strip() + "\n"


def _is_empty(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Raise):
        return statement.exc is not None and "NotImplementedError" in ast.unparse(statement.exc)
    is_constant = isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    return is_constant or isinstance(statement, ast.Pass)
