"""Models from Hugging Face: the hub's hash is compared before a byte is fetched; files stay in the hub's own cache."""

from __future__ import annotations

import dataclasses
import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import DownloadError, HashMismatchError, ModelFileError, NoSpaceError
from crayon.models.store import OtherBytesError

if TYPE_CHECKING:
    from crayon.models.progress import Reporter
    from crayon.models.source import HubSource, Wanted
    from crayon.models.store import Record, Store

ANSWER_SECONDS = 20.0
_SHARD = re.compile(r"-\d{5}-of-\d{5}\.gguf$")


def fetch(source: HubSource, wanted: Wanted, store: Store, reporter: Reporter) -> Record:
    """Return the record of the file in the Hugging Face cache, downloaded there when absent.

    HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean to huggingface_hub.

    Raises:
        DownloadError: the hub cannot be reached, or has no such repository or file.
        HashMismatchError: the hub's file is not the one the catalogue promises; nothing was downloaded.
        NoSpaceError: the disk is full.
    """
    from huggingface_hub import constants

    reporter.report(0, f"asking Hugging Face about {source.repo}")
    try:
        if constants.is_offline_mode():
            return _keep(_cached(source), wanted, source, store, reporter)
        path, sha256 = _download(source, wanted, reporter)
        exact = dataclasses.replace(wanted, sha256=sha256)
        try:
            return _keep(path, exact, source, store, reporter)
        except OtherBytesError:
            # The cache holds a damaged file: once more from the hub.
            path, sha256 = _download(source, exact, reporter, again=True)
        try:
            return _keep(path, exact, source, store, reporter)
        except OtherBytesError:
            # Every program that uses the cache would take it for the hub's file.
            path.resolve().unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            raise
    except OtherBytesError as error:
        raise HashMismatchError(str(error)) from error
    except (DownloadError, ModelFileError):
        raise
    except Exception as error:  # huggingface_hub lets its HTTP client's own errors through
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise NoSpaceError("the disk with the Hugging Face cache is full; make room or set HF_HOME") from error
        raise DownloadError(_first_line(error)) from error


def _keep(path: Path, wanted: Wanted, source: HubSource, store: Store, reporter: Reporter) -> Record:
    reporter.report(reporter.total or 0, "verifying")
    record = store.verify(wanted, path, str(source))
    if record is None:
        raise DownloadError(f"{path} vanished from the Hugging Face cache")
    return record


def _cached(source: HubSource) -> Path:
    from huggingface_hub import constants

    snapshots = Path(constants.HF_HUB_CACHE) / f"models--{source.repo.replace('/', '--')}" / "snapshots"
    # Several revisions may hold a file of this name: the latest download wins.
    paths = sorted(
        (path for path in snapshots.rglob("*.gguf") if path.is_file()), key=lambda path: path.stat().st_mtime
    )
    files = {path.relative_to(snapshots).as_posix().partition("/")[2]: path for path in paths}
    if not files:
        raise DownloadError(f"HF_HUB_OFFLINE is set and the Hugging Face cache holds no model of {source.repo}")
    return files[_choose(source, list(files))]


def _download(source: HubSource, wanted: Wanted, reporter: Reporter, *, again: bool = False) -> tuple[Path, str]:
    from huggingface_hub import HfApi, hf_hub_download

    info = HfApi().model_info(source.repo, revision=source.revision, files_metadata=True, timeout=ANSWER_SECONDS)
    files = {sibling.rfilename: sibling for sibling in info.siblings or []}
    name = _choose(source, list(files))
    lfs = files[name].lfs
    if lfs is None:
        raise DownloadError(f"the hub tells no SHA-256 for {name}, so it cannot be verified")
    if wanted.sha256 is not None and lfs.sha256 != wanted.sha256:
        raise HashMismatchError(
            f"the hub's {name} has SHA-256 {lfs.sha256}, the catalogue promises {wanted.sha256}; nothing was downloaded"
        )
    reporter.total = lfs.size
    # The commit, not the branch: what was compared is what is fetched.
    bar = _bar(reporter, name)
    path = hf_hub_download(source.repo, name, revision=info.sha, tqdm_class=bar, force_download=again)
    return Path(path), lfs.sha256


def _choose(source: HubSource, files: list[str]) -> str:
    if source.file is not None:
        if source.file not in files:
            raise DownloadError(f"{source.repo} has no file {source.file}; it has {_listing(files)}")
        return source.file
    pattern = re.compile(rf"(?:^|[-._/]){re.escape(source.quantization or '')}\.gguf$", re.IGNORECASE)
    found = [name for name in files if pattern.search(name) and not Path(name).name.startswith("mmproj")]
    if len(found) != 1:
        shards = [name for name in files if _SHARD.search(name)]
        split = " (files split in several parts are not supported)" if shards else ""
        which = "no file" if not found else f"{len(found)} files"
        raise DownloadError(f"{source.repo} has {which} of {source.quantization}{split}; it has {_listing(files)}")
    return found[0]


def _listing(files: list[str]) -> str:
    models = sorted(name for name in files if name.endswith(".gguf"))
    return ", ".join(models[:12]) + (" ..." if len(models) > 12 else "") if models else "no .gguf file at all"


def _bar(reporter: Reporter, name: str) -> Any:
    from huggingface_hub.utils.tqdm import tqdm

    class Bar(tqdm):  # type: ignore[misc, unused-ignore]  # tqdm has no types, and is sometimes seen as Any
        """Passes the hub client's counts on instead of drawing them."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            kwargs["disable"] = True
            self._seen = int(kwargs.get("initial") or 0)
            super().__init__(*args, **kwargs)  # type: ignore[no-untyped-call]  # tqdm has no types

        def update(self, n: float | None = 1) -> bool | None:
            self._seen += int(n or 0)
            reporter.report(self._seen, name)
            return None

    return Bar


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0]}" if text else type(error).__name__
