from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from crayon import errors
from crayon.cli.ask import MAX_STDIN_BYTES
from crayon.cli.shared.app import app
from crayon.completion import Document, Mode, Reason, Source

if TYPE_CHECKING:
    from pathlib import Path

    from typer.testing import CliRunner


def test_the_answer_alone_goes_to_standard_output(runner: CliRunner, client: Any) -> None:
    client.scripts = [["Par", "is", "."]]
    result = runner.invoke(app, ["ask", "Capital", "of France?"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "Paris.\n", "")
    assert client.asked == [[("user", "Capital of France?")]]
    assert client.closed
    assert client.streams[0].closed


def test_standard_input_alone_is_the_question(runner: CliRunner, client: Any) -> None:
    assert runner.invoke(app, ["ask"], input="Why?\n").exit_code == 0
    assert client.asked == [[("user", "Why?")]]


def test_standard_input_follows_the_arguments_as_material(runner: CliRunner, client: Any) -> None:
    runner.invoke(app, ["ask", "Sum", "up:", "--system", "Be brief."], input="line 1\nline 2\n")
    assert client.asked == [[("system", "Be brief."), ("user", "Sum up:\n\nline 1\nline 2")]]


def test_an_answer_that_ends_its_line_gets_no_second_line_end(runner: CliRunner, client: Any) -> None:
    client.scripts = [["done\n"]]
    assert runner.invoke(app, ["ask", "x"]).stdout == "done\n"


def test_options_become_settings(runner: CliRunner, client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_TIMEOUT", "3")
    monkeypatch.setenv("CRAYON_SAMPLING__TOP_P", "0.5")
    options = (
        "--mode only_on_device --private --server h:1 --device m.gguf --scope travel --scope x.toml --max-tokens 9 "
        "--temperature 0.7 --top-p 0.9 --top-k 40 --min-p 0.05 --seed 3 --stop A --stop B"
    )
    assert runner.invoke(app, ["ask", "x", *options.split()]).exit_code == 0
    settings = client.settings
    assert settings.mode is Mode.ONLY_ON_DEVICE
    assert settings.private
    assert (settings.server.address, settings.device.model) == ("h:1", "m.gguf")
    assert settings.scopes == ("travel", "x.toml")
    sampling = settings.sampling.build()
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (9, 0.7, 0.9)
    assert (sampling.top_k, sampling.min_p, sampling.seed, sampling.stop) == (40, 0.05, 3, ("A", "B"))
    assert settings.timeout == 3


def test_an_empty_server_option_overrides_a_configured_server(
    runner: CliRunner, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRAYON_SERVER__ADDRESS", "h:1")
    runner.invoke(app, ["ask", "x", "--server", ""])
    assert client.settings.server.address is None


def test_json_is_one_object_with_everything(runner: CliRunner, client: Any) -> None:
    client.route = {"source": Source.SERVER, "reason": Reason.OUT_OF_SCOPE, "server": "h:1", "bytes_sent": 7}
    client.scripts = [["é", "!"]]
    result = runner.invoke(app, ["ask", "x", "--json"])
    record = json.loads(result.stdout)
    assert record["text"] == "é!"
    assert record["route"]["source"] == "server"
    assert record["route"]["reason"] == "out_of_scope"
    usage = {
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cached_tokens": 2,
        "shown_tokens": 0,
        "forced_tokens": 0,
        "reasoning_tokens": 0,
    }
    assert record["usage"] == usage
    assert record["parsed"] is None
    assert record["timings"]["prompt_ms"] == 20.0
    assert record["tokens_per_s"] == 100.0
    assert {"model", "finish_reason", "ttft_ms", "total_ms"} <= set(record)
    assert result.stderr == ""


def test_json_of_a_failure_carries_the_partial_text(runner: CliRunner, client: Any) -> None:
    client.scripts = [["half", errors.ServerInterruptedError("broke off", partial="half")]]
    result = runner.invoke(app, ["ask", "x", "--json"])
    assert result.exit_code == 4
    assert json.loads(result.stdout) == {
        "error": {"type": "ServerInterruptedError", "message": "broke off", "exit_code": 4},
        "text": "half",
    }
    assert result.stderr == "error: broke off\n"


def test_a_broken_stream_shows_what_came_and_then_the_error(runner: CliRunner, client: Any) -> None:
    client.scripts = [["half", errors.ServerInterruptedError("broke off", partial="half")]]
    result = runner.invoke(app, ["ask", "x"])
    assert (result.exit_code, result.stdout, result.stderr) == (4, "half\n", "error: broke off\n")
    assert client.closed


def test_without_streaming_a_failure_still_prints_what_came(runner: CliRunner, client: Any) -> None:
    client.scripts = [["half", errors.DeadlineExceededError("too late", partial="half")]]
    result = runner.invoke(app, ["ask", "x", "--no-stream"])
    assert (result.exit_code, result.stdout, result.stderr) == (5, "half\n", "error: too late\n")


def test_no_stream_prints_the_same_answer(runner: CliRunner, client: Any) -> None:
    client.scripts = [["a", "b"]]
    assert runner.invoke(app, ["ask", "x", "--no-stream"]).stdout == "ab\n"


def test_verbose_says_where_the_answer_came_from(runner: CliRunner, client: Any) -> None:
    client.route = {"reason": Reason.IN_SCOPE, "scope": "travel", "score": 0.62, "threshold": 0.55}
    line = runner.invoke(app, ["ask", "x", "-v"]).stderr
    assert line == ("device: in scope (travel), 0.62 >= 0.55 | first token 21 ms | 100.0 tokens/s | 5 tokens\n")


def test_quiet_wins(runner: CliRunner, client: Any) -> None:
    assert runner.invoke(app, ["ask", "x", "-v", "-q"]).stderr == ""


def test_an_interrupt_stops_the_answer_and_the_program(runner: CliRunner, client: Any) -> None:
    client.scripts = [["half", KeyboardInterrupt()]]
    result = runner.invoke(app, ["ask", "x"])
    assert (result.exit_code, result.stdout, result.stderr) == (130, "half\n", "interrupted\n")
    assert client.streams[0].closed


@pytest.mark.parametrize("given", ["", " \n"])
def test_nothing_to_ask_is_wrong_usage(runner: CliRunner, client: Any, given: str) -> None:
    result = runner.invoke(app, ["ask"], input=given)
    assert result.exit_code == 2
    assert "text: is empty" in result.stderr
    assert client.asked == []


def test_input_that_is_no_text_is_refused(runner: CliRunner, client: Any) -> None:
    result = runner.invoke(app, ["ask", "x"], input=b"caf\xe9")
    assert result.exit_code == 2
    assert "not UTF-8 text (byte 3)" in result.stderr


def test_input_that_is_too_large_is_refused(runner: CliRunner, client: Any) -> None:
    result = runner.invoke(app, ["ask", "x"], input=b"a" * (MAX_STDIN_BYTES + 1))
    assert result.exit_code == 2
    assert "larger than 16 MiB" in result.stderr
    assert client.asked == []


@pytest.mark.parametrize("option", ["--temperature=9", "--max-tokens=0", "--top-p=2", "--timeout=0", "--seed=-1"])
def test_values_out_of_range_are_wrong_usage(runner: CliRunner, client: Any, option: str) -> None:
    result = runner.invoke(app, ["ask", "x", option])
    assert result.exit_code == 2
    assert "from command line" in result.stderr
    assert client.asked == []


def test_a_form_becomes_keywords(runner: CliRunner, client: Any, tmp_path: Path) -> None:
    file = tmp_path / "city.json"
    file.write_text('\ufeff{"type": "string"}', encoding="utf-8")
    runner.invoke(app, ["ask", "x", "--json-schema", str(file)])
    runner.invoke(app, ["ask", "x", "--choice", "yes", "--choice", "no", "--no-show-format"])
    runner.invoke(app, ["ask", "x", "--regex", "[a-z]+"])
    runner.invoke(app, ["ask", "x"])
    assert client.options == [
        {"response_format": {"type": "string"}, "show_format": True},
        {"choices": ["yes", "no"], "show_format": False},
        {"regex": "[a-z]+", "show_format": True},
        {},
    ]


def test_what_is_asked_of_tokens_becomes_keywords(runner: CliRunner, client: Any) -> None:
    asked = ["ask", "hello", "--json", "--top-logprobs", "2", "--logit-bias", "5=-100", "--logit-bias", "7=1.5"]
    assert runner.invoke(app, asked).exit_code == 0
    assert client.options[-1] == {"top_logprobs": 2, "logit_bias": (("5", -100.0), ("7", 1.5))}
    refused = runner.invoke(app, ["ask", "hello", "--top-logprobs", "2"])
    assert refused.exit_code == 2
    assert "--top-logprobs: is told in JSON; add --json" in refused.stderr
    assert "--logit-bias: must be TOKEN=BIAS" in runner.invoke(app, ["ask", "hello", "--logit-bias", "the"]).stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file"),
        (b"{", "is no JSON"),
        (b"[]", "must be a JSON schema"),
        (b"true", "must hold a JSON object"),
        (b"\xff", "is not UTF-8"),
        (b" " * (2**18 + 1), "is larger than"),
    ],
)
def test_a_file_that_is_no_schema_is_named(
    runner: CliRunner, client: Any, tmp_path: Path, content: bytes | None, words: str
) -> None:
    file = tmp_path / "schema.json"
    if content is not None:
        file.write_bytes(content)
    result = runner.invoke(app, ["ask", "x", "--json-schema", str(file)])
    assert result.exit_code == 2
    assert words in " ".join(result.stderr.split())
    assert client.asked == []


def test_a_cut_document_is_shown_and_is_a_failure(runner: CliRunner, client: Any) -> None:
    client.document = Document(problem="was cut at max_tokens")
    client.scripts = [['{"a']]
    result = runner.invoke(app, ["ask", "x"])
    assert (result.exit_code, result.stdout) == (1, '{"a\n')
    assert "the answer was cut at max_tokens" in result.stderr
