"""How much two patches change alike: by lines of the normal form, whatever is added, renamed or moved around it."""

import pytest

from benchmarks.patch.trees import Tree, TreeEntry
from bounty.likeness import NEARLY_EQUAL_PERCENT, changed_lines, percent_equal
from bounty.services.trees import blob_store

BASE = """def route(scores, top):
    best = sorted(scores)
    picked = best[:top]
    total = sum(picked)
    return [one / total for one in picked]
"""
FAST = """def route(scores, top):
    order = scores.topk(top)
    picked = order.values
    scale = picked.sum(0)
    scale = scale.clamp(min=1)
    return picked.div(scale)
"""
CPP_BASE = "int f(int a) { int b = a; return b * 2; }\n"
CPP_FAST = "int f(int a) { int b = a << 1; int c = b + g(a); h(c); return b; }\n"


def tree(files: dict[str, str]) -> Tree:
    store = blob_store()
    return Tree(
        tuple(sorted(TreeEntry(path, 0o644, store.put(text.encode())) for path, text in files.items()))
    )


def alike(one: str, other: str, base: str = BASE, path: str = "model/route.py") -> int:
    lines = [changed_lines(tree({path: base}), tree({path: text}), blob_store()) for text in (one, other)]
    return percent_equal(*lines)


def test_an_unrelated_patch_is_not_alike() -> None:
    other = BASE.replace("sorted(scores)", "list(reversed(sorted(scores)))")
    assert alike(FAST, other) < NEARLY_EQUAL_PERCENT


@pytest.mark.parametrize(
    "disguise",
    [
        lambda text: text.replace("picked", "chosen").replace("scale", "norm"),
        lambda text: text.replace(
            "    order =", "    _ = len(scores)\n    order ="
        ),  # one more local in front
        lambda text: text.replace("clamp(min=1)", "clamp(min=2)"),
        lambda text: (
            text + "\n\ndef unused(one, two):\n" + "".join(f"    one.call({n})\n" for n in range(30))
        ),
        lambda text: text.replace("    scale = picked.sum(0)\n", "    scale = picked.sum(0)\n    _ = 0\n"),
    ],
    ids=["renamed", "one local more", "one constant", "padded", "idle"],
)
def test_a_disguised_patch_is_nearly_equal(disguise: object) -> None:
    assert callable(disguise)
    assert alike(FAST, disguise(FAST)) >= NEARLY_EQUAL_PERCENT


def test_lines_that_both_trees_have_do_not_count() -> None:
    """A long file does not make two patches of one line each alike."""
    long = BASE + "".join(f"\n\ndef step_{n}(x):\n    return x.call({n})\n" for n in range(100))
    one, other = long.replace("x.call(7)", "x.fast(7)"), long.replace("x.call(9)", "x.quick(9)")
    assert alike(one, other, base=long) == 0


def test_the_same_lines_of_another_file_do_not_count() -> None:
    one = changed_lines(tree({"a.py": BASE, "b.py": BASE}), tree({"a.py": FAST, "b.py": BASE}), blob_store())
    other = changed_lines(
        tree({"a.py": BASE, "b.py": BASE}), tree({"a.py": BASE, "b.py": FAST}), blob_store()
    )
    assert percent_equal(one, other) == 0
    both = changed_lines(tree({"a.py": BASE, "b.py": BASE}), tree({"a.py": FAST, "b.py": FAST}), blob_store())
    assert percent_equal(one, both) == 100  # one more file is no disguise


def test_cpp_with_other_names_and_one_more_statement_is_nearly_equal() -> None:
    renamed = CPP_FAST.replace("int c", "int other").replace("h(c)", "h(other)")
    longer = renamed.replace("{ int b", "{ log(a); int b")
    assert alike(CPP_FAST, longer, CPP_BASE, "model/csrc/f.cpp") >= NEARLY_EQUAL_PERCENT


def test_notes_have_no_lines() -> None:
    before, after = (
        tree({"a.py": BASE, "NOTES.md": "one\n"}),
        tree({"a.py": FAST, "NOTES.md": "two\nthree\n"}),
    )
    plain = changed_lines(tree({"a.py": BASE}), tree({"a.py": FAST}), blob_store())
    assert changed_lines(before, after, blob_store()) == plain


def test_what_is_no_text_and_what_is_no_python_counts_too() -> None:
    assert alike("def (", "def (") == 100
    assert percent_equal(frozenset(), frozenset()) == 0
