"""`python -m crayon` is the `crayon` program."""

from __future__ import annotations

from crayon.cli import main

if __name__ == "__main__":
    main()
