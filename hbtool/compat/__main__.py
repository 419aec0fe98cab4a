"""`python -m hbtool.compat script.py [arguments]`: run a script that imports `horizon_plugin_pytorch`."""

from __future__ import annotations

import logging
import runpy
import sys
from pathlib import Path

from hbtool.compat import PLUGIN, install
from hbtool.errors import HbError, UsageError

_log = logging.getLogger("hbtool.compat")


def main(arguments: list[str]) -> int:
    """Exit code of the script; 1 or 2 after an expected failure, which is logged in one line."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("hbtool").setLevel(logging.INFO)
    try:
        if not arguments:
            raise UsageError("no script was given.", hint="python -m hbtool.compat script.py [arguments]")
        script = Path(arguments[0])
        if not script.is_file():
            raise UsageError("there is no such script.", where=str(script), hint="Give the path of a Python file.")
        if not install():
            _log.info("an installed %s was found and is used", PLUGIN)
        sys.argv = arguments
        sys.path.insert(0, str(script.resolve().parent))
        runpy.run_path(str(script), run_name="__main__")
    except HbError as error:
        _log.error("%s: %s", error.kind, error)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
