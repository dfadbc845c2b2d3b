"""Marks of tests that need root, or a program that not every machine has."""

import os
import shutil

import pytest

only_root = pytest.mark.skipif(os.geteuid() != 0, reason="expected: needs to be root")
needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="NO GIT HERE: apt-get install git")
