"""A pool: K adapters for one base model, in one folder."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters import tensor_file
from crayon.adapters.folder import parts_of, read_inside, refuse_pickle, write_folder
from crayon.adapters.lora import LoraTensors, Matrix
from crayon.adapters.manifest import Manifest
from crayon.adapters.shared_a import random_a, split_b
from crayon.errors import AdapterError, AdapterMismatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

MANIFEST, TENSORS = "pool.json", "pool.safetensors"
MAX_MANIFEST_BYTES = 8 << 20


def read_manifest(folder: Path | str) -> Manifest:
    """Return what a pool says of itself, without reading its tensors.

    Raises:
        AdapterError: no pool there, or its manifest cannot be read.
    """
    folder = Path(folder)
    refuse_pickle(folder)
    return Manifest.parse(read_inside(folder, MANIFEST, MAX_MANIFEST_BYTES), str(folder / MANIFEST))


class Pool:
    """K adapters for one base model, checked and in memory; make it with `open`, `shared` or `independent`.

    Attributes:
        manifest: what the pool says of itself; its `tensors_sha256` is that of the file `save` writes.
        id: the name on the wire, with the start of a hash of all that decides what weights do.
        keys: (K, D) float32 unit rows, one for each member; D is 0 in a pool without encoder.
        centre: (D,) float32, subtracted from an embedding before it is normalised and compared with the keys.
        head: (D, D) float32 that the centred embedding, a row, is multiplied with; None: it is taken as it is.
    """

    def __init__(self, manifest: Manifest, tensors: Mapping[str, NDArray[np.floating]]) -> None:
        """Take tensors as they stand in the file: use `shared` or `independent` instead."""
        tensor_file.check(manifest, tensors)
        self.manifest = manifest
        self.id = manifest.id
        self._stored = dict(tensors)
        width = manifest.encoder.dimensions if manifest.encoder else 0
        self.keys: Matrix = tensor_file.as_float32(tensors.get("keys", np.zeros((len(manifest.members), width))))
        self.centre: Matrix = tensor_file.as_float32(tensors.get("centre", np.zeros(width)))
        self.head: Matrix | None = tensor_file.as_float32(tensors["head"]) if "head" in tensors else None
        self._b: Matrix | None = None
        self._a: dict[str, Matrix] | None = None
        if manifest.kind == "shared":
            self._b = tensor_file.as_float32(tensors["b"])
            self._a = {
                target.name: random_a(manifest.a_seed, target.name, manifest.rank, target.inputs)
                if manifest.a_seed is not None
                else tensor_file.as_float32(tensors[f"a/{target.name}"])
                for target in manifest.targets
            }

    @classmethod
    def open(cls, folder: Path | str) -> Pool:
        """Read a pool and check every size, shape, type, number and the hash.

        Where a process was killed as it replaced the pool, or is at it, the tensors may be those of a manifest that has
        not got its name yet: by their hash, they belong to that one.

        Raises:
            AdapterError: something in it is missing, damaged, not finite, pickled, or lies outside the folder.
        """
        folder = Path(folder)
        manifest = read_manifest(folder)
        try:
            return cls._read(folder, manifest)
        except AdapterError:
            for part in parts_of(folder, MANIFEST):
                with contextlib.suppress(AdapterError):
                    replaced = Manifest.parse(read_inside(folder, part, MAX_MANIFEST_BYTES), str(folder / part))
                    return cls._read(folder, replaced)
            raise

    @classmethod
    def _read(cls, folder: Path, manifest: Manifest) -> Pool:
        data = read_inside(folder, TENSORS, tensor_file.most_bytes(manifest))
        return cls(manifest, tensor_file.parse(data, manifest.tensors_sha256, str(folder / TENSORS)))

    @classmethod
    def shared(
        cls,
        manifest: Manifest,
        b: Matrix,
        *,
        a: Mapping[str, Matrix] | None = None,
        keys: Matrix | None = None,
        centre: Matrix | None = None,
        head: Matrix | None = None,
    ) -> Pool:
        """Make a pool whose members share A.

        Args:
            manifest: of kind "shared"; its hash is filled in here.
            b: (K, N), see `shared_a.join_b`; rounded to `manifest.precision`.
            a: target to (rank, inputs); None with `manifest.a_seed`.
            keys: (K, D) unit rows, and
            centre: (D,), where the manifest names an encoder;
            head: (D, D), where the encoder has one; rounded to F16.

        Raises:
            AdapterError: a shape is not what the manifest says, or a number is not finite.
        """
        stored: dict[str, NDArray[np.floating]] = {"b": tensor_file.rounded(b, manifest)}
        for name, matrix in (a or {}).items():
            stored[f"a/{name}"] = tensor_file.rounded(matrix, manifest)
        return cls._made(manifest, stored, keys, centre, head)

    @classmethod
    def independent(
        cls,
        manifest: Manifest,
        adapters: Sequence[LoraTensors],
        *,
        keys: Matrix | None = None,
        centre: Matrix | None = None,
        head: Matrix | None = None,
    ) -> Pool:
        """Make a pool of adapters that have each their own A and B.

        Args:
            manifest: of kind "independent"; its hash is filled in here.
            adapters: one for each member, of its scale; a member may leave out targets.
            keys: (K, D) unit rows, and
            centre: (D,), where the manifest names an encoder;
            head: (D, D), where the encoder has one; rounded to F16.

        Raises:
            AdapterError: an adapter does not fit the manifest, or a number is not finite.
        """
        if len(adapters) != len(manifest.members):
            raise AdapterError(f"pool: there are {len(adapters)} adapters for {len(manifest.members)} members")
        stored: dict[str, NDArray[np.floating]] = {}
        for k, (member, lora) in enumerate(zip(manifest.members, adapters, strict=True)):
            if not np.isclose(lora.scale, member.scale, rtol=1e-6, atol=0.0):
                raise AdapterError(f"pool: members: {member.name} says scale {member.scale}, its adapter {lora.scale}")
            for name, (a, b) in lora.tensors.items():
                stored[f"a/{k}/{name}"] = tensor_file.rounded(a, manifest)
                stored[f"b/{k}/{name}"] = tensor_file.rounded(b, manifest)
        return cls._made(manifest, stored, keys, centre, head)

    @classmethod
    def _made(
        cls,
        manifest: Manifest,
        stored: dict[str, NDArray[np.floating]],
        keys: Matrix | None,
        centre: Matrix | None,
        head: Matrix | None,
    ) -> Pool:
        for name, vectors in (("keys", keys), ("centre", centre)):
            if vectors is not None:
                stored[name] = np.ascontiguousarray(vectors, np.float32)
        if head is not None:
            stored["head"] = np.ascontiguousarray(head, np.float16)
        tensor_file.check(manifest, stored)
        return cls(replace(manifest, tensors_sha256=tensor_file.sha256(tensor_file.dump(stored))), stored)

    def rekeyed(self, manifest: Manifest, keys: Matrix, centre: Matrix, head: Matrix | None) -> Pool:
        """Return the pool with other keys, its adapters as they are.

        Args:
            manifest: with the encoder of the keys, and the gate for them; its hash is filled in here.
            keys: as in `shared`, and
            centre: too;
            head: where the encoder has one.

        Raises:
            AdapterError: a shape is not what the manifest says, or a number is not finite.
        """
        kept = {name: tensor for name, tensor in self._stored.items() if name not in {"keys", "centre", "head"}}
        return self._made(manifest, kept, keys, centre, head)

    def save(self, folder: Path | str) -> None:
        """Write the pool; one that is there is replaced, other files in the folder stay.

        Raises:
            AdapterError: the disk is full or cannot be written; what was there before is unchanged.
        """
        data = tensor_file.dump(self._stored)
        manifest = replace(self.manifest, tensors_sha256=tensor_file.sha256(data))
        write_folder(Path(folder), {TENSORS: data, MANIFEST: manifest.dump()})

    @property
    def names(self) -> tuple[str, ...]:
        """The members' names, in the order of weights."""
        return tuple(member.name for member in self.manifest.members)

    @property
    def reader(self) -> int | None:
        """The place of the member that reads examples in the prompt; None in a pool without one."""
        return next((k for k, member in enumerate(self.manifest.members) if member.role == "reader"), None)

    def __len__(self) -> int:
        return len(self.manifest.members)

    @property
    def b(self) -> Matrix:
        """(K, N) float32, contiguous: all Bs of a shared pool.

        Raises:
            AdapterError: the pool is an independent one.
        """
        if self._b is None:
            raise AdapterError(f"pool {self.id}: is independent, its members share no A")
        return self._b

    @property
    def a(self) -> Mapping[str, Matrix]:
        """Target to (rank, inputs) float32: the frozen A of a shared pool.

        Raises:
            AdapterError: the pool is an independent one.
        """
        if self._a is None:
            raise AdapterError(f"pool {self.id}: is independent, its members share no A")
        return self._a

    def member(self, index: int) -> LoraTensors:
        """Return one adapter of the pool, as views where members share A."""
        member = self.manifest.members[index]
        if self.manifest.kind == "shared":
            parts = split_b(self.b[index], self.manifest.targets, self.manifest.rank)
            return LoraTensors({name: (self.a[name], part) for name, part in parts.items()}, self.manifest.scale)
        k = range(len(self))[index]
        tensors = {
            target.name: (
                tensor_file.as_float32(self._stored[f"a/{k}/{target.name}"]),
                tensor_file.as_float32(self._stored[f"b/{k}/{target.name}"]),
            )
            for target in self.manifest.targets
            if f"a/{k}/{target.name}" in self._stored
        }
        return LoraTensors(tensors, member.scale)

    def index(self, name: str) -> int:
        """Return the place of a member in the weights.

        Raises:
            AdapterError: no member has this name.
        """
        try:
            return self.names.index(name)
        except ValueError:
            raise AdapterError(f"pool {self.id}: has no member {name!r}; it has {', '.join(self.names)}") from None

    def check_base(self, source_sha256: str, name: str) -> None:
        """Refuse a model that the pool was not made for.

        Args:
            source_sha256: hash of the model's source file; a prepared file carries it in its metadata.
            name: what to call the model in the message.

        Raises:
            AdapterMismatchError: the hash is another.
        """
        base = self.manifest.base
        if source_sha256 != base.source_sha256:
            raise AdapterMismatchError(
                f"pool {self.id} was made for {base.name} (source file {base.source_sha256[:12]}), "
                f"not for {name} (source file {source_sha256[:12] or 'unknown'})"
            )

    def __repr__(self) -> str:
        return f"Pool({self.id}, {self.manifest.kind}, {len(self)} members)"
