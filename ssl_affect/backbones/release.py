"""Writing a released folder: weights, config, self-test and model card, whole or not at all."""

import json
from pathlib import Path

from ssl_affect.backbones.card import EMPTY, empty_sections, make_card, read_card
from ssl_affect.backbones.names import CARD_NAME, CONFIG_NAME
from ssl_affect.backbones.selftest import Check, verify, write_selftest
from ssl_affect.backbones.table import Backbone
from ssl_affect.checkpoint import Weights, WeightsConfig, save_weights
from ssl_affect.errors import CheckpointError, ConfigError
from ssl_affect.files import write_text


def write_release(
    folder: Path, weights: Weights, *, force: bool = False, backbone: Backbone | None = None
) -> WeightsConfig:
    """Writes a released folder.

    Args:
        folder: Must not exist, unless ``force``.
        weights: What is released; they must fit their own model.
        force: Replace an older released folder. Its model card is kept where it was filled in by hand.
        backbone: The line in the table of weights that fills in the card.

    Returns:
        The config as written.

    Raises:
        CheckpointError: the folder is in the way, the weights do not fit, or the model gives values that are not finite.
    """
    older = folder / CARD_NAME
    kept = older.read_text(encoding="utf-8") if force and older.is_file() else None

    def complete(partial: Path) -> None:
        write_selftest(partial)
        config = WeightsConfig.from_dict(json.loads((partial / CONFIG_NAME).read_bytes()), partial / CONFIG_NAME)
        card = make_card(config, backbone).render()
        write_text(partial / CARD_NAME, _merged(card, kept) if kept else card)

    return save_weights(folder, weights, force=force, complete=complete)


def check_publishable(folder: Path) -> list[Check]:
    """Whether a released folder may be published: the card is filled in, and the self-test passes on this CPU.

    Returns:
        The checks of the self-test.

    Raises:
        CheckpointError: it may not; the message says why.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        raise CheckpointError(f"{folder} has no {CARD_NAME}; export it again, then fill the model card in")
    try:
        card = read_card(path.read_text(encoding="utf-8"))
    except (ConfigError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: {error}") from error
    if missing := empty_sections(card):
        lines = "\n".join(f"  {one}" for one in missing)
        raise CheckpointError(f"{path}: these are not filled in, so the weights are not published:\n{lines}")
    checks = verify(folder)
    if bad := [f"{check.name} by {check.difference:.3g}" for check in checks if not check.passed]:
        raise CheckpointError(
            f"{folder}: the weights do not give what their self-test says ({', '.join(bad)}; allowed"
            f" {checks[0].tolerance}); export them again"
        )
    return checks


def _merged(new: str, old: str) -> str:
    """The new card with the sections that people had filled in; what the program fills in is the new."""
    made, before = read_card(new), read_card(old)
    sections = {
        title: before.sections.get(title, "") if text == EMPTY else text for title, text in made.sections.items()
    }
    sections |= {title: text for title, text in before.sections.items() if title not in sections}
    header = {**made.header, **{key: value for key, value in before.header.items() if made.header.get(key) is None}}
    return type(made)(header, made.title, sections).render()
