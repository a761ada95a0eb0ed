"""The protos' options for other languages: the same in all files, and names that the languages can have."""

from google.protobuf.descriptor import FileDescriptor
from google.protobuf.descriptor_pb2 import FileOptions

from inferd.options.v1 import options_pb2
from inferd.services.app.service_descriptors import SERVICES
from inferd.v1 import error_reason_pb2

#: Options by package. The name of the outer class of Java differs from file to file.
EXPECTED = {
    "inferd.v1": {
        "csharp_namespace": "Inferd.V1",
        "go_package": "inferd.dev/inferd/v1;inferdv1",
        "java_multiple_files": True,
        "java_package": "dev.inferd.v1",
        "objc_class_prefix": "IFD",
        "php_metadata_namespace": "Inferd\\V1\\Metadata",
        "php_namespace": "Inferd\\V1",
        "ruby_package": "Inferd::V1",
    },
    "inferd.options.v1": {
        "csharp_namespace": "Inferd.Options.V1",
        "java_multiple_files": True,
        "java_package": "dev.inferd.options.v1",
        "php_namespace": "Inferd\\Options\\V1",
        "ruby_package": "Inferd::Options::V1",
    },
}
#: Words that C, C++ or their system headers define as macros, in the form that enum values have.
MACROS = {
    *("ABSOLUTE", "CONST", "DELETE", "DOMAIN", "EOF", "ERROR", "FALSE", "IGNORE", "IN", "INFINITY", "NAN"),
    *(
        "NO_ERROR",
        "NULL",
        "OPTIONAL",
        "OUT",
        "OVERFLOW",
        "PRIVATE",
        "RELATIVE",
        "STRICT",
        "TRUE",
        "UNDERFLOW",
    ),
}
#: Words that cannot be the name of a class in Java, C#, PHP, Ruby or TypeScript, whatever their case.
RESERVED = {
    *("abstract", "array", "bool", "class", "const", "date", "default", "echo", "empty", "enum", "error"),
    *("event", "exception", "float", "fn", "function", "global", "int", "interface", "iterable", "list"),
    *("map", "match", "mixed", "namespace", "null", "object", "package", "parent", "private", "promise"),
    *("protected", "public", "readonly", "self", "set", "static", "string", "switch", "symbol", "trait"),
    *("type", "union", "unset", "use", "var", "void"),
}


def files() -> list[FileDescriptor]:
    found = {file.name: file for service in SERVICES for file in [service.file]}
    found |= {file.name: file for file in (options_pb2.DESCRIPTOR, error_reason_pb2.DESCRIPTOR)}
    waiting = list(found.values())
    while waiting:
        for file in waiting.pop().dependencies:
            if file.package.startswith("inferd.") and file.name not in found:
                found[file.name] = file
                waiting.append(file)
    return list(found.values())


FILES = files()


def options(file: FileDescriptor) -> FileOptions:
    found: FileOptions = file.GetOptions()
    return found


def test_all_files_have_the_options_of_their_package():
    for file in FILES:
        for name, value in EXPECTED[file.package].items():
            assert getattr(options(file), name) == value, (file.name, name)
        assert options(file).go_package.startswith("inferd.dev/inferd/")


def test_javas_outer_classes_are_named_as_nothing_else():
    outer = [options(file).java_outer_classname for file in FILES]
    assert all(outer)
    assert len(set(outer)) == len(outer)
    names = {name for file in FILES for name in (*file.message_types_by_name, *file.enum_types_by_name)}
    assert not names & set(outer)


def test_no_class_has_a_word_of_a_language_for_its_name():
    for file in FILES:
        for name in (*file.message_types_by_name, *file.enum_types_by_name, *file.services_by_name):
            assert name.lower() not in RESERVED, name


def test_no_enum_value_is_a_macro_of_c():
    for file in FILES:
        for enum in file.enum_types_by_name.values():
            assert not MACROS & {value.name for value in enum.values}
