"""The shipped scopes and the whole client on the real device model."""

from __future__ import annotations

import numpy as np
import pytest

from crayon import Crayon, Reason, Source, load_scope, scope_names
from crayon.data.scope_files import read_scope
from crayon.data.texts import background_texts
from crayon.device import DeviceEngine
from crayon.engine import EncodeRequest
from crayon.router import fit_scope
from crayon.server.engines.echo import EchoEngine

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def device(device_model_path):
    with DeviceEngine(device_model_path, n_ctx=2048, background=background_texts()) as engine:
        yield engine


def encode(device, texts):
    return device.encode(EncodeRequest(texts=tuple(texts))).result(240).vectors


@pytest.fixture(scope="module")
def background(device):
    return encode(device, background_texts())


@pytest.mark.parametrize("name", scope_names())
def test_own_and_foreign_queries_part_by_embedding(device, background, name):
    table = read_scope(name)
    fitted = fit_scope(name, encode(device, load_scope(name).examples), background)
    own = np.array([fitted.score(vector) for vector in encode(device, table["own"])])
    foreign = np.array([fitted.score(vector) for vector in encode(device, table["foreign"])])
    wins = (own[:, None] > foreign).mean() + 0.5 * (own[:, None] == foreign).mean()
    assert wins >= 0.8, "area under the ROC curve"
    # The default threshold makes use of it.
    assert (own >= fitted.threshold).mean() >= 0.7
    assert (foreign >= fitted.threshold).mean() <= 0.3


def test_the_client_routes_real_questions(device):
    server = EchoEngine()
    try:
        client = Crayon(device, server, scopes=scope_names(), hardness=False, max_tokens=12)
        inside = client.ask("Why is it healthy to drink water in the morning?")
        outside = client.ask("Solve 3x + 5 = 20 for x.")
    finally:
        server.close()
    assert (inside.route.source, inside.route.reason) == (Source.DEVICE, Reason.IN_SCOPE)
    assert inside.route.scope == "healthy-habits"
    assert inside.text.strip()
    assert inside.usage.completion_tokens <= 12
    assert (outside.route.source, outside.route.reason) == (Source.SERVER, Reason.OUT_OF_SCOPE)
