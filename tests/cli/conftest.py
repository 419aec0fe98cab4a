"""Projects on disk for the command line: fresh ones, and one that is built already."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_project import Project, make_project
from command_line import hbtool


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with its artifact; tests do not change it."""
    project = make_project(tmp_path_factory.mktemp("built"))
    done = hbtool("makertbin", "-c", project.config, "-q")
    assert done.code == 0, done.err
    return project
