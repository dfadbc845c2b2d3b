"""The normal form of source text: what is left when everything is gone that cannot change what the code computes.

Python: comments, layout, docstrings, `pass`, and assignments of a constant or a plain name to a local that is never read
are dropped, and so are statements that are a constant; locals are numbered by first appearance. Nothing with a call, an
attribute, an index or an operator is ever dropped. C++: comments and layout are dropped, identifiers are numbered.

Two files of one normal form are copies of each other. Text is parsed, never compiled or imported.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_LOCAL = "v"  # before the number of a local

_CPP_TOKEN = re.compile(
    r"""(?P<comment>//(?:\\\n|[^\n])*|/\*.*?\*/)
      | (?P<text>R"(?P<mark>[^()\\\s]{0,16})\(.*?\)(?P=mark)"|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*')
      | (?P<number>\.?[0-9](?:[eEpP][+-]|['\w.])*)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<space>\s+)
      | (?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)
_CPP_KEPT = frozenset(
    [
        "alignas",
        "alignof",
        "and",
        "asm",
        "auto",
        "bool",
        "break",
        "case",
        "catch",
        "char",
        "class",
        "const",
        "constexpr",
        "const_cast",
        "continue",
        "decltype",
        "default",
        "define",
        "delete",
        "do",
        "double",
        "dynamic_cast",
        "elif",
        "else",
        "endif",
        "enum",
        "error",
        "explicit",
        "export",
        "extern",
        "false",
        "final",
        "float",
        "for",
        "friend",
        "goto",
        "if",
        "ifdef",
        "ifndef",
        "include",
        "inline",
        "int",
        "long",
        "mutable",
        "namespace",
        "new",
        "noexcept",
        "not",
        "nullptr",
        "operator",
        "or",
        "override",
        "pragma",
        "private",
        "protected",
        "public",
        "register",
        "reinterpret_cast",
        "restrict",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "static_assert",
        "static_cast",
        "struct",
        "switch",
        "template",
        "this",
        "thread_local",
        "throw",
        "true",
        "try",
        "typedef",
        "typeid",
        "typename",
        "undef",
        "union",
        "unsigned",
        "using",
        "virtual",
        "void",
        "volatile",
        "wchar_t",
        "while",
        "xor",
    ]
)


def normal_python(source: str) -> str:
    """The normal form of a Python file. Raises ValueError where it is no Python, or nested too deeply to be read."""
    try:
        tree = ast.parse(source)
        _drop_idle(tree)
        _number(tree)
        return ast.unparse(tree)
    except (SyntaxError, RecursionError, MemoryError, UnicodeError) as error:
        raise ValueError(f"not readable as Python: {type(error).__name__}") from None


def normal_cpp(source: str) -> str:
    """The normal form of a C++ file, one line a statement or brace. Any text has one."""
    numbers: dict[str, str] = {}
    words: list[str] = []
    for token in _CPP_TOKEN.finditer(source):
        text, kind = token.group(), token.lastgroup
        if kind == "name" and text not in _CPP_KEPT:
            text = numbers.setdefault(text, f"{_LOCAL}{len(numbers)}")
        if kind in ("comment", "space"):
            # The end of a line ends a preprocessor's directive.
            words += ["\n"] if "\n" in text and kind == "space" and _in_directive(words) else []
            continue
        words += [text, "\n"] if text in (";", "{", "}") else [text]
    lines = " ".join(words).split("\n")
    return "\n".join(line.strip() for line in lines if line.strip())


def _in_directive(words: list[str]) -> bool:
    for word in reversed(words):
        if word == "\n":
            return False
        if word == "#":
            return True
    return False


# --- what is dropped from Python -----------------------------------------------------------------


def _drop_idle(tree: ast.Module) -> None:
    """Drop docstrings, other constants and `pass`, then assignments to locals that are never read, until none is left."""
    for node in ast.walk(tree):
        for body in _bodies(node):
            body[:] = [statement for statement in body if not _is_nothing(statement)]
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            while _drop_unread(node):
                pass
    for node in ast.walk(tree):
        for body in _bodies(node):
            if not body and not (isinstance(node, ast.Module) or _is_optional(node, body)):
                body.append(ast.Pass())


def _is_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Expr):
        return isinstance(statement.value, ast.Constant)
    return isinstance(statement, ast.Pass)


def _drop_unread(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Drop idle assignments to names that nothing in the function reads; whether there was one."""
    kept = {
        name
        for node in ast.walk(function)
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
    }
    read = {
        node.id
        for node in ast.walk(function)
        if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)
    }
    read |= {
        node.target.id
        for node in ast.walk(function)
        if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Name)
    }
    has_dropped = False
    for node in (function, *(one for part in function.body for one in _in_scope(part))):
        for body in _bodies(node):
            left = [s for s in body if not _is_idle(s, unread_except=kept | read)]
            has_dropped = has_dropped or len(left) < len(body)
            body[:] = left
    return has_dropped


def _is_idle(statement: ast.stmt, *, unread_except: set[str]) -> bool:
    """Whether it only gives a constant or a plain name to locals that are never read."""
    match statement:
        case ast.Assign(targets=targets, value=ast.Constant() | ast.Name()):
            pass
        case ast.AnnAssign(target=target, value=ast.Constant() | ast.Name() | None):
            targets = [target]
        case _:
            return False
    return all(isinstance(target, ast.Name) and target.id not in unread_except for target in targets)


def _bodies(node: ast.AST) -> list[list[ast.stmt]]:
    found = (getattr(node, name, None) for name in ("body", "orelse", "finalbody"))
    return [body for body in found if isinstance(body, list)]


def _is_optional(node: ast.AST, body: list[ast.stmt]) -> bool:
    """Whether the grammar allows the node without this part."""
    if body is getattr(node, "orelse", None):
        return True
    return body is getattr(node, "finalbody", None) and bool(getattr(node, "handlers", ()))


# --- how locals are numbered ---------------------------------------------------------------------


def _number(tree: ast.Module) -> None:
    """Rename the locals of every outermost function, with those of its inner functions, in the order of appearance."""
    _Numbering().visit(tree)


@dataclass(slots=True)
class _Scope:
    """Names that are bound here, each with the name it gets; empty until it is met. Classes keep their names."""

    names: dict[str, str]
    is_class: bool = False


class _Numbering(ast.NodeTransformer):
    """Gives the locals of functions, and the targets of comprehensions, their numbers."""

    def __init__(self) -> None:
        self.scopes: list[_Scope] = []
        self.n_locals = 0

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Rename what a node binds or names, then what it holds."""
        match node:
            case ast.Name():
                node.id = self._renamed(node.id)
            case ast.ExceptHandler(name=str()) | ast.MatchAs(name=str()) | ast.MatchStar(name=str()):
                node.name = self._renamed(node.name)  # type: ignore[arg-type]  # a text, as matched
            case ast.MatchMapping(rest=str()):
                node.rest = self._renamed(node.rest)  # type: ignore[arg-type]
            case ast.alias(asname=str()):
                node.asname = self._renamed(node.asname)  # type: ignore[arg-type]
            case ast.Nonlocal():
                node.names = [self._renamed(name) for name in node.names]
            case ast.arg():
                node.arg = self._renamed(node.arg)
            case ast.ClassDef():
                return self._class(node)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.Lambda():
                return self._function(node)
            case ast.ListComp() | ast.SetComp() | ast.DictComp() | ast.GeneratorExp():
                return self._comprehension(node)
        return super().generic_visit(node)

    def _class(self, node: ast.ClassDef) -> ast.ClassDef:
        node.name = self._renamed(node.name)
        self._visit_all(node, "decorator_list", "bases", "keywords")
        own = {name: name for statement in node.body for name in _bound(statement)}
        self.scopes.append(_Scope(own, is_class=True))
        self._visit_all(node, "body")
        self.scopes.pop()
        return node

    def _function(self, node: Function) -> Function:
        if all(scope.is_class for scope in self.scopes):
            self.n_locals = 0
        if not isinstance(node, ast.Lambda):
            node.name = self._renamed(node.name)
            self._visit_all(node, "decorator_list")
        self._visit_all(node.args, "defaults", "kw_defaults")
        self.scopes.append(_Scope(dict.fromkeys(_locals_of(node), "")))
        for one in _parameters(node.args):
            self.visit(one)
        self._visit_all(node, "returns", "body")
        self.scopes.pop()
        return node

    def _comprehension(self, node: Comprehension) -> Comprehension:
        first = node.generators[0]
        first.iter = self.visit(first.iter)  # it belongs to the scope around
        targets = (name for part in node.generators for name in _bound(part.target))
        self.scopes.append(_Scope(dict.fromkeys(targets, "")))
        for part in node.generators:
            self._visit_all(part, "target", *(() if part is first else ("iter",)), "ifs")
        self._visit_all(node, "key", "value", "elt")
        self.scopes.pop()
        return node

    def _visit_all(self, node: ast.AST, *fields: str) -> None:
        """Visit these fields of the node, as far as it has them, in this order."""
        for field in fields:
            value = getattr(node, field, None)
            if isinstance(value, list):
                value[:] = [one if one is None else self.visit(one) for one in value]
            elif isinstance(value, ast.AST):
                setattr(node, field, self.visit(value))

    def _renamed(self, name: str) -> str:
        for depth, scope in enumerate(reversed(self.scopes)):
            if name not in scope.names or (scope.is_class and depth > 0):
                continue
            if not scope.names[name]:
                scope.names[name] = f"{_LOCAL}{self.n_locals}"
                self.n_locals += 1
            return scope.names[name]
        return name


def _parameters(arguments: ast.arguments) -> Iterator[ast.arg]:
    yield from (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)
    yield from (one for one in (arguments.vararg, arguments.kwarg) if one is not None)


def _locals_of(function: Function) -> set[str]:
    """The names that are local to the function: its parameters, and what its body binds."""
    body: list[ast.AST] = [function.body] if isinstance(function, ast.Lambda) else list(function.body)
    elsewhere = {
        name
        for part in body
        for node in _in_scope(part)
        if isinstance(node, ast.Global | ast.Nonlocal)
        for name in node.names
    }
    bound = {name for part in body for name in _bound(part)}
    return ({one.arg for one in _parameters(function.args)} | bound) - elsewhere


def _bound(root: ast.AST) -> Iterator[str]:
    """The names that this binds in the scope where it is. A module that is imported keeps its name."""
    for node in _in_scope(root):
        match node:
            case ast.Name(ctx=ast.Store() | ast.Del()):
                yield node.id
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name
            case (
                ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
            ):
                yield name
            case ast.MatchMapping(rest=str(name)) | ast.alias(asname=str(name)):
                yield name


def _in_scope(root: ast.AST) -> Iterator[ast.AST]:
    """The node and what is in it, without what has a scope of its own; of that, the node alone."""
    waiting = [root]
    while waiting:
        node = waiting.pop()
        yield node
        if isinstance(node, _COMPREHENSIONS):
            # A name that `:=` binds in a comprehension belongs to the scope around.
            walrus = (one.target for one in ast.walk(node) if isinstance(one, ast.NamedExpr))
            waiting += walrus
        elif not isinstance(node, (*_DEFINITIONS, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
