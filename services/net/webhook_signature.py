"""How a webhook is signed: Standard Webhooks v1, HMAC-SHA256 (https://www.standardwebhooks.com).

Only signs: who receives the webhook verifies, with the same secret.
"""

import base64
import binascii
import hashlib
import hmac

_PREFIX = "whsec_"


def parse_secret(text: str) -> bytes:
    """The key of a secret such as "whsec_MfKQ9r8G…". Raises ValueError, which does not repeat the secret."""
    if text.startswith(_PREFIX):
        try:
            key = base64.b64decode(text.removeprefix(_PREFIX), validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if 24 <= len(key) <= 64:
            return key
    raise ValueError(f'must be "{_PREFIX}" and the base64 of 24 to 64 bytes')


def signature_headers(secret: bytes, message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers that identify and sign a body. `timestamp` is that of the try, in Unix seconds."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    digest = hmac.new(secret, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
