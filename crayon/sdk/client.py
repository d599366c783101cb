"""The client for threads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from crayon.completion import Mode
from crayon.engine import EncodeRequest, deadline_after, wait_for
from crayon.messages import question
from crayon.sdk.call.choosing import ONE_TOKEN
from crayon.sdk.choice_stream import ChoiceStream
from crayon.sdk.conversation import Conversation
from crayon.sdk.core import Core
from crayon.sdk.custom_calls import CustomCalls
from crayon.sdk.route_calls import RouteCalls
from crayon.sdk.status import client_models, client_status, device_tokens
from crayon.sdk.stream import AnswerStream
from crayon.sdk.tool_loop import MAX_ROUNDS

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from typing import Literal, Unpack

    from crayon.completion import Blend, Chosen, Completion, Source
    from crayon.engine import EncodeResult, Engine, ModelInfo, ScoreResult
    from crayon.errors import PromptTooLongError
    from crayon.messages import MessagesLike
    from crayon.router.budget import Budget
    from crayon.router.conditions import Conditions
    from crayon.router.hardness import Hardness
    from crayon.router.scope import Scope
    from crayon.sdk.calibration.loaded import CalibrationLike
    from crayon.sdk.call.customizations import CustomizationLike
    from crayon.sdk.call.options import Call, CallOptions, Past, SamplingOptions, SideOptions
    from crayon.sdk.call.privacy import Privacy
    from crayon.sdk.conversation import WhenFull
    from crayon.sdk.status import ClientStatus
    from crayon.sdk.tool_loop import ToolRun


class Crayon(RouteCalls, CustomCalls):
    """Asks a small model on the device, and a larger one behind a server where that is allowed and needed.

    Model and server are opened on first use (`load` does it now); close the client, or use `with`.

    Args:
        device: a model reference or path, an `Engine`, or None for no device. "auto" is what CRAYON_DEVICE__MODEL
            names, else the model that a customisation was made for, else the one that suits this machine.
        server: an address such as "localhost:50051", several of them (a list, or with commas between them: they
            take turns, and stand in for each other), an `Engine`, or None for no server.
        mode: which sides may answer, unless a call says otherwise.
        scopes: what the device was made for (or names for `load_scope`); other queries go to the server. None of
            them: no scope gate.
        hardness: settings of the hardness gate; None takes the defaults, False lets every device answer pass.
        system: a system message for requests that bring none.
        timeout: seconds for one call, all its attempts together; None waits for ever. While the device can still
            stand in, the server has half of what is left to show its first token. Opening a model for the first
            time is not counted.
        private: keep everything on the device; calls can add privacy, never lift it.
        privacy: what is looked for in a query before the server is asked, and what is done where it is found; None
            keeps on the device what holds an e-mail address, a number or a key of the built-in kinds.
        customization: what the device was customised for, by name: each query is answered by the profile it belongs
            to, and one outside of all goes to the server, or to the plain base where that is not allowed.
        customizations_dir: where customisations are kept; by default the user's data folder for Crayon.
        calibration: "auto" lets the calibration that `calibrate` kept decide where there is one; False ignores it; a
            path uses the record in that file.
        budget: how much may go to the server, kept in a file that all of this user's clients share; None: no limit.
        conditions: when prompt length, language, speed, network and battery have a say; None: only prompts that do
            not fit the device go to the server at once.
        device_options: keywords for opening the device's model.
        server_options: keywords for the connection to the server.
        sampling: defaults for every call, see `Sampling`.

    Engines passed in stay the caller's to close.

    Raises:
        InvalidRequestError: an argument is wrong; the field names it.
    """

    def __init__(
        self,
        device: str | os.PathLike[str] | Engine | None = "auto",
        server: str | Sequence[str] | Engine | None = None,
        *,
        mode: Mode | str = Mode.PREFER_ON_DEVICE,
        scopes: Sequence[Scope | str] = (),
        hardness: Hardness | Literal[False] | None = None,
        system: str | None = None,
        timeout: float | None = 120.0,
        private: bool = False,
        customization: CustomizationLike | None = None,
        customizations_dir: str | os.PathLike[str] | None = None,
        calibration: CalibrationLike = "auto",
        budget: Budget | None = None,
        conditions: Conditions | None = None,
        privacy: Privacy | None = None,
        device_options: Mapping[str, Any] | None = None,
        server_options: Mapping[str, Any] | None = None,
        **sampling: Unpack[SamplingOptions],
    ) -> None:
        self._core = Core(
            device,
            server,
            mode=mode,
            scopes=scopes,
            hardness=hardness,
            system=system,
            timeout=timeout,
            private=private,
            device_options=device_options,
            server_options=server_options,
            sampling=sampling,
            customization=customization,
            customizations_dir=customizations_dir,
            calibration=calibration,
            budget=budget,
            conditions=conditions,
            privacy=privacy,
        )

    def ask(self, messages: MessagesLike, **options: Unpack[CallOptions]) -> Completion:
        """Return the whole answer to `messages` (a text, or a list of role and content).

        Args:
            messages: the conversation, or one user message.
            options: what this call is told; for what is left out, the client's own settings hold.

                blend: the name of a customisation (or the path of an exported one): it is applied whatever the query
                is like, and only the profile is chosen by it. Or weights, or "base" for the plain base. A server gets
                the weights only where it alone may answer.

                last_profile: what `Route.profile` said of the turn before, where the caller keeps the conversation:
                the profile stays unless another one is clearly nearer.

                free: True asks the device for a text where the customisation's answers are a closed set.

                mode: which sides may answer, see `Mode`.

                private: True keeps this call on the device.

                timeout: seconds for all attempts together (math.inf: for ever).

                max_tokens, temperature, top_p, top_k, min_p, repeat_penalty, presence_penalty, frequency_penalty,
                stop, seed, ignore_eos: how the text is drawn, see `Sampling`.

                response_format, regex, choices, grammar: what the answer must look like, one of them at most. "json",
                a JSON schema or a type; a regular expression; texts of which one is written; a grammar in Lark's
                syntax.

                show_format: False keeps the model from being told of it in its prompt.

                tools: what the model may ask for: typed functions, `Tool`s, or OpenAI's objects. What it asks for is
                in `tool_calls` of the answer; `run_tools` calls functions itself.

                tool_choice: "auto", "none", "required", or the name of the tool that has to be called.

                parallel_tool_calls: False allows one call an answer.

                keep_reasoning: True tells the model again what it thought in earlier turns.

                top_logprobs: from 0 to 20: the answer's `logprobs` tell how likely the model found each token, and
                which so many were the likeliest in its place.

                logit_bias: numbers of tokens, in the vocabulary of the model that answers, and what is added to their
                logits: -100 bans one, 100 forces it. Only where the mode leaves one side, whose tokens they are.

        Raises:
            InvalidRequestError: an argument is wrong or unknown; the field names it.
            PrivacyError: the call must stay on the device and cannot be answered there.
            BudgetError: the budget for the server is used up, and only the server may answer.
            DeadlineExceededError: the time was up; what was shown is in `partial`.
            ServerInterruptedError: the server broke off after its first token; `partial` likewise.
            ServerError, EngineError: nobody who was allowed to could answer; notes say what was tried before.
        """
        with self.stream(messages, **options) as stream:
            for _ in stream:
                pass
            return stream.completion

    def stream(self, messages: MessagesLike, **options: Unpack[CallOptions]) -> AnswerStream:
        """Return the answer as it is written; it starts when its first piece is asked for. As `ask` otherwise."""
        return self._answer(messages, options)

    def run_tools(
        self,
        messages: MessagesLike,
        functions: Iterable[Callable[..., Any]],
        *,
        max_rounds: int = MAX_ROUNDS,
        private_results: Iterable[str] = (),
        **options: Unpack[CallOptions],
    ) -> ToolRun:
        """Answer `messages` by a model that may call functions: they are called here, until it answers in words.

        What the model calls is run without a question: pass functions that may be. A function that raises is told to
        the model, by its message where it is a ValueError or a LookupError. The conversation's privacy is that of the
        results: once an answer had to stay on the device, or a function of `private_results` was called, all that
        follows stays there.

        Args:
            messages: the conversation, or one user message.
            functions: typed ones; the model is told their names, the first part of their docstrings, and the types of
                their parameters.
            max_rounds: how often the model is asked; the last time it can only answer.
            private_results: names of functions whose results must not leave the device.
            options: as for `ask`; `timeout` is for all rounds together.

        Raises:
            InvalidRequestError: an argument is wrong; the field names it.
            PrivacyError: a private result would have to leave; nothing of it was sent.
            DeadlineExceededError, BudgetError, ServerError, EngineError: as `ask`.
        """
        loop = self._core.tool_loop(
            messages, functions, options, max_rounds=max_rounds, private_results=private_results
        )
        while not loop.done:
            said, told = loop.ask()
            for call in loop.answered(self.ask(said, **told)):
                function = loop.function(call)
                try:
                    result = loop.unknown(call) if function is None else function()
                except Exception as error:  # noqa: BLE001 - the caller's own function: the model is told
                    result = error
                loop.took(call, result)
        return loop.run

    def choose(self, messages: MessagesLike, choices: Iterable[str], **options: Unpack[SideOptions]) -> Chosen:
        """Return the likeliest of `choices` (2 to 100 texts) as the answer; nothing is written, so it is quick.

        Args:
            messages: the conversation, or one user message. The server is shown the choices after it.
            choices: the texts.
            options: blend, last_profile, mode, private and timeout, as in `ask`.

        Raises:
            InvalidRequestError: an argument is wrong; the field names it, `choices[2]` the third choice.
            PrivacyError, DeadlineExceededError, ServerError, EngineError: as `ask`.
        """
        call = self._core.textless_call(messages, options, max_tokens=ONE_TOKEN)
        return ChoiceStream(self._core, call, choices).choose()

    def score(
        self, messages: MessagesLike, continuations: Iterable[str], **options: Unpack[SideOptions]
    ) -> ScoreResult:
        """Return how likely each continuation is, by the first side that the mode allows; no gates, no fallback.

        Options as for `choose`.

        Raises:
            InvalidRequestError, PrivacyError, DeadlineExceededError, ServerError, EngineError: as `ask`.
        """
        call = self._core.textless_call(messages, options)
        call, source, texts = self._core.screen_scored(call, continuations)
        engine = self._core.engines.open(source)
        request = self._core.score_request(call, texts, self._blend(call, source))
        return wait_for(self._core.tracker.paid(source, request, engine.score), request.deadline)

    def encode(
        self, texts: str | Iterable[str], *, private: bool | None = None, timeout: float | None = None
    ) -> EncodeResult:
        """Return one vector a text, shape (texts, dimensions), by the device (by the server only without one).

        Raises:
            InvalidRequestError, PrivacyError, DeadlineExceededError, ServerError, EngineError: as `ask`.
        """
        source, given, patience = self._core.encode_call(texts, private=private, timeout=timeout)
        engine = self._core.engines.open(source)
        request = self._core.encode_request(given, patience)
        return wait_for(self._core.tracker.paid(source, request, engine.encode), request.deadline)

    def chat(
        self,
        messages: MessagesLike = (),
        *,
        system: str | None = None,
        when_full: WhenFull = "slide",
        **options: Unpack[CallOptions],
    ) -> Conversation:
        """Return a conversation that keeps its history.

        Args:
            messages: what was said so far.
            system: its system message.
            when_full: "slide" leaves the oldest turns out when the context is full, "fail" raises PromptTooLongError.
            options: what each turn is told unless it says otherwise, as for `ask`; `last_profile` is the profile that
                the conversation begins in.

        Raises:
            InvalidRequestError: an argument is wrong; the field names it.
        """
        return Conversation(self, messages, system=system, when_full=when_full, **options)

    def status(self) -> ClientStatus:
        """Return how this client stands: server, breaker, budget and what it measured. Asks nobody.

        Raises:
            EngineClosedError: after `close`.
        """
        return client_status(self._core.engines, self._core.tracker)

    def models(self) -> dict[Source, tuple[ModelInfo, ...]]:
        """Return what the device and the server serve, as far as there are; () where it cannot be told now.

        Raises:
            EngineClosedError: after `close`.
        """
        return client_models(self._core.engines)

    def count_tokens(self, messages: MessagesLike) -> int:
        """Return how many tokens the device's model reads for messages, without the samples of a customisation.

        Raises:
            InvalidRequestError: a message is wrong, or there is no device that could count.
            ModelError: the device's model cannot be opened.
        """
        return device_tokens(self._core.engines, messages)

    def load(self) -> None:
        """Open the model and the connection and fit the scopes now, instead of at the first call.

        Raises:
            ModelError: the device's model cannot be found, fetched or read.
        """
        self._core.load()

    def close(self) -> None:
        """Close the engines that this client opened; running calls on them fail. Safe to call twice."""
        self._core.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _answer(
        self,
        messages: MessagesLike,
        options: CallOptions,
        *,
        past: Past | None = None,
        on_done: Callable[[Completion], None] | None = None,
        shorten: Callable[[Call, PromptTooLongError], Call | None] | None = None,
    ) -> AnswerStream:
        return AnswerStream(self._core, self._core.call(messages, options, past=past), on_done, shorten)

    def _blend(self, call: Call, source: Source) -> Blend | None:
        """Return the weights that a call wants at one side; where it leaves a choice, by its last message."""
        known, blend = self._core.settled(call, source)
        if known:
            return blend
        until = deadline_after(call.timeout)
        gate = self._core.query_gate(call, until)
        request = EncodeRequest(texts=(question(call.messages),), deadline=until)
        choice = gate.judge(wait_for(gate.encode(self._core.engines.open(source), request), until)).choice
        return None if choice is None else choice.blend
