"""Small trees in the layouts of the owners: right names, right headers, empty pictures and videos, and the known traps."""

import json
import pickle
from collections.abc import Iterable
from pathlib import Path

from ssl_affect.protocols import get_protocol


def put(root: Path, path: str, content: str | bytes = b"x") -> Path:
    """Writes a file and the folders above it."""
    full = root / path
    full.parent.mkdir(parents=True, exist_ok=True)
    full.write_bytes(content.encode() if isinstance(content, str) else content)
    return full


def change(root: Path, path: str, old: str, new: str) -> None:
    """Replaces a piece of a file by another, once."""
    text = (root / path).read_text(encoding="latin-1")
    if old not in text:
        raise ValueError(f"{path} has no {old!r}")
    (root / path).write_text(text.replace(old, new, 1), encoding="latin-1")


def frames(root: Path, folder: str, numbers: Iterable[int], form: str = "{:05}.jpg") -> None:
    """Pictures with these numbers."""
    for number in numbers:
        put(root, f"{folder}/{form.format(number)}")


def dfew(root: Path) -> None:
    """Ten clips, two per fold; numbers with and without zeros, as the lists and the folders have them."""
    labels = {i: (i - 1) % 7 + 1 for i in range(1, 11)}
    for fold in range(1, 6):
        tested = [i for i in labels if (i - 1) % 5 == fold - 1]
        for part, ids in (("test", tested), ("train", [i for i in labels if i not in tested])):
            rows = "".join(f"{i},{labels[i]}\n" for i in ids)
            put(root, f"EmoLabel_DataSplit/{part}(single-labeled)/set_{fold}.csv", f"video_name,label\r\n{rows}")
    for i in labels:
        frames(root, f"Clip/clip_224x224/{i:05}", range(1, 13))
        put(root, f"Clip/original/{i}.mp4")


def ferv39k(root: Path) -> None:
    """The same numbers in several scenes and emotions."""
    paths = [
        f"{scene}/{emotion}/{i:04}" for scene in ("Action", "War") for emotion in ("Happy", "Fear") for i in range(7)
    ]
    tested = [path for path in paths if int(path[-4:]) < 2]
    for part, chosen in (("train", [p for p in paths if p not in tested]), ("test", tested)):
        rows = "".join(f"{path} {path.split('/')[1]}\n" for path in chosen)
        put(root, f"4_setups/All_scenes/{part}_All.csv", rows)
    for path in paths:
        frames(root, f"2_ClipsforFaceCrop/{path}", range(1, 9))


def mafw(
    root: Path, kind: str = "single", labels: tuple[str, ...] = ("anger", "neutral"), captions: bool = False
) -> None:
    """Ten clips in five folds, without captions, or with captions that are no valid UTF-8."""
    ids = [f"{i:05}" for i in range(11, 21)]
    for fold in range(5):
        for part in ("train", "test"):
            chosen = [(n, i) for n, i in enumerate(ids) if (n % 5 == fold) == (part == "test")]
            if captions:
                lines = [f"{i}.mp4\t{labels[n % len(labels)]}\t".encode() + b"\xc4\xe3\xff\tA man\n" for n, i in chosen]
                put(root, f"Train & Test Set/{kind}/with_caption/set_{fold + 1}/{part}.txt", b"".join(lines))
            else:
                lines = [f"{i}.mp4 {labels[n % len(labels)]}\n".encode() for n, i in chosen]
                put(root, f"Train & Test Set/{kind}/no_caption/set_{fold + 1}/{part}.txt", b"".join(lines))
    for i in ids:
        put(root, f"data/clips/{i}.mp4")
        frames(root, f"data/frames/{i}", range(1, 4), "{:05}.png")


def crema_d(root: Path) -> None:
    """Three actors, one of them with the take that is named _X; a table of ages."""
    for actor in (1001, 1040, 1091):
        for emotion in ("ANG", "DIS", "NEU", "SAD"):
            level = "X" if (actor, emotion) == (1040, "SAD") else "XX"
            put(root, f"VideoFlash/{actor}_ITH_{emotion}_{level}.flv")
            put(root, f"AudioWAV/{actor}_ITH_{emotion}_{level}.wav")
    rows = (
        "1001,51,Male,Caucasian,Not Hispanic\n1040,42,Male,Caucasian,Not Hispanic\n1091,30,Female,Asian,Not Hispanic\n"
    )
    put(root, "VideoDemographics.csv", "ActorID,Age,Sex,Race,Ethnicity\n" + rows)


def ravdess(root: Path) -> None:
    """Speech and song, all three modalities, two actors; one take has no video-only file."""
    for actor in (1, 24):
        folder = f"Video_Speech_Actor_{actor:02}/Actor_{actor:02}"
        for code in range(1, 9):
            put(root, f"{folder}/01-01-{code:02}-01-01-01-{actor:02}.mp4")
            if (actor, code) != (24, 8):
                put(root, f"{folder}/02-01-{code:02}-01-01-01-{actor:02}.mp4")
            put(root, f"Audio_Speech_Actors_01-24/Actor_{actor:02}/03-01-{code:02}-01-01-01-{actor:02}.wav")
        put(root, f"Video_Song_Actor_{actor:02}/Actor_{actor:02}/02-02-03-01-01-01-{actor:02}.mp4")


def enterface05(root: Path) -> None:
    """Subjects 3, 6 (not cut), 11 (named 12), 12, 16 (odd name) and 23 (incomplete)."""
    for subject in (3, 11, 12, 16, 23):
        for emotion in get_protocol("enterface05").targets[0].classes:
            for sentence in range(1, 6):
                stem = f"s{12 if subject == 11 else subject}_{emotion[:2]}_{sentence}"
                stem = {"s3_ha_1": "s_3_ha_1", "s16_su_3": "s16_su_3avi"}.get(stem, stem)
                if (subject, emotion) != (23, "happiness") or sentence > 3:
                    put(root, f"subject {subject}/{emotion}/sentence {sentence}/{stem}.avi")
    put(root, "subject 3/anger/sentence 1/Thumbs.db")
    put(root, "subject 6/anger/s6_an.avi")


def msp_improv(root: Path) -> None:
    """Turns of two sessions with votes below them, labels that are left out, and a clip whose intention is another."""
    turns = [
        ("S01A-F01-P-FM01", "N", "2.8"),
        ("S01A-F01-S-MF02", "A", "NaN"),
        ("S02H-M02-R-FM03", "X", "2.8"),
        ("S02S-M02-T-MF04", "O", "2.8"),
        ("S20H-M06-T-FM05", "H", "3.25"),
    ]
    text = ""
    for name, label, value in turns:
        text += f"UTD-IMPROV-{name}.avi; {label}; A:{value}; V:3.2; D:3.1 ; N:4.0;\n"
        text += "WR00111225; Neutral; Neutral; A:3.000000; V:4.000000; D:3.000000; N:3.000000;\n\n"
        sentence, speaker, scenario, _ = name.split("-")
        for suffix in ("avi", "wav"):
            put(root, f"session{int(speaker[1:])}/{sentence}/{scenario}/MSP-IMPROV-{name}.{suffix}")
    put(root, "Evaluation.txt", text)


def iemocap(root: Path) -> None:
    """One dialogue per session; both speakers, votes and comments, labels that are left out, hidden copies."""
    for session in range(1, 6):
        dialogue = f"Ses0{session}F_impro01"
        text = "% [START_TIME - END_TIME] TURN_NAME EMOTION [V, A, D]\n\n"
        rows = [("F000", "neu"), ("M001", "exc"), ("F001", "xxx"), ("M002", "fru"), ("F003", "ang")]
        for n, (turn, label) in enumerate(rows):
            text += f"[{n + 0.5:.4f} - {n + 1.25:.4f}]\t{dialogue}_{turn}\t{label}\t[2.5000, 2.5000, 2.5000]\n"
            text += "C-E2:\tNeutral;\t()\nA-E3:\tval 3; act 2; dom  2;\t()\n\n"
            put(root, f"Session{session}/sentences/wav/{dialogue}/{dialogue}_{turn}.wav")
        put(root, f"Session{session}/dialog/EmoEvaluation/{dialogue}.txt", text)
        put(root, f"Session{session}/dialog/EmoEvaluation/._{dialogue}.txt", b"\x00\x05\x16\x07")
        put(root, f"Session{session}/dialog/EmoEvaluation/Categorical/{dialogue}_e1.txt", "not read")
        put(root, f"Session{session}/dialog/avi/DivX/{dialogue}.avi")


def mer2023(root: Path) -> None:
    """Training part and two tests, one of which has no valence; .mp4 and .avi."""
    put(root, "train-label.csv", "name,discrete,valence\nsample_1,worried,-1.5\nsample_2,neutral,0.25\n")
    put(root, "test1-label.csv", "name,discrete,valence\nsample_3,happy,2\n")
    put(root, "test3-label.csv", "name,discrete\nsample_4,sad\n")
    for path in ("train/sample_1.avi", "train/sample_2.mp4", "test1/sample_3.mp4", "test3/sample_4.mp4"):
        put(root, path)


def mer2024(root: Path) -> None:
    """One table with a further column."""
    put(root, "label-disdim.csv", "name,discrete,valence\nsamplenew_1,surprise,1.0\n")
    put(root, "video-labeled/samplenew_1.mp4")


def avcaffe(root: Path) -> None:
    """A validating and a training participant, a task beyond the seventh, a task without a label."""
    put(root, "ground_truths/arousal.txt", "aiim001_task_1, Excited\naiim003_task_9, Wide-awake\n")
    put(
        root,
        "ground_truths/valence.txt",
        "aiim001_task_1, Unpleasant\naiim003_task_9, Neutral\naiim003_task_2, Pleased\n",
    )
    for task in ("aiim001/task_1", "aiim003/task_9", "aiim003/task_2", "aiim003/task_4"):
        for segment in (0, 1):
            name = f"{task.replace('/', '_')}_{segment}"
            put(root, f"videos/shorter_segments/{task}/{name}.avi")


def werewolf_xl(root: Path) -> None:
    """The table of the speakers beside another one; one video is not there."""
    header = "VideoName,Categorical,Mean_P_1_2_3_4,Mean_A_1_2,Mean_D_1_2_4,Group\n"
    put(
        root,
        "annotations/speaker.csv",
        header + "01_01_128,1,0,1,0.5,1\n07_02_003,2,-0.75,0.5,1.25,2\n30_01_001,1,0,0,0,1\n",
    )
    put(root, "annotations/listener.csv", "VideoName,Group\n01_01_128,1\n")
    for name in ("01_01_128", "07_02_003"):
        put(root, f"videos/{name}.mp4")


ABAW = {
    "abaw_va": ("VA_Estimation_Challenge", "valence,arousal", ["-1,0.5", "-5,-5", "0.25,1"]),
    "abaw_expr": (
        "EXPR_Classification_Challenge",
        "Neutral,Anger,Disgust,Fear,Happiness,Sadness,Surprise,Other",
        ["0", "-1", "7"],
    ),
    "abaw_au": (
        "AU_Detection_Challenge",
        "AU1,AU2,AU4,AU6,AU7,AU10,AU12,AU15,AU23,AU24,AU25,AU26",
        ["0,1,0,0,0,0,1,0,0,0,1,0", ",".join(["-1"] * 12), "1,-1,0,0,0,0,0,0,0,0,0,0"],
    ),
}


def abaw(root: Path, name: str = "abaw_va") -> None:
    """Three frames each; the second picture of one video is missing, for no face was found; two people in another."""
    folder, header, rows = ABAW[name]
    text = "\n".join([header, *rows]) + "\n"
    put(root, f"{folder}/Train_Set/1-30-1280x720.txt", text)
    put(root, f"{folder}/Train_Set/video5_left.txt", text)
    put(root, f"{folder}/Validation_Set/video5.txt", text)
    frames(root, "cropped_aligned/1-30-1280x720", (1, 3))
    frames(root, "cropped_aligned/video5_left", (1, 2, 3))
    frames(root, "cropped_aligned/video5", (1, 2, 3))
    put(root, "cropped_aligned/video5/.DS_Store")
    put(root, "batch1/1-30-1280x720.mp4")
    put(root, "batch2/video5.avi")


def abaw_mtl(root: Path, header: str = "image,valence,arousal,expression,aus") -> None:
    """Partial labels, and one picture without any line."""
    aus = ",".join(["0"] * 11 + ["1"])
    rows = [f"vid1/00001.jpg,-1,0.5,-1,{aus}", f"vid1/00003.jpg,-5,-5,4,{','.join(['-1'] * 12)}"]
    put(root, "MTL_Challenge/Train_Set/train_set.txt", "\n".join([header, *rows]) + "\n")
    put(root, "MTL_Challenge/Validation_Set/validation_set.txt", f"{header}\nvid2/00007.jpg,0,0,0,{aus}\n")
    frames(root, "cropped_aligned/vid1", (1, 2, 3))
    frames(root, "cropped_aligned/vid2", (7,))


def afew_va(root: Path) -> None:
    """Two clips of one actor and one of another; a cropped copy that is passed over."""
    for number, actor in (("001", "Ann Actor"), ("002", "Ann Actor"), ("600", "Bert Player")):
        values = {f"{i:05}": {"landmarks": [[0, 0]] * 68, "valence": -2 * i, "arousal": 10} for i in range(3)}
        put(root, f"{number}/{number}.json", json.dumps({"actor": actor, "video_id": number, "frames": values}))
        frames(root, number, range(3), "{:05}.png")
        frames(root, f"{number}_cropped", range(3), "{:05}.png")


def disfa(root: Path) -> None:
    """Two subjects, four frames, twelve files each."""
    for subject in ("SN001", "SN032"):
        for au in (1, 2, 4, 5, 6, 9, 12, 15, 17, 20, 25, 26):
            values = [0, 1, 2, 5] if au == 12 else [0, 0, 0, 0]
            rows = "".join(f"{i},{value}\n" for i, value in enumerate(values, start=1))
            put(root, f"ActionUnit_Labels/{subject}/{subject}_au{au}.txt", rows)
        put(root, f"Video_LeftCamera/LeftVideo{subject}_comp.avi")
        put(root, f"Video_RightCamera/RightVideo{subject}_comp.avi")


def bp4d(root: Path) -> None:
    """Coding starts late, one cell is 9, pictures have 4 or 3 digits, and AUs beyond the twelve are in the matrix."""
    aus = [1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 24]
    header = ",".join(["0", *map(str, aus)])
    first = ",".join(["3", *(["1"] + ["0"] * 14)])
    second = ",".join(["4", *(["9"] + ["0"] * 13 + ["1"])])
    for name in ("F001_T1", "M018_T8"):
        put(root, f"AUCoding/AU_OCC/{name}.csv", "\n".join([header, first, second]) + "\n")
    frames(root, "Sequences(2D)/F001/T1", range(1, 6), "{:04}.jpg")
    frames(root, "Sequences(2D)/M018/T8", range(1, 6), "{:03}.jpg")


TRAITS = ("extraversion", "neuroticism", "agreeableness", "conscientiousness", "openness", "interview")


def first_impressions(root: Path) -> None:
    """Python 2 pickles (protocol 2, byte strings as text) and videos in unpacked archives."""
    for part, folder, names in (
        ("training", "train/training80_01", ["J4GQm9j0JZ0.003.mp4", "a.b.001.mp4"]),
        ("validation", "val/validation80_01", ["v.000.mp4"]),
        ("test", "test/test80_01", ["t.000.mp4"]),
    ):
        table = {trait: {name: 0.1 * (i + 1) for i, name in enumerate(names)} for trait in TRAITS}
        put(root, f"annotation_{part}.pkl", pickle.dumps(table, protocol=2))
        for name in names:
            put(root, f"{folder}/{name}")


def voxceleb2(root: Path, top: str = "dev/") -> None:
    """Two speakers; the sound lies in a tree of its own, and that of one clip is missing."""
    for clip in ("id00012/-2DLq_Kkc1r/00016", "id00012/-2DLq_Kkc1r/00017", "id09999/abc/00001"):
        put(root, f"{top}mp4/{clip}.mp4")
        if clip != "id09999/abc/00001":
            put(root, f"{top}aac/{clip}.m4a")
