"""The one table of sampling parameters, without vLLM."""

from __future__ import annotations

from typing import Any

import pytest

from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints.grammar import OPTIONS
from crayon.llama.sampler import COLD, PENALTY_WINDOW
from crayon.sampling import SAMPLING_FIELDS, Sampling
from crayon.server.engines.vllm import sampling as vllm_sampling
from crayon.server.engines.vllm.sampling import KEY, TABLE, arguments, chained, structured


def of(sampling: Sampling, **more: Any) -> dict[str, Any]:
    return arguments(sampling, **{"room": 100, "ends": (2, 0), "signals": False, **more})


def test_the_table_has_every_parameter_once() -> None:
    assert sorted(row.name for row in TABLE) == sorted(SAMPLING_FIELDS)


def test_it_is_as_cold_as_llama_cpp() -> None:
    assert vllm_sampling.COLD == COLD
    assert of(Sampling(temperature=COLD / 2))["temperature"] == 0.0
    assert PENALTY_WINDOW == 64  # logits_processor.WINDOW, which imports torch


def test_what_means_something_else_in_vllm_goes_to_our_chain() -> None:
    given = of(Sampling(temperature=1.0, top_k=5, top_p=0.9, repeat_penalty=1.2))
    assert given["extra_args"] == {KEY: {"top_k": 5, "top_p": 0.9, "repeat_penalty": 1.2}}
    assert not {"top_k", "top_p", "repetition_penalty"} & set(given)


def test_greedy_answers_need_no_filters() -> None:
    assert chained(Sampling(top_k=5, top_p=0.5, min_p=0.1)) == {}
    assert "extra_args" not in of(Sampling(top_k=5))
    assert chained(Sampling(presence_penalty=0.5)) == {"presence_penalty": 0.5}


def test_without_the_chain_vllm_gets_its_own_parameters() -> None:
    given = of(Sampling(temperature=1.0, top_k=5, top_p=0.0, repeat_penalty=1.2), native=True)
    assert given["top_k"] == 5
    assert 0 < given["top_p"] <= 1e-6
    assert given["repetition_penalty"] == 1.2
    assert "extra_args" not in given


@pytest.mark.parametrize(("ignore", "ends"), [(False, [2, 0]), (True, [])])
def test_the_end_is_ignored_where_that_is_asked_for(ignore: bool, ends: list[int]) -> None:
    assert of(Sampling(ignore_eos=ignore))["stop_token_ids"] == ends


def test_an_answer_never_leaves_the_context() -> None:
    assert of(Sampling(max_tokens=1000))["max_tokens"] == 100
    assert of(Sampling(max_tokens=7))["max_tokens"] == 7
    assert "logprobs" not in of(Sampling())
    assert of(Sampling(), signals=True)["logprobs"] == vllm_sampling.LIKELIEST


@pytest.mark.parametrize(
    ("constraint", "given"),
    [
        (Constraint(ConstraintKind.REGEX, "[ab]"), {"regex": "[ab]"}),
        (Constraint(ConstraintKind.CHOICES, choices=("a", "b")), {"choice": ["a", "b"]}),
        (Constraint(ConstraintKind.GRAMMAR, 'start: "a"'), {"grammar": 'start: "a"'}),
        (Constraint(ConstraintKind.SCHEMA, '{"type": "null"}'), {"json": {"type": "null", "x-guidance": OPTIONS}}),
        (Constraint(ConstraintKind.JSON), {"json": {"type": "object", "x-guidance": OPTIONS}}),
    ],
    ids=str,
)
def test_a_constraint_is_what_vllm_calls_structured_outputs(constraint: Constraint, given: dict[str, Any]) -> None:
    assert of(Sampling(), constraint=constraint)["structured_outputs"] == given
    assert "structured_outputs" not in of(Sampling())


def test_vllm_is_asked_to_write_json_as_the_other_engines_do_whatever_a_schema_says() -> None:
    wild = Constraint(ConstraintKind.SCHEMA, '{"x-guidance": {"whitespace_flexible": true, "lenient": true}}')
    assert structured(wild)["json"]["x-guidance"] == OPTIONS
