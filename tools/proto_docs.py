"""Write docs/reference/grpc.md from the comments of the protocol, or with --check fail where it differs."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    EnumDescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
    ServiceDescriptorProto,
)
from write_or_check import run

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1]
PROTO = ROOT / "proto"
SOURCE = "crayon/v1/inference.proto"
TARGET = ROOT / "docs" / "reference" / "grpc.md"
# Numbers of fields in descriptor.proto, of which the paths to comments are made.
MESSAGES, ENUMS, SERVICES, MEMBERS, FIELDS, ONEOFS = 4, 5, 6, 2, 2, 8
Path_ = tuple[int, ...]


def described() -> FileDescriptorProto:
    """Return the protocol with its comments, as protoc reads it."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "set"
        command = [
            *(sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTO}"),
            *("--include_source_info", f"--descriptor_set_out={output}", SOURCE),
        ]
        subprocess.run(command, check=True)  # noqa: S603 - our own command line
        (file,) = FileDescriptorSet.FromString(output.read_bytes()).file
    return file


class Document:
    """The page of one .proto file."""

    def __init__(self, file: FileDescriptorProto) -> None:
        self._file = file
        self._comments: dict[Path_, str] = {}
        for place in file.source_code_info.location:
            said = (*place.leading_detached_comments, place.leading_comments)
            text = "\n\n".join(" ".join(part.split()) for part in said if part.strip())
            if text:
                self._comments[tuple(place.path)] = text

    def text(self) -> str:
        """Return the whole page."""
        return "\n\n".join(self._parts()) + "\n"

    def _parts(self) -> Iterator[str]:
        package = self._file.package
        yield "# The gRPC protocol"
        yield f"<!-- Written by tools/proto_docs.py; change the comments in proto/{SOURCE} instead. -->"
        yield (
            f"Package `{package}`, file `proto/{SOURCE}`. [server.md](../how-to/server.md#the-api) has the rules of\n"
            "deadlines, limits and statuses, [examples](../examples/index.md) calls from other languages."
        )
        if file_said := self._comments.get((12,), self._comments.get((2,))):
            yield file_said
        for i, service in enumerate(self._file.service):
            yield from self._service(service, (SERVICES, i))
        yield "## Messages"
        for i, message in enumerate(self._file.message_type):
            yield from self._message(message, (MESSAGES, i))
        yield "## Enums"
        for i, enum in enumerate(self._file.enum_type):
            yield from self._enum(enum, (ENUMS, i))

    def _service(self, service: ServiceDescriptorProto, path: Path_) -> Iterator[str]:
        yield f"## {service.name}"
        yield self._said(path)
        for i, method in enumerate(service.method):
            yield f"### {method.name}"
            takes = ("stream " if method.client_streaming else "") + self._link(method.input_type)
            gives = ("stream of " if method.server_streaming else "") + self._link(method.output_type)
            yield f"Takes {takes}, gives {gives}."
            yield self._said((*path, MEMBERS, i))

    def _message(self, message: DescriptorProto, path: Path_) -> Iterator[str]:
        if message.nested_type or message.enum_type:
            raise SystemExit(f"{message.name}: nested types are not described yet")
        yield f"### {message.name}"
        yield self._said(path)
        if not message.field:
            return
        rows = ["| field | number | type | |", "| --- | ---: | --- | --- |"]
        for i, field in enumerate(message.field):
            said = self._said((*path, FIELDS, i))
            rows.append(f"| `{field.name}` | {field.number} | {self._type(message, field)} | {said} |")
        yield "\n".join(rows)

    def _enum(self, enum: EnumDescriptorProto, path: Path_) -> Iterator[str]:
        yield f"### {enum.name}"
        yield self._said(path)
        rows = ["| value | number | |", "| --- | ---: | --- |"]
        for i, value in enumerate(enum.value):
            rows.append(f"| `{value.name}` | {value.number} | {self._said((*path, MEMBERS, i))} |")
        yield "\n".join(rows)

    def _type(self, message: DescriptorProto, field: FieldDescriptorProto) -> str:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
        word = self._link(field.type_name) if field.type_name else f"`{name}`"
        if field.label == FieldDescriptorProto.LABEL_REPEATED:
            return f"repeated {word}"
        if field.proto3_optional:
            return f"optional {word}"
        if field.HasField("oneof_index"):
            return f"{word}, one of `{message.oneof_decl[field.oneof_index].name}`"
        return word

    def _link(self, name: str) -> str:
        short = name.removeprefix(f".{self._file.package}.")
        return f"[{short}](#{short.lower()})"

    def _said(self, path: Path_) -> str:
        try:
            said = self._comments[path]
        except KeyError:
            raise SystemExit(f"{SOURCE}: no comment at {path}; everything in the protocol has one") from None
        return re.sub(r"([|<>])", r"\\\1", said)


if __name__ == "__main__":
    sys.exit(run(__doc__, TARGET, lambda _: Document(described()).text()))
