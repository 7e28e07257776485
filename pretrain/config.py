"""From config files and command line to module, data and trainer; and what is said when that fails.

The parser comes from the signatures of the module, the data module and the callbacks, so that a misspelt key, a missing
number and an impossible value stop a run before it starts.
"""

import difflib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from pytorch_lightning import Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from pretrain.audio_visual import AudioVisualPretraining
from pretrain.base import Pretraining
from pretrain.callbacks.losses import LossLog
from pretrain.callbacks.nonfinite import NonFiniteGuard
from pretrain.callbacks.pictures import ReconstructionPictures
from pretrain.callbacks.position import DataPosition
from pretrain.callbacks.progress import ProgressLines
from pretrain.callbacks.signals import StopOnSignal
from pretrain.callbacks.throughput import Throughput
from pretrain.callbacks.validation import Validation
from pretrain.checkpointing import Checkpoints
from pretrain.data import ClipDataModule
from pretrain.module import MaskedVideoPretraining
from pretrain.schedule import OptimSpec, ScheduleSpec
from pretrain.trainer import LoggingSpec, pretraining_trainer, quiet_lightning
from ssl_affect.data.audio_augment import WaveAugment
from ssl_affect.errors import ConfigError
from ssl_affect.types import AudioSpec, ClipSpec, MaskSpec

BASE_CONFIG = Path(__file__).resolve().parents[1] / "configs" / "base.yaml"

# Values that exist once although two classes need them: (where it is given, where it goes).
LINKS = (
    ("data.clip", "model.init_args.clip"),
    ("data.audio", "model.init_args.audio"),
    ("seed_everything", "model.init_args.seed"),
    ("seed_everything", "data.seed"),
)


_NOISE = re.compile(
    r"\s*(Does not validate against|Subtypes:|Errors:|- Expected a <class 'NoneType'>|Given value"
    r"|Parser key \"model\":)"
)


class PretrainCLI(LightningCLI):
    """Parses a pretraining config and builds module, data and trainer from it; runs nothing.

    Args:
        argv: Arguments after ``fit``.
    """

    def __init__(self, argv: list[str]) -> None:
        super().__init__(
            Pretraining,
            ClipDataModule,
            trainer_class=pretraining_trainer,
            subclass_mode_model=True,
            run=False,
            args=argv,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            parser_kwargs={
                "exit_on_error": False,
                "default_config_files": [str(BASE_CONFIG)],
                "prog": "ssl-affect pretrain fit",
                "description": "Pretrains a model on shards of face clips.",
            },
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The run, its callbacks, and the links."""
        parser.add_argument("--run", type=Path | None, help="Folder of the run.")
        parser.add_argument("--resume", type=str, default="auto", help="auto, none, or the path of a checkpoint.")
        parser.add_argument(
            "--allow-recipe-mismatch", action="store_true", help="Go on from a checkpoint of other data."
        )
        parser.add_class_arguments(LoggingSpec, "logging")
        parser.add_class_arguments(Checkpoints, "checkpoints")
        parser.add_class_arguments(NonFiniteGuard, "nonfinite")
        parser.add_class_arguments(Validation, "validation")
        parser.add_class_arguments(ReconstructionPictures, "pictures")
        for source, target in LINKS:
            parser.link_arguments(source, target)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks of a run, in the order in which they have to act."""
        parts = self.config_init
        own = parts["trainer"]["callbacks"] or []
        self.signals = StopOnSignal()
        callbacks = [
            DataPosition(),
            LossLog(),
            parts["nonfinite"],
            Throughput(),
            self.signals,  # before those that have a last thing to do when the run stops
            parts["validation"],
            parts["pictures"],
            *(own if isinstance(own, list) else [own]),
            ProgressLines(),
            parts["checkpoints"],
        ]
        values = {**parts["trainer"], "callbacks": callbacks, "default_root_dir": self.run_folder, **kwargs}
        return pretraining_trainer(**values)

    @property
    def run_folder(self) -> Path:
        """The folder that was asked for.

        Raises:
            ConfigError: none was.
        """
        folder = self.config["run"] or self.config["trainer"]["default_root_dir"]
        if folder is None:
            raise ConfigError("a run needs a folder of its own: say --run runs/NAME, or set run: in the config")
        return Path(folder)

    @property
    def merged_config(self) -> dict[str, Any]:
        """The config as plain values, without what follows from other keys."""
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=True, format="yaml")
        return {key: value for key, value in yaml.safe_load(text).items() if key != "config"}


def parse(argv: list[str]) -> PretrainCLI:
    """Parses and builds everything; wrong configs become one message that names the key.

    Raises:
        ConfigError: an unknown, missing or impossible key.
    """
    quiet_lightning()
    check_linked_keys(argv)
    try:
        return PretrainCLI(argv)
    except ArgumentError as error:
        raise ConfigError(explain(str(error))) from error
    except ValueError as error:
        if "Does not validate against any of the Union subtypes" not in str(error):
            raise
        raise ConfigError(explain(str(error))) from error


def explain(message: str) -> str:
    """The lines of a parser error that say something, and the closest known key for an unknown one.

    jsonargparse wraps the cause in several layers of "does not validate against any of the subtypes" and appends the
    whole config.
    """
    lines = [re.sub(r"^\s*(- )?", "", line) for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    unknown = re.search(r"(?:ption '|unrecognized arguments: --)([\w.]+)", message)
    if unknown and ("accept" in message or "unrecognized" in message):
        close = difflib.get_close_matches(unknown[1].rsplit(".", 1)[-1], _known_keys(), n=1)
        lines.append(f"did you mean {close[0]!r}?" if close else "`ssl-affect pretrain fit --help` lists all keys")
    elif "required" in message:
        lines.append("a recipe has to give these; numbers from a paper have no default")
    return "config: " + "\n  ".join(lines)


def check_linked_keys(argv: list[str]) -> None:
    """Refuses config files that set a key which follows from another one; the parser would ignore it silently.

    Raises:
        ConfigError: a file sets such a key.
    """
    for path in _config_files(argv):
        if not path.is_file():
            continue  # the parser says so
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError):
            continue  # the parser says so
        for source, target in LINKS:
            if _has(values, target.split(".")):
                raise ConfigError(f"{path}: {target} follows from {source}; leave it out and set {source}")


def _config_files(argv: list[str]) -> list[Path]:
    pairs = zip(argv, [*argv[1:], ""], strict=True)
    following = [Path(after) for word, after in pairs if word in ("-c", "--config")]
    return following + [Path(word.split("=", 1)[1]) for word in argv if word.startswith("--config=")]


def _has(values: Any, keys: list[str]) -> bool:
    return not keys or (isinstance(values, Mapping) and keys[0] in values and _has(values[keys[0]], keys[1:]))


def _known_keys() -> set[str]:
    classes = (
        pretraining_trainer, MaskedVideoPretraining, AudioVisualPretraining, ClipDataModule, OptimSpec, ScheduleSpec,
        MaskSpec, ClipSpec, AudioSpec, WaveAugment, LoggingSpec, Checkpoints, NonFiniteGuard, Validation,
        ReconstructionPictures,
    )  # fmt: skip
    groups = {"seed_everything", "trainer", "model", "data", "run", "resume", "logging", "checkpoints", "nonfinite"}
    names = {name for item in classes for name in inspect.signature(item).parameters}
    return names | groups | {"validation", "pictures", "class_path", "init_args"}
