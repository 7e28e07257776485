"""``ssl-affect protocol``: tables and shard sets against the official counts, and the text of the commands."""

import csv
import json
from pathlib import Path

import pytest

from ssl_affect.cli import main
from ssl_affect.data.schema import IndexEntry, Manifest, SampleFacts, ShardEntry, ShardIndex
from ssl_affect.errors import ProtocolError
from ssl_affect.files import sha256_bytes
from ssl_affect.protocols import get_protocol, list_protocols
from ssl_affect.protocols.check import check_records
from ssl_affect.protocols.records import ClipRecord, clip_id_of, read_records
from ssl_affect.recipe import Recipe

RAVDESS = get_protocol("ravdess")


def ravdess_rows() -> list[dict[str, str]]:
    rows = []
    for actor in range(1, 25):
        for code, name in enumerate(RAVDESS.targets[0].classes, start=1):
            for level in (1,) if code == 1 else (1, 2):
                for take in ("01-01", "01-02", "02-01", "02-02"):
                    clip = f"02-01-{code:02}-{level:02}-{take}-{actor:02}"
                    rows.append({"clip_id": clip, "expression": name, "subject": f"{actor:02}"})
    return rows


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    with open(path, "w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_whole_table_is_as_published(tmp_path, capsys):
    table = write_table(tmp_path / "ravdess.csv", ravdess_rows())
    assert main(["protocol", "check", "RAVDESS", str(table)]) == 0
    text = capsys.readouterr().out
    assert "clips: 1,440" in text
    assert "fold 6, fingerprint: 624d4a67b86678ef" in text
    assert "no subject stands in two parts (24 subjects checked)" in text
    assert text.endswith("as published\n")
    assert "DIFFERS" not in text


def test_a_missing_and_a_relabelled_clip_are_found(tmp_path, capsys):
    rows = ravdess_rows()[:-1]
    rows[0]["expression"] = "calm"
    table = write_table(tmp_path / "ravdess.csv", rows)
    assert main(["protocol", "check", "ravdess", str(table)]) == 1
    text = capsys.readouterr().out
    assert "DIFFERS clips: expected 1,440 [derived: MAE data], found 1,439" in text
    assert "DIFFERS class neutral: expected 96 [derived: MAE data], found 95" in text
    assert "DIFFERS fold 1, fingerprint: expected 302592893d15bf7e" in text
    assert "ok      fold 2, fingerprint" in text
    assert "DIFFERS fold 6, test clips" in text
    assert "differences from what is published" in text


def test_a_subject_in_two_parts_is_a_difference():
    records = [
        ClipRecord(clip_id=row["clip_id"], where="x", labels={"expression": row["expression"]}, subject="one person")
        for row in ravdess_rows()
    ]
    report = check_records(RAVDESS, records)
    assert len(report.differences) == 6
    assert "one person (test and train)" in report.differences[0].found


def test_figures_from_memory_never_fail():
    protocol = get_protocol("mer2023")
    classes = protocol.targets[0].classes
    records = [
        ClipRecord(clip_id=f"s{i}", where="x", labels={"expression": classes[i % 6]}, split="train") for i in range(60)
    ]
    report = check_records(protocol, records)
    assert not report.differences
    (line,) = [line for line in report.lines if line.what == "clips of train"]
    assert (line.status, line.expected, line.found) == ("note", "3,373", "60")
    assert any("cannot be told apart" in line.found for line in report.lines)


def dfew_records(fold_of: dict[str, str] | None = None) -> list[ClipRecord]:
    """Made clips with DFEW's class totals, so that all counts fit and only the fingerprints cannot."""
    protocol = get_protocol("dfew")
    totals = [sum(fold.test_classes[k] for fold in protocol.variants[0].folds) for k in range(7)]
    names = [name for name, total in zip(protocol.targets[0].classes, totals, strict=True) for _ in range(total)]
    ids = [f"{i:05}" for i in range(1, len(names) + 1)]
    return [
        ClipRecord(clip_id=i, where="x", labels={"expression": name}, fold=(fold_of or {}).get(i))
        for i, name in zip(ids, names, strict=True)
    ]


def test_lists_are_compared_with_the_rule():
    from ssl_affect.protocols import build_folds

    protocol, plain = get_protocol("dfew"), dfew_records()
    folds = build_folds(protocol, [r.clip_id for r in plain], [r.labels["expression"] for r in plain])
    fold_of = {name: fold.name for fold in folds for name in fold.test}
    report = check_records(protocol, dfew_records(fold_of))
    assert {line.what.split(", ")[-1] for line in report.differences} == {"fingerprint"}
    (line,) = [line for line in report.lines if "lists and the rule" in line.what]
    assert line.status == "ok"
    fold_of["00001"], fold_of["02000"] = fold_of["02000"], fold_of["00001"]
    report = check_records(protocol, dfew_records(fold_of))
    (line,) = [line for line in report.lines if "lists and the rule" in line.what]
    assert line.status == "differs"
    assert line.found == "2 clips stand in another fold: 00001, 02000"


def test_excluded_clips_that_are_absent_are_bridged_by_the_lists():
    """Folding by position without them would move the blocks of every later clip."""
    protocol = get_protocol("mafw_11")
    excluded = protocol.variant("audio_visual").excluded
    ids = [f"{i:05}" for i in range(1, 201)]
    records = [
        ClipRecord(clip_id=i, where="x", labels={"expression": "anger"}, fold=str(n % 5 + 1)) for n, i in enumerate(ids)
    ]
    assert not set(excluded) & set(ids)
    report = check_records(protocol, records, variant="audio_visual")
    (line,) = [line for line in report.lines if "lists and the rule" in line.what]
    assert line.status == "ok"


def test_frames_are_counted_per_fold_for_action_units():
    protocol = get_protocol("disfa_8au")
    people = [person for part in protocol.fold_rule.expanded_parts for person in part]
    records = [
        ClipRecord(clip_id=p, where="x", subject=p, labels={t.column: [0] * 4845 for t in protocol.targets})
        for p in people
    ]
    report = check_records(protocol, records)
    assert [line.what for line in report.differences] == ["fold 3, test frames"]  # 43,605 here, 43,604 in the lists


def test_the_variant_with_as_many_clips_is_taken():
    protocol = get_protocol("mafw_11")
    records = [ClipRecord(clip_id=f"{i:05}", where="x", labels={"expression": "anger"}) for i in range(10001, 19157)]
    assert check_records(protocol, records).variant == "audio_visual"
    assert check_records(protocol, records[:-1]).variant == "video"


# --------------------------------------------------------------------------------------------------------------------
# Reading


def test_a_table_with_a_wrong_label_names_the_line(tmp_path):
    rows = ravdess_rows()[:3]
    rows[1]["expression"] = "4"
    table = write_table(tmp_path / "t.csv", rows)
    with pytest.raises(ProtocolError, match=r"t\.csv:3: '4' is no class of expression; write one of neutral, calm"):
        read_records(RAVDESS, table)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,emotion\na,happy\n", r"the header is \['name', 'emotion'\]; needed are clip_id"),
        ("clip_id,expression\na\n", r"t\.csv:2: the line has not as many fields"),
        ("", r"the header is \[\]"),
    ],
)
def test_unusable_tables(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ProtocolError, match=message):
        read_records(RAVDESS, tmp_path / "t.csv")


def test_a_path_that_is_nothing(tmp_path, capsys):
    assert main(["protocol", "check", "ravdess", str(tmp_path / "none")]) == 2
    assert "none does not exist; give the owner's folder" in capsys.readouterr().err
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ProtocolError, match="neither a folder nor a"):
        read_records(RAVDESS, tmp_path / "a.txt")


def test_ids_are_found_in_paths():
    assert clip_id_of(get_protocol("dfew"), "Clip/clip_224x224/00001") == "00001"
    assert clip_id_of(get_protocol("ferv39k"), "2_ClipsforFaceCrop/Action/Happy/0001") == "Action/Happy/0001"
    path = "enterface database/subject 16/surprise/sentence 3/s16_su_3avi.avi"
    assert clip_id_of(get_protocol("enterface05"), path) == "subject_16/surprise/sentence_3/s16_su_3avi"
    assert clip_id_of(get_protocol("first_impressions"), "train/a.b.001.mp4") == "a.b.001.mp4"
    assert clip_id_of(get_protocol("voxceleb2"), "dev/mp4/id00012/2DLq_Kkc1r8/00016.mp4") == "id00012/2DLq_Kkc1r8/00016"
    with pytest.raises(ProtocolError, match="names no clip of dfew"):
        clip_id_of(get_protocol("dfew"), "Clip/1.mp4")


def write_shards(folder: Path, samples: list[dict]) -> None:
    """A shard set without pictures: facts, index and manifest are all that a check reads."""
    recipe = Recipe(faces="none")
    blob, entries = b"", []
    for sample in samples:
        facts = SampleFacts(
            source_sha256="0" * 64, track=0, piece=0, start_s=0.0, duration_s=1.0, num_frames=2, fps=25.0,
            times_s=[0.0, 0.04], size=160, video_codec="h264", video_sha256="0" * 64, audio=None, valid="11", boxes=None,
            face_size=None, face_score=None, recipe_hash=recipe.hash, **sample,
        )  # fmt: skip
        data = facts.to_bytes()
        entries.append(IndexEntry(facts.key, 2, {"json": (len(blob), len(data))}))
        blob += data
    folder.mkdir()
    (folder / "train-000000.tar").write_bytes(blob)
    ShardIndex(shard="train-000000.tar", samples=entries).write(folder / "train-000000.idx")
    shard = ShardEntry(
        name="train-000000.tar", num_samples=len(entries), num_frames=2 * len(entries), num_bytes=len(blob),
        seconds=float(len(entries)), sha256=sha256_bytes(blob),
        index_sha256=sha256_bytes((folder / "train-000000.idx").read_bytes()),
    )  # fmt: skip
    manifest = {"recipe": recipe, "shards": [shard], "num_sources": 1, "num_quarantined": 0}
    fields = set(Manifest.__dataclass_fields__)
    extra = {"num_inputs": 1, "plan_sha256": "0" * 64, "request_sha256": "0" * 64, "ssl_affect_version": "0"}
    Manifest(**manifest, **{name: value for name, value in extra.items() if name in fields}).write(folder)


def test_samples_of_a_shard_set_become_clips(tmp_path):
    sample = {"source": "Actor_01/02-01-01-01-01-01-01.mp4", "subject": "01", "labels": {"expression": "neutral"}}
    other = {"source": "x/y.mp4", "subject": "02", "labels": {"clip_id": "02-01-02-01-01-01-02", "expression": "calm"}}
    write_shards(tmp_path / "s", [{"key": "a-p0", **sample}, {"key": "a-p0-1", **sample}, {"key": "b-p0", **other}])
    records = read_records(RAVDESS, tmp_path / "s")
    assert [(r.clip_id, r.samples, r.num_frames, r.subject) for r in records] == [
        ("02-01-01-01-01-01-01", 2, 4, "01"),
        ("02-01-02-01-01-01-02", 1, 2, "02"),
    ]
    assert main(["protocol", "check", "ravdess", str(tmp_path / "s")]) == 1


def test_samples_of_one_clip_must_agree(tmp_path):
    sample = {"source": "02-01-01-01-01-01-01.mp4", "subject": None}
    write_shards(
        tmp_path / "s",
        [
            {"key": "a", **sample, "labels": {"expression": "neutral"}},
            {"key": "b", **sample, "labels": {"expression": "calm"}},
        ],
    )
    with pytest.raises(ProtocolError, match="carry different labels"):
        read_records(RAVDESS, tmp_path / "s")


# --------------------------------------------------------------------------------------------------------------------
# Text


def test_list_has_every_protocol(capsys):
    assert main(["protocol", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:]] == list_protocols()
    assert max(map(len, lines)) <= 140


@pytest.mark.parametrize("name", list_protocols())
def test_show_has_labels_counts_folds_and_numbers(name, capsys):
    assert main(["protocol", "show", name]) == 0
    text = capsys.readouterr().out
    protocol = get_protocol(name)
    for target in protocol.targets:
        assert target.column in text
        assert all(label in text.replace("\n    ", " ") for label in target.classes)
    for variant in protocol.variants:
        for fold in variant.folds:
            assert fold.fingerprint is None or fold.fingerprint in text
    for fact in protocol.provenance.forbidden:
        assert str(fact.value).split(":")[0] in text
    assert "published numbers" in text


def test_show_names_source_and_selection(capsys):
    main(["protocol", "show", "dfew"])
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith("  SVFAP-B ") and "62.83" in line]
    (row,) = rows
    assert "UAR 62.83, WAR 74.27" in row
    assert "last" in row
    assert "[found]" in row


def test_unknown_names_are_explained(capsys):
    assert main(["protocol", "show", "dfw"]) == 2
    assert "did you mean dfew" in capsys.readouterr().err
    assert main(["protocol", "check", "dfew", ".", "--variant", "x"]) == 2
    assert "has no variant 'x'" in capsys.readouterr().err


def test_the_table_of_numbers_is_json():
    text = (Path(__file__).parents[2] / "ssl_affect/protocols/data/numbers.json").read_text(encoding="utf-8")
    assert set(json.loads(text)) == {"version", "units", "records"}


def test_frames_without_any_label_do_not_count():
    """BP4D hands out all pictures and codes some of them; 9 for one AU leaves the others of the frame."""
    protocol = get_protocol("bp4d")
    people = [person for part in protocol.fold_rule.expanded_parts for person in part]
    first = protocol.targets[0].column
    series = {t.column: [None, 0, 1, None] if t.column == first else [None, 0, None, 1] for t in protocol.targets}
    records = [ClipRecord(clip_id=f"{person}_T1", where="x", subject=person, labels=series) for person in people]
    lines = {line.what: line.found for line in check_records(protocol, records).lines}
    assert lines["fold 1, test frames"] == str(13 * 3)


def test_files_that_are_missing_are_a_difference():
    row = ravdess_rows()[0]
    record = ClipRecord(
        clip_id=row["clip_id"], where="x", labels={"expression": "neutral"}, problem="x.mp4 is not there"
    )
    lines = {line.what: line for line in check_records(RAVDESS, [record]).lines}
    assert lines["files"].found == f"1 clips are listed but not usable: {row['clip_id']} (x.mp4 is not there)"
