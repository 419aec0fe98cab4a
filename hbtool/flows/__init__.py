"""The use cases, as typed functions that a command line or a notebook calls. They return results and print nothing."""

import hbtool.ops  # noqa: F401 - every flow needs the operators registered
