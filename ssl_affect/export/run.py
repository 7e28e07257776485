"""From a run to a released folder: safetensors, a config, a self-test and a card."""

from pathlib import Path

from ssl_affect.backbones.release import write_release
from ssl_affect.checkpoint import Weights, WeightsConfig, load_strict, load_weights
from ssl_affect.errors import CheckpointError
from ssl_affect.models import create_model, create_pretraining_model


def export(source: Path, out: Path, *, force: bool = False) -> WeightsConfig:
    """Writes the weights of a run as a released folder.

    Args:
        source: A ``.ckpt`` file of our trainer, or the folder of a run, of which ``last.ckpt`` is taken.
        out: The new folder.
        force: Replace an older exported folder.

    Returns:
        The written config.

    Raises:
        CheckpointError: no checkpoint is found, it is damaged or does not fit its model, or ``out`` is in the way.
    """
    weights = load_weights(find_checkpoint(source))
    _check_complete(weights, source)
    return write_release(out, weights, force=force)


def find_checkpoint(source: Path) -> Path:
    """The ``.ckpt`` file that ``source`` names, or the ``last.ckpt`` inside a run's folder.

    Raises:
        CheckpointError: there is none, or several folders have one.
    """
    source = Path(source)
    if source.is_file():
        return source
    if not source.is_dir():
        raise CheckpointError(f"{source}: no such file or folder; give the folder of a run or a .ckpt file")
    found = sorted(source.rglob("last.ckpt"))
    if len(found) == 1:
        return found[0]
    others = [str(path.relative_to(source)) for path in (found or sorted(source.rglob("*.ckpt")))]
    raise CheckpointError(
        f"{source}: {len(found)} files called last.ckpt, one is needed; name one of these files instead:"
        f" {', '.join(others[:8]) or 'there is no .ckpt at all'}"
    )


def _check_complete(weights: Weights, source: Path) -> None:
    """Builds the model and loads it, so that what is written can be read again."""
    config = weights.config
    if config.task == "pretrain":
        model = create_pretraining_model(config.name, **config.arch)
    else:
        model = create_model(config.name, num_classes=config.num_classes, **config.arch)
    load_strict(model, weights.network, source)
