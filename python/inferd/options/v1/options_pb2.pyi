from google.protobuf import descriptor_pb2 as _descriptor_pb2
from google.rpc import code_pb2 as _code_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor
DIALECT_FIELD_NUMBER: _ClassVar[int]
dialect: _descriptor.FieldDescriptor
STREAMING_FIELD_NUMBER: _ClassVar[int]
streaming: _descriptor.FieldDescriptor
EXAMPLE_FIELD_NUMBER: _ClassVar[int]
example: _descriptor.FieldDescriptor
SUCCESS_STATUS_FIELD_NUMBER: _ClassVar[int]
success_status: _descriptor.FieldDescriptor
PENDING_FIELD_NUMBER: _ClassVar[int]
pending: _descriptor.FieldDescriptor
LOCATION_FIELD_NUMBER: _ClassVar[int]
location: _descriptor.FieldDescriptor
PREFER_WAIT_FIELD_NUMBER: _ClassVar[int]
prefer_wait: _descriptor.FieldDescriptor
METHOD_DIALECT_FIELD_NUMBER: _ClassVar[int]
method_dialect: _descriptor.FieldDescriptor
MESSAGE_JSON_FIELD_NUMBER: _ClassVar[int]
message_json: _descriptor.FieldDescriptor
JSON_FIELD_NUMBER: _ClassVar[int]
json: _descriptor.FieldDescriptor
LIMITS_FIELD_NUMBER: _ClassVar[int]
limits: _descriptor.FieldDescriptor
CODE_FIELD_NUMBER: _ClassVar[int]
code: _descriptor.FieldDescriptor
HTTP_STATUS_FIELD_NUMBER: _ClassVar[int]
http_status: _descriptor.FieldDescriptor
DIALECT_VALUE_FIELD_NUMBER: _ClassVar[int]
dialect_value: _descriptor.FieldDescriptor
JSON_VALUE_FIELD_NUMBER: _ClassVar[int]
json_value: _descriptor.FieldDescriptor

class Dialect(_message.Message):
    __slots__ = ("name", "errors")
    NAME_FIELD_NUMBER: _ClassVar[int]
    ERRORS_FIELD_NUMBER: _ClassVar[int]
    name: str
    errors: ErrorForm
    def __init__(self, name: _Optional[str] = ..., errors: _Optional[_Union[ErrorForm, _Mapping]] = ...) -> None: ...

class ErrorForm(_message.Message):
    __slots__ = ("envelope", "event_envelope", "event", "kinds")
    ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_ENVELOPE_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    KINDS_FIELD_NUMBER: _ClassVar[int]
    envelope: str
    event_envelope: str
    event: str
    kinds: _containers.RepeatedCompositeFieldContainer[ErrorKind]
    def __init__(self, envelope: _Optional[str] = ..., event_envelope: _Optional[str] = ..., event: _Optional[str] = ..., kinds: _Optional[_Iterable[_Union[ErrorKind, _Mapping]]] = ...) -> None: ...

class ErrorKind(_message.Message):
    __slots__ = ("codes", "reasons", "status", "type")
    CODES_FIELD_NUMBER: _ClassVar[int]
    REASONS_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    TYPE_FIELD_NUMBER: _ClassVar[int]
    codes: _containers.RepeatedScalarFieldContainer[_code_pb2.Code]
    reasons: _containers.RepeatedScalarFieldContainer[str]
    status: int
    type: str
    def __init__(self, codes: _Optional[_Iterable[_Union[_code_pb2.Code, str]]] = ..., reasons: _Optional[_Iterable[str]] = ..., status: _Optional[int] = ..., type: _Optional[str] = ...) -> None: ...

class DialectValue(_message.Message):
    __slots__ = ("dialect", "value")
    DIALECT_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    dialect: str
    value: str
    def __init__(self, dialect: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class Streaming(_message.Message):
    __slots__ = ("rpc", "selector", "done")
    RPC_FIELD_NUMBER: _ClassVar[int]
    SELECTOR_FIELD_NUMBER: _ClassVar[int]
    DONE_FIELD_NUMBER: _ClassVar[int]
    rpc: str
    selector: str
    done: str
    def __init__(self, rpc: _Optional[str] = ..., selector: _Optional[str] = ..., done: _Optional[str] = ...) -> None: ...

class Pending(_message.Message):
    __slots__ = ("field", "status")
    FIELD_FIELD_NUMBER: _ClassVar[int]
    STATUS_FIELD_NUMBER: _ClassVar[int]
    field: str
    status: int
    def __init__(self, field: _Optional[str] = ..., status: _Optional[int] = ...) -> None: ...

class MessageJson(_message.Message):
    __slots__ = ("object", "bare", "tag", "shorthand", "tag_after", "flat", "untagged", "shorthand_members", "event")
    OBJECT_FIELD_NUMBER: _ClassVar[int]
    BARE_FIELD_NUMBER: _ClassVar[int]
    TAG_FIELD_NUMBER: _ClassVar[int]
    SHORTHAND_FIELD_NUMBER: _ClassVar[int]
    TAG_AFTER_FIELD_NUMBER: _ClassVar[int]
    FLAT_FIELD_NUMBER: _ClassVar[int]
    UNTAGGED_FIELD_NUMBER: _ClassVar[int]
    SHORTHAND_MEMBERS_FIELD_NUMBER: _ClassVar[int]
    EVENT_FIELD_NUMBER: _ClassVar[int]
    object: str
    bare: bool
    tag: str
    shorthand: str
    tag_after: str
    flat: bool
    untagged: str
    shorthand_members: str
    event: str
    def __init__(self, object: _Optional[str] = ..., bare: _Optional[bool] = ..., tag: _Optional[str] = ..., shorthand: _Optional[str] = ..., tag_after: _Optional[str] = ..., flat: _Optional[bool] = ..., untagged: _Optional[str] = ..., shorthand_members: _Optional[str] = ..., event: _Optional[str] = ...) -> None: ...

class FieldJson(_message.Message):
    __slots__ = ("name", "shorthand", "raw", "null_when_unset", "omit_when_empty", "byte_list", "inline", "comment", "seconds", "also_seconds", "first_only", "pairs", "selected_by", "hides_inline", "unknown", "default_value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SHORTHAND_FIELD_NUMBER: _ClassVar[int]
    RAW_FIELD_NUMBER: _ClassVar[int]
    NULL_WHEN_UNSET_FIELD_NUMBER: _ClassVar[int]
    OMIT_WHEN_EMPTY_FIELD_NUMBER: _ClassVar[int]
    BYTE_LIST_FIELD_NUMBER: _ClassVar[int]
    INLINE_FIELD_NUMBER: _ClassVar[int]
    COMMENT_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    ALSO_SECONDS_FIELD_NUMBER: _ClassVar[int]
    FIRST_ONLY_FIELD_NUMBER: _ClassVar[int]
    PAIRS_FIELD_NUMBER: _ClassVar[int]
    SELECTED_BY_FIELD_NUMBER: _ClassVar[int]
    HIDES_INLINE_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    DEFAULT_VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    shorthand: bool
    raw: bool
    null_when_unset: bool
    omit_when_empty: bool
    byte_list: bool
    inline: bool
    comment: bool
    seconds: bool
    also_seconds: str
    first_only: bool
    pairs: bool
    selected_by: _containers.RepeatedScalarFieldContainer[str]
    hides_inline: bool
    unknown: bool
    default_value: str
    def __init__(self, name: _Optional[str] = ..., shorthand: _Optional[bool] = ..., raw: _Optional[bool] = ..., null_when_unset: _Optional[bool] = ..., omit_when_empty: _Optional[bool] = ..., byte_list: _Optional[bool] = ..., inline: _Optional[bool] = ..., comment: _Optional[bool] = ..., seconds: _Optional[bool] = ..., also_seconds: _Optional[str] = ..., first_only: _Optional[bool] = ..., pairs: _Optional[bool] = ..., selected_by: _Optional[_Iterable[str]] = ..., hides_inline: _Optional[bool] = ..., unknown: _Optional[bool] = ..., default_value: _Optional[str] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("min", "max", "above", "min_items", "max_items", "max_length", "pattern")
    MIN_FIELD_NUMBER: _ClassVar[int]
    MAX_FIELD_NUMBER: _ClassVar[int]
    ABOVE_FIELD_NUMBER: _ClassVar[int]
    MIN_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_ITEMS_FIELD_NUMBER: _ClassVar[int]
    MAX_LENGTH_FIELD_NUMBER: _ClassVar[int]
    PATTERN_FIELD_NUMBER: _ClassVar[int]
    min: float
    max: float
    above: float
    min_items: int
    max_items: int
    max_length: int
    pattern: str
    def __init__(self, min: _Optional[float] = ..., max: _Optional[float] = ..., above: _Optional[float] = ..., min_items: _Optional[int] = ..., max_items: _Optional[int] = ..., max_length: _Optional[int] = ..., pattern: _Optional[str] = ...) -> None: ...
