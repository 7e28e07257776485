"""What a bakeoff is, as YAML: studies, the methods of each, its budget, and the probes that judge them.

A study's commands are data: how the shards are made, which config trains a method and which command probes it stand in the
file; the dataclasses below describe every key. A misspelt key, a missing number, an unknown placeholder or a config that is
not there stops the command before anything is run.

Placeholders in commands and paths::

    {out} {study} {data}         output folder of the bakeoff; name of the study; {out}/{study}/data
    {configs}                    the folder configs/ of the checkout
    {workers}                    --workers of the command
    {method} {seed} {fold}       which method, seed and fold it is about
    {run}                        a folder for this probe alone
    {checkpoint}                 the checkpoint that is probed (methods that are trained)
    {backbone}                   by itself: the arguments that name the model and its checkpoint
    {probe_arguments}            by itself: the method's probe_arguments
"""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from math import lcm
from pathlib import Path
from typing import Any

import yaml

from ssl_affect.errors import ConfigError, ProtocolError
from ssl_affect.protocols.strict import read_dataclass

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
MOST_CHECKPOINTS = 64
_NAME = re.compile(r"[A-Za-z0-9_-]{1,60}")
_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_OF_STUDY = frozenset({"out", "study", "data", "configs", "workers"})
_OF_CELL = _OF_STUDY | {"method", "seed", "fold"}
_OF_PROBE = _OF_CELL | {"run", "checkpoint", "backbone", "probe_arguments"}


@dataclass(frozen=True, slots=True, kw_only=True)
class DataStep:
    """One command that makes data.

    Args:
        title: What it does.
        command: Arguments of ``ssl-affect``.
        product: A file that is there when it is done.
    """

    title: str
    command: tuple[str, ...]
    product: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One contestant: trained by a pretraining config, or features that nobody trains.

    Args:
        name: Of the method in tables and folders.
        config: Config files of ``ssl-affect pretrain fit``, in order.
        arguments: Further arguments of it, after those of the study.
        features: Model of hand-made features (``ssl-affect models list --hand-made``) instead of a config.
        probe_arguments: Arguments that its probes need besides, such as the sound of methods that hear.
        note: What a reader has to know about it, printed below the tables.
    """

    name: str
    config: tuple[str, ...] = ()
    arguments: tuple[str, ...] = ()
    features: str | None = None
    probe_arguments: tuple[str, ...] = ()
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonFigure:
    """A number that a probe's command writes into a JSON file.

    Args:
        file: The file.
        key: Where it stands in it, names and list places joined by dots: ``retrieval.recall_at_1``.
        low: Where the lower end of its interval stands, if the file has one.
        high: Where the upper end stands.
        chance: Where the figure of guessing stands, if the file has one.
    """

    file: str
    key: str
    low: str | None = None
    high: str | None = None
    chance: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """How a checkpoint is judged.

    Args:
        name: Of the probe in tables and folders.
        title: In words.
        commands: Commands that are run for every checkpoint, in order.
        tested: Folder with ``test.json``, which ``ssl-affect finetune fit`` writes to ``RUN/test`` and ``finetune join`` to
            its ``--out``: every task is evaluated, with intervals over people and paired tests.
        figures: Numbers that the commands write as JSON, by the name they get in tables.
        fractions: Shares of the budget at which it is asked; those of the study unless given.
        methods: Methods that it is asked of; all unless given.
    """

    name: str
    title: str
    commands: tuple[tuple[str, ...], ...]
    tested: str | None = None
    figures: dict[str, JsonFigure] = field(default_factory=dict)
    fractions: tuple[Any, ...] | None = None
    methods: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """Several methods, the same shards, the same compute.

    Args:
        title: In words.
        about: What the data are and what is asked, in a few sentences.
        synthetic: Whether the data are drawn; every table then says "synthetic".
        budget: Training FLOPs of every method, two per multiply-add, the backward pass counted as two forward passes.
        warmup: Share of the steps in which the learning rate rises.
        fractions: Shares of the budget at which methods are probed, ``"1/8"`` or 0.125; 0 is the network as it was drawn.
        seeds: Run seeds; figures are pooled over them.
        folds: Values of ``{fold}``; each is trained and probed by itself, predictions are put together.
        data: Commands that make the data.
        pretraining: Arguments of ``ssl-affect pretrain fit`` that all methods share.
        methods: The contestants.
        probes: How they are judged.
    """

    title: str
    about: str
    synthetic: bool
    budget: float
    warmup: float
    fractions: tuple[Any, ...]
    seeds: tuple[int, ...]
    methods: tuple[Method, ...]
    probes: tuple[Probe, ...]
    folds: tuple[int, ...] = ()
    data: tuple[DataStep, ...] = ()
    pretraining: tuple[str, ...] = ()

    @property
    def shares(self) -> tuple[Fraction, ...]:
        """The fractions, ascending."""
        return tuple(sorted({as_fraction(value) for value in self.fractions}))

    def shares_of(self, probe: Probe) -> tuple[Fraction, ...]:
        """The fractions at which a probe is asked, ascending."""
        if probe.fractions is None:
            return self.shares
        return tuple(sorted({as_fraction(value) for value in probe.fractions}))

    @property
    def unit(self) -> int:
        """The smallest number of equal parts of the budget such that every fraction is a whole number of them."""
        return lcm(*(share.denominator for share in self.shares))


@dataclass(frozen=True, slots=True, kw_only=True)
class Bakeoff:
    """A file of studies.

    Args:
        title: Of the report.
        about: What is asked, in a few sentences.
        studies: By name.
    """

    title: str
    about: str
    studies: dict[str, Study]


def as_fraction(value: Any) -> Fraction:
    """``"1/8"``, ``0.125`` or ``1`` as an exact fraction.

    Raises:
        ConfigError: it is none, or does not lie in [0, 1].
    """
    try:
        share = Fraction(str(value))
    except (ValueError, ZeroDivisionError) as error:
        raise ConfigError(f'fractions: {value!r} is no share of the budget; write 0, "1/8", 0.25 or 1') from error
    if not 0 <= share <= 1:
        raise ConfigError(f"fractions: {value!r} must lie between 0 (as drawn) and 1 (the whole budget)")
    return share


def read_bakeoff(path: Path) -> Bakeoff:
    """Reads and checks a file.

    Raises:
        ConfigError: the file is missing, is no YAML, or a key or value is not possible; the message names the place.
    """
    try:
        values = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}; give one of {_known()} or a file of your own") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: no YAML ({error}); mend the line it names") from error
    try:
        bakeoff = read_dataclass(Bakeoff, values, str(path))
    except ProtocolError as error:
        raise ConfigError(str(error)) from error
    if not bakeoff.studies:
        raise ConfigError(f"{path}: studies is empty; give at least one")
    for name, study in bakeoff.studies.items():
        where = f"{path}: studies.{name}"
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: a name is made of letters, digits, '_' and '-', at most 60; it names a folder")
        _check_numbers(study, where)
        _check_methods(study, where)
        _check_probes(study, where)
        for step in study.data:
            _check_words((*step.command, step.product), _OF_STUDY, f"{where}.data {step.title!r}")
        _check_words(study.pretraining, _OF_CELL, f"{where}.pretraining")
    return bakeoff


def _check_numbers(study: Study, where: str) -> None:
    if not study.budget > 0:
        raise ConfigError(f"{where}: budget={study.budget:g} FLOPs; it must be above 0, for example 2.0e+14")
    if not 0 < study.warmup < 1:
        raise ConfigError(f"{where}: warmup={study.warmup:g}; a share of the steps between 0 and 1, 0.05 is usual")
    if not study.seeds or min(study.seeds) < 0 or len(set(study.seeds)) < len(study.seeds):
        raise ConfigError(f"{where}: seeds={list(study.seeds)}; give one or more different numbers from 0 on")
    if len(set(study.folds)) < len(study.folds):
        raise ConfigError(f"{where}: folds={list(study.folds)} names a fold twice; every fold once")
    if not study.shares or study.shares[-1] != 1:
        raise ConfigError(f"{where}: fractions={list(study.fractions)}; the last one must be 1, the whole budget")
    if study.unit > MOST_CHECKPOINTS:
        raise ConfigError(
            f"{where}: fractions={list(study.fractions)} need {study.unit} equal parts of the run, at most"
            f" {MOST_CHECKPOINTS} are possible; use simpler ones such as 1/8, 1/4 and 1/2"
        )


def _check_methods(study: Study, where: str) -> None:
    _check_names([method.name for method in study.methods], f"{where}.methods")
    for method in study.methods:
        here = f"{where}.methods {method.name!r}"
        if bool(method.config) == (method.features is not None):
            raise ConfigError(
                f"{here}: config={list(method.config)} and features={method.features!r}; give config for a method that is"
                " trained, or features for hand-made ones, not both"
            )
        if method.features is not None and method.arguments:
            raise ConfigError(
                f"{here}: arguments are for training, which hand-made features do not need; leave them out"
            )
        for config in method.config:
            _check_words((config,), {"configs"}, here)
            path = Path(config.replace("{configs}", str(CONFIGS)))
            if not path.is_file():
                raise ConfigError(f"{here}: {path} is not there; write {{configs}}/pretrain/NAME.yaml or another path")
        _check_words((*method.arguments, *method.probe_arguments), _OF_CELL, here)


def _check_probes(study: Study, where: str) -> None:
    _check_names([probe.name for probe in study.probes], f"{where}.probes")
    names = {method.name for method in study.methods}
    for probe in study.probes:
        here = f"{where}.probes {probe.name!r}"
        if not probe.commands or not all(probe.commands):
            raise ConfigError(f"{here}: commands is empty; give at least one list of arguments of ssl-affect")
        if probe.tested is None and not probe.figures:
            raise ConfigError(
                f"{here}: neither tested nor figures, so nothing would be read; give the folder of a finetune run, or"
                " names with file and key"
            )
        if unknown := sorted(set(probe.methods or ()) - names):
            raise ConfigError(f"{here}: methods {unknown} are none of this study; choose from {sorted(names)}")
        if extra := sorted(set(study.shares_of(probe)) - set(study.shares)):
            raise ConfigError(
                f"{here}: fractions {[str(share) for share in extra]} are none of the study's; add them there too"
            )
        words = [word for command in probe.commands for word in command]
        files = [figure.file for figure in probe.figures.values()]
        _check_words((*words, *files, probe.tested or ""), _OF_PROBE, here)


def _check_names(names: list[str], where: str) -> None:
    if not names:
        raise ConfigError(f"{where} is empty; give at least one")
    for name in names:
        if not _NAME.fullmatch(name):
            raise ConfigError(f"{where}: the name {name!r} is not possible; letters, digits, '_' and '-', at most 60")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"{where}: {twice} stand there twice; every name once")


def _check_words(words: tuple[str, ...], known: frozenset[str] | set[str], where: str) -> None:
    """Refuses placeholders that mean nothing here."""
    for word in words:
        for name in _PLACEHOLDER.findall(word):
            if name not in known:
                raise ConfigError(f"{where}: {word!r} has the placeholder {{{name}}}; here are {sorted(known)}")
            if name in ("backbone", "probe_arguments") and word != f"{{{name}}}":
                raise ConfigError(
                    f"{where}: {{{name}}} stands for several arguments; write it by itself, not as {word!r}"
                )


def _known() -> list[str]:
    return sorted(f"configs/bakeoff/{path.name}" for path in (CONFIGS / "bakeoff").glob("*.yaml"))
