import resource
import sys

import pytest
import torch

from ssl_affect.allocator import keep_freed_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page faults of glibc are counted")
def test_freed_memory_is_used_again():
    def faults() -> int:
        """Pages that twenty tensors of 64 MiB, one after the other, touch for the first time."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(2**24)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    if not keep_freed_memory(False):
        pytest.skip("this C library is not glibc")
    given_back = faults()
    try:
        assert keep_freed_memory()
        faults()
        kept = faults()
    finally:
        keep_freed_memory(False)
    assert given_back > 20 * 2**26 / 2**21 / 2  # at least half of the pages, were they huge ones
    assert kept < given_back / 5
