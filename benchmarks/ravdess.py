"""RAVDESS speech sound from a folder of files: labels and actors from the names, one loud stretch per clip, the folds.

Files are ``03-01-EE-II-SS-RR-AA`` with one of the endings in ``SUFFIXES``, at any depth below the folder, so that the
archives of the owner and re-encoded copies both serve. Readers hear the same stretch of a clip: the 2.58 s with the most
energy, which are the 256 rows that a model hears at a time. Clips last 3 to 5 s, much of it silence around the words.
Statistics of whole clips are taken too.
"""

import csv
import hashlib
import re
from dataclasses import dataclass, replace
from functools import cache, cached_property
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor

from ssl_affect.data.audio import loudness, resample
from ssl_affect.data.spectrogram import LogMel
from ssl_affect.errors import DecodeError, ProtocolError
from ssl_affect.files import sha256_file
from ssl_affect.protocols import build_folds, check_independence, cut_validation, get_protocol
from ssl_affect.protocols.folds import fold_fingerprint
from ssl_affect.types import AudioSpec

SUFFIXES = (".wav", ".flac", ".opus", ".ogg")
LOSSY = ("OPUS", "VORBIS")
AU_FILE = "au_summary.csv"
VALIDATION_SHARE = 0.2
_NAME = re.compile(r"03-01-(0[1-8])-0[12]-0[12]-0[12]-(\d{2})")
_REACH = 2  # rows on either side that a delta looks at
_SHORTEST_S = 0.2  # of a clip; the shortest of RAVDESS lasts 2.9 s

ActionUnits = tuple[np.ndarray, np.ndarray, tuple[str, ...]]  # see read_action_units


@dataclass(frozen=True, kw_only=True)
class Voices:
    """All clips, in the order of their ids.

    Args:
        ids: Clip ids of the protocol, ``02-01-...``.
        labels: Class index of every clip, int64 [n].
        classes: Names in index order.
        actors: Actor of every clip, two digits.
        sound: float32 [n, s], 16 kHz mono, full scale at -1 and 1; shorter clips end in zeros.
        lengths: Values of every clip before these zeros, int64 [n].
        whole_statistics: :attr:`statistics` of the whole clips instead of the stretches.
        files: What was read, in words.
        fingerprint: Hash of names and contents.
    """

    ids: tuple[str, ...]
    labels: np.ndarray
    classes: tuple[str, ...]
    actors: np.ndarray
    sound: Tensor
    lengths: Tensor
    whole_statistics: Tensor
    files: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def sex(self) -> np.ndarray:
        """Sex of the actor of every clip: odd numbers are male."""
        return np.where(self.actors.astype(int) % 2, "male", "female")

    def spectrograms(self, spec: AudioSpec | None = None) -> Tensor:
        """Normalised log-mel spectrograms, float32 [n, 1, T, M]."""
        return LogMel(spec)(self.sound, self.lengths)

    @cached_property
    def statistics(self) -> Tensor:
        """Mean and deviation over time of log-mel powers and of their deltas, float32 [n, 4 M]."""
        rows = LogMel().num_rows(self.lengths).tolist()
        return torch.stack([time_statistics(x[0, :n]) for x, n in zip(self.spectrograms(), rows, strict=True)])


@dataclass(frozen=True, kw_only=True)
class FoldRows:
    """Row numbers of the clips of one fold, int64 each; ``train`` is ``fit`` and ``validation`` together."""

    name: str
    train: np.ndarray
    fit: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def read_voices(folder: Path) -> Voices:
    """Reads all speech files below a folder.

    Raises:
        ProtocolError: there are none, a name is no RAVDESS name, or a clip stands there twice.
        DecodeError: a file cannot be read, is too short for a spectrogram, or holds nothing but digital silence.
    """
    paths: dict[str, Path] = {}
    for path in sorted(p for p in folder.rglob("03-*") if p.suffix.lower() in SUFFIXES):
        if path.stem.startswith("03-02-"):
            continue  # songs are not part of the protocol
        if not _NAME.fullmatch(path.stem):
            raise ProtocolError(f"{path}: not 03-01-EE-II-SS-RR-AA, as 03-01-06-01-02-01-12.wav; rename or remove it")
        if path.stem in paths:
            raise ProtocolError(f"{path}: the same clip as {paths[path.stem]}; keep one of them")
        paths[path.stem] = path
    if not paths:
        raise ProtocolError(
            f"{folder}: no files 03-01-* ending in {', '.join(SUFFIXES)}; give the RAVDESS speech folder"
        )
    names = sorted(paths)
    target = get_protocol("ravdess").targets[0]
    labels = [str(target.from_owner(name.split("-")[2], str(paths[name]))) for name in names]
    sound, lengths, whole = torch.zeros(len(names), LogMel().num_samples), [], []
    for row, name in zip(sound, names, strict=True):
        samples = _read(paths[name])
        clip = loudest(samples, len(row))
        row[: len(clip)] = torch.from_numpy(clip)
        lengths.append(len(clip))
        whole.append(_whole_statistics(samples))
    hashed = [*(paths[name] for name in names), *([folder / AU_FILE] if (folder / AU_FILE).is_file() else [])]
    hashes = "".join(f"{path.name} {sha256_file(path)}\n" for path in hashed)
    return Voices(
        ids=tuple("02" + name[2:] for name in names),
        labels=np.array([target.index(label) for label in labels]),
        classes=target.classes,
        actors=np.array([name[-2:] for name in names]),
        sound=sound,
        lengths=torch.tensor(lengths),
        whole_statistics=torch.stack(whole),
        files=_describe([paths[name] for name in names]),
        fingerprint=hashlib.sha256(hashes.encode()).hexdigest()[:16],
    )


def loudest(samples: np.ndarray, count: int) -> np.ndarray:
    """The ``count`` values in a row with the most energy (the first of equals); all of a shorter sound."""
    if len(samples) <= count:
        return samples
    energy = np.concatenate([[0.0], np.cumsum(np.square(samples, dtype=np.float64))])
    start = int(np.argmax(energy[count:] - energy[:-count]))
    return samples[start : start + count]


def ravdess_folds(voices: Voices) -> tuple[list[FoldRows], str]:
    """The six folds of the protocol, each with validation actors cut from its training actors.

    Returns:
        The folds, and what was checked, in words.

    Raises:
        ProtocolError: an actor stands in two parts of a fold, or a fold has no clips.
    """
    protocol = get_protocol("ravdess")
    actor_of = dict(zip(voices.ids, voices.actors.tolist(), strict=True))
    row_of = {name: row for row, name in enumerate(voices.ids)}
    label_of = {name: voices.classes[label] for name, label in zip(voices.ids, voices.labels, strict=True)}
    official = {fold.name: fold.fingerprint for fold in protocol.variants[0].folds}
    folds, equal = [], 0
    for fold in build_folds(protocol, voices.ids):
        fit, validation = cut_validation(fold.train, actor_of, VALIDATION_SHARE, seed=0)
        parts = replace(fold, train=tuple(fit), validation=tuple(validation))
        check_independence(parts, actor_of, what="ravdess")
        equal += fold_fingerprint(protocol, fold.test, label_of) == official[fold.name]
        train, rows_fit, rows_validation, test = (
            np.array([row_of[name] for name in ids]) for ids in (fold.train, fit, validation, fold.test)
        )
        folds.append(FoldRows(name=fold.name, train=train, fit=rows_fit, validation=rows_validation, test=test))
    statement = (
        f"{len(folds)} folds of the protocol, {equal} with the official test lists (fingerprints); no actor stands in two"
        " of the training, validation and test parts of a fold"
    )
    return folds, statement


def read_action_units(folder: Path, voices: Voices) -> ActionUnits | None:
    """Mean of every action unit in the video of some clips, measured by a program, from ``au_summary.csv``.

    Returns:
        Row numbers of the clips [n], values float64 [n, K] and the names ``AU01``, ...; None without such a file.

    Raises:
        ProtocolError: the file names a clip that is not there, or twice, or has no columns ``file`` and ``AUxx_mean``.
    """
    path = folder / AU_FILE
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream, strict=True)
        columns = [name for name in reader.fieldnames or [] if re.fullmatch(r"AU\d+_mean", name)]
        if not columns or "file" not in (reader.fieldnames or []):
            raise ProtocolError(f"{path}: needs the columns file and AUxx_mean, got {reader.fieldnames}")
        found = [("02" + row["file"][2:], [float(row[name]) for name in columns]) for row in reader]
    row_of = {name: row for row, name in enumerate(voices.ids)}
    wrong = [name for name, _ in found if name not in row_of]
    if wrong or len({name for name, _ in found}) < len(found):
        raise ProtocolError(
            f"{path}: {len(wrong)} clips have no sound ({', '.join(wrong[:3])}), or a clip stands there twice"
        )
    rows = np.array([row_of[name] for name, _ in found])
    return rows, np.array([values for _, values in found]), tuple(name.removesuffix("_mean") for name in columns)


def time_statistics(rows: Tensor) -> Tensor:
    """Mean and deviation over time of a spectrogram [T, M] and of its delta, float32 [4 M].

    The delta is the slope of a line through five rows, as in HTK.
    """
    middle = range(1, _REACH + 1)
    size = len(rows) - 2 * _REACH
    slopes = [k * (rows[_REACH + k :][:size] - rows[_REACH - k :][:size]) for k in middle]
    delta = torch.stack(slopes).sum(dim=0) / (2 * sum(k * k for k in middle))
    return torch.cat([x for part in (rows, delta) for x in (part.mean(dim=0), part.std(dim=0, correction=0))])


def _read(path: Path) -> np.ndarray:
    """Mono sound at the rate of the models, float32 [n]."""
    spec = AudioSpec()
    try:
        samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise DecodeError(f"{path}: {error}; is the file whole, and does libsndfile read this format?") from error
    mono = resample([samples.mean(axis=1)], rate, spec.sample_rate)
    if len(mono) < spec.sample_rate * _SHORTEST_S or not loudness(mono)[0]:
        raise DecodeError(
            f"{path}: {len(mono) / spec.sample_rate:.2f} s, peak {loudness(mono)[0]:g}; a clip lasts at least"
            f" {_SHORTEST_S} s and is not silent: copy the file again"
        )
    return mono


def _whole_statistics(samples: np.ndarray) -> Tensor:
    hundreds = len(samples) // (100 * AudioSpec().frame_shift) + 1
    front_end = _front_end(100 * hundreds)
    sound = torch.from_numpy(samples).unsqueeze(0)
    rows = int(front_end.num_rows(torch.tensor(len(samples))))
    return time_statistics(front_end(sound)[0, 0, :rows])


@cache
def _front_end(num_frames: int) -> LogMel:
    return LogMel(AudioSpec(num_frames=num_frames))


def _describe(paths: list[Path]) -> str:
    infos = [soundfile.info(path) for path in paths]
    subtypes, rates = sorted({info.subtype for info in infos}), sorted({info.samplerate for info in infos})
    kilobits = sum(path.stat().st_size for path in paths) * 8 / sum(info.duration for info in infos) / 1000
    lossy = " (lossy)" if any(kind in LOSSY for kind in subtypes) else ""
    kind = f"{', '.join(subtypes)}{lossy}"
    return f"{len(paths)} files, {kind}, {', '.join(map(str, rates))} Hz, {kilobits:.0f} kbit/s"
