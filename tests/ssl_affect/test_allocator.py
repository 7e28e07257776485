import json
import subprocess
import sys

import pytest

# In a process of its own: in one that has run other tests the heap has holes of its own.
COUNT = """
import json, resource, torch
from ssl_affect.allocator import keep_freed_memory

def faults():
    '''Pages that twenty tensors of 64 MiB, one after the other, touch for the first time.'''
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

possible = keep_freed_memory(False)
given_back = faults()
keep_freed_memory()
faults()
print(json.dumps([possible, given_back, faults()]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the page faults of glibc are counted")
def test_freed_memory_is_used_again():
    done = subprocess.run([sys.executable, "-c", COUNT], capture_output=True, text=True, check=True)
    possible, given_back, kept = json.loads(done.stdout)
    if not possible:
        pytest.skip("this C library is not glibc")
    assert given_back > 20 * 2**26 / 2**21 / 2  # at least half of the pages, were they huge ones
    assert kept < given_back / 5
