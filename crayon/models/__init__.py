"""Where a model comes from: references, the catalogue, downloads, and the files on this machine."""

from __future__ import annotations

from crayon.models.catalogue import Catalogue, CatalogueEntry, load_catalogue
from crayon.models.gguf_file import GgufInfo, check_model, read_gguf
from crayon.models.local import LocalModel, resolve
from crayon.models.progress import Progress, ProgressCallback
from crayon.models.reference import AUTO, is_auto
from crayon.models.store import Store, StoreState, default_models_dir

__all__ = [
    "AUTO",
    "Catalogue",
    "CatalogueEntry",
    "GgufInfo",
    "LocalModel",
    "Progress",
    "ProgressCallback",
    "Store",
    "StoreState",
    "check_model",
    "default_models_dir",
    "is_auto",
    "load_catalogue",
    "read_gguf",
    "resolve",
]
