"""Runs a bakeoff: data, networks as drawn, runs as long as the budget allows, probes; then the report.

Every command is run as a process of its own and noted in a journal in the output folder, so that an interrupted
bakeoff goes on where it stopped: finished commands are passed over, and a run that was stopped goes on from its checkpoint.
"""

import json
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any

from ssl_affect.bakeoff.commands import (
    DRAWN,
    Cell,
    Length,
    cells,
    data_steps,
    drawn_step,
    length_of,
    probe_steps,
    trained_step,
)
from ssl_affect.bakeoff.config import Bakeoff, Probe, Study
from ssl_affect.errors import ConfigError
from ssl_affect.journal import Journal, Step

RUN_FACTS = "run.json"


def journal_of(config: Path, out: Path) -> Journal:
    """What is done of a config in an output folder, which other configs may share: a file named after the config.

    Raises:
        ConfigError: the file is damaged.
    """
    return Journal(out / f"{config.stem}.journal.json")


def run(bakeoff: Bakeoff, out: Path, journal: Journal, workers: int, only: tuple[str, ...] = ()) -> None:
    """Runs all studies, or some.

    Args:
        bakeoff: What is to be run.
        out: Output folder.
        journal: What is done, from :func:`journal_of`.
        workers: Processes that draw and build data.
        only: Names of studies; none runs all.

    Raises:
        ConfigError: a name of ``only`` is no study, or a budget is too small.
        SslAffectError: a command failed.
    """
    if unknown := sorted(set(only) - set(bakeoff.studies)):
        raise ConfigError(f"--only {' '.join(unknown)}: no such study; choose from {', '.join(bakeoff.studies)}")
    number = 0
    for name, study in bakeoff.studies.items():
        if not only or name in only:
            for step in steps_of(name, study, out, workers):
                number += 1
                journal.do(step, f"[command {number}]")


def steps_of(name: str, study: Study, out: Path, workers: int) -> Iterator[Step]:
    """All commands of a study in order; each has to be done before the next one is asked for.

    Data first, then every network as drawn, so that a budget that is too small is found early, then the runs and probes.

    Raises:
        ConfigError: a network was not drawn, or the budget is too small.
    """
    yield from data_steps(name, study, out, workers)
    contestants = list(cells(name, study, out))
    trained = [cell for cell in contestants if cell.is_trained]
    for cell in trained:
        yield drawn_step(cell, study, workers)
        length_of_cell(cell, study)
    for cell in contestants:
        yield from _probes(cell, study, workers, at_start=True)
    for cell in trained:
        yield trained_step(cell, study, length_of_cell(cell, study), workers)
        yield from _probes(cell, study, workers, at_start=False)


def _probes(cell: Cell, study: Study, workers: int, *, at_start: bool) -> Iterator[Step]:
    """The probes of a cell before it is trained, or after."""
    for probe, share in probes_of(cell, study):
        if at_start == (share is None or share == DRAWN):
            length = None if share is None else length_of_cell(cell, study)
            model = str(cell.method.features) if share is None else read_facts(cell.drawn)["model"]["model"]
            yield from probe_steps(cell, study, probe, share, length, model, workers)


def probes_of(cell: Cell, study: Study) -> Iterator[tuple[Probe, Fraction | None]]:
    """What a cell is probed by, and at which shares of the budget; hand-made features once, with the share None."""
    for probe in study.probes:
        if probe.methods is None or cell.method.name in probe.methods:
            shares: tuple[Fraction | None, ...] = study.shares_of(probe) if cell.is_trained else (None,)
            yield from ((probe, share) for share in shares)


def length_of_cell(cell: Cell, study: Study) -> Length:
    """How long its run may be, by the FLOPs of the model that its recipe made.

    Raises:
        ConfigError: the network was not drawn, or the budget is too small.
    """
    facts = read_facts(cell.drawn)
    about = facts["model"]
    # A model of one modality has no mask of the other, whose share then says nothing.
    ratios = tuple(about[name]["ratio"] if about[name] else 0.5 for name in ("mask", "audio_mask") if name in about)
    arch = json.dumps(about["arch"], sort_keys=True)
    return length_of(study, _multiply_adds(about["model"], arch, ratios), facts["global_batch"], f"{cell.method.name}")


def read_facts(run: Path) -> dict[str, Any]:
    """What ``run.json`` of a run says.

    Raises:
        ConfigError: there is none.
    """
    path = run / RUN_FACTS
    if not path.is_file():
        raise ConfigError(f"{run}: no {RUN_FACTS}, so nothing was run there; the same bakeoff command makes it")
    facts: dict[str, Any] = json.loads(path.read_bytes())
    return facts


@lru_cache(maxsize=64)
def _multiply_adds(model: str, arch: str, ratios: tuple[float, ...]) -> int:
    """Of the forward pass of one clip in pretraining."""
    from ssl_affect.flops import model_cost  # imports torch

    return model_cost(model, task="pretrain", mask_ratio=ratios, **json.loads(arch)).flops
