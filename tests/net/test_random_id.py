"""Random ids have one form, and differ in every process."""

import multiprocessing
import os
import re

import pytest

from inferd.services.net.random_id import random_id


def _some(count: int) -> list[str]:
    return [random_id() for _ in range(count)]


def test_no_two_are_the_same():
    ids = _some(10_000)
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


# Python 3.12 and newer warn because grpc's threads run. The child takes none of their locks.
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_not_even_in_a_process_that_was_forked():
    random_id()
    read, write = os.pipe()
    child = multiprocessing.get_context("fork").Process(
        target=lambda: os.write(write, " ".join(_some(50)).encode())
    )
    child.start()
    child.join()
    theirs = os.read(read, 65536).decode().split()
    os.close(read)
    os.close(write)
    assert len(theirs) == 50
    assert not set(theirs) & set(_some(1000))
