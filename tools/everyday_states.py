"""Write the states of background and everyday texts for catalogue models into crayon/data/states.

To be run again once the texts have changed: `python tools/everyday_states.py qwen2.5-coder-0.5b-instruct`; it takes a
minute. Old files of the model are removed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from crayon.data.texts import background_texts, everyday_groups
from crayon.device import DeviceEngine
from crayon.device.kept_states import shipped_name
from crayon.engine import EncodeRequest
from crayon.models import resolve

FOLDER = Path(__file__).resolve().parents[1] / "crayon" / "data" / "states"


def main(*names: str) -> None:
    """Write the files of some models."""
    FOLDER.mkdir(exist_ok=True)
    everyday = [text for group in everyday_groups() for text in group]
    for name in names:
        local = resolve(name)
        # Without a source hash nothing that is shipped is read: all is computed.
        with DeviceEngine(local.path, pools=(), background=background_texts(), everyday=everyday_groups()) as engine:
            raw = engine.encode_raw(EncodeRequest(texts=("x",), everyday=True)).result()
        if raw.everyday is None:
            raise SystemExit("the engine has no everyday texts")
        for old in FOLDER.glob(f"{local.sha256[:12]}-*.npy"):
            old.unlink()
        for texts, states in (
            (background_texts(), raw.background),
            (everyday, np.concatenate(raw.everyday.groups)),
        ):
            target = FOLDER / shipped_name(local.sha256, raw.layer, texts)
            np.save(target, states.astype(np.float16), allow_pickle=False)
            print(f"wrote {target}, {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
