"""Sockets, time, addresses, ids and descriptors: small modules that any other package may use.

This package knows nothing of models, prompts, jobs or the contract, and imports nothing else of inferd. The
package `http2` inside has a face of its own.
"""

#: What other packages may import, by module.
FACE = {
    "batched_writes": ("BatchedTransport", "batched_transport", "write_batch_of"),
    "checked_request": ("checked_request", "describe_failure"),
    "declared_oneofs": ("declared_oneofs",),
    "flow": ("Flow",),
    "message_writer": ("MessageWriter", "Metadata"),
    "public_address": ("AddressNotAllowed", "check_url", "parse_url"),
    "random_id": ("random_id",),
    "request_id": ("REQUEST_ID", "request_id_of"),
    "text_sink": ("TextSink",),
    "timeouts": ("SharedTimeout",),
    "wait": ("wait_for_event",),
    "webhook_signature": ("parse_secret", "signature_headers"),
}
