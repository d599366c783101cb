"""Which option counts as chosen."""

from __future__ import annotations

from crayon.data.qa import Item
from crayon.lab.eval.cases import UserCase, UserTask
from crayon.lab.eval.device_runner import DeviceAnswer
from crayon.lab.eval.results import CaseResults, VariantAnswers

SHORT = ("yes", "no")
LONG = ("the first of all the options", "the second of all the options")
ENDS = (-0.5, -0.5)
FIRST_BY_SUM = DeviceAnswer("yes", (-1.0, -2.0), (-2.0, -1.0), ENDS)
SECOND_BY_SUM = DeviceAnswer("no", (-2.0, -1.0), (-1.0, -2.0), ENDS)
FIRST_BY_END = DeviceAnswer("yes", (-2.0, -1.0), (-2.0, -1.0), (-0.1, -9.0))


def results(choices: tuple[str, ...], group: str = "in_pool", **answers: DeviceAnswer) -> CaseResults:
    """Results of one draw of two items, both of whose right option is the first."""
    item = Item("toy/1", "toy", "task", "Question?", choices[0], "", choices, 0)
    found = CaseResults(UserCase(group, "toy", (UserTask("toy", (("toy", None),)),), (item, item), (0, 0), ()))
    for name, answer in answers.items():
        found.outcomes[name] = VariantAnswers([[answer, answer]], [[name in ("base", "kept")] * 2])
    return found


def points(found: CaseResults, variant: str) -> list[list[float]]:
    scored = found.points(variant, "scored")
    assert scored is not None
    return [[float(value) for value in row] for row in scored]


def test_short_options_are_compared_whole_and_long_ones_per_token() -> None:
    found = results(SHORT, base=FIRST_BY_SUM, blend=FIRST_BY_SUM)
    assert points(found, "blend") == [[100.0, 100.0]]
    found = results(LONG, base=FIRST_BY_SUM, blend=FIRST_BY_SUM)
    assert points(found, "blend") == [[0.0, 0.0]]


def test_the_end_of_the_answer_counts() -> None:
    assert points(results(SHORT, base=FIRST_BY_END, blend=FIRST_BY_END), "blend") == [[100.0, 100.0]]


def test_far_tasks_are_scored_as_the_base_is() -> None:
    found = results(SHORT, "far", base=SECOND_BY_SUM, blend=SECOND_BY_SUM)
    assert points(found, "blend") == points(found, "base") == [[100.0, 100.0]]
    assert points(results(SHORT, base=SECOND_BY_SUM, blend=SECOND_BY_SUM), "blend") == [[0.0, 0.0]]


def test_the_base_has_the_best_of_all_ways() -> None:
    for answer in (FIRST_BY_SUM, SECOND_BY_SUM, FIRST_BY_END):
        for choices in (SHORT, LONG):
            assert points(results(choices, base=answer, fewshot=answer), "base") == [[100.0, 100.0]]
            assert points(results(choices, base=answer, fewshot=answer), "fewshot") == [[100.0, 100.0]]


def test_where_the_blend_is_the_base_it_is_scored_as_the_base() -> None:
    for answer in (FIRST_BY_SUM, SECOND_BY_SUM):
        for choices in (SHORT, LONG):
            found = results(choices, base=answer, kept=answer)
            assert points(found, "kept") == points(found, "base")


def test_a_prompt_that_does_not_fit_is_wrong() -> None:
    found = results(SHORT, base=DeviceAnswer("", too_long=True))
    assert points(found, "base") == [[0.0, 0.0]]


def test_free_answers_are_compared_as_texts() -> None:
    found = results(SHORT, base=DeviceAnswer("Yes.", (-2.0, -1.0), (-2.0, -1.0), ENDS))
    free = found.points("base", "free")
    assert free is not None
    assert free.tolist() == [[100.0, 100.0]]


def test_what_was_not_measured_has_no_points() -> None:
    assert results(SHORT, base=FIRST_BY_SUM).points("own", "free") is None
