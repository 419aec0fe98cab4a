from collections.abc import Iterator

import pytest

from hbtool import march
from hbtool.quantization import set_march


@pytest.fixture(autouse=True)
def bayes() -> Iterator[None]:
    """Every test starts on BAYES and leaves the process-wide march as it was."""
    before = march._current
    set_march("bayes")
    yield
    march._current = before
