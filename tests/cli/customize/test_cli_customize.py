"""Customising at the command line, on a small real model with a small real pool."""

from __future__ import annotations

import json
import random
import stat
from typing import TYPE_CHECKING, Any

import pytest
from keyed_pool import BACKGROUND, keyed_pool, questions
from tiny_chat import write_model

from crayon.adapters import Gate
from crayon.cli.chat.repl import Repl
from crayon.cli.customize.check_progress import check_progress
from crayon.cli.customize.weights import expectation_lines, weight_lines
from crayon.cli.shared.app import app
from crayon.completion import Mode
from crayon.customising.choices import choice_values
from crayon.customising.customization import Customization, Expectation, Refused
from crayon.customising.device_calls import DeviceCalls
from crayon.customising.evidence import NONE, Evidence
from crayon.customising.profiles import Profile
from crayon.device import DeviceEngine
from crayon.errors import InvalidRequestError
from crayon.messages import Message

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds model.gguf and two pools for it: pool, and one that fits nothing."""
    folder = tmp_path_factory.mktemp("tiny")
    model = write_model(folder / "model.gguf")
    keyed_pool(model).save(folder / "pool")
    keyed_pool(model, gate=Gate(floor=1.5)).save(folder / "aloof")
    return folder


@pytest.fixture(scope="module")
def plain_picks(tiny: Path) -> list[dict[str, Any]]:
    """Samples that the plain base answers rightly, every one: their answers are what it picks."""
    labels, found = ("rose", "teal"), list[dict[str, Any]]()
    with DeviceEngine(tiny / "model.gguf", n_ctx=512, n_batch=64, threads=1, background=BACKGROUND) as engine:
        for text in questions("vowels", 8):
            scores = DeviceCalls(engine).score((Message("user", text),), labels, None, ended=True).scores
            found.append({"question": text, "answer": labels[int(choice_values(scores, "whole").argmax())]})
    assert {sample["answer"] for sample in found} == set(labels)
    return found


@pytest.fixture
def known(tmp_path: Path, plain_picks: list[dict[str, Any]]) -> Path:
    """A closed set whose samples the plain base answers, every one."""
    return write_lines(tmp_path / "known.jsonl", plain_picks)


@pytest.fixture
def crayon(runner: CliRunner, tiny: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """Runs the program on the small model."""
    for name, value in {
        "DEVICE__MODEL": tiny / "model.gguf",
        "DEVICE__POOLS": tiny / "pool",
        "DEVICE__THREADS": 1,
        "DEVICE__CONTEXT": 512,
        "CUSTOMIZATIONS_DIR": tmp_path / "mine",
        "SAMPLING__MAX_TOKENS": 4,
    }.items():
        monkeypatch.setenv(f"CRAYON_{name}", str(value))
    return lambda *words, **more: runner.invoke(app, [str(word) for word in words], **more)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Questions alone: nothing can be tried on them, so their blend is all that a customisation holds."""
    return write(tmp_path / "samples.jsonl", "vowels", labels=None)


@pytest.fixture
def refused(tmp_path: Path, plain_picks: list[dict[str, Any]]) -> Path:
    """The plain base answers all of them, and the blend of random members does not; the answers are no closed set."""
    more = [[], ["a very unlikely answer, since it is long"]]
    return write_lines(
        tmp_path / "refused.jsonl",
        [{**sample, "choices": ["rose", "teal", *more[i % 2]]} for i, sample in enumerate(plain_picks)],
    )


@pytest.fixture
def taught(tmp_path: Path) -> Path:
    """Their answer is told by the letters of the question, which even a random model's embedding shows."""
    rng, lines = random.Random(1), []
    for i in range(16):
        text = " ".join("".join(rng.choice(("aao", "eei")[i % 2]) for _ in range(4)) for _ in range(6))
        lines.append(json.dumps({"question": text, "answer": ("rose", "teal")[i % 2]}) + "\n")
    path = tmp_path / "taught.jsonl"
    path.write_text("".join(lines))
    return path


def write_lines(path: Path, records: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def write(
    path: Path,
    *topics: str,
    count: int = 8,
    labels: tuple[str, ...] | None = ("red", "green"),
) -> Path:
    lines = [
        json.dumps({"question": text, **({"answer": labels[i % len(labels)]} if labels else {})})
        for topic in topics
        for i, text in enumerate(questions(topic, count))
    ]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_customize_prints_weights_and_what_to_do_next(crayon: Any, samples: Path, tmp_path: Path) -> None:
    done = crayon("customize", "mine", "--samples", samples)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0] == "mine: 8 samples, 0 with an answer"
    assert lines[1] == "profile vowels: 8 samples"
    assert lines[2].split()[:3] == ["vowels", "1.00", "#" * 30]
    assert lines[3:] == ["no sample has an answer, so nothing can be checked"]
    assert "crayon ask --blend mine TEXT" in done.stderr
    assert stat.S_IMODE((tmp_path / "mine").stat().st_mode) == 0o700


def test_customize_prints_the_evidence_and_what_to_expect(crayon: Any, taught: Path) -> None:
    done = crayon("customize", "mine", "--samples", taught)
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        "mine: 16 samples, 16 with an answer",
        "task mine: 16 samples",
        "  answers: 2, rose, teal",
        "  classes: 16 samples tell which answer a question is like",
    ]
    (expected,) = (line for line in lines if line.startswith("expected: "))
    assert expected.startswith("expected: 100 % right, plain base ")
    assert "samples of yours, each answered by the others" in expected
    assert "crayon ask --blend mine TEXT" in done.stderr


def test_several_tasks_are_said_and_the_check_can_be_quick(crayon: Any, tmp_path: Path) -> None:
    samples = write(tmp_path / "s.jsonl", "vowels", "numbers", count=12)
    done = crayon("customize", "mine", "--samples", samples, "--no-check")
    assert done.exit_code == 0, done.output
    assert "of 2 tasks: each question is answered by the profile it is closest to" in done.stdout
    assert "profile vowels: 12 samples" in done.stdout
    assert "profile numbers: 12 samples" in done.stdout
    assert "16 samples of yours" in done.stdout
    said = "only the quick check was made, on 16 of 24 samples: neither blend nor examples were tried"
    assert said in done.stdout
    assert "fits" not in done.stdout, "the members may well fit"


@pytest.mark.parametrize("options", [(), ("--no-check",), ("--refine",)])
def test_no_option_lets_what_does_worse_go_live(crayon: Any, refused: Path, options: tuple[str, ...]) -> None:
    done = crayon("customize", "mine", "--samples", refused, *options)
    assert done.exit_code == 0, done.output
    # The quick check tries no blend, so it has none to refuse.
    assert ("of yours): the blend is refused" in done.stdout) is (options != ("--no-check",))
    assert "expected: 100 % right, plain base 100 %" in done.stdout
    assert "this customisation changes no answer" in done.stdout
    assert "use it" not in done.stderr
    question = questions("vowels", 1, seed=5)[0]
    route = json.loads(crayon("ask", "--json", "--blend", "mine", question).stdout)["route"]
    assert (route["blend"], route["evidence"]) == (None, [])


def test_a_plain_base_that_knows_the_answers_chooses_among_them(crayon: Any, known: Path) -> None:
    """As `choose` would do with it; `ask` would write a text otherwise."""
    done = crayon("customize", "mine", "--samples", known)
    assert done.exit_code == 0, done.output
    assert "  answers: 2, " in done.stdout
    assert "  the plain model chooses among them" in done.stdout
    assert "expected: 100 % right, plain base 100 %" in done.stdout
    assert "changes no answer" not in done.stdout
    assert "use it" in done.stderr
    for question in questions("vowels", 3, seed=5):
        said = json.loads(crayon("ask", "--json", "--blend", "mine", question).stdout)
        plain = json.loads(crayon("choose", "--json", "-c", "rose", "-c", "teal", question).stdout)
        assert (said["text"], said["route"]["evidence"]) == (plain["text"], ["answers"])
        assert 0.5 <= said["probability"] <= 1.0
        assert said["route"]["blend"] is None


def test_free_asks_for_a_text_where_the_answers_are_closed(crayon: Any, known: Path) -> None:
    assert crayon("customize", "mine", "--samples", known).exit_code == 0
    question = questions("vowels", 1, seed=5)[0]
    free = json.loads(crayon("ask", "--json", "--free", "--blend", "mine", question).stdout)
    assert (free["probability"], free["route"]["evidence"]) == (None, [])
    plain = json.loads(crayon("ask", "--json", "--blend", "base", question).stdout)
    assert free["text"] == plain["text"], "no examples are live, so it is what the plain base writes"
    lines = [question, "/free", question, "/free off", question, "/free maybe"]
    done = crayon("chat", "--customization", "mine", input="\n".join(lines) + "\n")
    said = done.stderr.splitlines()
    assert ["probability" in line for line in said if line.startswith("device: ")] == [True, False, True]
    assert "free: answers are written, even where the customisation's answers are a closed set" in said
    assert "takes on or off, not 'maybe'" in done.stderr


@pytest.mark.parametrize("options", [(), ("--refine",)])
def test_an_interrupted_customize_leaves_what_was_there(
    crayon: Any, samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    assert crayon("customize", "mine", "--samples", samples).exit_code == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "mine" / "mine").iterdir()}

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    others = write(tmp_path / "others.jsonl", "numbers", count=10)
    with monkeypatch.context() as patch:
        patch.setattr("crayon.customising.device_calls.DeviceCalls.score", interrupted)
        assert crayon("customize", "mine", "--samples", others, "--replace", *options).exit_code == 130
        assert crayon("customize", "new", "--samples", others, *options).exit_code == 130
    assert {path.name: path.read_bytes() for path in (tmp_path / "mine" / "mine").iterdir()} == before
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["mine"]


def test_it_says_plainly_that_no_member_takes_part(
    crayon: Any, samples: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_DEVICE__POOLS", str(tiny / "aloof"))
    done = crayon("customize", "mine", "--samples", samples)
    assert done.exit_code == 0, done.output
    assert "no member of the pool takes part (closest: vowels, similarity 0." in done.stdout
    assert "the plain base is kept" in done.stdout
    assert "this customisation changes no answer" in done.stdout


def test_customize_as_json(crayon: Any, samples: Path, taught: Path) -> None:
    record = json.loads(crayon("customize", "mine", "--samples", samples, "--json").stdout)
    assert record["name"] == "mine"
    assert record["profiles"][0]["weights"] == [1.0, 0.0, 0.0]
    assert "centre" not in record["profiles"][0]
    assert record["expectation"] is None
    record = json.loads(crayon("customize", "other", "--samples", taught, "--json").stdout)
    assert record["expectation"]["metric"] == "accuracy"
    assert record["profiles"][0]["evidence"]["answers"] == ["rose", "teal"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "there are none"),
        ("nonsense\n", "line 1: is no JSON"),
        ('{"question": "a", "answer": "x"}\n{"question": "A", "answer": "y"}\n', "line 2: asks what line 1 asks"),
        ('{"text": "a"}\n{"text": "' + "aei " * 900 + '"}\n', "sample 2: has"),
    ],
)
def test_bad_samples_end_with_a_message_and_keep_nothing(crayon: Any, tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(text)
    done = crayon("customize", "mine", "--samples", path)
    assert done.exit_code == 2
    assert says in done.stderr
    assert not (tmp_path / "mine").exists()


def test_a_bad_or_taken_name_is_a_usage_error(crayon: Any, samples: Path) -> None:
    assert crayon("customize", "../up", "--samples", samples).exit_code == 2
    assert crayon("customize", "mine", "--samples", samples, "--no-check").exit_code == 0
    again = crayon("customize", "mine", "--samples", samples, "--no-check")
    assert again.exit_code == 2
    assert "'mine' is taken; add --replace to replace it, or choose another name" in again.stderr
    assert crayon("customize", "mine", "--samples", samples, "--no-check", "--replace").exit_code == 0


def test_without_a_pool_the_samples_themselves_are_the_evidence(
    crayon: Any, taught: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_DEVICE__POOLS", "")
    done = crayon("customize", "mine", "--samples", taught)
    assert done.exit_code == 0, done.output
    assert "task mine: 16 samples\n  answers: 2, rose, teal\n" in done.stdout
    assert "pool" not in done.stdout
    assert "\nfor model\ntask mine: 16 samples\n" in crayon("customizations", "show", "mine").stdout
    answer = json.loads(crayon("ask", "--json", "--blend", "mine", "aaoa aoao aaoo oaaa aaoa aaaa").stdout)
    assert answer["text"] == "rose"
    assert "classes" in answer["route"]["evidence"]
    said = crayon("chat", input="/blend mine\n/weights\n").stderr
    assert "mine, made for model" in said
    assert "answers: 2, rose, teal" in said


def test_listing_showing_renaming_exporting_and_deleting(crayon: Any, tmp_path: Path) -> None:
    samples = write(tmp_path / "few.jsonl", "vowels", count=7)
    assert "no customisations" in crayon("customizations", "ls").stderr
    crayon("customize", "one", "--samples", samples)
    crayon("customize", "two", "--samples", write(tmp_path / "s.jsonl", "numbers", count=2), "--no-check")
    listed = crayon("customizations", "ls").stdout.splitlines()
    assert [line.split()[0] for line in listed] == ["NAME", "one", "two"]
    assert "points" in listed[1]
    shown = crayon("customizations", "show", "one").stdout
    assert "profile vowels: 7 samples" in shown
    assert "expected: " in shown
    assert crayon("customizations", "rename", "one", "first").exit_code == 0
    assert crayon("customizations", "rename", "one", "first").exit_code == 2
    out = tmp_path / "first.json"
    assert crayon("customizations", "export", "first", out).exit_code == 0
    text = samples.read_text()
    assert not any(json.loads(line)["question"] in out.read_text() for line in text.splitlines())
    assert "without their mean" in crayon("customizations", "export", "two", tmp_path / "two.json").stderr
    assert crayon("customizations", "export", "first", out).exit_code == 2
    (tmp_path / "mine" / "two" / "customization.json").write_text("{")
    assert "damaged" in crayon("customizations", "ls").stdout
    rows = json.loads(crayon("customizations", "ls", "--json").stdout)["customizations"]
    assert "error" in rows[1]
    assert crayon("customizations", "show", "two").exit_code == 3
    assert crayon("customizations", "delete", "first", input="n\n").exit_code == 1
    assert crayon("customizations", "delete", "first", "gone", "--yes").exit_code == 2
    assert crayon("customizations", "delete", "first", "two", "--yes").exit_code == 0
    assert list((tmp_path / "mine").iterdir()) == []


def test_ask_and_chat_with_a_customisation(crayon: Any, samples: Path, tmp_path: Path) -> None:
    crayon("customize", "mine", "--samples", samples)
    question = questions("vowels", 1, seed=5)[0]
    route = json.loads(crayon("ask", "--json", "--blend", "mine", question).stdout)["route"]
    assert (route["customization"], route["profile"], route["blend"]["weights"]) == ("mine", "vowels", [1.0, 0.0, 0.0])
    plain = json.loads(crayon("ask", "--json", "--blend", "base", question).stdout)["route"]
    assert (plain["customization"], plain["blend"]) == (None, None)
    crayon("customizations", "export", "mine", tmp_path / "out.json")
    route = json.loads(crayon("ask", "--json", "--blend", tmp_path / "out.json", question).stdout)["route"]
    assert route["profile"] == "vowels"
    assert crayon("ask", "--blend", "none", question).exit_code == 2
    done = crayon("chat", "--customization", "mine", input=f"{question}\nZebras graze on plains\n/route\n")
    assert done.exit_code == 0, done.stderr
    assert "| profile vowels |" in done.stderr
    assert "outside its profiles, plain base (was vowels; read anew)" in done.stderr


def test_the_setting_names_the_customisation(crayon: Any, samples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crayon("customize", "mine", "--samples", samples, "--no-check")
    monkeypatch.setenv("CRAYON_CUSTOMIZATION", "mine")
    question = questions("vowels", 1, seed=5)[0]
    assert json.loads(crayon("ask", "--json", question).stdout)["route"]["profile"] == "vowels"
    monkeypatch.setenv("CRAYON_CUSTOMIZATION", "gone")
    assert crayon("ask", question).exit_code == 2
    assert crayon("chat", "--customization", "", input=f"{question}\n").exit_code == 0


def test_chat_customises_blends_and_shows_weights(crayon: Any, samples: Path) -> None:
    question = questions("vowels", 1, seed=5)[0]
    lines = [
        "/weights",
        question,
        f"/customize mine {samples}",
        question,
        "/weights",
        "/blend base",
        question,
        "/blend mine",
        "/blend auto",
        "/blend",
    ]
    done = crayon("chat", input="\n".join(lines) + "\n")
    assert done.exit_code == 0, done.stderr
    # Answers of 4 tokens are cut, which has a line of its own.
    said = [line for line in done.stderr.splitlines() if not line.startswith("the answer was cut")]
    assert said[0] == "the plain base: no weights"
    assert "profile" not in said[1]
    assert said[2] == "profile vowels: 8 samples"
    assert said[3].split()[:2] == ["vowels", "1.00"]
    assert said[4] == "no sample has an answer, so nothing can be checked"
    base = said.index("blend: base, as it is")
    used = said.index("in use from now on")
    assert "| profile vowels |" in said[used + 1]
    assert "profile vowels: 8 samples (in use)" in said[used + 3]
    assert "profile" not in said[base + 1]
    assert said[-3:] == ["blend: mine, always applied", "blend: none, the plain base", "blend: none, the plain base"]
    wrong = crayon("chat", input="/blend none\n/customize mine\n")
    assert wrong.exit_code == 2
    assert "'none' is unknown; there are mine" in wrong.stderr
    assert "takes a name and a file" in wrong.stderr


def test_chat_checks_like_the_command_and_uses_nothing_that_changes_nothing(crayon: Any, refused: Path) -> None:
    done = crayon("chat", input=f"/customize mine {refused}\n/blend\n")
    assert done.exit_code == 0, done.stderr
    assert "of yours): the blend is refused" in done.stderr
    assert "this customisation changes no answer" in done.stderr
    assert "in use" not in done.stderr
    assert done.stderr.splitlines()[-1] == "blend: none, the plain base"


def test_chat_says_how_to_replace_and_does(crayon: Any, samples: Path) -> None:
    line = f"/customize mine {samples}"
    done = crayon("chat", input=f"{line}\n{line}\n{line} --replace\n")
    assert done.exit_code == 2
    said = f"'mine' is taken; /customize mine {samples} --replace replaces it, or choose another name"
    assert said in done.stderr
    assert done.stderr.count("in use from now on") == 2


def test_chat_customising_is_stopped_by_ctrl_c_and_the_chat_goes_on(
    client: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    client.customize = interrupted
    repl = Repl(client=client, mode=Mode.PREFER_ON_DEVICE)
    repl.handle("/customize mine file.jsonl")
    assert "stopped; nothing was changed" in capsys.readouterr().err
    assert repl.blend is None
    repl.interactive = False
    with pytest.raises(KeyboardInterrupt):
        repl.handle("/customize mine file.jsonl")


def test_progress_is_one_line_of_a_terminal_and_none_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with check_progress() as progress:
        progress("check", 1, 3)
    assert capsys.readouterr().err == "", "no terminal"
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with check_progress() as progress:
        progress("check", 1, 3)
        progress("check", 3, 3)
        progress("refine", 1, 3)
    assert capsys.readouterr().err.split("\r\x1b[K") == ["", "checking 1/3", "", "searching 1/3", ""]


def test_a_conversation_passes_on_the_profile_it_is_in(client: Any) -> None:
    repl = Repl(client=client, mode=Mode.PREFER_ON_DEVICE, customization="two")
    client.route = {"customization": "two", "profile": "a"}
    repl.handle("one")
    client.route = {}
    repl.handle("two")
    repl.handle("three")
    repl.handle("/clear")
    repl.handle("four")
    assert [options.get("last_profile") for options in client.options] == [None, "a", "a", None]
    repl.handle("/blend base")
    repl.handle("five")
    assert client.options[-1]["blend"] == "base"
    assert "last_profile" not in client.options[-1]


def test_a_failing_customize_changes_nothing_in_the_chat(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise InvalidRequestError("samples", "are no good")

    client.customize = refuse
    repl = Repl(client=client, mode=Mode.PREFER_ON_DEVICE)
    repl.handle("/customize mine file.jsonl")
    assert repl.blend is None
    assert "samples: are no good" in capsys.readouterr().err


def made(weights: tuple[float, ...], evidence: Evidence = NONE, profile: str = "a", **values: Any) -> Customization:
    one = Profile(
        name=profile,
        weights=weights,
        similarity=(0.5, 0.4, 0.3),
        samples=1,
        threshold=0.1,
        centre=(1.0,),
        evidence=evidence,
    )
    return Customization(
        **{
            "name": "mine",
            "pool_id": "pool@0",
            "base": "tiny",
            "base_sha256": "0" * 64,
            "members": ("a", "bank", "c"),
            "layer": 1,
            "profiles": (one,),
            "samples": 1,
            "answered": 1,
            "created": "2026-01-01T00:00:00+00:00",
            **values,
        }
    )


def test_bars_show_large_weights_first_count_small_ones_and_give_the_base_its_share() -> None:
    assert list(weight_lines(made((0.2, 0.5, 0.001)), "a")) == [
        "profile a: 1 sample (in use)",
        "  bank           0.50  " + "#" * 15 + " " * 17 + "similarity 0.40",
        "  a              0.20  " + "#" * 6 + " " * 26 + "similarity 0.50",
        "  (plain base)   0.30  " + "#" * 9,
        "  1 member more below 0.005",
    ]


def test_each_kind_of_evidence_is_told_and_the_base_only_where_it_answers_alone() -> None:
    answers = ("billing", "delivery", "returns", "account", "other")
    both = Evidence(examples=(0,), answers=answers, labelled=(0, 1, 2), classes=10.0)
    assert list(weight_lines(made((0.0, 0.0, 0.0), both, "mine"))) == [
        "task mine: 1 sample",
        "  answers: 5, billing, delivery, returns, account and 1 more",
        "  classes: 3 samples tell which answer a question is like",
        "  examples: 1 sample shown before each question",
    ]
    assert "changes no answer" not in " ".join(expectation_lines(made((0.0, 0.0, 0.0), both)))
    shown = Evidence(examples=(0, 2))
    assert list(weight_lines(made((1.0, 0.0, 0.0), shown)))[1:] == [
        "  examples: 2 samples shown before each question, under the pool's reader",
    ], "weights beside examples are the reader's, which was not chosen by similarity"
    assert list(weight_lines(made((0.0, 0.0, 0.0)))) == [
        "profile a: 1 sample",
        "  no member of the pool takes part (closest: a, similarity 0.50): the plain base is kept",
    ]


@pytest.mark.parametrize(("samples", "answered", "next_step"), [(8, 3, "give more"), (16, 16, "a larger model")])
def test_where_nothing_changed_the_next_step_is_said_and_never_use_it(
    samples: int, answered: int, next_step: str
) -> None:
    lines = list(expectation_lines(made((0.0, 0.0, 0.0), samples=samples, answered=answered)))
    assert lines[0].startswith("this customisation changes no answer")
    assert lines[1].startswith(next_step)
    assert not any("use it" in line for line in lines)


@pytest.mark.parametrize(
    ("metric", "base", "customised", "figures"),
    [
        ("accuracy", 60.0, 40.0, "40 % right with its blend, 60 % without"),
        ("logprob", -2.0, -2.5, "log-probability -2.50 per token with its blend, -2.00 without"),
    ],
)
def test_a_refused_blend_is_said_plainly_and_shown(metric: Any, base: float, customised: float, figures: str) -> None:
    refused = Refused(profile="a", weights=(0.0, 1.0, 0.0), base=base, customised=customised, samples=8)
    expectation = Expectation(
        metric=metric, base=base, customised=base, low=None, high=None, samples=8, refused=(refused,)
    )
    found = made((0.0, 0.0, 0.0), expectation=expectation)
    lines = list(weight_lines(found))
    assert lines[1] == "  the blend is refused: the plain base did better on the samples without it; refused was:"
    assert lines[2].split()[:2] == ["bank", "1.00"]
    said = list(expectation_lines(found))
    assert said[1] == f"profile a: {figures} (8 samples of yours): the blend is refused"
    assert said[2].startswith("this customisation changes no answer: nothing that your samples hold beats the plain")
    assert said[3] == "give more samples with an answer (8 or more), a few for each answer"


@pytest.mark.parametrize(
    ("expectation", "says"),
    [
        (
            Expectation(metric="accuracy", base=30.0, customised=70.0, low=12.4, high=67.6, samples=16),
            ["expected: 70 % right, plain base 30 % (+40 points, 95 % interval +12 to +68; 16 samples of yours"],
        ),
        (
            Expectation(metric="accuracy", base=70.0, customised=30.0, low=-60.0, high=-20.0, samples=16),
            ["expected: 30 % right", "the plain base did better"],
        ),
        (
            Expectation(metric="logprob", base=-2.5, customised=-2.0, low=-0.1, high=1.1, samples=4),
            ["expected: log-probability of your answers -2.00 per token, plain base -2.50 (+0.50, 95 %", "too few"],
        ),
        (
            Expectation(metric="logprob", base=-2.5, customised=-2.0, low=None, high=None, samples=1),
            ["expected: log-probability of your answers -2.00 per token, plain base -2.50 (+0.50; 1 sample of yours"],
        ),
    ],
)
def test_what_to_expect_in_plain_words(expectation: Expectation, says: list[str]) -> None:
    lines = list(expectation_lines(made((1.0, 0.0, 0.0), expectation=expectation)))
    assert len(lines) == len(says)
    for line, start in zip(lines, says, strict=True):
        assert start in line
