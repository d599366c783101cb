"""A conversation at the prompt: its state, commands and turns. Knows nothing of how lines are read."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.cli.chat.settings import list_models, set_something, show_settings
from crayon.cli.chat.transcript import load_transcript, save_transcript
from crayon.cli.customize.check_progress import check_progress
from crayon.cli.customize.weights import expectation_lines, weight_lines
from crayon.cli.demo.paragraph import Paragraph
from crayon.cli.shared import console
from crayon.cli.shared.exit_codes import OK, exit_code
from crayon.cli.shared.report import cut_line, route_details, route_line
from crayon.cli.shared.sign_of_life import sign_of_life, waiting_for
from crayon.cli.shared.words import in_words_of_the_place
from crayon.completion import Mode, Source
from crayon.errors import (
    AdapterError,
    BudgetError,
    CrayonError,
    DeadlineExceededError,
    InvalidRequestError,
    OverloadedError,
    PrivacyError,
    PromptTooLongError,
    ServerError,
)
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from crayon.completion import Completion

QUOTES = '"""'
REPLACE = "--replace"


@dataclass(frozen=True, slots=True)
class Command:
    """One word that starts with a slash."""

    usage: str
    help: str
    run: Callable[[Repl, str], None]


@dataclass(slots=True)
class Repl:
    """State of one conversation.

    `client` is a `crayon.Crayon`, `code` the exit code of the last failure, `file` what was last saved or loaded.
    `private` holds for the whole chat, `loaded_private` for a conversation that was private when it was saved.
    `customization` is what the device was customised for, `blend` what /blend set in its place: a name, or "base".
    `sampling` is what /set set. `left_out` messages at the beginning are not sent any more: the context was full.
    `max_tokens` bounds answers.
    Where nobody is there to go on (`interactive` False), an interrupt ends the chat and not just the answer.
    """

    client: Any
    mode: Mode
    system: str | None = None
    private: bool = False
    loaded_private: bool = False
    history: list[Message] = field(default_factory=list)
    answers: list[Completion] = field(default_factory=list)
    running: bool = True
    code: int = OK
    file: Path | None = None
    interactive: bool = True
    customization: str | None = None
    blend: str | None = None
    free: bool = False
    profile: str | None = None
    sampling: dict[str, Any] = field(default_factory=dict)
    left_out: int = 0
    max_tokens: int = 0

    @property
    def stays_here(self) -> bool:
        """Whether nothing of the conversation may leave the device."""
        return self.private or self.loaded_private

    def handle(self, text: str) -> None:
        """Run a command, or ask a question and show the answer. Errors become messages; the chat goes on."""
        text = text.strip()
        if not text:
            return
        try:
            if text.startswith("/"):
                self._command(text)
            else:
                self._ask(unquote(text))
        except CrayonError as error:
            self.code = exit_code(error)
            console.error(in_words_of_the_place(str(error)))
            console.message(advice(error), "dim")

    def messages(self, *, all_of_it: bool = False) -> tuple[Message, ...]:
        """Return the conversation so far as it is sent, or all of it, with its system message."""
        return (
            *((Message("system", self.system),) if self.system else ()),
            *self.history[0 if all_of_it else self.left_out :],
        )

    def _command(self, text: str) -> None:
        name, _, argument = text.partition(" ")
        command = COMMANDS.get(ALIASES.get(name, name))
        if command is None:
            raise InvalidRequestError("command", f"{name} is unknown; /help lists the commands")
        command.run(self, argument.strip())

    def again(self) -> None:
        """Ask the last question again, in place of its answer.

        Raises:
            InvalidRequestError: nothing was asked yet.
        """
        if len(self.history) < 2:
            raise InvalidRequestError("command", "has nothing to ask again: no question was answered yet")
        kept, left_out = list(self.history), self.left_out
        question = self.history[-2].content
        del self.history[-2:]
        self.left_out = min(self.left_out, len(self.history))
        try:
            self._ask(question)
        except BaseException:
            self.history, self.left_out = kept, left_out
            raise
        if len(self.history) < len(kept):
            self.history, self.left_out = kept, left_out  # stopped before it said anything

    def _ask(self, text: str) -> None:
        question = Message("user", text)
        while True:
            pieces: list[str] = []
            try:
                self._answer(question, pieces)
            except PromptTooLongError as error:
                if pieces or not self._leave_out(error.prompt_tokens, error.limit + 1):
                    raise
            else:
                return

    def _leave_out(self, tokens: int, context: int) -> bool:
        """Leave the oldest turns out from now on, so that a quarter of the context is free; False: there are none.

        Args:
            tokens: of the conversation as it was sent.
            context: how many fit.
        """
        sent = self.history[self.left_out :]
        if len(sent) < 2:
            return False
        from crayon.sdk.sliding import oldest_to_drop

        count = oldest_to_drop(sent, tokens, context)
        self.left_out += count
        turns = "turn is" if count == 2 else f"{count // 2} turns are"
        console.message(
            f"the context is full ({context:,} tokens): the oldest {turns} left out from now on "
            "(--context sets its size, /clear starts anew)",
            "dim",
        )
        return True

    def _answer(self, question: Message, pieces: list[str]) -> None:
        completion: Completion | None = None
        shown = Paragraph("", console.terminal_width())
        messages = [*self.messages(), question]
        try:
            with (
                sign_of_life(lambda: waiting_for(self.client)) as sign,
                self.client.stream(messages, **self._options()) as stream,
            ):
                for piece in stream:
                    sign.stop()
                    shown.write(piece.text)
                    pieces.append(piece.text)
                completion = stream.completion
        except KeyboardInterrupt:
            if not self.interactive:
                raise
        finally:
            # On every way out, the next line starts at the margin.
            shown.end()
        if completion is None:
            self._stopped(question, "".join(pieces))
            return
        self.history += [question, Message("assistant", completion.text)]
        self.answers.append(completion)
        # An answer from elsewhere leaves the device where it was.
        self.profile = completion.route.profile or self.profile
        if cut := cut_line(completion):
            console.message(cut, "dim")
            used = completion.usage.prompt_tokens + completion.usage.completion_tokens
            if completion.usage.completion_tokens < self.sampling.get("max_tokens", self.max_tokens):
                self._leave_out(used, used)  # it was the context that was full
        console.message(route_line(completion), "dim")

    def _options(self) -> dict[str, Any]:
        given = {"blend": self.blend, "last_profile": self.profile}
        chosen = {name: value for name, value in given.items() if value is not None}
        free = {"free": True} if self.free else {}
        return {"mode": self.mode, "private": self.stays_here, **chosen, **free, **self.sampling}

    def _stopped(self, question: Message, partial: str) -> None:
        if partial.strip():
            # What was read can be referred to.
            self.history += [question, Message("assistant", partial)]
            console.message("stopped; what you saw stays in the conversation", "dim")
        else:
            console.message("stopped; the question was dropped", "dim")


def unquote(text: str) -> str:
    '''Return what stands between `"""` and `"""`, or `text` itself.'''
    stripped = text.strip()
    if len(stripped) >= 2 * len(QUOTES) and stripped.startswith(QUOTES) and stripped.endswith(QUOTES):
        return stripped[len(QUOTES) : -len(QUOTES)]
    return text


def is_open(text: str) -> bool:
    '''Whether a `"""` block was started and not ended.'''
    stripped = text.strip()
    return stripped.startswith(QUOTES) and (len(stripped) < 2 * len(QUOTES) or not stripped.endswith(QUOTES))


def advice(error: CrayonError) -> str:
    """Return what to do after a failed turn."""
    match error:
        case PromptTooLongError():
            return "the conversation is as it was: ask less at once, /clear starts anew, --context makes room"
        case InvalidRequestError():
            return "nothing was changed"
        case OverloadedError(retry_after=seconds):
            return f"the question was dropped: ask again in {seconds:g} s"
        case PrivacyError() | BudgetError():
            return "nothing was sent: choose a /mode that lets the device answer, or /clear"
        case DeadlineExceededError():
            return "the question was dropped: ask again, with a longer --timeout if need be"
        case ServerError():
            return "the question was dropped: ask again, or /mode only_on_device to do without the server"
        case _:
            return "the question was dropped: ask again; `crayon doctor` checks this machine"


def _help(repl: Repl, _: str) -> None:  # noqa: ARG001 - every command takes the conversation
    width = max(len(command.usage) for command in COMMANDS.values())
    for command in COMMANDS.values():
        console.message(f"{command.usage:<{width}}  {command.help}")
    console.message(f"Enter sends; Esc Enter or Ctrl-J starts a new line, {QUOTES} opens and closes a block")
    console.message("Ctrl-C stops the answer or clears the line; Ctrl-D leaves")


def _mode(repl: Repl, argument: str) -> None:
    if argument:
        try:
            repl.mode = Mode(argument.replace("-", "_"))
        except ValueError:
            choices = ", ".join(Mode)
            raise InvalidRequestError("mode", f"must be one of {choices}, not {argument!r}") from None
    console.message(f"mode: {repl.mode}")


def _route(repl: Repl, _: str) -> None:
    if not repl.answers:
        console.message("no answer yet")
        return
    for label, value in route_details(repl.answers[-1]):
        console.message(f"{label:<10} {value}")


def _stats(repl: Repl, _: str) -> None:
    answers = repl.answers
    if not answers:
        console.message("no answer yet")
        return
    on_device = sum(answer.route.source is Source.DEVICE for answer in answers)
    rows = (
        ("answers", f"{len(answers)}: {on_device} device, {len(answers) - on_device} server"),
        (
            "tokens",
            f"{_total(answers, 'prompt_tokens')} read, {_total(answers, 'completion_tokens')} written",
        ),
        ("sent", f"{sum(answer.route.bytes_sent for answer in answers)} bytes"),
        ("first token", f"{statistics.median(answer.ttft_ms for answer in answers):.0f} ms (median)"),
        ("rate", f"{statistics.median(answer.tokens_per_s for answer in answers):.1f} tokens/s (median)"),
    )
    for label, value in rows:
        console.message(f"{label:<11} {value}")


def _total(answers: Sequence[Completion], name: str) -> int:
    return sum(getattr(answer.usage, name) for answer in answers)


def _save(repl: Repl, argument: str) -> None:
    path = _path(repl, argument)
    if path.exists() and path != repl.file:
        raise InvalidRequestError("path", f"{path} exists; choose another name, or remove it first")
    save_transcript(path, repl.messages(all_of_it=True), private=repl.stays_here)
    repl.file = path
    console.message(f"saved {len(repl.history)} messages to {path}")


def _load(repl: Repl, argument: str) -> None:
    path = _path(repl, argument)
    found = load_transcript(path)
    messages = found.messages
    system = messages[0].content if messages and messages[0].role == "system" else None
    repl.system, repl.history = system, list(messages[1:] if system is not None else messages)
    repl.file, repl.loaded_private, repl.profile, repl.left_out = path, found.private, None, 0
    stays = "; it is private and stays on the device until /clear" if found.private else ""
    console.message(f"loaded {len(repl.history)} messages from {path}{stays}")


def _path(repl: Repl, argument: str) -> Path:
    if argument:
        return Path(argument).expanduser()
    if repl.file is None:
        raise InvalidRequestError("path", "is missing; name a file, such as /save chat.json")
    return repl.file


def _customize(repl: Repl, argument: str) -> None:
    name, _, file = argument.partition(" ")
    replace = file.endswith(f" {REPLACE}")
    file = file.removesuffix(REPLACE).strip()
    if not file:
        raise InvalidRequestError("command", "takes a name and a file, such as /customize school mails.csv")
    if not replace and _is_there(repl, name):
        problem = f"{name!r} is taken; /customize {name} {file} {REPLACE} replaces it, or choose another name"
        raise InvalidRequestError("name", problem)
    try:
        with check_progress() as progress:
            found = repl.client.customize(name, Path(file).expanduser(), replace=replace, progress=progress)
    except KeyboardInterrupt:
        if not repl.interactive:
            raise
        console.message("stopped; nothing was changed", "dim")
        return
    for line in (*weight_lines(found), *expectation_lines(found)):
        console.message(line)
    if found.fits:
        _use(repl, name)
        console.message("in use from now on", "dim")


def _is_there(repl: Repl, name: str) -> bool:
    try:
        repl.client.customization(name)
    except InvalidRequestError:
        return False
    except AdapterError:
        return True  # damaged, but there
    return True


def _blend(repl: Repl, argument: str) -> None:
    if argument == "auto":
        _use(repl, None)
    elif argument == "base":
        _use(repl, argument)
    elif argument:
        _use(repl, repl.client.customization(argument).name if not argument.endswith(".json") else argument)
    if repl.blend is not None:
        console.message(f"blend: {repl.blend}{', always applied' if repl.blend != 'base' else ', as it is'}")
    elif repl.customization is not None:
        console.message(f"blend: auto, {repl.customization} where a question belongs to it")
    else:
        console.message("blend: none, the plain base")


def _free(repl: Repl, argument: str) -> None:
    if argument not in ("", "on", "off"):
        raise InvalidRequestError("command", f"takes on or off, not {argument!r}")
    repl.free = argument != "off" if argument or not repl.free else False
    if repl.free:
        console.message("free: answers are written, even where the customisation's answers are a closed set")
    else:
        console.message("free: off; where the customisation's answers are a closed set, one of them is the answer")


def _use(repl: Repl, blend: str | None) -> None:
    repl.blend, repl.profile = blend, None


def _weights(repl: Repl, _: str) -> None:
    name = repl.blend or repl.customization
    if name is None or name == "base":
        console.message("the plain base: no weights")
        return
    found = repl.client.customization(name)
    console.message(f"{found.name}, {f'pool {found.pool_id}' if found.pool_id else f'made for {found.base}'}")
    for line in weight_lines(found, repl.profile):
        console.message(line)


def _clear(repl: Repl, _: str) -> None:
    repl.history.clear()
    repl.left_out = 0
    repl.file, repl.loaded_private, repl.profile = None, False, None
    console.message("cleared: the next question starts a new conversation")


def _again(repl: Repl, _: str) -> None:
    repl.again()


def _exit(repl: Repl, _: str) -> None:
    repl.running = False


COMMANDS: dict[str, Command] = {
    "/help": Command("/help", "list the commands", _help),
    "/mode": Command("/mode [MODE]", "show or set which side may answer", _mode),
    "/customize": Command(
        f"/customize NAME FILE [{REPLACE}]", "make the device better at a task from samples", _customize
    ),
    "/blend": Command("/blend [NAME|base|auto]", "show or set the customisation that is applied", _blend),
    "/free": Command("/free [on|off]", "have answers written, even where they are a closed set", _free),
    "/weights": Command("/weights", "the weights of the customisation in use", _weights),
    "/route": Command("/route", "all about where the last answer came from", _route),
    "/stats": Command("/stats", "totals of this session", _stats),
    "/save": Command("/save [FILE]", "write the conversation to a file", _save),
    "/load": Command("/load [FILE]", "go on with a saved conversation", _load),
    "/clear": Command("/clear", "forget the conversation", _clear),
    "/again": Command("/again", "ask the last question again", _again),
    "/set": Command("/set NAME VALUE", "set system, max_tokens, temperature, seed ...", set_something),
    "/show": Command("/show [system|model]", "show what holds for the next question", show_settings),
    "/models": Command("/models", "the models on this machine", list_models),
    "/exit": Command("/exit", "leave", _exit),
}
# Other names, for hands that know other programs.
ALIASES = {"/bye": "/exit", "/quit": "/exit", "/?": "/help"}
