"""A pool's keys made anew, for the encoder there is now; its adapters stay as they are. Needs no torch."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from crayon.adapters.manifest import EncoderRecord
from crayon.data.texts import background_texts
from crayon.errors import AdapterError, ConfigError
from crayon.training.keys import make_keys
from crayon.training.tasks import key_texts, member_items

if TYPE_CHECKING:
    from crayon.adapters.pool import Pool
    from crayon.training.embedder import Embedder
    from crayon.training.recipe import Recipe


def rekey(pool: Pool, recipe: Recipe, embed: Embedder) -> Pool:
    """Return the pool with keys, centre, head and gate of its members' train questions.

    Members that no similarity chooses, those whose key is zero, keep it.

    Args:
        pool: of any kind of encoder.
        recipe: that it was trained by: where its members' questions come from, and the gate.
        embed: embeds with the pool's base model.

    Raises:
        AdapterError: the pool has no keys.
        ConfigError: the recipe does not say where a member's questions come from, or they cannot be read.
    """
    manifest = pool.manifest
    if manifest.encoder is None:
        raise AdapterError(f"pool {pool.id} has no keys to make anew: its members are chosen by weights alone")
    known = {member.name: member for member in recipe.members}
    keyed = [k for k in range(len(pool)) if pool.keys[k].any()]
    for k in keyed:
        if pool.names[k] not in known:
            named = ", ".join(known) or "none"
            raise ConfigError("members", f"recipe {recipe.name} has no {pool.names[k]!r} of the pool; it has {named}")
    texts = [key_texts(member_items(known[pool.names[k]])) for k in keyed]
    # One call, so that the model is loaded once.
    ends = np.cumsum([len(part) for part in texts])
    alone_task = len(texts) == 1
    everything = [text for part in texts for text in part] + (list(background_texts()) if alone_task else [])
    rows = np.split(embed(everything), ends)
    made = make_keys(rows[: len(texts)], rows[-1].mean(axis=0) if alone_task else None, recipe.seed)
    keys = np.zeros((len(pool), made.centre.size), np.float32)
    keys[keyed] = made.keys
    alone = [2.0] * len(pool)  # a key of zeros never answers alone
    for k, threshold in zip(keyed, made.alone, strict=True):
        alone[k] = threshold
    encoder = EncoderRecord(layer=embed.layer, dimensions=made.centre.size, head=made.head is not None)
    gate = replace(recipe.gate, alone=tuple(alone), mixes=manifest.gate.mixes)
    return pool.rekeyed(replace(manifest, encoder=encoder, gate=gate), keys, made.centre, made.head)
