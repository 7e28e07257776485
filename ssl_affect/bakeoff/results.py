"""Everything that a bakeoff found, as plain data: a JSON file from which alone the report and the page are made."""

import json
import time
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ssl_affect.bakeoff.commands import Cell, cells, tested_folder
from ssl_affect.bakeoff.config import Bakeoff, Probe, Study, read_bakeoff
from ssl_affect.bakeoff.judge import figures_of, judge_place, paired_tests, read_figure, read_tests
from ssl_affect.bakeoff.run import journal_of, length_of_cell, probes_of, read_facts, steps_of
from ssl_affect.bakeoff.signs import read_signs
from ssl_affect.data.schema import MANIFEST_NAME
from ssl_affect.errors import ConfigError
from ssl_affect.evaluation import Bootstrap
from ssl_affect.evaluation.results import without_nan
from ssl_affect.files import sha256_file
from ssl_affect.journal import Journal
from ssl_affect.training.metrics import METRICS_NAME, read_metrics

SCHEMA = 1


def collect(config: Path, out: Path, workers: int) -> dict[str, Any]:
    """Reads what the commands of a bakeoff wrote.

    Args:
        config: The config that was run.
        out: Its output folder.
        workers: As in the run; it stands in the commands.

    Returns:
        JSON-ready values. A study that is not finished is left out and named under "not_run".

    Raises:
        ConfigError: no study is finished.
        SslAffectError: a file of a finished study is damaged.
    """
    bakeoff, journal = read_bakeoff(config), journal_of(config, out)
    studies, not_run = {}, []
    for name, study in bakeoff.studies.items():
        if _is_finished(name, study, out, workers, journal):
            studies[name] = _study(name, study, out, workers, journal)
        else:
            not_run.append(name)
    if not studies:
        raise ConfigError(
            f"{out}: none of the studies {not_run} is finished; run `ssl-affect bakeoff --config {config} --out {out}`"
        )
    finished = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(journal.path.stat().st_mtime))
    found: dict[str, Any] = without_nan(
        {
            "schema": SCHEMA,
            "title": bakeoff.title,
            "about": bakeoff.about,
            "finished": finished,
            "config": {"name": config.name, "sha256": sha256_file(config)},
            "bootstrap": {"resamples": Bootstrap().resamples, "confidence": Bootstrap().confidence},
            **_machine(bakeoff, studies, out),
            "studies": studies,
            "not_run": not_run,
        }
    )
    return found


def _is_finished(name: str, study: Study, out: Path, workers: int, journal: Journal) -> bool:
    for step in steps_of(name, study, out, workers):
        if not journal.is_done(step):
            return False
    return True


def _study(name: str, study: Study, out: Path, workers: int, journal: Journal) -> dict[str, Any]:
    contestants = list(cells(name, study, out))
    commands = [
        {"title": step.title, "command": step.typed, "seconds": journal.seconds[step.key]}
        for step in steps_of(name, study, out, workers)
    ]
    figures: list[dict[str, Any]] = []
    tests: list[dict[str, Any]] = []
    trivial: list[dict[str, Any]] = []
    signs: list[dict[str, Any]] = []
    for probe in study.probes:
        asked = _asked(contestants, study, probe)
        if probe.tested is not None:
            found = _tested(study, probe, asked, workers)
            for whole, part in zip((figures, tests, trivial, signs), found, strict=True):
                whole.extend(part)
        for figure in probe.figures:
            for (method, share), of_place in asked.items():
                values = read_figure(probe, figure, of_place, share, workers)
                figures.append(_named(probe, figure, method, share, study) | values)
    return {
        "title": study.title,
        "about": study.about,
        "synthetic": study.synthetic,
        "budget": study.budget,
        "fractions": [str(share) for share in study.shares],
        "seeds": list(study.seeds),
        "folds": list(study.folds),
        "seconds": sum(command["seconds"] for command in commands),
        "data": _data(out / name / "data"),
        "probes": {probe.name: probe.title for probe in study.probes},
        "methods": {method.name: _method(method.name, study, contestants) for method in study.methods},
        "figures": figures,
        "trivial": trivial,
        "tests": tests,
        "signs": signs,
        "commands": commands,
    }


def _asked(contestants: list[Cell], study: Study, probe: Probe) -> dict[tuple[str, Fraction | None], list[Cell]]:
    """Method and share -> the cells of all seeds and folds that the probe was asked of there."""
    asked: dict[tuple[str, Fraction | None], list[Cell]] = {}
    for cell in contestants:
        for other, share in probes_of(cell, study):
            if other is probe:
                asked.setdefault((cell.method.name, share), []).append(cell)
    return asked


def _tested(
    study: Study, probe: Probe, asked: Mapping[tuple[str, Fraction | None], list[Cell]], workers: int
) -> tuple[list[dict[str, Any]], ...]:
    """Figures, tests, trivial figures and signs of a probe with predictions."""
    bootstrap = Bootstrap()
    figures, tests, trivial, signs = [], [], [], []
    places: dict[str, dict[Any, Any]] = {}
    for (method, share), of_place in tqdm(asked.items(), desc=f"reading {probe.name}", unit="place"):
        found = read_tests(probe, of_place, share, workers)
        for task, judged in judge_place(found).items():
            places.setdefault(task, {})[method, share] = judged
            values, constants = figures_of(judged, bootstrap)
            if len(places[task]) == 1:
                trivial += [
                    {"probe": probe.name, "figure": task, "name": name, "metric": judged.primary, "value": value}
                    for name, value in constants.items()
                ]
            figures.append(_named(probe, task, method, share, study) | values)
        for cell, of_task in found.items():
            folder = tested_folder(cell, probe, share, workers)
            most = max(of_task.values(), key=len)
            looked = None if folder is None else read_signs(folder, most)
            if looked is not None:
                where = {"seed": cell.seed, "fold": cell.fold}
                signs.append(_named(probe, "signs", method, share, study) | where | looked)
    for task, judged_places in places.items():
        tests += [{"probe": probe.name, "figure": task, **row} for row in paired_tests(judged_places, bootstrap)]
    return figures, tests, trivial, signs


def _named(probe: Probe, figure: str, method: str, share: Fraction | None, study: Study) -> dict[str, Any]:
    return {
        "probe": probe.name,
        "figure": figure,
        "method": method,
        "share": None if share is None else str(share),
        "flops": 0.0 if share is None else float(share) * study.budget,
    }


def _method(name: str, study: Study, contestants: list[Cell]) -> dict[str, Any]:
    """What a method is and what its runs cost."""
    own = [cell for cell in contestants if cell.method.name == name]
    method = own[0].method
    if not own[0].is_trained:
        return {"trained": False, "model": method.features, "note": method.note}
    facts, length = read_facts(own[0].drawn), length_of_cell(own[0], study)
    return {
        "trained": True,
        "model": facts["model"]["model"],
        "note": method.note,
        "parameters": facts["parameters"],
        "multiply_adds": length.multiply_adds,
        "batch": length.batch,
        "steps": length.steps,
        "flops": length.steps * length.step_flops,
        "runs": [_cost(cell) for cell in own],
    }


def _cost(cell: Cell) -> dict[str, Any]:
    """Measured time, memory and loss of a run."""
    facts = read_facts(cell.trained)
    rows = read_metrics(cell.trained / METRICS_NAME)

    def last(name: str) -> float | None:
        values = [row[name] for row in rows if name in row]
        return values[-1] if values else None

    peaks = [row["memory/peak_gib"] for row in rows if "memory/peak_gib" in row]
    waits = [row["speed/data_wait_share"] for row in rows if "speed/data_wait_share" in row]
    return {
        "seed": cell.seed,
        "fold": cell.fold,
        "seconds": facts["seconds"],
        "peak_gib": max(peaks) if peaks else None,
        "data_wait_share": sum(waits) / len(waits) if waits else None,
        "loss": last("train/loss"),
        "constant_loss": last("train/constant"),
    }


def _data(folder: Path) -> dict[str, Any]:
    """The shard sets that the study made, by name."""
    found = {}
    for path in sorted(folder.glob(f"*/{MANIFEST_NAME}")):
        manifest = json.loads(path.read_bytes())
        found[path.parent.name] = {
            "clips": manifest["num_samples"],
            "seconds": manifest["seconds"],
            "megabytes": sum(shard["num_bytes"] for shard in manifest["shards"]) / 1e6,
            "fingerprint": manifest["fingerprint"],
            "quarantined": manifest["num_quarantined"],
        }
    return found


def _machine(bakeoff: Bakeoff, studies: Mapping[str, Any], out: Path) -> dict[str, Any]:
    """Versions and hardware as the runs noted them; all kinds where they differ."""
    software: list[Any] = []
    hardware: list[Any] = []
    for name in studies:
        for cell in cells(name, bakeoff.studies[name], out):
            if cell.is_trained:
                facts = read_facts(cell.trained)
                for kinds, one in ((software, facts["software"]), (hardware, facts["hardware"])):
                    if one not in kinds:
                        kinds.append(one)
    return {"software": software, "hardware": hardware}
