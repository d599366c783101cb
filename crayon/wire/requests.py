"""Requests: Crayon's own <-> protobuf. What arrives is checked and refused by its name on the wire."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.completion import Blend
from crayon.constraint import Constraint, ConstraintKind
from crayon.engine import EncodeRequest, GenerateRequest, ScoreRequest, new_request_id
from crayon.errors import InvalidRequestError
from crayon.messages import Message, ToolCall, normalise_messages
from crayon.sampling import SAMPLING_FIELDS, Sampling
from crayon.token_options import check_logit_bias
from crayon.tool import Tool, ToolChoice, Tools
from crayon.v1 import inference_pb2 as pb
from crayon.wire.limits import MAX_MESSAGES, MAX_NAME_CHARS, MAX_REQUEST_ID_CHARS, MAX_TEXTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sized

    from crayon.messages import Role

_ROLE_TO_PROTO: dict[Role, pb.Role.ValueType] = {
    "system": pb.ROLE_SYSTEM,
    "user": pb.ROLE_USER,
    "assistant": pb.ROLE_ASSISTANT,
    "tool": pb.ROLE_TOOL,
}
_CHOICE_TO_PROTO: dict[ToolChoice, pb.ToolChoice.ValueType] = {
    ToolChoice.AUTO: pb.TOOL_CHOICE_UNSPECIFIED,
    ToolChoice.NONE: pb.TOOL_CHOICE_NONE,
    ToolChoice.REQUIRED: pb.TOOL_CHOICE_REQUIRED,
}
_CHOICE_FROM_PROTO: dict[int, ToolChoice] = {number: choice for choice, number in _CHOICE_TO_PROTO.items()}
_ROLE_FROM_PROTO: dict[int, Role] = {number: role for role, number in _ROLE_TO_PROTO.items()}


# -- ours to protobuf


def generate_request_to_proto(request: GenerateRequest) -> pb.GenerateRequest:
    """Return the message; the deadline is not in it, it travels as the deadline of the RPC."""
    return pb.GenerateRequest(
        model=request.model,
        messages=_messages_to_proto(request.messages),
        sampling=_sampling_to_proto(request.sampling),
        blend=blend_to_proto(request.blend),
        request_id=request.request_id,
        signals=None if request.signals else False,  # not set means true
        constraint=_constraint_to_proto(request.constraint),
        tools=_tools_to_proto(request.tools),
        top_logprobs=request.top_logprobs,
        logit_bias=[pb.LogitBias(token=token, bias=bias) for token, bias in request.logit_bias],
    )


def score_request_to_proto(request: ScoreRequest) -> pb.ScoreRequest:
    """Return the message; the deadline travels as the deadline of the RPC."""
    return pb.ScoreRequest(
        model=request.model,
        messages=_messages_to_proto(request.messages),
        continuations=request.continuations,
        blend=blend_to_proto(request.blend),
        request_id=request.request_id,
    )


def encode_request_to_proto(request: EncodeRequest) -> pb.EncodeRequest:
    """Return the message; the deadline travels as the deadline of the RPC."""
    return pb.EncodeRequest(model=request.model, texts=request.texts, request_id=request.request_id)


def blend_to_proto(blend: Blend | None) -> pb.Blend | None:
    """Return the message, or None for no blend."""
    return None if blend is None else pb.Blend(pool_id=blend.pool_id, weights=blend.weights)


def _constraint_to_proto(constraint: Constraint | None) -> pb.Constraint | None:
    if constraint is None:
        return None
    message = pb.Constraint(show=None if constraint.show else False)  # not set means true
    match constraint.kind:
        case ConstraintKind.SCHEMA:
            message.json_schema = constraint.text
        case ConstraintKind.JSON:
            message.any_json.SetInParent()
        case ConstraintKind.REGEX:
            message.regex = constraint.text
        case ConstraintKind.CHOICES:
            message.choices.texts.extend(constraint.choices)
        case ConstraintKind.GRAMMAR:
            message.grammar = constraint.text
    return message


def calls_to_proto(calls: Iterable[ToolCall]) -> list[pb.ToolCall]:
    """Return the messages of calls."""
    return [pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments) for call in calls]


def calls_from_proto(calls: Iterable[pb.ToolCall]) -> tuple[ToolCall, ...]:
    """Return the calls, not looked at."""
    return tuple(ToolCall(call.id, call.name, call.arguments) for call in calls)


def _tools_to_proto(tools: Tools | None) -> pb.Tools | None:
    if tools is None:
        return None
    return pb.Tools(
        tools=[pb.Tool(name=t.name, description=t.description, parameters=t.parameters) for t in tools.tools],
        choice=_CHOICE_TO_PROTO[tools.choice],
        name=tools.name,
        parallel=None if tools.parallel else False,  # not set means true
    )


def _tools_from_proto(message: pb.Tools) -> Tools:
    choice = _CHOICE_FROM_PROTO.get(message.choice)
    if choice is None:
        raise InvalidRequestError("tools.choice", f"is {message.choice}, which this server does not know")
    return Tools(
        tuple(Tool(each.name, each.description, each.parameters) for each in message.tools),
        choice,
        message.name,
        message.parallel if message.HasField("parallel") else True,
    )


def _messages_to_proto(messages: Iterable[Message]) -> list[pb.Message]:
    return [
        pb.Message(
            role=_ROLE_TO_PROTO[message.role],
            content=message.content,
            tool_calls=calls_to_proto(message.tool_calls),
            tool_call_id=message.tool_call_id,
            reasoning=message.reasoning,
        )
        for message in messages
    ]


def _sampling_to_proto(sampling: Sampling) -> pb.Sampling:
    # Every value is sent, since the server's defaults may be another version's. No seed is the one that stays unset.
    return pb.Sampling(**{name: getattr(sampling, name) for name in SAMPLING_FIELDS})


# -- protobuf to ours


def generate_request_from_proto(message: pb.GenerateRequest, deadline: float | None) -> GenerateRequest:
    """Return the request, with `deadline` on this process's monotonic clock.

    Raises:
        InvalidRequestError: a field is missing, unknown or out of range; it is named as on the wire.
    """
    return GenerateRequest(
        messages=_messages_from_proto(message.messages),
        sampling=_sampling_from_proto(message.sampling),
        blend=blend_from_proto(message.blend) if message.HasField("blend") else None,
        deadline=deadline,
        request_id=_request_id(message.request_id),
        model=_model(message.model),
        signals=message.signals if message.HasField("signals") else True,
        constraint=_constraint_from_proto(message.constraint) if message.HasField("constraint") else None,
        tools=_tools_from_proto(message.tools) if message.HasField("tools") else None,
        top_logprobs=message.top_logprobs if message.HasField("top_logprobs") else None,
        logit_bias=check_logit_bias(tuple((each.token, each.bias) for each in message.logit_bias)),
    )


def score_request_from_proto(message: pb.ScoreRequest, deadline: float | None) -> ScoreRequest:
    """Return the request, with `deadline` on this process's monotonic clock.

    Raises:
        InvalidRequestError: a field is missing, unknown or out of range; it is named as on the wire.
    """
    _at_most("continuations", message.continuations, MAX_TEXTS)
    return ScoreRequest(
        messages=_messages_from_proto(message.messages),
        continuations=tuple(message.continuations),
        blend=blend_from_proto(message.blend) if message.HasField("blend") else None,
        deadline=deadline,
        request_id=_request_id(message.request_id),
        model=_model(message.model),
    )


def encode_request_from_proto(message: pb.EncodeRequest, deadline: float | None) -> EncodeRequest:
    """Return the request, with `deadline` on this process's monotonic clock.

    Raises:
        InvalidRequestError: a field is missing or out of range; it is named as on the wire.
    """
    _at_most("texts", message.texts, MAX_TEXTS)
    return EncodeRequest(
        texts=tuple(message.texts),
        deadline=deadline,
        request_id=_request_id(message.request_id),
        model=_model(message.model),
    )


def blend_from_proto(message: pb.Blend) -> Blend:
    """Return the blend.

    Raises:
        InvalidRequestError: no pool, no weights, too many, or one that is not a finite number.
    """
    return Blend(message.pool_id, tuple(message.weights))


def _constraint_from_proto(message: pb.Constraint) -> Constraint:
    show = message.show if message.HasField("show") else True
    match message.WhichOneof("kind"):
        case "json_schema":
            return Constraint(ConstraintKind.SCHEMA, message.json_schema, show=show)
        case "any_json":
            return Constraint(ConstraintKind.JSON, show=show)
        case "regex":
            return Constraint(ConstraintKind.REGEX, message.regex, show=show)
        case "choices":
            return Constraint(ConstraintKind.CHOICES, choices=tuple(message.choices.texts), show=show)
        case "grammar":
            return Constraint(ConstraintKind.GRAMMAR, message.grammar, show=show)
        case _:
            raise InvalidRequestError("constraint", "is of no kind that this server knows; use a newer server")


def _messages_from_proto(messages: Iterable[pb.Message]) -> tuple[Message, ...]:
    found = list(messages)
    _at_most("messages", found, MAX_MESSAGES)
    plain: list[Message] = []
    for i, message in enumerate(found):
        role = _ROLE_FROM_PROTO.get(message.role)
        if role is None:
            raise InvalidRequestError(
                f"messages[{i}].role",
                f"must be ROLE_SYSTEM, ROLE_USER, ROLE_ASSISTANT or ROLE_TOOL, not {message.role}",
            )
        calls = calls_from_proto(message.tool_calls)
        plain.append(Message(role, message.content, calls, message.tool_call_id, message.reasoning))
    return normalise_messages(plain)


def _sampling_from_proto(message: pb.Sampling) -> Sampling:
    # An unset field takes the default of Sampling, and 0 stays 0: that is what `optional` is for.
    values: dict[str, Any] = {field.name: value for field, value in message.ListFields()}
    try:
        return Sampling(**values)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"sampling.{error.field}", error.problem) from None


def _request_id(value: str) -> str:
    if not value:
        return new_request_id()
    # It goes into logs: nothing that could forge a line there.
    if len(value) > MAX_REQUEST_ID_CHARS or not (value.isascii() and value.isprintable()):
        problem = f"must be at most {MAX_REQUEST_ID_CHARS} printable ASCII characters"
        raise InvalidRequestError("request_id", problem)
    return value


def _model(value: str) -> str:
    if len(value) > MAX_NAME_CHARS or not value.isprintable():
        raise InvalidRequestError("model", f"must be at most {MAX_NAME_CHARS} printable characters")
    return value


def _at_most(field: str, items: Sized, most: int) -> None:
    if len(items) > most:
        raise InvalidRequestError(field, f"at most {most} entries, not {len(items)}; send several requests")
