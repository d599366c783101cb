"""Where the peers are: each in an environment of its own below `.peers`, built by `make peers`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from crayon.errors import ConfigError

FOLDER = Path(".peers")


@dataclass(frozen=True, slots=True)
class Peers:
    """The programs that are raced.

    Args:
        llama_server: llama.cpp's own server.
        openvino: a Python that has OpenVINO GenAI.
    """

    llama_server: Path
    openvino: Path

    @classmethod
    def below(cls, folder: Path | None = None) -> Peers:
        """Return the peers below `folder` (None: `.peers` here), whether they are there or not."""
        at = FOLDER if folder is None else folder
        return cls(_llama_server(at / "llama-cpp"), at / "openvino" / "bin" / "python")

    def check(self, *, llama_server: bool = True, openvino: bool = True) -> None:
        """Find out whether those that are needed can be run.

        Raises:
            ConfigError: one cannot; a bench that lacks a peer never leaves out its row.
        """
        needed = [(self.llama_server, llama_server), (self.openvino, openvino)]
        missing = [str(path) for path, wanted in needed if wanted and not os.access(path, os.X_OK)]
        if missing:
            raise ConfigError(
                "peers",
                f"{' and '.join(missing)} cannot be run; build the peers with `make peers` (about 10 minutes), run the "
                "bench from the folder that holds .peers, or name that with --peers",
            )


def _llama_server(environment: Path) -> Path:
    """Return the program itself where the wheel holds it among its files, and not the script that would start it."""
    inside = sorted(environment.glob("lib/python*/site-packages/**/llama-server"))
    return inside[0] if inside else environment / "bin" / "llama-server"
