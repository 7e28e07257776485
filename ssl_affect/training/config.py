"""From config files and command line to module, data and trainer; and what is said when that fails.

The parser comes from the signatures of the module, the data module and the callbacks, so that a misspelt key, a missing
number and an impossible value stop a run before it starts.
"""

import difflib
import inspect
import re
from argparse import ArgumentError
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, ClassVar, Self

import yaml
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI

from ssl_affect.errors import ConfigError
from ssl_affect.training.callbacks.ledger import SampleLedger
from ssl_affect.training.callbacks.losses import LossLog
from ssl_affect.training.callbacks.nonfinite import NonFiniteGuard
from ssl_affect.training.callbacks.position import DataPosition
from ssl_affect.training.callbacks.progress import ProgressLines
from ssl_affect.training.callbacks.signals import StopOnSignal
from ssl_affect.training.callbacks.throughput import Throughput
from ssl_affect.training.checkpointing import Checkpoints
from ssl_affect.training.trainer import LoggingSpec, quiet_lightning, run_trainer

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_NOISE = re.compile(
    r"\s*(Does not validate against|Subtypes:|Errors:|- Expected a <class 'NoneType'>|Given value"
    r"|Parser key \"model\":)"
)


class RunCLI(LightningCLI):
    """Parses a config and builds module, data and trainer from it; runs nothing. A program has one subclass.

    Args:
        argv: Arguments after the command.

    Attributes:
        command: What the user types, for messages.
        purpose: What it does, for ``--help``.
        base_config: The config that comes before all others.
        module_class: The module, or the base of those that ``model.class_path`` names.
        data_class: The data module.
        links: Values that exist once although two classes need them: (where it is given, where it goes).
        said: Keys without a default whose value may be null. The parser takes null where one is left out; these have to be
            said, a key of a group where the group is given.
        parts: Callbacks with keys of their own, by the name of their group.
        key_classes: Further classes whose arguments are keys of a config; for the closest name of a misspelt one.
    """

    command: ClassVar[str]
    purpose: ClassVar[str]
    base_config: ClassVar[Path]
    module_class: ClassVar[type]
    data_class: ClassVar[type]
    links: ClassVar[Sequence[tuple[str, str]]]
    said: ClassVar[Sequence[str]] = ()
    parts: ClassVar[Mapping[str, type[Callback]]] = {}
    key_classes: ClassVar[Sequence[Callable[..., Any]]] = ()

    def __init__(self, argv: list[str]) -> None:
        super().__init__(
            self.module_class,
            self.data_class,
            trainer_class=run_trainer,
            subclass_mode_model=True,
            run=False,
            args=argv,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
            save_config_callback=None,
            parser_kwargs={
                "exit_on_error": False,
                "default_config_files": [str(self.base_config)],
                "prog": f"ssl-affect {self.command}",
                "description": self.purpose,
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
        for name, callback in self.parts.items():
            parser.add_class_arguments(callback, name)
        for source, target in self.links:
            parser.link_arguments(source, target)

    def instantiate_classes(self) -> None:
        """Module, data and trainer; nothing of the pictures is decoded for a model that only hears."""
        super().instantiate_classes()
        self.datamodule.pictures = self.model.sees

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """The trainer with the callbacks of a run, in the order in which they have to act."""
        built = self.config_init
        own = built["trainer"]["callbacks"] or []
        self.signals = StopOnSignal()
        callbacks = [
            SampleLedger(),
            DataPosition(),
            LossLog(),
            built["nonfinite"],
            Throughput(),
            self.signals,  # before those that have a last thing to do when the run stops
            *(built[name] for name in self.parts),
            *(own if isinstance(own, list) else [own]),
            ProgressLines(),
            built["checkpoints"],
        ]
        values = {**built["trainer"], "callbacks": callbacks, "default_root_dir": self.run_folder, **kwargs}
        return run_trainer(**values)

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

    @classmethod
    def parse(cls, argv: list[str]) -> Self:
        """Parses and builds everything; wrong configs become one message that names the key.

        Raises:
            ConfigError: an unknown, missing or impossible key.
        """
        quiet_lightning()
        check_linked_keys(argv, cls.links)
        try:
            parsed = cls(argv)
        except ArgumentError as error:
            raise ConfigError(explain(str(error), cls.known_keys(), cls.command)) from error
        except ValueError as error:
            if "Does not validate against any of the Union subtypes" not in str(error):
                raise
            raise ConfigError(explain(str(error), cls.known_keys(), cls.command)) from error
        check_said_keys(argv, cls.said)
        return parsed

    @classmethod
    def known_keys(cls) -> set[str]:
        """The last parts of all keys of a config."""
        shared = (run_trainer, LoggingSpec, Checkpoints, NonFiniteGuard, cls.data_class)
        classes: list[Callable[..., Any]] = [*shared, *cls.parts.values(), *cls.key_classes]
        names = {name for item in classes for name in inspect.signature(item).parameters}
        groups = {"seed_everything", "trainer", "model", "data", "run", "resume", "logging", "checkpoints", "nonfinite"}
        return names | groups | set(cls.parts) | {"class_path", "init_args"}


def explain(message: str, known_keys: Iterable[str], command: str) -> str:
    """The lines of a parser error that say something, and the closest known key for an unknown one.

    jsonargparse wraps the cause in several layers of "does not validate against any of the subtypes" and appends the
    whole config.
    """
    lines = [re.sub(r"^\s*(- )?", "", line) for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    unknown = re.search(r"(?:ption '|unrecognized arguments: --)([\w.]+)", message)
    if unknown and ("accept" in message or "unrecognized" in message):
        close = difflib.get_close_matches(unknown[1].rsplit(".", 1)[-1], known_keys, n=1)
        lines.append(f"did you mean {close[0]!r}?" if close else f"`ssl-affect {command} --help` lists all keys")
    elif "required" in message:
        lines.append("a recipe has to give these; numbers from a paper have no default")
    return "config: " + "\n  ".join(lines)


def check_linked_keys(argv: list[str], links: Sequence[tuple[str, str]]) -> None:
    """Refuses config files that set a key which follows from another one; the parser would ignore it silently.

    Raises:
        ConfigError: a file sets such a key.
    """
    for path, values in _configs(argv):
        for source, target in links:
            if _has(values, target.split(".")):
                raise ConfigError(f"{path}: {target} follows from {source}; leave it out and set {source}")


def check_said_keys(argv: list[str], keys: Sequence[str]) -> None:
    """Refuses configs that leave a key out whose null has to be said; the parser would take null for it.

    Args:
        argv: Arguments after the command.
        keys: Such keys. One whose group (``data.augment`` of ``data.augment.flip``) is not given is not asked for.

    Raises:
        ConfigError: a key is in no file and not among the arguments.
    """
    files = [values for _, values in _configs(argv)]
    options = {word.split("=", 1)[0].removeprefix("--").replace(".init_args", "") for word in argv if word[:2] == "--"}
    for key in keys:
        path, short = key.split("."), key.replace(".init_args", "")
        group = short.rpartition(".")[0]
        given = any(_has(values, path) for values in files) or options & {short, group}
        asked_for = any(_has(values, path[:-1], filled=True) for values in files)
        if asked_for and not given:
            raise ConfigError(f"config: the following keys are required: {key}; it may be null, but has to be said")


def _configs(argv: list[str]) -> Iterator[tuple[Path, Any]]:
    """The config files of a command and what they say; the parser complains about those that cannot be read."""
    for path in _config_files(argv):
        try:
            values = yaml.safe_load(path.read_text(encoding="utf-8"))
        except (OSError, yaml.YAMLError, UnicodeDecodeError):
            continue
        yield path, values


def _config_files(argv: list[str]) -> list[Path]:
    following = [Path(after) for word, after in pairwise(argv) if word in ("-c", "--config")]
    return following + [Path(word.split("=", 1)[1]) for word in argv if word.startswith("--config=")]


def _has(values: Any, keys: list[str], *, filled: bool = False) -> bool:
    """Whether nested keys are there; ``filled``: and hold something."""
    if not keys:
        return values is not None or not filled
    return isinstance(values, Mapping) and keys[0] in values and _has(values[keys[0]], keys[1:], filled=filled)
