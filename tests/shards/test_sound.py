import numpy as np
import pytest
import soundfile
from shard_build import build, tone

from shards.sound import sound_clips
from shards.sources import walk_sources
from shards.verify import verify
from ssl_affect.data.audio import RawAudio
from ssl_affect.data.clips import ClipDataset
from ssl_affect.data.rawvideo import SOUND_SUFFIXES
from ssl_affect.data.shardset import ShardSet
from ssl_affect.data.sound import SoundSettings
from ssl_affect.errors import ConfigError, DecodeError
from ssl_affect.recipe import Recipe
from ssl_affect.types import AudioSpec, ClipSpec

RECIPE = Recipe(faces="absent", size=16, min_seconds=1.0, max_seconds=4.0)
CLIP = ClipSpec(num_frames=4, stride=4, size=16)


def clips(seconds, start_s=0.0, span=None):
    rejected = []
    audio = RawAudio(np.ones(round(seconds * 16000), np.float32), 16000, start_s)
    return list(sound_clips(audio, RECIPE, span=span, on_reject=rejected.append)), rejected


def test_sound_is_cut_into_equal_pieces_on_the_clock():
    (one,), _ = clips(3.99, start_s=0.2)
    assert (one.start_s, one.duration_s, len(one.times_s), one.times_s[1]) == (0.2, 4.0, 100, 0.04)
    assert not one.valid.any()
    pieces, _ = clips(9.0)
    assert [piece.piece for piece in pieces] == [0, 1, 2]
    assert [piece.start_s for piece in pieces] == [0.0, 3.0, 6.0]
    assert sum(piece.duration_s for piece in pieces) == pytest.approx(9.0)
    (part,), _ = clips(9.0, span=(7.0, 20.0))
    assert (part.start_s, part.duration_s) == (7.0, 2.0)


def test_what_is_too_short_or_missing_is_said():
    found, (rejected,) = clips(0.5)
    assert not found
    assert rejected.reason == "0.50 s of sound, the recipe asks for 1"
    with pytest.raises(DecodeError, match="no sound in the file"):
        sound_clips(None, RECIPE, span=None, on_reject=print)
    with pytest.raises(ConfigError, match="give fps"):
        Recipe(faces="absent", fps=None)


def test_sound_files_become_shards(tmp_path):
    root = tmp_path / "voices"
    root.mkdir()
    for number in range(2):
        soundfile.write(root / f"voice{number}.wav", tone(1.5, frequency=200 + 100 * number), 16000)
    (root / "notes.txt").write_text("no sound")
    assert [s.path for s in walk_sources(root, suffixes=SOUND_SUFFIXES).sources] == ["voice0.wav", "voice1.wav"]
    (tmp_path / "list.csv").write_text("path,subject,fold\nvoice1.wav,ann,2\nvoice0.wav,bob,1\n")
    assert build(root, tmp_path / "out", "--manifest", tmp_path / "list.csv", "--faces", "absent", "--size", "16") == 0
    assert not verify(tmp_path / "out", workers=1).problems
    shards = ShardSet(tmp_path / "out")
    facts = [shards.facts(i) for i in range(len(shards))]
    assert [(f.subject, f.num_frames, f.valid[:2]) for f in facts] == [("ann", 38, "00"), ("bob", 38, "00")]
    sound = SoundSettings(spec=AudioSpec(num_frames=32, num_mel_bins=32), missing="refuse")
    clip = ClipDataset(shards, CLIP, plan=None, sound=sound, pictures=False)[0]
    assert clip["video"].shape == (4, 0, 0, 3)
    assert clip["audio"].abs().max() == pytest.approx(0.3, abs=0.01)
    with pytest.raises(ConfigError, match="holds sound alone"):
        ClipDataset(shards, CLIP, plan=None, sound=sound)
