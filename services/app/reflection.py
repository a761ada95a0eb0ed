"""Server reflection, as grpc.reflection.v1 and v1alpha: clients ask it for the descriptors of all services.

The descriptors of inferd's own protos have their comments, which clients such as grpcurl show. They come from
the descriptor set that `make generate` writes, because generated Python has no comments.
"""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from importlib import resources
from typing import Any

import grpc
from google.protobuf import descriptor_pool, text_format
from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.reflection_pb2 import (
    DESCRIPTOR,
    ErrorResponse,
    ExtensionNumberResponse,
    FileDescriptorResponse,
    ListServiceResponse,
    ServerReflectionRequest,
    ServerReflectionResponse,
    ServiceResponse,
)

from inferd.services.calls.context import CallContext
from inferd.services.calls.methods import Methods

#: Both versions have the same messages.
REFLECTION_SERVICES = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")


class DescriptorIndex:
    """File descriptors by their names and by the symbols and extensions that they declare.

    A message, field, oneof, enum, enum value, service, method or extension is a symbol. All methods raise
    KeyError for a name that is in no file.
    """

    def __init__(self, files: Iterable[FileDescriptorProto]) -> None:
        self._files: dict[str, bytes] = {}
        self._imports: dict[str, tuple[str, ...]] = {}
        self._file_of_symbol: dict[str, str] = {}
        self._messages: set[str] = set()
        #: By the extended message: the file of each extension, by the extension's number.
        self._extensions: dict[str, dict[int, str]] = {}
        for file in files:
            self._files[file.name] = file.SerializeToString()
            self._imports[file.name] = tuple(file.dependency)
            for symbol, declaration in _declarations(file, file.package):
                self._file_of_symbol[symbol] = file.name
                if isinstance(declaration, DescriptorProto):
                    self._messages.add(symbol)
                if isinstance(declaration, FieldDescriptorProto) and declaration.extendee:
                    extended = self._extensions.setdefault(declaration.extendee.removeprefix("."), {})
                    extended[declaration.number] = file.name

    def with_imports(self, name: str) -> list[str]:
        """The names of a file, which is the first, and of all files that it needs."""
        if name not in self._files:
            raise KeyError(name)
        names = [name]
        for each in names:
            names += [other for other in self._imports[each] if other not in names]
        return names

    def serialized(self, name: str) -> bytes:
        """The FileDescriptorProto of a file."""
        return self._files[name]

    def file_of_symbol(self, symbol: str) -> str:
        """The name of the file that declares a symbol, which is a full name without a dot before it."""
        return self._file_of_symbol[symbol]

    def file_of_extension(self, message: str, number: int) -> str:
        """The name of the file that declares the extension of this number."""
        return self._extensions[message][number]

    def extension_numbers(self, message: str) -> list[int]:
        """The numbers of a message's extensions, ascending."""
        if message not in self._messages:
            raise KeyError(message)
        return sorted(self._extensions.get(message, ()))


class Reflection:
    """The servicer of both versions. `services` are the full names of the served services."""

    def __init__(self, services: Iterable[str], index: DescriptorIndex) -> None:
        self._services = sorted(services)
        self._index = index

    def add_to(self, methods: Methods) -> None:
        """Serve both versions by `methods`."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.answer_all, ServerReflectionRequest.FromString, ServerReflectionResponse.SerializeToString
        )
        for service in REFLECTION_SERVICES:
            methods.add_registered_method_handlers(service, {"ServerReflectionInfo": handler})

    async def answer_all(
        self, requests: AsyncIterable[ServerReflectionRequest], context: CallContext
    ) -> AsyncIterator[ServerReflectionResponse]:
        """Answer each request of a stream. A file is sent once in a stream, unless it is asked for again."""
        sent: set[str] = set()
        async for request in requests:
            response = ServerReflectionResponse(valid_host=request.host, original_request=request)
            try:
                self._answer(request, response, sent)
            except KeyError as error:
                message = f"not found: {error.args[0]}"
                response.error_response.CopyFrom(_error(grpc.StatusCode.NOT_FOUND, message))
            yield response

    def _answer(
        self, request: ServerReflectionRequest, response: ServerReflectionResponse, sent: set[str]
    ) -> None:
        index = self._index
        match request.WhichOneof("message_request"):
            case "list_services":
                services = [ServiceResponse(name=name) for name in self._services]
                response.list_services_response.CopyFrom(ListServiceResponse(service=services))
            case "file_by_filename":
                response.file_descriptor_response.CopyFrom(self._files(request.file_by_filename, sent))
            case "file_containing_symbol":
                name = index.file_of_symbol(request.file_containing_symbol)
                response.file_descriptor_response.CopyFrom(self._files(name, sent))
            case "file_containing_extension":
                asked = request.file_containing_extension
                name = index.file_of_extension(asked.containing_type, asked.extension_number)
                response.file_descriptor_response.CopyFrom(self._files(name, sent))
            case "all_extension_numbers_of_type":
                message = request.all_extension_numbers_of_type
                response.all_extension_numbers_response.CopyFrom(
                    ExtensionNumberResponse(
                        base_type_name=message, extension_number=index.extension_numbers(message)
                    )
                )
            case _:
                response.error_response.CopyFrom(
                    _error(grpc.StatusCode.INVALID_ARGUMENT, "the request asks for nothing")
                )

    def _files(self, name: str, sent: set[str]) -> FileDescriptorResponse:
        names = [each for each in self._index.with_imports(name) if each == name or each not in sent]
        sent.update(names)
        return FileDescriptorResponse(file_descriptor_proto=map(self._index.serialized, names))


def served_files() -> list[FileDescriptorProto]:
    """All of inferd's protos, those of the standard services, and all that these import."""
    data = resources.files("inferd").joinpath("descriptors.binpb").read_bytes()
    reflection = _from_pool(DESCRIPTOR.name)
    standard = [
        reflection,
        _reflection_v1(reflection),
        _from_pool(health_pb2.DESCRIPTOR.name),
        # Clients such as grpcurl look up the types of an error's details.
        _from_pool(error_details_pb2.DESCRIPTOR.name),
    ]
    found = {file.name: file for file in (*FileDescriptorSet.FromString(data).file, *standard)}
    missing = [name for file in found.values() for name in file.dependency if name not in found]
    while missing:
        name = missing.pop()
        if name not in found:
            found[name] = _from_pool(name)
            missing += found[name].dependency
    return list(found.values())


def _from_pool(name: str) -> FileDescriptorProto:
    proto = FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(proto)
    return proto


def _reflection_v1(v1alpha: FileDescriptorProto) -> FileDescriptorProto:
    """The file of version v1, which grpcio does not have. It differs from v1alpha in its names only."""
    text = text_format.MessageToString(v1alpha).replace("v1alpha", "v1")
    return text_format.Parse(text, FileDescriptorProto())


def _declarations(parent: Any, scope: str) -> Iterator[tuple[str, Any]]:
    """The full names and the protos of all declarations within a file, a message, an enum or a service."""
    prefix = f"{scope}." if scope else ""
    # The values of an enum are named as its siblings are (descriptor.proto, EnumValueDescriptorProto).
    outer = (
        prefix.removesuffix(f"{parent.name}.") if parent.DESCRIPTOR.name == "EnumDescriptorProto" else prefix
    )
    for kind in (
        *("message_type", "nested_type", "enum_type", "field", "oneof_decl", "extension"),
        *("value", "service", "method"),
    ):
        for inner in getattr(parent, kind, ()):
            name = f"{outer}{inner.name}"
            yield name, inner
            yield from _declarations(inner, name)


def _error(code: grpc.StatusCode, message: str) -> ErrorResponse:
    return ErrorResponse(error_code=code.value[0], error_message=message)
