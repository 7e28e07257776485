"""A run on frozen features: features once, a probe per task, the test, and the report."""

import logging
import time

import torch
import yaml

from finetune.checks import check_labels
from finetune.config import FinetuneCLI
from finetune.frozen import fit_frozen
from finetune.prediction import checked_predictions
from finetune.report import write_report
from finetune.testing import FOLDER as TEST
from finetune.testing import result_notes, write_test
from ssl_affect.errors import ConfigError
from ssl_affect.training.fit import LOG_NAME, introduce, log_to
from ssl_affect.training.run import RunFolder

logger = logging.getLogger(__name__)

FEATURES = "features"


def fit_frozen_run(cli: FinetuneCLI) -> int:
    """Fits the probes, tests them, and writes all results; features that are in the cache are not computed again.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: more than one device is asked for.
    """
    module, config = cli.model, cli.merged_config
    if cli.trainer.world_size > 1:
        raise ConfigError(
            f"tuning.mode={module.tuning.mode} runs on one device, got {cli.trainer.world_size}; say --trainer.devices=1"
        )
    folder = RunFolder(cli.run_folder)
    folder.check_config(config)
    folder.begin(yaml.safe_dump(config, sort_keys=False))
    since, state, problem = time.perf_counter(), "failed", None
    try:
        with log_to(folder.path / LOG_NAME):
            introduce(cli, folder, [f"{module.tuning.mode} probes on frozen features; seed {module.seed}"])
            try:
                _fit_and_test(cli, folder)
                state = "finished"
            except BaseException as error:
                problem = f"{type(error).__name__}: {error}"
                raise
            finally:
                folder.update_facts(state=state, seconds=time.perf_counter() - since, error=problem)
                logger.info("%s; see %s", state, write_report(folder.path))
    finally:
        folder.end()
    return 0


def _fit_and_test(cli: FinetuneCLI, folder: RunFolder) -> None:
    module, data, mode = cli.model, cli.datamodule, cli.model.tuning.mode
    check_labels(module.tasks, data)
    backbone = module.model
    backbone.reset_classifier(0)
    device = cli.trainer.strategy.root_device
    result = fit_frozen(
        data,
        backbone,
        module.tasks,
        mode=mode,
        cache=module.tuning.cache_folder or folder.path / FEATURES,
        precision=str(cli.trainer.precision),
        device=device,
        seed=module.seed,
    )
    folder.update_facts(probes={name: {**chosen, "mode": mode} for name, chosen in result.chosen.items()})
    part = result.parts["test"]
    found = {}
    for task in module.tasks:
        samples = part.samples.tolist()
        labels = task.exact([data.labels(sample) for sample in samples], part.keys)
        found[task.name] = checked_predictions(task, data, samples, labels, part.scores[task.name])
    rule = "validation" if data.has_validation else "last"
    notes = result_notes(data, module.notes, data.undecodable)
    facts = {
        "model": module.model.spec.name,
        "tuning": mode,
        "run": str(folder.path),
        "data": data.fingerprint,
        "start": str(module.pretrained),
    }
    embeddings = None if part.features is None else dict(zip(part.keys, part.features, strict=True))
    write_test(
        folder.path / TEST,
        {rule: found},
        dataset=data.parts.protocol,
        facts=facts,
        notes=notes,
        embeddings=embeddings,
    )
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
