"""The error of a call that must refuse its argument."""

from typing import Any

import grpc
import pytest

from inferd.services.errors import ServiceError


def fault(call: Any, *args: Any, **kwargs: Any) -> ServiceError:
    """Call `call`, and return the INVALID_ARGUMENT error that it must raise."""
    with pytest.raises(ServiceError) as caught:
        call(*args, **kwargs)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    return caught.value
