"""What is one's own and what is foreign, told apart on each real model that is there: no family's sink fools it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from crayon.customising.device_calls import DeviceCalls
from crayon.device import DeviceEngine
from crayon.errors import UnknownModelError
from crayon.models import resolve

if TYPE_CHECKING:
    from numpy.typing import NDArray

pytestmark = pytest.mark.models

# A garden shop's questions. The first words repeat between own and foreign ones: they must not decide.
SAMPLES = (
    "How often should I water a potted lemon tree?",
    "Can tomatoes and basil share one raised bed?",
    "My roses have black spots on their leaves, what helps?",
    "What compost do you sell for blueberries?",
    "Is it too late in May to sow carrots?",
    "When do you prune an apple tree?",
    (
        "The hedge I planted last autumn is turning brown at the bottom, although I water it every other day. Did I do "
        "something wrong when I put it in, or is the soil too heavy?"
    ),
    "Which flowers grow in the shade?",
)
OWN = (
    "How deep do tulip bulbs go?",
    "Can I move a lavender bush in summer?",
    "My cucumbers stay small, what do they lack?",
    "What keeps slugs away from lettuce?",
    "Is horse manure good for strawberries?",
    "When are pumpkins ripe?",
    (
        "The lawn behind our house has more moss than grass since it was so wet in the spring. I have raked it twice "
        "and put down seed, but the birds eat most of it. What would you do?"
    ),
    "Which herbs survive the frost on a balcony?",
)
FOREIGN = (
    "How do I reset the password of my router?",
    "Can you move my meeting with Ana to Tuesday?",
    "My flight was cancelled, what am I entitled to?",
    "What is the capital of Mongolia?",
    "Is this invoice due before the end of the month?",
    "When does the next train to Leeds leave?",
    (
        "The function below should return the sum of the list, but for an empty one it raises an error. I have tried "
        "to catch it, and now the tests hang. Could you tell me what the loop does wrong and write one that works?"
    ),
    "Which museum has the largest collection of Impressionist paintings?",
)


def auroc(own: NDArray[np.float32], foreign: NDArray[np.float32]) -> float:
    return float((own[:, np.newaxis] > foreign).mean())


# More models may be named by their files, say gemma3-270m's.
MODELS = (
    "smollm2-135m-instruct",
    "qwen2.5-coder-0.5b-instruct",
    "qwen2.5-coder-1.5b-instruct",
    *filter(None, os.environ.get("CRAYON_TEST_MODELS", "").split(os.pathsep)),
)


@pytest.mark.parametrize("name", MODELS)
def test_own_questions_are_told_from_foreign_ones_without_a_pool(name: str) -> None:
    try:
        path = resolve(name, download=name.startswith("smollm2")).path
    except UnknownModelError:
        pytest.skip(f"{name} is not on this machine")
    from crayon.data.texts import background_texts, everyday_groups

    # A quarter of the groups is enough to tell by, and to compute here.
    groups = everyday_groups()[::4]
    with DeviceEngine(path, n_ctx=1024, threads=2, background=background_texts(), everyday=groups) as engine:
        vectors, background, _ = DeviceCalls(engine).vectors(None, (*SAMPLES, *OWN, *FOREIGN))
    samples, own, foreign = np.split(vectors, 3)
    mean = samples.mean(axis=0)
    assert auroc(own @ mean, foreign @ mean) >= 0.9
    assert auroc(own @ mean, background @ mean) >= 0.9
    for kind in (len(OWN) - 2, 0):  # the longest and the shortest
        assert auroc(own[kind : kind + 1] @ mean, foreign @ mean) >= 0.75
