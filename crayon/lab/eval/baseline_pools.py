"""The pools that only the comparison needs, next to the one that is blended."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.completion import Blend
from crayon.errors import InvalidRequestError, MissingExtraError
from crayon.lab.eval.cases import GENERALIST
from crayon.lab.eval.extra_pools import fresh_vector, pool_of_vectors, random_pool, trainer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.adapters.pool import Pool
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.cases import UserCase
    from crayon.lab.eval.settings import EvalSettings


class BaselinePools:
    """Makes those that the settings ask for; `missing` says which cannot be had, and why."""

    def __init__(self, pool: Pool, settings: EvalSettings, missing: dict[str, str]) -> None:
        self._pool = pool
        self._settings = settings
        self._missing = missing
        self.pools = [pool]

    def all_data(self, given: Pool | None) -> Blend | None:
        """Return the adapter trained on all data: the one given, or the pool's generalist.

        Raises:
            InvalidRequestError: the pool given has several members.
        """
        if "all_data" not in self._settings.controls:
            return None
        if given is not None:
            if len(given) != 1:
                raise InvalidRequestError("--all-data", f"has {len(given)} members; it must be a pool of one")
            self.pools.append(given)
            return Blend(given.id, (1.0,))
        if GENERALIST in self._pool.names:
            return _one(self._pool, self._pool.index(GENERALIST))
        self._missing["all_data"] = f"the pool has no member {GENERALIST!r}; name a pool of one with --all-data"
        return None

    def random_b(self) -> str | None:
        """Return the id of a pool of random adapters as large as the members."""
        if "random_b" not in self._settings.controls:
            return None
        if self._pool.manifest.kind != "shared":
            self._missing["random_b"] = "the pool's members share no A"
            return None
        self.pools.append(random_pool(self._pool, self._settings.seed))
        return self.pools[-1].id

    def fresh(
        self, cases: Sequence[UserCase], cache: AnswerCache, tell: Callable[[str], None]
    ) -> dict[tuple[str, str, int], Blend]:
        """Return an adapter trained on the samples of each user's draws, by group, name and draw."""
        settings, pool = self._settings, self._pool
        if pool.manifest.kind != "shared":
            self._missing["fresh"] = "the pool's members share no A"
            return {}
        try:
            train = trainer()
        except MissingExtraError as error:
            self._missing["fresh"] = str(error)
            return {}
        vectors: dict[tuple[str, str, int], np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = {}
        for case in (case for case in cases if case.group != "far"):
            for draw in range(settings.of_draws("fresh")):
                tell(f"{case.group} {case.name}: a fresh adapter on the samples of draw {draw + 1}")
                samples = case.samples(draw, settings.samples[0])
                vectors[case.group, case.name, draw] = fresh_vector(train, pool, samples, settings.seed + draw, cache)
        if not vectors:
            return {}
        self.pools.append(pool_of_vectors(pool, "fresh", np.stack(list(vectors.values()))))
        return {key: _one(self.pools[-1], i) for i, key in enumerate(vectors)}


def _one(pool: Pool, index: int) -> Blend:
    return Blend(pool.id, tuple(float(k == index) for k in range(len(pool))))
