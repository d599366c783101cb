from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from keyed_pool import BACKGROUND, TOPICS, questions

from crayon.adapters import Pool
from crayon.customising.device_calls import DeviceCalls
from crayon.customising.space import Space, everyday_space, space_of_pool
from crayon.device import DeviceEngine
from crayon.engine import EverydayStates, RawStates
from crayon.errors import AdapterError, InvalidRequestError

RNG = np.random.default_rng(0)
# Intents that differ in the first number a little, their wordings in the second a lot.
SPREAD = np.array([0.1, 5.0, 0.1])
GROUPS = tuple((RNG.normal(size=(6, 3)) * SPREAD + [i % 3, 0, 0]).astype(np.float32) for i in range(20))
EVERYDAY = EverydayStates(GROUPS, texts="0123456789ab")


def test_states_are_centred_turned_and_brought_to_length_1():
    states, centre = RNG.normal(size=(5, 8)).astype(np.float32), RNG.normal(size=8).astype(np.float32)
    found = Space("", 0, centre).place(states + 100 * centre)
    expected = states + 99 * centre
    assert np.allclose(found, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-5)
    head = np.diag(np.arange(1.0, 9.0)).astype(np.float32)
    turned = Space("", 0, centre, head).place(states + centre)
    expected = states * np.arange(1.0, 9.0)
    assert np.allclose(turned, expected / np.linalg.norm(expected, axis=1, keepdims=True), atol=1e-4)
    assert turned.dtype == np.float32


def test_other_dimensions_and_numbers_that_are_not_finite_are_refused():
    states = np.ones((2, 3), np.float32)
    space = Space("", 0, np.zeros(3, np.float32))
    with pytest.raises(InvalidRequestError, match="states of shape"):
        Space("", 0, np.zeros(2, np.float32)).place(states)
    states[1, 1] = np.nan
    with pytest.raises(InvalidRequestError, match="not finite"):
        space.place(states)


def test_a_layer_or_width_that_is_not_the_spaces_is_refused():
    space = Space("", 3, np.zeros(8, np.float32))
    rows = np.ones((1, 8), np.float32)
    space.check(RawStates(rows, rows, 3))
    for other in (RawStates(rows, rows, 4), RawStates(rows[:, :4], rows, 3)):
        with pytest.raises(AdapterError, match="customise again"):
            space.check(other)


def test_an_everyday_space_weighs_little_what_differs_among_wordings():
    space = everyday_space(EVERYDAY, 4)
    assert space.head is not None
    assert space.layer == 4
    assert space.centre == pytest.approx(np.concatenate(GROUPS).mean(axis=0), abs=1e-5)
    states = space.centre + np.array([[1.0, 1.5, 0], [1, -1.5, 0], [-1, 1.5, 0]], np.float32)
    one, wording, other = space.place(states)
    assert one @ wording > one @ other
    one, wording, other = Space("", 4, space.centre).place(states)
    assert one @ wording < one @ other


def test_an_everyday_spaces_id_is_of_texts_layer_and_pooling_not_of_last_digits():
    space = everyday_space(EVERYDAY, 4)
    assert space.id.startswith("unit-mean-4-everyday-")
    close = EverydayStates(tuple(rows + np.float32(1e-6) for rows in GROUPS), EVERYDAY.texts)
    assert everyday_space(close, 4).id == space.id
    assert everyday_space(EverydayStates(GROUPS, "ba9876543210"), 4).id != space.id
    assert everyday_space(EVERYDAY, 5).id != space.id


def test_no_everyday_texts_no_space():
    with pytest.raises(AdapterError, match="no everyday texts"):
        everyday_space(EverydayStates((), ""), 4)


def test_a_pools_space_is_that_of_its_keys_and_named_by_its_numbers(pool):
    space = space_of_pool(pool)
    assert space.layer == pool.manifest.encoder.layer
    assert space.centre is pool.centre
    assert space.id.startswith(f"unit-mean-{space.layer}-")
    assert space_of_pool(Pool(pool.manifest, pool._stored)).id == space.id
    moved = pool.rekeyed(pool.manifest, pool.keys, pool.centre + 1, None)
    assert space_of_pool(moved).id != space.id


def test_a_pool_of_the_former_pooling_is_refused_and_the_mending_said(pool):
    encoder = replace(pool.manifest.encoder, kind="layer_mean")
    old = pool.rekeyed(replace(pool.manifest, encoder=encoder), pool.keys, pool.centre, None)
    with pytest.raises(AdapterError, match=r"layer_mean.*crayon pool rekey.*train the pool again"):
        space_of_pool(old)
    none = Pool.shared(replace(pool.manifest, encoder=None), pool.b)
    with pytest.raises(AdapterError, match="has no keys"):
        space_of_pool(none)


def test_texts_are_compared_without_a_pool(model_path):
    everyday = [questions(topic, 6, seed=7) for topic in TOPICS]
    with DeviceEngine(model_path, n_ctx=512, n_batch=64, threads=1, background=BACKGROUND, everyday=everyday) as engine:
        calls = DeviceCalls(engine)
        vectors, background, space = calls.vectors(None, [*questions("vowels", 8), *questions("numbers", 8)])
        assert calls.vectors(None, ["hello"])[2] is space, "a head is not computed for each call"
    assert background.shape == (len(BACKGROUND), space.dimensions)
    means = np.stack([vectors[:4].mean(axis=0), vectors[8:12].mean(axis=0)])
    assert (np.argmax(vectors[4:8] @ means.T, axis=1) == 0).all()
    assert (np.argmax(vectors[12:] @ means.T, axis=1) == 1).all()


def test_an_engine_without_everyday_texts_compares_by_its_background(model_path):
    with DeviceEngine(model_path, n_ctx=512, threads=1, background=BACKGROUND) as engine:
        vectors, _, space = DeviceCalls(engine).vectors(None, ["hello"])
        assert vectors.shape == (1, space.dimensions)
    with DeviceEngine(model_path, n_ctx=512, threads=1) as engine, pytest.raises(AdapterError, match="no background"):
        DeviceCalls(engine).vectors(None, ["hello"])
