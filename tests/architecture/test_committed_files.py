"""What is committed belongs to the project, not to the machine it was written on."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

# Bracketed letters keep the pattern from finding itself in this file.
MACHINE_PATH = re.compile(rb"(?<![\w.:/-])/(?:w[o]rk|r[o]ot)/")
MAX_BYTES = 1_500_000


@pytest.fixture(scope="module")
def committed(checkout: Path) -> list[Path]:
    listing = subprocess.run(["git", "ls-files", "-z"], cwd=checkout, capture_output=True, check=True).stdout
    paths = [checkout / name.decode() for name in listing.split(b"\0") if name]
    return [path for path in paths if path.is_file()]


def test_no_committed_file_names_a_path_of_one_machine(committed: list[Path], checkout: Path) -> None:
    assert committed
    found = [path for path in committed if MACHINE_PATH.search(path.read_bytes())]
    assert [str(path.relative_to(checkout)) for path in found] == []


def test_no_committed_file_is_large(committed: list[Path], checkout: Path) -> None:
    large = [path for path in committed if path.stat().st_size > MAX_BYTES]
    assert [str(path.relative_to(checkout)) for path in large] == []


@pytest.mark.parametrize("place", ["w" + "ork", "r" + "oot"])
def test_machine_paths_are_recognized(place: str) -> None:
    assert MACHINE_PATH.search(f"path: '/{place}/main'".encode())
    assert MACHINE_PATH.search(f"/{place}/main".encode())
    assert not MACHINE_PATH.search(f"sub/{place}/main and ./{place}/main".encode())
