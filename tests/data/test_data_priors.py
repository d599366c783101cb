"""The priors that come with Crayon."""

from __future__ import annotations

from crayon.data.priors import load_priors
from crayon.models.catalogue import load_catalogue


def test_the_default_pair_has_weak_priors() -> None:
    found = load_priors("smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct")
    assert found is not None
    assert found == load_priors("smollm2-135m-instruct")
    for prior in (found.device, found.server, found.outside_device, found.outside_server):
        assert 4 <= prior.right + prior.wrong <= 40
    assert found.outside_server.mean() > found.outside_device.mean()


def test_the_curve_is_for_margins_only() -> None:
    pair = "smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"
    found = load_priors(*pair, "margin")
    assert found is not None
    assert found.curve is not None
    assert found.curve.slope > 0
    texts = load_priors(*pair, "mean_logprob")
    assert texts is not None
    assert texts.curve is None


def test_other_pairs_have_none() -> None:
    assert load_priors("smollm2-135m-instruct", "another") is None
    assert load_priors("another") is None


def test_the_pair_is_in_the_catalogue() -> None:
    names = {model.name for model in load_catalogue()}
    assert {"smollm2-135m-instruct", "qwen2.5-coder-1.5b-instruct"} <= names
