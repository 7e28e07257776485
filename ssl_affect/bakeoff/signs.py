"""What features say besides affect: who is seen, and whether they have collapsed.

Read from the features of the test part that a linear probe keeps (``embeddings.npz``), so that every method is looked at on
the very clips on which its affect figures were taken.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ssl_affect.errors import ConfigError, PredictionsError
from ssl_affect.evaluation import Predictions
from ssl_affect.files import sha256_file, write_json

EMBEDDINGS = "embeddings.npz"
NAME = "signs.json"


def read_signs(folder: Path, people: Predictions) -> dict[str, Any] | None:
    """Figures of the features in a test folder, from ``signs.json`` beside them if that was made from the same features.

    Args:
        folder: Folder with ``test.json`` and, where a probe read one feature per clip, ``embeddings.npz``.
        people: Predictions on these clips, which say who is seen.

    Returns:
        "rankme", "std_mean", "std_min", "cosine" (see :mod:`ssl_affect.probing.collapse`); "identity", the unweighted
        recall of a linear reader that is asked who is seen, cross-validated over the clips of the same people, and
        "identity_chance"; None where nobody is in two clips. None without features.
    """
    path = folder / EMBEDDINGS
    if not path.is_file():
        return None
    digest, kept = sha256_file(path), folder / NAME
    if kept.is_file():
        found: dict[str, Any] = json.loads(kept.read_bytes())
        if found.get("sha256") == digest:
            return found
    found = {"sha256": digest, **_look(path, people)}
    write_json(kept, found)
    return found


def _look(path: Path, people: Predictions) -> dict[str, Any]:
    import torch

    from ssl_affect.data.samples import Sample
    from ssl_affect.probing.collapse import collapse_figures
    from ssl_affect.probing.crossval import ask, identity_question

    with np.load(path, allow_pickle=False) as arrays:
        ids, values = arrays["ids"].tolist(), torch.from_numpy(arrays["embeddings"]).float()
    place = {name: row for row, name in enumerate(people.ids.tolist())}
    if missing := [name for name in ids if name not in place]:
        raise PredictionsError(
            f"{path}: {len(missing)} clips, such as {missing[0]!r}, have features but no predictions; delete the folder and"
            " run the probe again"
        )
    found: dict[str, Any] = {**collapse_figures(values), "clips": len(ids), "width": values.shape[1]}
    subjects = None if people.subject is None else people.subject.tolist()
    sources = None if people.source is None else people.source.tolist()
    samples = [
        Sample(
            key=name,
            source=name if sources is None else sources[place[name]],
            subject=None if subjects is None else subjects[place[name]] or None,
            labels={},
        )
        for name in ids
    ]
    try:
        question = identity_question(samples)
    except ConfigError:  # nobody is known, or nobody is there twice: there is nothing to ask
        return {**found, "identity": None, "identity_chance": None, "people": None}
    with _one_thread():
        identity = ask(values, question, "linear")
    return {
        **found,
        "identity": identity,
        "identity_chance": question.chance,
        "people": question.targets.num_outputs,
    }


@contextmanager
def _one_thread() -> Iterator[None]:
    """For a reader of some hundred clips: on a busy machine two threads wait for each other far longer than they work."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
