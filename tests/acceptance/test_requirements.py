"""The lock is whole: every requirement has a locked version with hashes, and torch has one tested version for each Python."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
UNLOCKED = {"torch", "triton"}
TESTED_PYTHONS = ("3.11", "3.13")
MACHINES = (("linux", "x86_64"), ("linux", "aarch64"), ("darwin", "arm64"))
Environment = dict[str, str]


def environments() -> Iterator[Environment]:
    for python in TESTED_PYTHONS:
        for system, machine in MACHINES:
            yield {
                "python_version": python,
                "python_full_version": f"{python}.7",
                "sys_platform": system,
                "platform_system": system.capitalize(),
                "platform_machine": machine,
                "implementation_name": "cpython",
                "platform_python_implementation": "CPython",
                "os_name": "posix",
                "extra": "",
            }


def lines(name: str) -> list[str]:
    """The file's requirements, each with its continuation lines."""
    text = (REQUIREMENTS / f"{name}.txt").read_text().replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


def pins(name: str, environment: Environment) -> dict[str, str]:
    """The version that the file gives each package there. A package has one version or none."""
    found: dict[str, str] = {}
    for line in lines(name):
        requirement = Requirement(line.split(" --hash=")[0])
        if requirement.marker is None or requirement.marker.evaluate(environment):
            (specifier,) = requirement.specifier
            assert specifier.operator == "=="
            assert (
                found.setdefault(canonicalize_name(requirement.name), specifier.version) == specifier.version
            )
    return found


def wanted(group: str) -> list[Requirement]:
    """Requirements of pyproject.toml for one file of the lock."""
    project = PROJECT["project"]
    listed = {
        "build": PROJECT["dependency-groups"]["build"],
        "runtime": project["dependencies"],
        "development": [*project["dependencies"], *project["optional-dependencies"]["dev"]],
    }
    return [Requirement(text) for text in listed[group]]


@pytest.mark.parametrize("group", ["build", "runtime", "development"])
def test_every_requirement_is_locked_at_a_version_that_it_allows(group: str) -> None:
    for environment in environments():
        locked = pins(group, environment)
        for requirement in wanted(group):
            name = canonicalize_name(requirement.name)
            if name in UNLOCKED or (requirement.marker and not requirement.marker.evaluate(environment)):
                continue
            assert name in locked, f"{name} is not in requirements/{group}.txt: run make lock"
            assert requirement.specifier.contains(locked[name]), f"{name}=={locked[name]}: run make lock"


@pytest.mark.parametrize("group", ["build", "runtime", "development"])
def test_every_locked_version_has_hashes_and_no_accelerators_wheels_are_locked(group: str) -> None:
    for line in lines(group):
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", line), line
        assert not re.match(r"(torch|triton|nvidia|cuda)\b", line), line


def test_tests_run_what_users_run() -> None:
    for environment in environments():
        development = pins("development", environment)
        for group in ("build", "runtime"):
            for name, version in pins(group, environment).items():
                assert development.get(name, version) == version


def test_each_python_has_one_tested_version_of_torch_within_the_range() -> None:
    (allowed,) = (requirement for requirement in wanted("runtime") if requirement.name == "torch")
    for environment in environments():
        assert allowed.specifier.contains(pins("torch", environment)["torch"])
        has_triton = environment["sys_platform"] == "linux" and environment["platform_machine"] == "x86_64"
        assert ("triton" in pins("triton", environment)) == has_triton


def test_the_supported_pythons_are_the_tested_ones() -> None:
    supported = Requirement(f"python{PROJECT['project']['requires-python']}").specifier
    assert all(supported.contains(f"{python}.0") for python in TESTED_PYTHONS)
