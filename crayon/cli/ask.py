"""`crayon ask`: one question, one answer, made for pipes."""

from __future__ import annotations

import json
import os
import stat
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from crayon.cli.shared import console, options
from crayon.cli.shared.exit_codes import exit_code
from crayon.cli.shared.report import completion_json, cut_line, route_line
from crayon.cli.shared.sign_of_life import sign_of_life, waiting_for
from crayon.errors import (
    AnswerFormatError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    ServerInterruptedError,
)
from crayon.messages import Message

if TYPE_CHECKING:
    from pathlib import Path

    from crayon.completion import Completion

MAX_STDIN_BYTES = 16 * 2**20

app = typer.Typer(add_completion=False)


@app.command()
def ask(
    *,
    text: Annotated[list[str] | None, typer.Argument(metavar="TEXT", help="The question.", show_default=False)] = None,
    mode: options.ModeOption = None,
    private: options.PrivateOption = None,
    privacy: options.PrivacyOption = None,
    system: options.SystemOption = None,
    server: options.ServerOption = None,
    tls: options.TlsOption = None,
    ca_file: options.CaOption = None,
    token_file: options.TokenOption = None,
    device: options.DeviceOption = None,
    context: options.ContextOption = None,
    scope: options.ScopeOption = None,
    blend: options.BlendOption = None,
    free: options.FreeOption = False,
    max_tokens: options.MaxTokensOption = None,
    temperature: options.TemperatureOption = None,
    top_p: options.TopPOption = None,
    top_k: options.TopKOption = None,
    min_p: options.MinPOption = None,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    json_schema: options.SchemaOption = None,
    regex: options.RegexOption = None,
    choice: options.ChoiceOption = None,
    show_format: options.ShowFormatOption = True,
    top_logprobs: options.TopLogprobsOption = None,
    logit_bias: options.LogitBiasOption = None,
    timeout: options.TimeoutOption = None,
    no_gateway: options.NoGatewayOption = False,
    as_json: options.JsonOption = False,
    no_stream: Annotated[bool, typer.Option("--no-stream", help="Print the answer only when complete.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the answer and errors only.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say where the answer came from, always.")] = False,
) -> None:
    """Ask one question; works in pipes.

    The question comes from the arguments, from standard input, or both: then the input follows the question as its
    material (in a loop that reads standard input itself, add < /dev/null). The answer goes to standard output;
    where it came from goes to standard error if that is a terminal.
    """
    from crayon.cli.shared.client import answering
    from crayon.cli.shared.device_model import suited

    flags = {
        "mode": mode,
        "private": private,
        "privacy.action": privacy,
        **options.server_flags(server, tls, ca_file, token_file),
        "device.model": device,
        "device.context": context,
        "scopes": scope,
        "timeout": timeout,
        "sampling.max_tokens": max_tokens,
        "sampling.temperature": temperature,
        "sampling.top_p": top_p,
        "sampling.top_k": top_k,
        "sampling.min_p": min_p,
        "sampling.seed": seed,
        "sampling.stop": stop,
    }
    try:
        tokens = _tokens(top_logprobs, logit_bias, as_json=as_json)
        settings = options.load_settings(flags)
        messages = [Message("user", read_question(text or []))]
        if system:
            messages.insert(0, Message("system", system))
        with answering(suited(settings, blend), alone=no_gateway or bool(tokens)) as client:
            given = {
                **({} if blend is None else {"blend": blend}),
                **({"free": True} if free else {}),
                **_form(json_schema, regex, choice, show=show_format),
                **tokens,
            }
            completion = _answer(client, messages, given, show=not (as_json or no_stream))
    except CrayonError as error:
        if as_json:
            print(json.dumps(failure(error), ensure_ascii=False))
        elif no_stream and _partial(error):
            console.answer(_partial(error), end="\n")
        raise
    if as_json:
        print(json.dumps(completion_json(completion), ensure_ascii=False))
    elif no_stream:
        console.answer(completion.text, end="\n")
    if cut := cut_line(completion):
        console.message(cut, "dim")
    if not quiet and (verbose or sys.stderr.isatty()):
        console.message(route_line(completion), "dim")
    if completion.document is not None and completion.document.problem:
        raise AnswerFormatError(f"the answer {completion.document.problem}", completion.text)


def _form(schema: Path | None, regex: str | None, choices: list[str] | None, *, show: bool) -> dict[str, Any]:
    """Return the keywords that say what the answer must look like."""
    given: dict[str, Any] = {"regex": regex, "choices": choices or None}
    if schema is not None:
        given["response_format"] = read_schema_file(schema)
    wanted = {name: value for name, value in given.items() if value is not None}
    return {**wanted, "show_format": show} if wanted else {}


def _tokens(top_logprobs: int | None, biases: list[str] | None, *, as_json: bool) -> dict[str, Any]:
    """Return the keywords of what is asked of single tokens.

    Raises:
        InvalidRequestError: it is wrong, or cannot be told.
    """
    found: dict[str, Any] = {}
    if top_logprobs is not None:
        if not as_json:
            raise InvalidRequestError("--top-logprobs", "is told in JSON; add --json")
        found["top_logprobs"] = top_logprobs
    if biases:
        found["logit_bias"] = tuple(_bias(text) for text in biases)
    return found


def _bias(text: str) -> tuple[str, float]:
    token, _, number = text.partition("=")
    try:
        return token.strip(), float(number)
    except ValueError:
        raise InvalidRequestError("--logit-bias", f"must be TOKEN=BIAS, two numbers, not {text[:40]!r}") from None


def read_schema_file(path: Path) -> dict[str, Any]:
    """Return the JSON schema in a file.

    Raises:
        InvalidRequestError: it cannot be read, or is none.
    """
    from crayon.constraint import MAX_CONSTRAINT_BYTES, read_schema

    try:
        with path.open("rb") as file:
            data = file.read(MAX_CONSTRAINT_BYTES + 1)
        if len(data) > MAX_CONSTRAINT_BYTES:
            raise InvalidRequestError("--json-schema", f"{path} is larger than {MAX_CONSTRAINT_BYTES} bytes")
        schema = read_schema(data.decode("utf-8-sig"))
    except OSError as error:
        raise InvalidRequestError("--json-schema", f"{path}: {error.strerror or error}") from None
    except UnicodeDecodeError as error:
        raise InvalidRequestError("--json-schema", f"{path} is not UTF-8 text (byte {error.start})") from None
    if not isinstance(schema, dict):
        raise InvalidRequestError("--json-schema", f"{path} must hold a JSON object")
    return schema


def _answer(client: Any, messages: list[Message], given: dict[str, Any], *, show: bool) -> Completion:
    """Stream the answer; its line ends even where it breaks off, before any error message."""
    last = "\n"
    try:
        with sign_of_life(lambda: waiting_for(client)) as sign, client.stream(messages, **given) as stream:
            for piece in stream:
                sign.stop()
                if show and piece.text:
                    console.answer(piece.text)
                    last = piece.text[-1]
            completion: Completion = stream.completion
    except BrokenPipeError:
        raise
    except BaseException:
        if last != "\n":
            console.answer("\n")
        raise
    if show and last != "\n":
        console.answer("\n")
    return completion


def read_question(words: list[str], command: str = "ask") -> str:
    """Return arguments and standard input as one text, for a command of this name.

    Raises:
        InvalidRequestError: neither holds anything, or the input is too large or no UTF-8.
    """
    given = " ".join(words)
    if not given.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in given):
        raise InvalidRequestError("text", "is not UTF-8 text; type it in a UTF-8 locale, or pipe it in converted")
    parts = [given, _piped_text(words)]
    question = "\n\n".join(part for part in parts if part.strip())
    if not question:
        raise InvalidRequestError("text", f"is empty; type a question, or pipe one in: echo 'Why?' | crayon {command}")
    return question


def _piped_text(words: list[str]) -> str:
    if sys.stdin is None or sys.stdin.isatty() or (words and not _has_input()):
        return ""
    data = sys.stdin.buffer.read(MAX_STDIN_BYTES + 1)
    if len(data) > MAX_STDIN_BYTES:
        raise InvalidRequestError("standard input", f"is larger than {MAX_STDIN_BYTES // 2**20} MiB; send a part of it")
    try:
        return data.decode("utf-8-sig").removesuffix("\n")
    except UnicodeDecodeError as error:
        raise InvalidRequestError(
            "standard input", f"is not UTF-8 text (byte {error.start}); convert it first"
        ) from None


def _has_input() -> bool:
    """Whether standard input is a pipe, a socket or a file; under cron and the like it is neither."""
    try:
        kind = os.fstat(sys.stdin.fileno()).st_mode
    except (OSError, ValueError):
        return True  # not a real file: somebody put it there on purpose
    return stat.S_ISFIFO(kind) or stat.S_ISREG(kind) or stat.S_ISSOCK(kind)


def failure(error: CrayonError) -> dict[str, Any]:
    """Return an error as plain JSON values, with the text that was shown before it."""
    record = {"type": type(error).__name__, "message": str(error), "exit_code": exit_code(error)}
    return {"error": record, "text": _partial(error)}


def _partial(error: CrayonError) -> str:
    return error.partial if isinstance(error, DeadlineExceededError | ServerInterruptedError) else ""
