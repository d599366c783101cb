"""The first hour with `crayon chat` and `ask`: typing ahead, wrapping, a full context, commands, signs of life."""

import io
import sys
import time
from dataclasses import replace

import pytest
from test_cli_process import PROMPT_BEGINS, Terminal, serving

from crayon.cli.chat.repl import ALIASES, COMMANDS, Repl
from crayon.cli.demo.paragraph import Paragraph
from crayon.cli.shared import sign_of_life
from crayon.cli.shared.app import app
from crayon.cli.shared.words import in_words_of_the_place
from crayon.completion import FinishReason, Mode, Usage
from crayon.errors import PromptTooLongError


@pytest.fixture
def repl(client):
    return Repl(client=client, mode=Mode.PREFER_ON_DEVICE)


def lines(capsys):
    return capsys.readouterr().err.splitlines()


# -- a full context


def test_the_oldest_turns_slide_out_and_it_is_said(repl, client, capsys):
    client.scripts = [["one"], ["two"], ["three"], [PromptTooLongError(1010, 999)], ["four"]]
    for text in ("q1", "q2", "q3", "q4"):
        repl.handle(text)
    assert [content for _, content in client.asked[-1]] == ["q2", "two", "q3", "three", "q4"]
    assert "the context is full (1,000 tokens): the oldest turn is left out from now on" in capsys.readouterr().err
    repl.handle("q5")
    assert client.asked[-1][0][1] == "q2"
    assert [message.content for message in repl.messages(all_of_it=True)][:2] == ["q1", "one"], "it can be saved"


def test_as_much_slides_out_as_a_quarter_of_the_context_needs(repl, client):
    client.scripts = [["a" * 100]] * 8 + [[PromptTooLongError(2000, 999)], ["fits"]]
    for number in range(9):
        repl.handle(f"q{number}" + "b" * 98)
    assert len(client.asked[-1]) < 9
    assert client.asked[-1][-1][1].startswith("q8")


def test_a_question_that_does_not_fit_alone_is_refused(repl, client, capsys):
    client.scripts = [["one"], [PromptTooLongError(5000, 999)], [PromptTooLongError(4900, 999)]]
    repl.handle("q1")
    repl.handle("long")
    assert len(client.asked) == 3
    assert "shorten it" in capsys.readouterr().err


def test_clear_and_load_begin_with_everything_again(repl, client, tmp_path):
    repl.history, repl.left_out = list(repl.messages()), 4
    repl.handle("/clear")
    assert repl.left_out == 0


def test_the_size_of_the_context_is_an_option(runner, client, monkeypatch):
    seen = {}

    def opened(settings):
        seen["context"] = settings.device.context
        return client

    monkeypatch.setattr("crayon.cli.shared.client.open_client", opened)
    assert runner.invoke(app, ["chat", "--context", "2048"], input="hi\n").exit_code == 0
    assert seen == {"context": 2048}


# -- commands


@pytest.mark.parametrize("name", sorted(ALIASES))
def test_other_programs_names_do_what_they_do_there(name, repl, capsys):
    repl.handle(name)
    assert ALIASES[name] in COMMANDS
    assert (not repl.running) == (ALIASES[name] == "/exit")


def test_set_changes_what_the_next_questions_are_asked_with(repl, client, capsys):
    for command in ("/set temperature 0.5", "/set parameter num_predict 7", '/set system "Be brief."', "/set stop END"):
        repl.handle(command)
    repl.handle("q")
    assert client.asked[-1][0] == ("system", "Be brief.")
    assert {key: client.options[-1][key] for key in ("temperature", "max_tokens", "stop")} == {
        "temperature": 0.5, "max_tokens": 7, "stop": ["END"],
    }  # fmt: skip
    repl.handle("/set temperature")
    repl.handle("q")
    assert "temperature" not in client.options[-1]


@pytest.mark.parametrize("command", ["/set nothing 1", "/set temperature hot", "/set top_p -3", "/set num_ctx 9"])
def test_what_cannot_be_set_says_why(command, repl, capsys):
    repl.handle(command)
    assert repl.sampling == {}
    assert "error:" in capsys.readouterr().err


def test_show_tells_what_holds(repl, capsys):
    repl.handle("/set seed 3")
    repl.handle("/show")
    said = capsys.readouterr().err
    assert "seed 3" in said
    assert "system      none" in said
    repl.handle("/show system")
    assert lines(capsys) == ["system      none"]


def test_again_asks_the_last_question_in_place_of_its_answer(repl, client):
    client.scripts = [["one"], ["two"], ["better"]]
    for text in ("q1", "q2", "/again"):
        repl.handle(text)
    assert [content for _, content in client.asked[-1]] == ["q1", "one", "q2"]
    assert [message.content for message in repl.history] == ["q1", "one", "q2", "better"]


def test_again_keeps_the_answer_where_the_second_fails(repl, client, capsys):
    client.scripts = [["one"], [PromptTooLongError(10, 5)]]
    repl.handle("q1")
    repl.handle("/again")
    assert [message.content for message in repl.history] == ["q1", "one"]
    repl.handle("/clear")
    repl.handle("/again")
    assert "no question was answered yet" in capsys.readouterr().err


def test_models_lists_what_is_here(repl, capsys):
    repl.handle("/models")
    assert lines(capsys)[0] == "none yet"


# -- a cut answer


def test_an_answer_that_was_cut_says_so(runner, client, monkeypatch):
    names = type(client).__init__.__globals__  # of the module that makes its completions
    plain, usage = names["completion"], Usage(prompt_tokens=10, completion_tokens=2)

    def cut(text, **route):
        return replace(plain(text, **route), finish_reason=FinishReason.LENGTH, usage=usage)

    monkeypatch.setitem(names, "completion", cut)
    done = runner.invoke(app, ["ask", "-q", "why?"])
    assert "cut after 2 tokens: --max-tokens" in done.stderr
    assert done.stderr.count("cut") == 1, "said once"
    assert "cut" not in done.stdout


# -- the terminal


def test_words_are_wrapped_at_words(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stdout", screen)
    shown = Paragraph("", 20)
    for piece in ("The quick bro", "wn fox jumps over", " the lazy dog.\n\n  code stays\n"):
        shown.write(piece)
    shown.end()
    assert screen.getvalue() == "The quick brown fox\njumps over the lazy\ndog.\n\n  code stays\n"


@pytest.mark.parametrize("text", ["a  b \n\n c ", "x\n", "", " "])
def test_a_pipe_gets_the_answer_as_it_is(monkeypatch, text):
    pipe = io.StringIO()
    monkeypatch.setattr(sys, "stdout", pipe)
    shown = Paragraph("")
    for character in text:
        shown.write(character)
    shown.end()
    assert pipe.getvalue() == text + ("" if text.endswith("\n") or not text else "\n")


def test_what_is_typed_ahead_is_not_shown_in_the_answer_and_asked_on_its_own(tmp_path):
    with serving(tmp_path, "--echo-delay", "0.2", "--drain-seconds", "0") as address:
        terminal = Terminal("chat", "--server", address, "--mode", "only_on_server")
        try:
            terminal.wait_for(PROMPT_BEGINS)
            terminal.type("alpha beta gamma delta epsilon\r")
            terminal.wait_for("alpha beta")  # as it is typed
            terminal.wait_for("alpha beta")  # as it is answered
            terminal.type("zeta eta\rtheta iota\r")
            terminal.wait_for("epsilon")
            answered = terminal.shown
            terminal.wait_for("first token")
            assert "zeta" not in answered
            for words in ("zeta eta", "theta iota"):
                terminal.wait_for(words)  # typed
                terminal.wait_for(words)  # answered
                terminal.wait_for("first token")
            terminal.wait_for(PROMPT_BEGINS)
            terminal.type("/stats\r")
            terminal.wait_for("answers     3:")
            terminal.type("\x04")
            assert terminal.close() == 0
        finally:
            terminal.process.kill()


def test_a_sign_of_life_is_shown_at_a_terminal_and_taken_away(monkeypatch):
    class Screen(io.StringIO):
        def isatty(self):
            return True

    screen = Screen()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sign_of_life, "FIRST_S", 0.0)
    with sign_of_life.sign_of_life(lambda: "loading") as sign:
        until = time.monotonic() + 30
        while "loading (0 s)" not in screen.getvalue() and time.monotonic() < until:
            time.sleep(0.01)
        sign.stop()
        shown = screen.getvalue()
        assert shown.endswith("\r\x1b[K")
        assert "loading (0 s)" in shown
    assert screen.getvalue() == shown


def test_no_sign_where_nobody_looks(monkeypatch, capsys):
    monkeypatch.setattr(sign_of_life, "FIRST_S", 0.0)
    with sign_of_life.sign_of_life(lambda: "loading"):
        time.sleep(0.05)
    assert capsys.readouterr().err == ""


# -- words


def test_errors_name_options_and_no_keywords(runner, monkeypatch):
    done = runner.invoke(app, ["ask", "--mode", "only_on_server", "hi"])
    assert "--server" in done.stderr
    assert "server='" not in done.stderr


@pytest.mark.parametrize(
    ("made", "wanted"),
    [
        (lambda: allowed("only_on_device", device=False, server=True), "--device MODEL"),
        (lambda: allowed("only_on_server", device=True, server=False), "--server host:port"),
    ],
)
def test_the_policys_errors_have_words_of_the_place(made, wanted):
    from crayon.errors import InvalidRequestError

    with pytest.raises(InvalidRequestError) as caught:
        made()
    assert wanted in in_words_of_the_place(str(caught.value))
    assert "pass" not in in_words_of_the_place(str(caught.value))


def allowed(mode, *, device, server):
    from crayon.router.policy import allowed_sources

    return allowed_sources(mode, private=False, device=device, server=server)
