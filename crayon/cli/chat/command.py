"""`crayon chat`: a conversation, at a prompt or from a pipe."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from crayon.cli.chat.repl import Repl, is_open
from crayon.cli.shared import console, options
from crayon.cli.shared.typing_ahead import kept_for_the_prompt
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prompt_toolkit import PromptSession

app = typer.Typer(add_completion=False)


@app.command()
def chat(
    *,
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
    customization: options.CustomizationOption = None,
    max_tokens: options.MaxTokensOption = None,
    temperature: options.TemperatureOption = None,
    top_p: options.TopPOption = None,
    top_k: options.TopKOption = None,
    min_p: options.MinPOption = None,
    seed: options.SeedOption = None,
    stop: options.StopOption = None,
    timeout: options.TimeoutOption = None,
    no_gateway: options.NoGatewayOption = False,
) -> None:
    """Talk, turn by turn.

    At a terminal there is a prompt with history and completion; /help lists the commands. From a pipe each
    line is a question, and the exit code is that of the last failure.
    """
    from crayon.cli.shared.client import answering

    settings = options.load_settings(
        {
            "mode": mode,
            "private": private,
            "privacy.action": privacy,
            **options.server_flags(server, tls, ca_file, token_file),
            "device.model": device,
            "device.context": context,
            "scopes": scope,
            "customization": customization,
            "timeout": timeout,
            "sampling.max_tokens": max_tokens,
            "sampling.temperature": temperature,
            "sampling.top_p": top_p,
            "sampling.top_k": top_k,
            "sampling.min_p": min_p,
            "sampling.seed": seed,
            "sampling.stop": stop,
        }
    )
    with answering(settings, alone=no_gateway) as client:
        repl = Repl(
            client=client,
            mode=settings.mode,
            system=system or None,
            private=settings.private,
            customization=settings.customization,
            max_tokens=settings.sampling.max_tokens,
        )
        if sys.stdin.isatty():
            from crayon.cli.chat.prompt import make_session

            talk(repl, make_session(keep_history=not settings.private))
            return
        repl.interactive = False
        for text in read_blocks(_lines()):
            repl.handle(text)
            if not repl.running:
                break
    if repl.code:
        raise typer.Exit(repl.code)


def talk(repl: Repl, session: PromptSession[str]) -> None:
    """Read and handle input until the user leaves. Ctrl-C only ever ends what is going on."""
    console.message("/help lists the commands, Ctrl-D leaves", "dim")
    with kept_for_the_prompt():
        while repl.running:
            try:
                repl.handle(session.prompt())
            except KeyboardInterrupt:
                continue
            except EOFError:
                return


def read_blocks(lines: Iterable[str]) -> Iterator[str]:
    '''Yield each line, and each `"""` block as one text; a block that never ends is taken as it stands.'''
    block: list[str] = []
    for line in lines:
        block.append(line)
        text = "".join(block)
        if not is_open(text):
            yield text
            block = []
    if block:
        yield "".join(block)


def _lines() -> Iterator[str]:
    for i, line in enumerate(sys.stdin.buffer):
        try:
            yield line.decode("utf-8" if i else "utf-8-sig")
        except UnicodeDecodeError:
            raise InvalidRequestError("standard input", "is not UTF-8 text; convert it first") from None
