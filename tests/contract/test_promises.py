"""Promises of docs/compatibility.md that buf does not check: JSON names, HTTP paths, limits and reasons."""

import math
from typing import Any

import pytest
from google.api import annotations_pb2, field_behavior_pb2
from google.api.http_pb2 import HttpRule
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pool import Default

from inferd.options.v1 import options_pb2
from tests.contract import first_contract
from tests.contract.first_contract import options_of

FIELDS = {field.full_name: field for message in first_contract.MESSAGES.values() for field in message.fields}


def now(field: FieldDescriptor) -> FieldDescriptor:
    return Default().FindFieldByName(field.full_name)


def bindings(rule: HttpRule) -> set[tuple[str, str, str]]:
    """The HTTP method, path and body of a rule and of its additional bindings."""
    found = {(rule.WhichOneof("pattern"), getattr(rule, rule.WhichOneof("pattern") or "get"), rule.body)}
    return found.union(*(bindings(other) for other in rule.additional_bindings))


@pytest.mark.parametrize("name", first_contract.METHODS)
def test_a_method_keeps_its_paths(name):
    old, new = (
        options_of(found) for found in (first_contract.METHODS[name], Default().FindMethodByName(name))
    )
    if old.HasExtension(annotations_pb2.http):
        paths = (bindings(options.Extensions[annotations_pb2.http]) for options in (old, new))
        assert next(paths) <= next(paths)
    for extension in (
        *(options_pb2.streaming, options_pb2.success_status, options_pb2.pending, options_pb2.location),
        options_pb2.prefer_wait,
    ):
        if old.HasExtension(extension):
            assert new.Extensions[extension] == old.Extensions[extension]


@pytest.mark.parametrize("name", first_contract.MESSAGES)
def test_a_message_and_its_fields_keep_their_json(name):
    old_message = first_contract.MESSAGES[name]
    new_message = Default().FindMessageTypeByName(name)
    old, new = (options_of(each).Extensions[options_pb2.message_json] for each in (old_message, new_message))
    without_further_forms(old, new)
    assert new == old
    for field in old_message.fields:
        old_json, new_json = (options_of(each).Extensions[options_pb2.json] for each in (field, now(field)))
        without_further_forms(old_json, new_json)
        assert new_json == old_json, field.full_name


def without_further_forms(old: Any, new: Any) -> None:
    """Remove a shorthand that is new. Requests of the old form are still valid."""
    if not old.shorthand:
        new.ClearField("shorthand")


@pytest.mark.parametrize("name", first_contract.ENUMS)
def test_an_enum_keeps_its_words(name):
    new_enum = Default().FindEnumTypeByName(name)
    for value in first_contract.ENUMS[name].values:
        old, new = (options_of(each) for each in (value, new_enum.values_by_name[value.name]))
        for extension in (options_pb2.json_value, options_pb2.code, options_pb2.http_status):
            assert new.Extensions[extension] == old.Extensions[extension], value.name


def test_no_limit_is_narrower():
    for name, field in FIELDS.items():
        old, new = (options_of(each).Extensions[options_pb2.limits] for each in (field, now(field)))
        assert least(new) <= least(old), name
        assert greatest(new) >= greatest(old), name
        assert new.min_items <= old.min_items, name
        for limit in ("max_items", "max_length"):
            assert (getattr(new, limit) or math.inf) >= (getattr(old, limit) or math.inf), name
        assert new.pattern in ("", old.pattern), name


def least(limits: options_pb2.Limits) -> tuple[float, bool]:
    """The lower bound, and whether it is outside of the range."""
    if limits.HasField("above"):
        return limits.above, True
    return (limits.min if limits.HasField("min") else -math.inf), False


def greatest(limits: options_pb2.Limits) -> float:
    return limits.max if limits.HasField("max") else math.inf


def test_a_request_needs_no_further_field():
    for message in first_contract.input_messages():
        for field in Default().FindMessageTypeByName(message.full_name).fields:
            required = (
                field_behavior_pb2.REQUIRED in options_of(field).Extensions[field_behavior_pb2.field_behavior]
            )
            if required:
                old = FIELDS.get(field.full_name)
                behaviors = options_of(old).Extensions[field_behavior_pb2.field_behavior] if old else ()
                assert field_behavior_pb2.REQUIRED in behaviors, field.full_name


def test_a_response_keeps_the_fields_that_are_always_set():
    inputs = {message.full_name for message in first_contract.input_messages()}
    for name, field in FIELDS.items():
        if field.containing_type.full_name in inputs:
            continue
        old, new = (
            options_of(each).Extensions[field_behavior_pb2.field_behavior] for each in (field, now(field))
        )
        assert field_behavior_pb2.REQUIRED not in old or field_behavior_pb2.REQUIRED in new, name
