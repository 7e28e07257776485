from pathlib import Path

import pytest
from finetune_runs import RANDOM, finetune, labelled_shards, recipe


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seventeen labelled clips: 8 to train on, 4 to validate and 5 to test."""
    return labelled_shards(tmp_path_factory.mktemp("labelled") / "shards")


@pytest.fixture(scope="session")
def straight(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """A run of six steps without an interruption, with all that is random in a recipe; tests leave it as it is."""
    run = tmp_path_factory.mktemp("straight") / "run"
    assert finetune(run, recipe(shards, **RANDOM)) == 0
    return run
