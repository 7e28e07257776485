"""A folder of synthetic clips::

DIR/synthetic_s003_000012.mp4   the clips
DIR/labels/KEY.json             labels of every frame
DIR/manifest.csv                one row per clip, for `ssl-affect shards build --manifest`
DIR/synthetic.json              the settings; a second run with the same ones goes on where the first one stopped
"""

import csv
import io
import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from shards.synthetic.action_units import AU_COLUMNS, affect
from shards.synthetic.encode import encode_mp4
from shards.synthetic.render import render_frames
from shards.synthetic.script import Script, write_script
from shards.synthetic.settings import Settings
from shards.synthetic.speech import loudness, synthesize
from ssl_affect.errors import ConfigError
from ssl_affect.files import write_bytes, write_json, write_text

MANIFEST_CSV = "manifest.csv"
SETTINGS_JSON = "synthetic.json"


def make_sound(script: Script) -> np.ndarray:
    """The voice of a clip, float32 [N] in -1..1, mono."""
    settings = script.settings
    rng = np.random.default_rng([script.scene_seed, 1])
    return synthesize(script.speech, script.identity, settings.seconds, settings.sample_rate, rng)


def make_clip(script: Script) -> bytes:
    """The bytes of a clip's .mp4 file."""
    settings = script.settings
    return encode_mp4(
        render_frames(script),
        script.times,
        fps=None if settings.variable_fps else settings.fps,
        sound=None if settings.audio_codec == "none" else make_sound(script),
        sample_rate=settings.sample_rate,
        audio_codec=settings.audio_codec,
        crf=settings.crf,
    )


def clip_row(script: Script) -> dict[str, Any]:
    """The clip's row of the manifest.

    ``valence``, ``arousal`` and the AU columns are the values at the apex frame (``apex_s``); ``valence_mean`` and
    ``arousal_mean`` are means over the clip. Label noise, where asked for, is in the expression, valence and arousal of
    this row only.
    """
    settings = script.settings
    rng = np.random.default_rng([settings.seed, 3, script.number])
    noise = 0.5 * settings.difficulty.label_noise * rng.standard_normal(2)
    valence, arousal = (float(value) for value in affect(script.apex))
    written = np.clip(np.array([valence, arousal]) + noise, -1, 1)
    return {
        "path": f"{script.key}.mp4",
        "key": script.key,
        "subject": script.identity.subject,
        "expression": script.written_expression,
        "valence": round(float(written[0]), 4),
        "arousal": round(float(written[1]), 4),
        "valence_mean": round(float(script.valence.mean()), 4),
        "arousal_mean": round(float(script.arousal.mean()), 4),
        "apex_s": round(script.apex_s, 4),
        **{name: round(float(value), 3) for name, value in zip(AU_COLUMNS, script.apex, strict=True)},
        "synthetic": 1,
    }


def frame_labels(script: Script) -> dict[str, Any]:
    """Labels of every frame as JSON-ready values: the truth, without label noise."""
    pose = script.pose
    tracks = {name: getattr(pose, name) for name in ("x", "y", "roll", "yaw", "pitch", "scale")}
    return {
        "key": script.key,
        "subject": script.identity.subject,
        "expression": script.expression,
        "synthetic": True,
        "times_s": [round(float(time), 6) for time in script.times],
        "valence": _rounded(script.valence),
        "arousal": _rounded(script.arousal),
        "action_units": {name: _rounded(track) for name, track in zip(AU_COLUMNS, script.intensities.T, strict=True)},
        "pose": {name: _rounded(track) for name, track in tracks.items()},
        "voice_loudness": _rounded(loudness(script.speech, script.times)),
        "voice_pitch_hz": _rounded(script.speech.at("pitch", script.times)),
    }


def write_set(
    folder: Path, settings: Settings, clips: int, identities: int, *, first: int = 0, workers: int = 1
) -> Iterator[str]:
    """Writes a set; clip ``n`` shows person ``n % identities``. Clips that are there already are left as they are.

    Args:
        folder: New, or begun with the same settings.
        settings: What all clips share.
        clips: Number of clips.
        identities: Number of people.
        first: Number of the first clip: clips 100 to 119 of a set are other clips of the same people as clips 0 to 99.
        workers: Processes.

    Yields:
        The key of every clip as it is finished, so that a caller can show progress; the manifest comes last.

    Raises:
        ConfigError: the folder holds a set with other settings, or a number is not possible.
    """
    folder = Path(folder)
    if clips < 1 or identities < 1 or workers < 1 or first < 0:
        raise ConfigError(
            f"synthetic clips: clips={clips}, identities={identities} and workers={workers} must be at least 1,"
            f" first={first} at least 0"
        )
    numbers = range(first, first + clips)
    _claim(folder, {**settings.to_dict(), "identities": identities, **({"first": first} if first else {})})
    job = partial(_write_clip, folder, settings, identities)
    if workers == 1:
        yield from map(job, numbers)
    else:
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=context, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
            try:
                for future in as_completed([pool.submit(job, number) for number in numbers]):
                    yield future.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    _write_manifest(folder, settings, numbers, identities)


def _claim(folder: Path, mine: dict[str, Any]) -> None:
    """Writes the settings into a new folder; refuses a folder that was made with others."""
    path = folder / SETTINGS_JSON
    if path.is_file():
        theirs = json.loads(path.read_bytes())
        different = sorted(name for name in mine.keys() | theirs.keys() if mine.get(name) != theirs.get(name))
        if different:
            rows = "; ".join(f"{name}: there {theirs.get(name)}, now {mine.get(name)}" for name in different)
            raise ConfigError(
                f"{folder} holds synthetic clips with other settings ({rows}); use another --out or the same settings"
            )
        return
    if folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(f"{folder} is not empty and holds no synthetic set; give --out a new folder")
    write_json(path, mine)


def _write_clip(folder: Path, settings: Settings, identities: int, number: int) -> str:
    script = write_script(settings, number, number % identities)
    video = folder / f"{script.key}.mp4"
    if not video.is_file():
        write_json(folder / "labels" / f"{script.key}.json", frame_labels(script), indent=None)
        write_bytes(video, make_clip(script))  # last: a clip that is there is complete
    return script.key


def _write_manifest(folder: Path, settings: Settings, numbers: range, identities: int) -> None:
    rows = [clip_row(write_script(settings, number, number % identities)) for number in numbers]
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(folder / MANIFEST_CSV, text.getvalue())


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 4) for value in values]
