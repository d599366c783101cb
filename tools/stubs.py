"""Generate the Python stubs of the protocol into proto/; with --check, fail when the committed ones differ."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def generate(target: Path) -> None:
    """Run protoc over every .proto file, writing below `target`."""
    sources = sorted(str(path.relative_to(PROTO)) for path in PROTO.rglob("*.proto"))
    command = [
        *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"),
        *(f"--python_out={target}", f"--grpc_python_out={target}"),
        *(f"--mypy_out={target}", f"--mypy_grpc_out={target}"),
        *sources,
    ]
    # protoc finds mypy-protobuf's plugins on PATH, and they stand beside this interpreter.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    subprocess.run(command, check=True, env={**os.environ, "PATH": path})  # noqa: S603 - our own command line


def stubs(folder: Path) -> dict[str, bytes]:
    """Return the generated files below `folder` by their relative path."""
    files = (path for path in folder.rglob("*") if path.name.endswith(SUFFIXES))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def check() -> int:
    """Compare the committed stubs with fresh ones; 1 and a list of files if they differ."""
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        fresh = stubs(Path(folder))
    committed = stubs(PROTO)
    stale = sorted(name for name in fresh.keys() | committed.keys() if fresh.get(name) != committed.get(name))
    for name in stale:
        print(f"proto/{name} does not match its .proto file; run: python tools/stubs.py", file=sys.stderr)
    return 1 if stale else 0


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; exit 1 if the stubs are stale")
    if parser.parse_args().check:
        return check()
    generate(PROTO)
    return 0


if __name__ == "__main__":
    sys.exit(main())
