"""The model card beside released weights: ``README.md``, with the header that hubs read and one section per question.

What the program knows it fills in. What only people know stays :data:`EMPTY`, and :func:`empty_sections` names it, so that
nothing is published with a question left open.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from ssl_affect.backbones.table import Backbone, Result
from ssl_affect.checkpoint import WeightsConfig
from ssl_affect.errors import ConfigError

EMPTY = "(to be filled in)"
# Title -> what belongs there. Every one must be answered before weights are published.
SECTIONS = {
    "Summary": "what the model is, in a line or two",
    "Licence": "of the weights, and what the terms of the training data say about them",
    "Training data": "which corpora, how much of them, which version",
    "People in the data": "who they are, whether they agreed, which groups are few",
    "Training": "method, epochs or steps, what is special",
    "Crop recipe": "how faces were found and cropped; other crops cost accuracy",
    "Results": "figures with intervals, on which data, by which protocol",
    "Intended use": "what it was made for",
    "Not to be used for": "what it must not be used for",
    "Known failure cases": "where it is known to be wrong",
    "Contact": "whom to ask, and to tell about errors",
}
INTENDED_USE = (
    "Research on faces and voices: features for studies of recorded behaviour, a starting point for fine-tuning, comparison"
    " of methods. What it gives are estimates of how an expression looks or sounds to annotators, not what a person feels."
)
NOT_TO_BE_USED_FOR = (
    "Inferring the emotions of people at work or in education: in the European Union this has been a prohibited practice"
    " since 2 February 2025 (Regulation (EU) 2024/1689, Article 5(1)(f); medical and safety reasons are excepted)."
    " Decisions about a single person, among them hiring, grading, insurance, policing, migration and diagnosis. Telling"
    " lies, intentions or character from a face. Recognising who somebody is. Watching people who do not know of it."
)


@dataclass(frozen=True, slots=True)
class Card:
    """A model card.

    Args:
        header: What hubs read: licence, tags, and so on.
        title: Heading of the page.
        sections: Text by the titles of :data:`SECTIONS`, others allowed.
    """

    header: Mapping[str, Any]
    title: str
    sections: Mapping[str, str] = field(default_factory=dict)

    def render(self) -> str:
        """The text of ``README.md``."""
        header = yaml.safe_dump(dict(self.header), sort_keys=False, allow_unicode=True, width=120)
        parts = [f"---\n{header}---\n\n# {self.title}\n"]
        parts += [f"## {title}\n\n{text.strip() or EMPTY}\n" for title, text in self.sections.items()]
        return "\n".join(parts)


def read_card(text: str) -> Card:
    """Reads what :meth:`Card.render` wrote, also after people have edited it.

    Raises:
        ConfigError: there is no header, or it is not YAML.
    """
    match = re.match(r"\A---\n(.*?)^---\n(.*)\Z", text.replace("\r\n", "\n"), re.DOTALL | re.MULTILINE)
    if match is None:
        raise ConfigError("the model card has no header: it starts with a line ---, YAML, and a line ---")
    try:
        header = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        raise ConfigError(f"the header of the model card is not YAML: {error}") from error
    if not isinstance(header, Mapping):
        raise ConfigError(
            f"the header of the model card holds {header!r}; it maps names to values, as in `license: mit`"
        )
    head, *rest = re.split(r"^## +(.+?) *$", match[2], flags=re.MULTILINE)
    sections = {title: text.strip() for title, text in zip(rest[::2], rest[1::2], strict=True)}
    return Card(header, head.strip().removeprefix("#").strip(), sections)


def empty_sections(card: Card) -> list[str]:
    """What is still to be answered before the card can be published, as "title (what belongs there)"."""
    open_ones = [
        f"{title} ({what})"
        for title, what in SECTIONS.items()
        if EMPTY in (text := card.sections.get(title, EMPTY)) or not text.strip()
    ]
    return ["license (in the header)"] * (not card.header.get("license")) + open_ones


def make_card(config: WeightsConfig, backbone: Backbone | None = None) -> Card:
    """The card of some weights, as far as it can be filled in.

    Args:
        config: What is known from the weights.
        backbone: Their line in the table of weights, if they have one.
    """
    kind = "pretraining model" if config.task == "pretrain" else "backbone"
    if config.num_classes:
        kind = f"classifier with {config.num_classes} outputs"
    sections = dict.fromkeys(SECTIONS, "")
    sections["Summary"] = f"`{config.name}`, {kind}."
    sections["Training"] = _provenance(config)
    sections["Crop recipe"] = _recipe(config)
    if outputs := _outputs(config):
        sections["Outputs"] = outputs
    sections["Training data"] = _training_data(config)
    sections["Intended use"] = INTENDED_USE
    sections["Not to be used for"] = NOT_TO_BE_USED_FOR
    if backbone is not None:
        sections["Summary"] = f"{backbone.summary}. `{config.name}`, {kind}."
        sections["Licence"] = backbone.licence
        sections["Training data"] = backbone.training_data
        sections["People in the data"] = backbone.people
        sections["Training"] = f"{backbone.training}\n\n{_provenance(config)}"
        sections["Results"] = _results(backbone.results)
        sections["Known failure cases"] = backbone.failures
        sections["Contact"] = backbone.contact
    header = {
        "license": None if backbone is None else "other",
        "library_name": "ssl-affect",
        "pipeline_tag": "video-classification" if config.num_classes else "feature-extraction",
        "tags": ["ssl-affect", config.name, "affective-computing", "face", "video", "self-supervised-learning"],
    }
    return Card(header, config.name if backbone is None else backbone.name, sections)


def training_data_text(said: Mapping[str, Any]) -> str:
    """How many clips the labels came from, and how many of them were drawn and not filmed; empty where it is not known.

    Args:
        said: ``provenance.training_data`` of finetuned weights.
    """
    count, synthetic = said.get("clips"), said.get("synthetic_clips")
    if not count:
        return ""
    of = f" ({said['protocol']})" if said.get("protocol") else ""
    if synthetic == count:
        return f"The labels are of {count} SYNTHETIC clips{of}: drawn talking faces, nobody was filmed."
    some = f", {synthetic} of them SYNTHETIC (drawn, not filmed)" if synthetic else ""
    return f"The labels are of {count} clips{of}{some}."


def _training_data(config: WeightsConfig) -> str:
    text = training_data_text(config.provenance.get("training_data") or {})
    return f"{text} Which corpus and version: {EMPTY}" if text and "SYNTHETIC clips" not in text else text


def _outputs(config: WeightsConfig) -> str:
    """A table of what the outputs of the heads mean."""
    rows = [
        f"| {_cell(one['task'])} | {one['kind']} | {'frame' if one.get('per_frame') else 'clip'}"
        f" | {_cell(', '.join(one['names']))} |"
        for one in config.provenance.get("outputs") or []
    ]
    return "\n".join(["| task | kind | one per | outputs in order |", "|---|---|---|---|", *rows]) if rows else ""


def _provenance(config: WeightsConfig) -> str:
    """A table of what is known about where the weights come from."""
    elsewhere = ("outputs", "training_data")  # have sections of their own
    facts = {
        key: value
        for key, value in config.provenance.items()
        if value not in (None, "", {}, []) and key not in elsewhere
    }
    if not facts:
        return ""
    rows = [f"| {key} | {_cell(value)} |" for key, value in facts.items()]
    return "\n".join(["| fact | value |", "|---|---|", *rows, f"| weights | SHA-256 {config.sha256} |"])


def _recipe(config: WeightsConfig) -> str:
    if config.recipe is None:
        return ""
    rows = [f"| {key} | {_cell(value)} |" for key, value in config.recipe.items()]
    return "\n".join(["| field | value |", "|---|---|", *rows])


def _results(results: tuple[Result, ...]) -> str:
    if not results:
        return ""
    rows = [
        f"| {one.data} | {one.metric} | {one.value:g} |"
        f" {'not published' if one.interval is None else f'{one.interval[0]:g} to {one.interval[1]:g}'} | {one.source} |"
        for one in results
    ]
    return "\n".join(["| data | metric | value | interval | from |", "|---|---|---|---|---|", *rows])


def _cell(value: Any) -> str:
    """A value in a table of Markdown: one line, no bars."""
    text = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)
    return " ".join(text.split()).replace("|", "\\|")
