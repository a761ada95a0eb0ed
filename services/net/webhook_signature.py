"""Signs webhooks by Standard Webhooks v1, HMAC-SHA256 (https://www.standardwebhooks.com).

This module does not verify signatures: the receiver of a webhook does, with the same secret.
"""

import base64
import binascii
import hashlib
import hmac

_PREFIX = "whsec_"


def parse_secret(text: str) -> bytes:
    """The key in a secret such as "whsec_MfKQ9r8G…".

    Raises ValueError, whose message does not contain the secret.
    """
    if text.startswith(_PREFIX):
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if 24 <= len(key) <= 64:
            return key
    raise ValueError(f'must be "{_PREFIX}" and the base64 of 24 to 64 bytes')


def signature_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that identify and sign a webhook's body.

    `timestamp` is the time of this attempt, in Unix seconds. Retries have the same `message_id`.
    """
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
