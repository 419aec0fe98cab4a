from __future__ import annotations

from collections.abc import Callable

import pytest
from config_samples import config_text

from hbtool.config import LoadedConfig, parse_config


@pytest.fixture
def load() -> Callable[..., LoadedConfig]:
    def make(strict: bool = False, **changes: str | None) -> LoadedConfig:
        return parse_config(config_text(**changes), file="c.yaml", strict=strict)

    return make
