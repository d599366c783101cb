"""The table of errors and statuses, both ways, without a network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2

from crayon import errors
from crayon.wire.status import TABLE, RpcStatus, error_from_rpc, error_to_status

if TYPE_CHECKING:
    from crayon.errors import CrayonError


@dataclass
class Failure:
    """What a client sees of a status."""

    status: RpcStatus | None = None
    plain: grpc.StatusCode = grpc.StatusCode.UNKNOWN
    text: str | None = None
    trailers: Any = ()

    def code(self) -> grpc.StatusCode:
        return self.status.code if self.status else self.plain

    def details(self) -> str | None:
        return self.status.message if self.status else self.text

    def trailing_metadata(self) -> Any:
        return self.status.trailers if self.status else self.trailers


def details(status: RpcStatus) -> dict[str, Any]:
    (rich,) = (value for key, value in status.trailers if key == "grpc-status-details-bin")
    assert isinstance(rich, bytes)
    found = {}
    for packed in status_pb2.Status.FromString(rich).details:
        detail = getattr(error_details_pb2, packed.TypeName().rpartition(".")[2])()
        packed.Unpack(detail)
        found[packed.TypeName()] = detail
    return found


SAMPLES: dict[type[CrayonError], CrayonError] = {
    errors.PromptTooLongError: errors.PromptTooLongError(500, 255),
    errors.InvalidRequestError: errors.InvalidRequestError("sampling.top_p", "must be from 0 to 1"),
    errors.OverloadedError: errors.OverloadedError("64 wait", retry_after=2.5),
}


@pytest.mark.parametrize(("kind", "code", "reason"), TABLE)
def test_every_row_comes_back_as_its_own_class(kind: type[CrayonError], code: grpc.StatusCode, reason: str) -> None:
    error = SAMPLES.get(kind) or kind("what went wrong")
    status = error_to_status(error, "id")
    assert status.code is code
    info = details(status)["google.rpc.ErrorInfo"]
    assert (info.reason, info.domain) == (reason, "crayon")
    back = error_from_rpc(Failure(status))
    # A closed engine over there is an unavailable server here; all others are what they were.
    assert type(back) is (errors.ServerUnavailableError if kind is errors.EngineClosedError else kind)
    assert str(back) == str(error)
    fields = {name: value for name, value in vars(error).items() if name != "partial"}
    assert {name: getattr(back, name) for name in fields} == fields


def test_a_wrong_field_is_a_violation() -> None:
    bad = details(error_to_status(errors.InvalidRequestError("blend.weights", "is empty"), ""))["google.rpc.BadRequest"]
    assert [(violation.field, violation.description) for violation in bad.field_violations] == [
        ("blend.weights", "is empty")
    ]


def test_overload_says_when_to_come_back() -> None:
    status = error_to_status(errors.OverloadedError("full", retry_after=1.5), "")
    assert ("grpc-retry-pushback-ms", "1500") in status.trailers
    found = details(status)
    assert found["google.rpc.RetryInfo"].retry_delay.ToMilliseconds() == 1500
    assert found["google.rpc.QuotaFailure"].violations[0].subject == "server"


def test_a_limit_of_a_client_names_the_client() -> None:
    status = error_to_status(errors.OverloadedError("had them", 1.5, "token:alice"), "")
    assert details(status)["google.rpc.QuotaFailure"].violations[0].subject == "token:alice"
    back = error_from_rpc(Failure(status))
    assert isinstance(back, errors.OverloadedError)
    assert back.subject == "token:alice"


def test_unavailable_says_when_to_come_back_and_leaves_retries_to_the_client() -> None:
    status = error_to_status(errors.ServerUnavailableError("loading"), "")
    assert "google.rpc.RetryInfo" in details(status)
    assert "grpc-retry-pushback-ms" not in dict(status.trailers)


def test_an_unknown_model_is_a_resource() -> None:
    found = details(error_to_status(errors.UnknownModelError("no 'x' here"), ""))
    assert found["google.rpc.ResourceInfo"].resource_type == "model"


@pytest.mark.parametrize("error", [ValueError("secret prompt"), errors.EngineError("secret"), KeyError("secret")])
def test_what_is_not_in_the_table_shows_its_incident_only(error: Exception) -> None:
    status = error_to_status(error, "abc123")
    assert status.code is grpc.StatusCode.INTERNAL
    assert "abc123" in status.message
    assert all(b"secret" not in (value if isinstance(value, bytes) else value.encode()) for _, value in status.trailers)
    assert "secret" not in status.message
    back = error_from_rpc(Failure(status))
    assert type(back) is errors.ServerError
    assert "abc123" in str(back)


def test_long_messages_are_cut_at_whole_characters() -> None:
    status = error_to_status(errors.AdapterError("ä€😀" * 1000), "")
    assert 900 < len(status.message.encode()) <= 1000
    assert type(error_from_rpc(Failure(status))) is errors.AdapterError


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.UNAVAILABLE, errors.ServerUnavailableError),
        (grpc.StatusCode.DEADLINE_EXCEEDED, errors.DeadlineExceededError),
        (grpc.StatusCode.UNAUTHENTICATED, errors.UnauthenticatedError),
        (grpc.StatusCode.PERMISSION_DENIED, errors.PermissionDeniedError),
        (grpc.StatusCode.UNIMPLEMENTED, errors.ServerRejectedError),
        (grpc.StatusCode.FAILED_PRECONDITION, errors.ServerRejectedError),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, errors.OverloadedError),
        (grpc.StatusCode.INVALID_ARGUMENT, errors.InvalidRequestError),
        (grpc.StatusCode.NOT_FOUND, errors.UnknownModelError),
        (grpc.StatusCode.CANCELLED, errors.CancelledError),
        (grpc.StatusCode.INTERNAL, errors.ServerError),
        (grpc.StatusCode.UNKNOWN, errors.ServerError),
        (grpc.StatusCode.DATA_LOSS, errors.ServerError),
    ],
)
@pytest.mark.parametrize("trailers", [None, (), (("grpc-status-details-bin", b"\xff\x00 noise"),)])
def test_statuses_of_strangers_are_read_by_their_code(
    code: grpc.StatusCode, kind: type[CrayonError], trailers: Any
) -> None:
    error = error_from_rpc(Failure(plain=code, text="a proxy said so", trailers=trailers))
    assert type(error) is kind
    assert "a proxy said so" in str(error)


def test_a_status_without_a_message_still_says_something() -> None:
    assert "UNAVAILABLE" in str(error_from_rpc(Failure(plain=grpc.StatusCode.UNAVAILABLE)))


def test_reasons_of_another_domain_mean_nothing() -> None:
    info = error_details_pb2.ErrorInfo(reason="OVERLOADED", domain="example.org")
    rich = status_pb2.Status(code=14, message="x")
    rich.details.add().Pack(info)
    failure = Failure(
        plain=grpc.StatusCode.UNAVAILABLE,
        text="x",
        trailers=(("grpc-status-details-bin", rich.SerializeToString()),),
    )
    assert type(error_from_rpc(failure)) is errors.ServerUnavailableError
