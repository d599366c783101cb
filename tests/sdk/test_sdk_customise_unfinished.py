"""Nothing that is not checked goes by a name: interrupted, killed, drafts, and quick checks."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from custom_fakes import Device, about
from sdk_fakes import SURE, USAGE, answer

from crayon import InvalidRequestError
from crayon.customising.store import CustomizationStore
from crayon.engine import ContinuationScore, ScoreResult

PATIENCE = 120

# Customises the name "mine" on a device that takes its time, and is killed at its second step.
CHILD = r"""
import os, signal, sys
sys.path[:0] = sys.argv[3:]
from custom_fakes import Device, about
from crayon import Crayon

def progress(what, done, total):
    if done == 1:
        os.kill(os.getpid(), signal.SIGKILL)

with Crayon(Device("small"), customizations_dir=sys.argv[1]) as client:
    client.customize("mine", about("number", 16), replace=True, refine=sys.argv[2] == "refine", progress=progress)
"""


class Worse(Device):
    """A device that knows the answers of `about`, and whose blends make it choose the other one."""

    def score(self, request, *, ended=False):
        self.scored.append(request)
        number = int(request.messages[-1].content.split()[-1]) if "thing" in request.messages[-1].content else 0
        right = ("red", "green")[number % 2]
        wanted = (lambda text: text == right) if request.blend is None else (lambda text: text != right)
        tail = (-1.0,) if ended else ()
        scores = tuple(ContinuationScore((-1.0 if wanted(text) else -6.0, *tail)) for text in request.continuations)
        return done(ScoreResult(scores, USAGE, self.name))


def done(value):
    from concurrent.futures import Future

    future = Future()
    future.set_result(value)
    return future


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "customizations"


@pytest.mark.parametrize("options", [{}, {"check": False}, {"refine": True}, {"check": False, "refine": True}])
def test_no_way_of_calling_lets_a_blend_that_does_worse_go_live(sdk, folder, options):
    device = Worse("small", [answer("a b", SURE)])
    client = sdk.make(device, customizations_dir=folder)
    found = sdk.call(client.customize("mine", about("colour", 16), **options))
    # The quick check tries no blend, so it has none to refuse.
    quick = options == {"check": False}
    assert quick or found.expectation.refused
    assert not any(profile.fits for profile in found.profiles)
    assert CustomizationStore(folder).load("mine") == found
    assert sdk.call(client.ask("what colour is the sky", blend="mine")).route.blend is None


def test_the_quick_check_scores_eight_samples_of_each_task_and_says_so(sdk, folder):
    device = Device("small")
    client = sdk.make(device, customizations_dir=folder)
    found = sdk.call(client.customize("mine", about("colour", 24), check=False))
    assert len(device.scored) == 8
    assert all(request.blend is None for request in device.scored)
    assert found.expectation.samples == 8
    assert found.note == "only the quick check was made, on 8 of 24 samples: neither blend nor examples were tried"
    assert not any(profile.fits for profile in found.profiles), "what was not tried does not go live"


def test_samples_without_answers_cannot_be_checked_and_keep_their_blend(sdk, folder):
    device = Device("small")
    client = sdk.make(device, customizations_dir=folder)
    for check in (True, False):
        texts = [question for question, _ in about("colour")]
        found = sdk.call(client.customize("mine", texts, check=check, replace=True))
        assert found.note == "no sample has an answer, so nothing can be checked"
        assert found.fits
    assert device.scored == []


def test_a_draft_is_used_by_the_object_and_by_no_name(sdk, folder):
    device = Device("small", [answer("a b", SURE)])
    client = sdk.make(device, customizations_dir=folder)
    drafts, there = [], []

    def ready(draft):
        drafts.append(draft)
        there.append(CustomizationStore(folder).names())

    found = sdk.call(client.customize("mine", about("colour"), ready=ready))
    assert there == [()]
    route = sdk.call(client.ask("what colour is the sky", blend=drafts[0])).route
    assert (route.customization, route.profile, route.blend) == ("mine", "colour", None)
    assert found.profiles[0].centre == drafts[0].profiles[0].centre
    with pytest.raises(InvalidRequestError, match="unknown"):
        sdk.call(client.ask("what colour is the sky", blend="draft"))


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
@pytest.mark.parametrize("where", ["ready", "progress"])
@pytest.mark.parametrize("refine", [False, True])
def test_what_is_interrupted_leaves_what_was_there(folder, error, where, refine):
    from crayon import Crayon

    def stop(*_):
        raise error

    with Crayon(Device("small"), customizations_dir=folder) as client:
        before = client.customize("mine", about("colour", 16))
        for name in ("mine", "new"):
            with pytest.raises(error):
                client.customize(name, about("number", 16), replace=True, refine=refine, **{where: stop})
    store = CustomizationStore(folder)
    assert store.names() == ("mine",)
    assert store.load("mine") == before
    assert [sample.question for sample in store.samples("mine")] == [question for question, _ in about("colour", 16)]


@pytest.mark.parametrize("refine", ["refine", "plain"])
@pytest.mark.parametrize("before", [True, False])
def test_what_is_killed_while_it_checks_leaves_what_was_there(folder, before, refine):
    from crayon import Crayon

    store = CustomizationStore(folder)
    if before:
        with Crayon(Device("small"), customizations_dir=folder) as client:
            client.customize("mine", about("colour", 16))
    paths = [path for path in sys.path if path.startswith(str(Path(__file__).parents[1]))]
    run = subprocess.run(
        [sys.executable, "-c", CHILD, str(folder), refine, *paths], capture_output=True, timeout=PATIENCE, check=False
    )
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert store.names() == (("mine",) if before else ())
    if before:
        assert store.load("mine").profiles[0].name == "colour"
        assert len(store.material("mine").vectors) == 16


def test_the_words_of_the_sdk_say_how_to_replace(sdk, folder):
    client = sdk.make(Device("small"), customizations_dir=folder)
    sdk.call(client.customize("mine", about("colour")))
    said = "'mine' is taken; add replace=True to replace it, or choose another name"
    with pytest.raises(InvalidRequestError, match=said):
        sdk.call(client.customize("mine", about("colour")))
    sdk.call(client.customize("mine", about("colour"), replace=True))
