"""The REST bridge: serves RPCs over HTTP and JSON, as the protos' HTTP rules and options say.

Knows no model, and no service, method or field by name.
"""
