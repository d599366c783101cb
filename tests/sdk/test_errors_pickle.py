"""Errors pass through pickle, as process pools and job queues need it, with their kind, words and fields."""

import copy
import inspect
import pickle

import pytest

from crayon import errors

MADE = {
    errors.InvalidRequestError: lambda: errors.InvalidRequestError("messages", "is empty"),
    errors.PromptTooLongError: lambda: errors.PromptTooLongError(2000, 1024),
    errors.ConfigError: lambda: errors.ConfigError("serve.port", "is taken", "file"),
    errors.BudgetError: lambda: errors.BudgetError("queries_per_day", "is used up"),
    errors.MissingExtraError: lambda: errors.MissingExtraError("server", "crayon serve"),
    errors.DeadlineExceededError: lambda: errors.DeadlineExceededError("late", "so far"),
    errors.OverloadedError: lambda: errors.OverloadedError("full", 2.5, "me"),
    errors.ServerInterruptedError: lambda: errors.ServerInterruptedError("broke off", "so far"),
}
KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.CrayonError)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("way", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy], ids=["pickle", "copy"])
def test_an_error_comes_back_as_it_was(kind, way):
    error = MADE.get(kind, lambda: kind("what happened"))()
    error.add_note("before that the device failed")
    back = way(error)
    assert type(back) is kind
    assert str(back) == str(error)
    assert back.args == error.args
    assert vars(back) == vars(error)
