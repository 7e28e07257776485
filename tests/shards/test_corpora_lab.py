"""Readers of corpora recorded in a laboratory or a challenge: acted, induced and conversational clips."""

import owner_trees as trees
import pytest

from shards.corpora import clip_records, read_clips
from ssl_affect.errors import ProtocolError
from ssl_affect.protocols import build_folds


def clips_of(name, root, **options):
    return {clip.clip_id: clip for clip in read_clips(name, root, **options)}


def test_crema_d(tmp_path):
    trees.crema_d(tmp_path)
    clips = clips_of("crema_d", tmp_path)
    take = clips["1040_ITH_SAD_XX"]  # the file says _X
    assert (take.path, take.audio) == ("VideoFlash/1040_ITH_SAD_X.flv", "AudioWAV/1040_ITH_SAD_X.wav")
    assert take.subject == "1040"
    assert take.labels == {"expression": "sad", "age": 42, "sex": "male"}
    assert not [clip for clip in clips_of("crema_d_4", tmp_path).values() if clip.labels["expression"] == "disgust"]
    assert len(clips_of("crema_d_4", tmp_path)) == 9
    trees.put(tmp_path, "VideoFlash/1001_ITH_ANGRY_XX.flv")
    with pytest.raises(ProtocolError, match=r"1001_ITH_ANGRY_XX\.flv: not actor_sentence_emotion_level"):
        list(read_clips("crema_d", tmp_path))


def test_ravdess(tmp_path):
    trees.ravdess(tmp_path)
    clips = clips_of("ravdess", tmp_path)
    assert len(clips) == 16
    clip = clips["02-01-04-01-01-01-01"]
    assert clip.path == "Video_Speech_Actor_01/Actor_01/02-01-04-01-01-01-01.mp4"
    assert clip.audio == "Audio_Speech_Actors_01-24/Actor_01/03-01-04-01-01-01-01.wav"
    assert (clip.subject, clip.labels) == ("01", {"expression": "sad", "sex": "male"})
    only = clips["02-01-08-01-01-01-24"]  # no video-only file: the audio-visual one serves, under the same id
    assert only.path.endswith("01-01-08-01-01-01-24.mp4")
    trees.put(tmp_path, "Actor_01/take.mp4")
    with pytest.raises(ProtocolError, match=r"take\.mp4: not MM-VV-EE"):
        list(read_clips("ravdess", tmp_path))


def test_ravdess_without_audio_files_takes_the_sound_of_the_audio_visual_ones(tmp_path):
    trees.ravdess(tmp_path)
    (tmp_path / "Audio_Speech_Actors_01-24").rename(tmp_path / ".away")
    clips = clips_of("ravdess", tmp_path)
    assert clips["02-01-04-01-01-01-01"].audio == "Video_Speech_Actor_01/Actor_01/01-01-04-01-01-01-01.mp4"
    assert clips["02-01-08-01-01-01-24"].audio is None  # its own


def test_enterface05(tmp_path):
    trees.enterface05(tmp_path)
    clips = clips_of("enterface05", tmp_path)
    assert len(clips) == 4 * 30 + 27
    assert clips["subject_11/anger/sentence_1/s12_an_1"].subject == "11"  # named 12, kept in the folder of 11
    assert clips["subject_12/anger/sentence_1/s12_an_1"].subject == "12"
    assert clips["subject_16/surprise/sentence_3/s16_su_3avi"].path == "subject 16/surprise/sentence 3/s16_su_3avi.avi"
    assert "subject_3/happiness/sentence_1/s_3_ha_1" in clips
    assert not [name for name in clips if name.startswith("subject_6/")]
    trees.put(tmp_path, "subject 3/anger/sentence 1/copy.avi")
    with pytest.raises(ProtocolError, match="sentence 1: 2 videos, one is expected"):
        list(read_clips("enterface05", tmp_path))


def test_enterface05_wrong_root(tmp_path):
    trees.enterface05(tmp_path / "enterface database")
    with pytest.raises(ProtocolError, match="give the folder that holds them"):
        list(read_clips("enterface05", tmp_path))


def test_msp_improv(tmp_path):
    trees.msp_improv(tmp_path)
    clips = clips_of("msp_improv", tmp_path)
    assert len(clips) == 3  # O and X are left out
    clip = clips["MSP-IMPROV-S01A-F01-P-FM01"]  # intended anger, perceived neutral
    assert clip.labels == {"expression": "neutral", "sex": "female"}
    assert clip.path == "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.avi"
    assert clip.audio == "session1/S01A/P/MSP-IMPROV-S01A-F01-P-FM01.wav"
    assert clips["MSP-IMPROV-S20H-M06-T-FM05"].subject == "M06"
    trees.change(tmp_path, "Evaluation.txt", "A:2.8; V:3.2;", "A:2.8, V:3.2;")
    with pytest.raises(ProtocolError, match=r"Evaluation\.txt:1: .* is not 'UTD-IMPROV"):
        list(read_clips("msp_improv", tmp_path))


def test_iemocap(tmp_path):
    trees.iemocap(tmp_path)
    clips = clips_of("iemocap", tmp_path)
    assert len(clips) == 15
    woman, man = clips["Ses02F_impro01_F000"], clips["Ses02F_impro01_M001"]
    assert (woman.labels["expression"], man.labels["expression"]) == ("neutral", "happy")  # excited counts as happy
    assert (woman.span, man.span) == ((0.5, 1.25), (1.5, 2.25))
    assert (woman.region, man.region) == ((0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 0.5, 1.0))  # F in the dialogue: she is left
    assert (woman.subject, man.subject) == ("Ses02F", "Ses02M")
    assert woman.path == man.path == "Session2/dialog/avi/DivX/Ses02F_impro01.avi"
    assert man.audio == "Session2/sentences/wav/Ses02F_impro01/Ses02F_impro01_M001.wav"
    six = clips_of("iemocap_6", tmp_path)
    assert len(six) == 20
    assert six["Ses02F_impro01_M001"].labels["expression"] == "excited"
    path = "Session3/dialog/EmoEvaluation/Ses03F_impro01.txt"
    trees.change(tmp_path, path, "\tneu\t", "\tmad\t")
    with pytest.raises(ProtocolError, match=r"Ses03F_impro01\.txt:3: 'mad' is no label of expression"):
        list(read_clips("iemocap", tmp_path))


def test_mer(tmp_path):
    trees.mer2023(tmp_path)
    clips = clips_of("mer2023", tmp_path)
    assert clips["sample_1"].path == "train/sample_1.avi"
    assert clips["sample_1"].labels == {"expression": "worried", "valence": -1.5}
    assert (clips["sample_4"].split, clips["sample_4"].labels) == ("test3", {"expression": "sad"})  # no valence there
    trees.change(tmp_path, "train-label.csv", "worried", "afraid")
    with pytest.raises(ProtocolError, match=r"train-label\.csv:2: 'afraid' is no label"):
        list(read_clips("mer2023", tmp_path))
    with pytest.raises(ProtocolError, match=r"found none of 'label-disdim\.csv'"):
        list(read_clips("mer2024", tmp_path))


def test_avcaffe(tmp_path):
    trees.avcaffe(tmp_path)
    clips = clips_of("avcaffe", tmp_path)
    assert len(clips) == 8
    clip = clips["aiim003/task_9/aiim003_task_9_1"]
    assert clip.labels == {"video": "aiim003_task_9", "arousal": "wide_awake", "valence": "neutral"}
    assert clips["aiim003/task_4/aiim003_task_4_0"].labels["arousal"] is None
    (fold,) = build_folds("avcaffe", list(clips))
    assert {name[:7] for name in fold.test} == {"aiim001"}
    trees.change(tmp_path, "ground_truths/arousal.txt", "Wide-awake", "Awake")
    with pytest.raises(ProtocolError, match=r"arousal\.txt:2: 'Awake' is no label of arousal"):
        list(read_clips("avcaffe", tmp_path))


def test_werewolf_xl(tmp_path):
    trees.werewolf_xl(tmp_path)
    clips = clips_of("werewolf_xl", tmp_path)
    assert clips["01_01_128"].labels == {"arousal": 1.0, "valence": 0.0, "dominance": 0.5}
    assert clips["01_01_128"].path == "videos/01_01_128.mp4"
    records = {record.clip_id: record for record in clip_records("werewolf_xl", tmp_path)}
    assert records["30_01_001"].problem == "30_01_001.mp4 is not there"
    trees.put(tmp_path, "copy.csv", (tmp_path / "annotations/speaker.csv").read_bytes())
    with pytest.raises(ProtocolError, match="2 tables with the columns"):
        list(read_clips("werewolf_xl", tmp_path))
