"""The versions that pyproject.toml allows: tested ones are allowed and installed, others are refused."""

import platform
import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

PROJECT = tomllib.loads((Path(__file__).resolve().parents[3] / "pyproject.toml").read_text())["project"]
REQUIREMENTS = {requirement.name: requirement for requirement in map(Requirement, PROJECT["dependencies"])}
RANGES = {"python": SpecifierSet(PROJECT["requires-python"])} | {
    name: requirement.specifier for name, requirement in REQUIREMENTS.items()
}


@pytest.mark.parametrize(
    ("name", "tested", "others"),
    [
        ("python", ["3.11.0", "3.11.7", "3.13.5"], ["3.10.13", "3.14.0"]),
        ("torch", ["2.13.0+cpu", "2.14.1+cu130", "2.15.0+cu132"], ["2.12.1", "2.16.0"]),
        ("numpy", ["2.4.6", "2.5.5"], ["2.3.0", "2.6.0", "3.0.0"]),
        ("deepspeed", ["0.19.8"], ["0.18.0", "0.20.0", "1.0.0"]),
    ],
)
def test_ranges_end_where_tests_did(name: str, tested: list[str], others: list[str]) -> None:
    assert [one for one in tested if one not in RANGES[name]] == []
    assert [one for one in others if one in RANGES[name]] == []


def test_this_environment_is_in_the_ranges() -> None:
    assert len(REQUIREMENTS) > 20
    outside = {
        name: found
        for name, allowed in RANGES.items()
        if (found := platform.python_version() if name == "python" else version(name)) not in allowed
    }
    assert outside == {}


def test_the_readme_names_the_same_range_of_python() -> None:
    readme = (Path(__file__).resolve().parents[3] / "README.md").read_text()
    found = re.search(r"Python (3\.\d+) to (3\.\d+)", readme)
    assert found is not None
    oldest, newest = found.groups()
    assert f"{oldest}.0" in RANGES["python"] and f"{newest}.0" in RANGES["python"]
    above = f"3.{int(newest.split('.')[1]) + 1}.0"
    assert above not in RANGES["python"]
