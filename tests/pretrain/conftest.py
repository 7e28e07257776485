from pathlib import Path

import pytest
from shard_fixture import make_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve clips of moving squares, 32 x 32 pixels."""
    return make_shards(tmp_path_factory.mktemp("shards") / "train")


@pytest.fixture(scope="session")
def held_out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seven other clips of the same recipe."""
    return make_shards(tmp_path_factory.mktemp("shards") / "val", shard_sizes=(4, 3), seed=1)
