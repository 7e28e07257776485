"""Predictions as tiers of ELAN, the annotation program: EAF 3.0, a small XML file beside the video.

One tier per person and expression task holds the runs of the most probable class; one tier per person and action unit holds
the runs in which it is more probable than not. Values such as valence have no runs and stand in the table only.
"""

import re
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

import numpy as np

from ssl_affect.backbones.outputs import TaskOutputs
from ssl_affect.timeline.scores import Timeline

PRESENT = 0.5  # a unit counts as present from this probability on
Run = tuple[int, int, str]  # from and to in milliseconds on the player's clock, and what is written there

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_MIME = {
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/quicktime",
    ".mpg": "video/mpeg",
    ".mpeg": "video/mpeg",
}
_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_TYPE = "default-lt"
_STEREOTYPES = {
    "Time_Subdivision": "Time subdivision of parent annotation's time interval, no time gaps allowed within this interval",
    "Symbolic_Subdivision": "Symbolic subdivision of a parent annotation. Annotations refering to the same parent are"
    " ordered",
    "Symbolic_Association": "1-1 association with a parent annotation",
    "Included_In": "Time alignable annotations within the parent annotation's time interval, gaps are allowed",
}


def tiers(
    lines: Sequence[Timeline], outputs: Sequence[TaskOutputs], *, offset_s: float
) -> dict[tuple[str, str], list[Run]]:
    """The runs of every tier, by (person, task or unit).

    Args:
        lines: What the model says.
        outputs: Tasks of the model.
        offset_s: Where the player's clock begins on the container's clock.
    """
    found: dict[tuple[str, str], list[Run]] = {}
    for line in lines:
        who = f"person {line.person}"
        for one in outputs:
            scores = line.scores[one.task]
            if one.activation == "softmax":
                found[who, one.task] = list(_runs(line, scores.argmax(axis=1), one.names, offset_s))
            elif one.activation == "sigmoid" and one.kind != "regression":
                for unit, name in enumerate(one.names):
                    present = np.where(scores[:, unit] >= PRESENT, 0, -1)
                    found[who, f"{one.task} {name}"] = list(_runs(line, present, (name,), offset_s))
    return found


def eaf_text(found: dict[tuple[str, str], list[Run]], *, video: Path, author: str, date: datetime) -> str:
    """The EAF file.

    Args:
        found: See :func:`tiers`.
        video: The media file; it is named by its absolute address and, for when the files move, by its name alone.
        author: Whom ELAN shows as the author.
        date: Time of writing, with its time zone.
    """
    root = ET.Element(
        "ANNOTATION_DOCUMENT",
        {
            "AUTHOR": _clean(author), "DATE": date.isoformat(timespec="seconds"), "FORMAT": "3.0", "VERSION": "3.0",
            "xmlns:xsi": _XSI, "xsi:noNamespaceSchemaLocation": "http://www.mpi.nl/tools/elan/EAFv3.0.xsd",
        },
    )  # fmt: skip
    header = ET.SubElement(root, "HEADER", {"MEDIA_FILE": "", "TIME_UNITS": "milliseconds"})
    address = video.resolve().as_uri()
    media = {"MEDIA_URL": address, "MIME_TYPE": _MIME.get(video.suffix.lower(), "unknown")}
    ET.SubElement(header, "MEDIA_DESCRIPTOR", {**media, "RELATIVE_MEDIA_URL": f"./{address.rsplit('/', 1)[1]}"})
    count = sum(map(len, found.values()))
    ET.SubElement(header, "PROPERTY", {"NAME": "lastUsedAnnotationId"}).text = str(count)
    order = ET.SubElement(root, "TIME_ORDER")
    slots = {time: f"ts{number}" for number, time in enumerate(_times(found), 1)}
    for time, name in slots.items():
        ET.SubElement(order, "TIME_SLOT", {"TIME_SLOT_ID": name, "TIME_VALUE": str(time)})
    number = 0
    for (who, what), runs in found.items():
        facts = {"LINGUISTIC_TYPE_REF": _TYPE, "PARTICIPANT": who, "TIER_ID": _clean(f"{who}: {what}")}
        tier = ET.SubElement(root, "TIER", facts)
        for begin, end, text in runs:
            number += 1
            places = {"TIME_SLOT_REF1": slots[begin], "TIME_SLOT_REF2": slots[end]}
            parent = ET.SubElement(tier, "ANNOTATION")
            one = ET.SubElement(parent, "ALIGNABLE_ANNOTATION", {"ANNOTATION_ID": f"a{number}", **places})
            ET.SubElement(one, "ANNOTATION_VALUE").text = _clean(text)
    kind = {"GRAPHIC_REFERENCES": "false", "LINGUISTIC_TYPE_ID": _TYPE, "TIME_ALIGNABLE": "true"}
    ET.SubElement(root, "LINGUISTIC_TYPE", kind)
    for name, text in _STEREOTYPES.items():
        ET.SubElement(root, "CONSTRAINT", {"DESCRIPTION": text, "STEREOTYPE": name})
    ET.indent(root, " ")
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _runs(line: Timeline, codes: np.ndarray, names: Sequence[str], offset_s: float) -> Iterator[Run]:
    """Stretches without a gap in which the code stays the same; a code below 0 is nothing."""
    for indices in line.stretches():
        for part in np.split(indices, np.flatnonzero(np.diff(codes[indices])) + 1):
            code = int(codes[part[0]])
            begin, end = (round(1000 * (t - offset_s)) for t in (line.cell_start_s[part[0]], line.cell_end_s[part[-1]]))
            if code >= 0 and end > max(begin, 0):
                yield max(begin, 0), end, names[code]


def _times(found: dict[tuple[str, str], list[Run]]) -> list[int]:
    return sorted({time for runs in found.values() for begin, end, _ in runs for time in (begin, end)})


def _clean(text: str) -> str:
    """Without characters that XML cannot hold at all; the rest is escaped by the writer."""
    return _NOT_XML.sub("\ufffd", text)
