import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from local_cluster import LocalCluster, missing


@pytest.fixture(scope="session")
def cluster() -> Iterator[LocalCluster]:
    """Two virtual nodes under a real Slurm; started once, stopped at the end."""
    if missing():
        pytest.skip(f"Slurm is not installed ({', '.join(missing())} not found); `make test-slurm` installs it")
    with tempfile.TemporaryDirectory(prefix="slurm-") as name, LocalCluster(Path(name) / "c") as found:
        os.environ["OMP_NUM_THREADS"] = "1"
        yield found
