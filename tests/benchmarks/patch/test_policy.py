"""The policy says what a patch may touch; the judge's own hash changes with any of its files."""

import hashlib
from pathlib import Path

import pytest

from benchmarks.patch import policy as policy_module
from benchmarks.patch.patches import parse_patch
from benchmarks.patch.policy import (
    POLICY_FILE,
    PolicyFileError,
    PolicyViolation,
    check_patch,
    harness_hash,
    load_policy,
    parse_policy,
)
from benchmarks.sandbox.levels import SandboxLevel


def adding(*paths: str) -> str:
    return "".join(f"diff --git a/{path} b/{path}\nnew file mode 100644\n" for path in paths)


def broken_rule(diff: str) -> str | None:
    """The rule of the policy in force that a patch breaks."""
    try:
        check_patch(load_policy(), parse_patch(diff))
    except PolicyViolation as violation:
        return violation.code
    return None


def test_hash_is_that_of_the_file() -> None:
    assert load_policy().hash == hashlib.sha256(POLICY_FILE.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    "path", ["model/layers/moe/experts.py", "model/kernels/fast.cpp", "model/kernels/x.cuh", "model/new.py"]
)
def test_what_contributors_may_touch(path: str) -> None:
    assert broken_rule(adding(path)) is None


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("benchmarks/statistics/gate.py", "outside"),
        ("platform/gainshare/ledger/models.py", "outside"),
        ("tests/test_x.py", "outside"),
        ("modeling/x.py", "outside"),
        ("model.py", "outside"),
        ("Model/x.py", "outside"),
        (".github/workflows/ci.yml", "outside"),
        ("model/__init__.py", "protected"),
        ("model/command_errors.py", "protected"),
        ("model/serving/metering/usage.py", "protected"),
        ("model/serving/node/app.py", "protected"),
        ("model/serving/api/chat.py", "protected"),
        ("model/serving/metering/Usage.py", "protected"),
        ("model/serving/api/streaming.cpp", "protected"),
        ("model/smollm2/download.py", "protected"),
        ("model/smollm2/new.py", "protected"),
        ("model/serving/metering/usage/__init__.py", "protected"),
        ("model/serving/metering/usage.pyi", "protected"),
        ("model/serving/metering/usage.abi3.so", "protected"),
        ("model/x.pth", "file_type"),
        ("model/x.so", "file_type"),
        ("model/x", "file_type"),
        ("model/x.py.txt", "file_type"),
        ("model/x.sh", "file_type"),
    ],
)
def test_what_they_may_not(path: str, code: str) -> None:
    with pytest.raises(PolicyViolation) as error:
        check_patch(load_policy(), parse_patch(adding("model/fine.py", path)))
    assert (error.value.code, error.value.path) == (code, path)
    assert path in error.value.message


def test_neighbours_of_protected_files_are_free() -> None:
    assert broken_rule(adding("model/serving/engine/usages.py", "model/serving/engine/scheduler.py")) is None


def test_deleting_a_protected_file_is_a_violation() -> None:
    text = "diff --git a/model/serving/node/app.py b/model/serving/node/app.py\ndeleted file mode 100644\n"
    assert broken_rule(text) == "protected"


def test_size_limits() -> None:
    policy = load_policy()
    many = parse_patch(adding(*(f"model/f{number}.py" for number in range(policy.max_files + 1))))
    with pytest.raises(PolicyViolation) as error:
        check_patch(policy, many)
    assert error.value.code == "too_many_files"
    body = "+" + "x" * policy.max_bytes + "\n"
    large = parse_patch(f"--- /dev/null\n+++ b/model/x.py\n@@ -0,0 +1 @@\n{body}")
    with pytest.raises(PolicyViolation) as error:
        check_patch(policy, large)
    assert error.value.code == "too_large"


def test_every_protected_file_lies_in_the_model_and_exists() -> None:
    for pattern in load_policy().protected:
        assert pattern.startswith("model/")
        assert (POLICY_FILE.parent.parent / pattern.removesuffix("/**")).exists(), pattern


def test_the_level_without_a_sandbox_earns_nothing() -> None:
    levels = load_policy().award_sandbox_levels
    assert SandboxLevel.NONE.value not in levels
    assert {SandboxLevel.BUBBLEWRAP.value, SandboxLevel.BUBBLEWRAP_USER.value} <= set(levels)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"version = 1", b"version = 2"),
        (b"max_files = 64", b"max_files = 0"),
        (b"max_files = 64", b"max_files = true"),
        (b"max_files = 64", b""),
        (b"max_files = 64", b"max_files = 64\nmore = 1"),
        (b'allowed = ["model/**"]', b"allowed = []"),
        (b'allowed = ["model/**"]', b'allowed = "model/**"'),
        (b"[awards]", b"[other]"),
        (b"[patch]", b"[patch"),
    ],
)
def test_a_damaged_policy_is_refused(old: bytes, new: bytes) -> None:
    data = POLICY_FILE.read_bytes()
    assert old in data
    with pytest.raises(PolicyFileError):
        parse_policy(data.replace(old, new))


def test_the_judges_hash_changes_with_each_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "benchmarks"
    (folder / "statistics").mkdir(parents=True)
    (folder / "policy.py").write_text("a")
    (folder / "statistics/gate.py").write_text("b")
    (folder / "policy.toml").write_text("c")
    monkeypatch.setattr(policy_module, "__file__", str(folder / "policy.py"))
    seen = {harness_hash.__wrapped__()}
    for name in ("policy.py", "statistics/gate.py", "policy.toml"):
        (folder / name).write_text("changed")
        seen.add(harness_hash.__wrapped__())
    assert len(seen) == 4
    (folder / "notes.txt").write_text("x")
    (folder / "policy.py").chmod(0o755)
    assert harness_hash.__wrapped__() in seen
