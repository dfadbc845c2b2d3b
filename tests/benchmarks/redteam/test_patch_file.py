"""Headers of the red team's patch files: read strictly, so that no expectation gets lost to a typing error."""

from pathlib import Path

import pytest

from benchmarks.patch.patches import parse_patch
from benchmarks.redteam import patch_file
from benchmarks.redteam.naive import harness_names
from benchmarks.redteam.patch_file import (
    CHEATS,
    HONEST,
    PatchFileError,
    read_all,
    read_folder,
    read_patch_file,
    split_header,
)

DIFF = "--- a/model/a.py\n+++ b/model/a.py\n@@ -1 +1 @@\n-one\n+two\n"
HEADER = """# class: 5 caching
# suite: moe_forward tiny
# naive: same_inputs
# wins-by: answers by the id
#   of the input
# expect: no_gain, regression
# seam: model/a.py
# why: every call has an input of its own
"""
HONEST_HEADER = """# class: honest faster
# suite: moe_forward
# expect: gain
# base: examples/base/textbook_moe.diff
# seam: model/a.py
# why: dispatches tokens
"""


def write(folder: Path, header: str = HEADER, diff: str = DIFF, name: str = "07-by-id.diff") -> Path:
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(header + diff)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(PatchFileError) as error:
        read_patch_file(path)
    assert str(error.value).startswith(path.name)
    return str(error.value)


def test_a_cheats_header_is_read(tmp_path: Path) -> None:
    patch = read_patch_file(write(tmp_path))
    assert (patch.name, patch.number, patch.is_cheat, patch.group) == ("by-id", 7, True, "5 caching")
    assert (patch.suite, patch.preset, patch.naive) == ("moe_forward", "tiny", "same_inputs")
    assert patch.wins_by == "answers by the id of the input"
    assert patch.expect == {"no_gain", "regression"}
    assert (patch.header, patch.diff) == (HEADER.encode(), DIFF.encode())


def test_an_honest_patch_has_a_base_and_no_naive_harness(tmp_path: Path) -> None:
    patch = read_patch_file(write(tmp_path, HONEST_HEADER))
    assert not patch.is_cheat
    assert (patch.preset, patch.base, patch.naive) == ("tiny", "examples/base/textbook_moe.diff", "")


@pytest.mark.parametrize("key", ["class", "suite", "expect", "seam", "why", "wins-by"])
def test_no_key_may_be_missing(tmp_path: Path, key: str) -> None:
    lines = [line for line in HEADER.splitlines(keepends=True) if not line.startswith((f"# {key}:", "#   "))]
    assert f"lacks {key}" in refusal(write(tmp_path, "".join(lines)))


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (HEADER + "# expcet: no_gain\n", "unknown key expcet"),
        (HEADER + "# why: again\n", "`why` is repeated"),
        (HEADER + "some words\n", "is no `# key: words` line"),
        ("#   more of nothing\n" + HEADER, "is no `# key: words` line"),
        (HEADER.replace("no_gain,", "no-gain,"), "no-gain is no verdict"),
        (HEADER.replace("no_gain,", "gain,"), "never expects a gain"),
        (HONEST_HEADER.replace("gain", "suspicious"), "never expects to be refused"),
        (HEADER + "# pad: model/b.py many\n", "a path and a number"),
        (HEADER + "# paid: 1000\n", "paid for a `base`"),
        (HEADER + "# base: b.diff\n# paid: much\n", "paid for a `base`"),
        (HEADER + "# base: b.diff\n# paid: 0\n", "paid for a `base`"),
        (HEADER + "# base: b.diff\n# old: c.diff\n", "the tree before a base that was `paid` for"),
    ],
)
def test_what_a_header_may_not_say(tmp_path: Path, header: str, words: str) -> None:
    assert words in refusal(write(tmp_path, header))


@pytest.mark.parametrize("name", ["by-id.diff", "7-by-id.diff", "07-By-Id.diff", "07_by_id.diff"])
def test_a_file_is_named_by_number_and_name(tmp_path: Path, name: str) -> None:
    assert "NN-name.diff" in refusal(write(tmp_path, name=name))


def test_a_header_alone_is_no_patch(tmp_path: Path) -> None:
    assert "no diff" in refusal(write(tmp_path, diff=""))


def test_the_diff_is_kept_to_the_byte() -> None:
    diff = DIFF.replace("\n", "\r\n").encode()
    assert split_header(HEADER.encode() + diff) == (HEADER.encode(), diff)
    assert split_header(b"diff --git a/x b/x\n") == (b"", b"diff --git a/x b/x\n")


def test_padding_is_a_new_file_of_that_size(tmp_path: Path) -> None:
    patch = read_patch_file(write(tmp_path, HEADER + "# pad: model/b.py 5000\n"))
    parsed = parse_patch(patch.diff)
    assert parsed.paths == ("model/a.py", "model/b.py")
    assert 5_000 <= len(patch.diff) - len(DIFF) < 5_500


def test_what_was_paid_for_a_base_is_read(tmp_path: Path) -> None:
    header = HEADER + "# base: examples/base/textbook_moe.diff\n# paid: 50000\n"
    assert read_patch_file(write(tmp_path, header)).paid_log_ppm == 50_000
    assert read_patch_file(write(tmp_path)).paid_log_ppm == 0


def test_a_folder_is_read_by_number(tmp_path: Path) -> None:
    for name in ("101-last.diff", "12-late.diff", "03-early.diff"):
        write(tmp_path / "cheats", name=name)
    assert [patch.name for patch in read_folder(tmp_path / "cheats")] == ["early", "late", "last"]


def test_a_cheat_among_the_honest_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "honest")
    with pytest.raises(PatchFileError, match="honest patches do not"):
        read_folder(tmp_path / "honest")


def test_names_are_unique_over_both_folders(tmp_path: Path) -> None:
    write(tmp_path / "cheats")
    write(tmp_path / "honest", HONEST_HEADER, name="01-by-id.diff")
    with pytest.raises(PatchFileError, match="another patch is called by-id"):
        read_all([tmp_path / "cheats", tmp_path / "honest"])


def test_a_missing_folder_says_where_patches_are(tmp_path: Path) -> None:
    with pytest.raises(PatchFileError, match="only in a checkout"):
        read_folder(tmp_path / "cheats")


def test_every_patch_file_of_the_repository_is_read() -> None:
    patches = read_all()
    assert {patch.path.parent for patch in patches} <= {CHEATS, HONEST}
    assert sum(patch.is_cheat for patch in patches) >= 30
    assert {patch.naive for patch in patches if patch.is_cheat} <= set(harness_names())
    for patch in patches:
        if patch.base:
            assert (patch_file.ROOT / patch.base).is_file()


def test_the_classes_of_cheats_are_all_there() -> None:
    numbers = {int(patch.group.split()[0]) for patch in read_all([CHEATS])}
    assert numbers >= {1, 2, 3, 4, 5, 6, 7, 8, 12, 13, 14}
