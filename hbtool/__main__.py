"""`python -m hbtool` is the `hbtool` command."""

from hbtool.cli.main import main

if __name__ == "__main__":
    main()
