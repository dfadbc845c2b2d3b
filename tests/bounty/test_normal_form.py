"""Normal forms: what computes nothing is dropped, what could compute stays, and names of locals do not count."""

import ast
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bounty.normal_form import normal_cpp, normal_python

MODEL = Path(__file__).parents[2] / "model"
SOURCES = sorted((MODEL / "layers").rglob("*.py"))
KERNELS = sorted((MODEL / "csrc").rglob("*.h"))

STEP = """
def step(x, *rest, scale=2, **more):
    total = x * scale
    for part in rest:
        total += part
    try:
        return [total + part for part in rest if part], more
    except ValueError as error:
        raise RuntimeError from error
"""


def test_names_of_locals_do_not_count() -> None:
    renamed = STEP
    for old, new in (
        ("total", "a"),
        ("part", "b"),
        ("rest", "c"),
        ("error", "d"),
        ("more", "e"),
        ("scale", "f"),
    ):
        renamed = renamed.replace(old, new)
    assert normal_python(renamed) == normal_python(STEP)


@pytest.mark.parametrize(
    "idle",
    [
        "    _ = 0",
        "    a = b = 'text'",
        "    a: int = 3",
        "    a: int",
        "    pass",
        "    'a text'",
        "    ...",
        "    a = 1\n    b = a\n    c = b",
        "    _ = scale",
    ],
)
def test_what_is_never_read_is_dropped(idle: str) -> None:
    body = "    total = x * scale\n"
    assert normal_python(STEP.replace(body, f"{idle}\n{body}")) == normal_python(STEP)
    assert normal_python(STEP.replace(body, f"{body}{idle}\n")) == normal_python(STEP)


@pytest.mark.parametrize(
    "statement",
    [
        "    _ = f(0)",
        "    _ = x.y",
        "    _ = x[0]",
        "    _ = -x",
        "    _ = x + 1",
        "    _ = [0]",
        "    x.y = 0",
        "    x[0] = 0",
        "    a, b = x",
        "    del x",
        "    global g\n    g = 0",
        "    import os as _",
        "    scale = 3",
        "    print",
        "    if x: _ = 0",
    ],
)
def test_what_could_compute_stays(statement: str) -> None:
    body = "    total = x * scale\n"
    assert normal_python(STEP.replace(body, f"{statement}\n{body}")) != normal_python(STEP)


def test_two_locals_that_change_places_count() -> None:
    assert normal_python("def f(a, b):\n    return a - b\n") != normal_python(
        "def f(a, b):\n    return b - a\n"
    )


def test_globals_attributes_and_keywords_keep_their_names() -> None:
    form = normal_python("def f(x):\n    return g(x.shape, dim=x, value=STEP)\n")
    assert form == "def f(v0):\n    return g(v0.shape, dim=v0, value=STEP)"


def test_scopes_are_told_apart() -> None:
    form = normal_python(
        "x = 1\nclass A:\n    y = x\n    def f(self, x):\n        y = x\n"
        "        return [x for x in y if (z := x)], lambda x: x + z, A.y\n"
    )
    assert form == (
        "x = 1\n\nclass A:\n    y = x\n\n    def f(v0, v1):\n        v2 = v1\n"
        "        return ([v3 for v3 in v2 if (v4 := v3)], lambda v5: v5 + v4, A.y)"
    )


def test_an_inner_function_shares_the_outer_ones_names() -> None:
    form = normal_python("def f(a):\n    def g(b):\n        nonlocal a\n        a = b\n    return g\n")
    assert form == "def f(v0):\n\n    def v1(v2):\n        nonlocal v0\n        v0 = v2\n    return v1"


def test_a_block_that_becomes_empty_stays_readable() -> None:
    source = "def f(x):\n    while x():\n        _ = 0\n    else:\n        pass\n    try:\n        pass\n    finally:\n        pass\n"
    assert ast.parse(normal_python(source))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_form_of_the_stack_is_python_and_its_own_form(path: Path) -> None:
    form = normal_python(path.read_text())
    compile(form, path.name, "exec")
    assert normal_python(form) == form


@given(number=st.integers(0, 10**6), value=st.sampled_from(["0", "'x'", "None", "True", "self_or_not"]))
@pytest.mark.parametrize("path", SOURCES[::5], ids=lambda path: path.name)
def test_idle_assignments_anywhere_in_the_stack_do_not_count(path: Path, number: int, value: str) -> None:
    tree = ast.parse(path.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    if not functions:
        return
    body = functions[number % len(functions)].body
    body.insert(number % (len(body) + 1), ast.parse(f"_idle_{number} = {value}").body[0])
    if body and isinstance(body[0], ast.Expr) and number % (len(body) + 1) == 0:
        return  # in front of a docstring, which then is one no longer
    assert normal_python(ast.unparse(tree)) == normal_python(path.read_text())


@pytest.mark.parametrize("source", ["def (", "x = '", "\0", "(" * 5000 + ")" * 5000, "f" + "()" * 100_000])
def test_what_cannot_be_read_has_no_form(source: str) -> None:
    with pytest.raises(ValueError, match="not readable as Python"):
        normal_python(source)


KERNEL = """
#include <vector>
#define TILE 16
// sums
float sum(const float* x, int n) { float total = 0.5e-3f; for (int i = 0; i < n; ++i) { total += x[i]; } return total; }
const char* NAME = "a // b";
"""


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("// sums", "/* other\nwords */"),
        ("total", "accumulated"),
        ("sum(", "reduce("),
        ("; ", ";\n   "),
        ("TILE", "BLOCK"),
    ],
)
def test_comments_layout_and_names_of_cpp_do_not_count(old: str, new: str) -> None:
    changed = KERNEL.replace(old, new)
    assert changed != KERNEL and normal_cpp(changed) == normal_cpp(KERNEL)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("+=", "-="),
        ("0.5e-3f", "0.5e-2f"),
        ("a // b", "a  // b"),
        ("const float*", "float*"),
        ("++i", "i++"),
        ("16", "32"),
    ],
)
def test_whatever_computes_in_cpp_counts(old: str, new: str) -> None:
    assert normal_cpp(KERNEL.replace(old, new)) != normal_cpp(KERNEL)


def test_a_directive_ends_with_its_line() -> None:
    assert normal_cpp("#define A 1\nint x;") != normal_cpp("#define A 1 int x;")
    assert normal_cpp("#define A \\\n 1\nint x;").count("\n") == normal_cpp("#define A 1\nint x;").count("\n")


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_the_form_of_a_kernel_is_its_own_form(path: Path) -> None:
    form = normal_cpp(path.read_text())
    assert normal_cpp(form) == form


@given(st.text(max_size=200))
def test_any_text_has_a_form_as_cpp(text: str) -> None:
    assert normal_cpp(normal_cpp(text)) == normal_cpp(text)
