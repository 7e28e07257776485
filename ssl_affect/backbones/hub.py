"""Weights over the network: huggingface_hub moves and caches the files, the hashes are checked here.

The hub's client does not compare what arrived with its hash, so a mirror or a broken disk can hand out anything. Here
``config.json`` holds the hash of the weights, and the table of weights may hold that of ``config.json``. Only the four
names of a released folder are ever fetched, and none of them can hold code.

``HF_ENDPOINT`` names a mirror, ``HF_HUB_OFFLINE=1`` forbids the network, ``HF_HOME`` says where the cache is; all three are
read by huggingface_hub.
"""

import json
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_affect import __version__
from ssl_affect.backbones.names import CONFIG_NAME, RELEASED_NAMES, WEIGHTS_NAME
from ssl_affect.errors import CheckpointError
from ssl_affect.files import sha256_file

logger = logging.getLogger(__name__)

_LIBRARY = "ssl-affect"


def fetch(
    repo: str,
    *,
    revision: str | None = None,
    config_sha256: str | None = None,
    offline: bool = False,
    endpoint: str | None = None,
) -> Path:
    """Downloads a released folder, or finds it in the cache.

    A connection that is cut goes on where it stopped, until six tries in a row bring nothing new; the next call then keeps
    the files that had arrived and begins the others anew. A file that does not have its hash is fetched once more and then
    refused.

    Args:
        repo: "organisation/name".
        revision: Commit, branch or tag; None is the main branch.
        config_sha256: What ``config.json`` must hash to; None takes what it says about the weights.
        offline: Look into the cache only.
        endpoint: Address of a mirror; None is ``HF_ENDPOINT`` or the public hub.

    Returns:
        A folder in the cache with ``model.safetensors``, ``config.json`` and what else belongs to them.

    Raises:
        CheckpointError: unknown or closed repository, no network, not in the cache, or a hash that does not fit.
    """
    from huggingface_hub import snapshot_download

    where = f"{repo}{f' at {revision}' if revision else ''}"

    def download(force: bool = False) -> Path:
        with _named_errors(where, offline):
            return Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    allow_patterns=list(RELEASED_NAMES),
                    local_files_only=offline,
                    endpoint=endpoint,
                    force_download=force,
                    library_name=_LIBRARY,
                    library_version=__version__,
                )
            )

    folder = download()
    if wrong := wrong_hashes(folder, config_sha256):
        if not offline:
            logger.warning("%s: %s; fetching it once more", where, wrong)
            _forget(folder)
            folder = download(force=True)
            wrong = wrong_hashes(folder, config_sha256)
        if wrong:
            if not offline:
                _forget(folder)
            raise CheckpointError(
                f"{where}: {wrong}; what the hub or mirror hands out is not what was released, so it is not used. Try"
                " another mirror (HF_ENDPOINT), or ask who released it"
            )
    return folder


def wrong_hashes(folder: Path, config_sha256: str | None) -> str:
    """What does not fit in a downloaded folder, in words; empty when config and weights have their hashes."""
    config, weights = folder / CONFIG_NAME, folder / WEIGHTS_NAME
    if not config.is_file() or not weights.is_file():
        return f"it has no {' and no '.join(path.name for path in (config, weights) if not path.is_file())}"
    if config_sha256 is not None and (found := sha256_file(config)) != config_sha256:
        return f"{CONFIG_NAME} has SHA-256 {found}, the table of weights says {config_sha256}"
    try:
        wanted = json.loads(config.read_bytes())["sha256"]
    except (ValueError, KeyError, TypeError) as error:
        return f"{CONFIG_NAME} holds no hash of the weights ({error!r})"
    if (found := sha256_file(weights)) != wanted:
        return f"{WEIGHTS_NAME} has SHA-256 {found}, {CONFIG_NAME} says {wanted}"
    return ""


def push(folder: Path, repo: str, *, private: bool = False, endpoint: str | None = None) -> tuple[str, str]:
    """Uploads the files of a released folder as one commit; makes the repository if it is not there.

    Args:
        folder: The released folder, checked by the caller.
        repo: "organisation/name".
        private: Of a new repository.
        endpoint: Address of another hub; None is ``HF_ENDPOINT`` or the public hub.

    Returns:
        Its address, and the commit.

    Raises:
        CheckpointError: not allowed, or no network.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=endpoint, library_name=_LIBRARY, library_version=__version__)
    files = [name for name in RELEASED_NAMES if (folder / name).is_file()]
    with _named_errors(repo, offline=False):
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(
            repo,
            [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in files],
            commit_message=f"Release by ssl-affect {__version__}",
        )
    return f"{api.endpoint}/{repo}", commit.oid


def _forget(folder: Path) -> None:
    """Removes the files of a folder in the cache together with what they link to, so that they are fetched anew."""
    for name in RELEASED_NAMES:
        path = folder / name
        if path.is_symlink():
            (path.parent / os.readlink(path)).unlink(missing_ok=True)
        path.unlink(missing_ok=True)


@contextmanager
def _named_errors(where: str, offline: bool) -> Iterator[None]:
    """Turns the errors of the transport into ours, with what to do next."""
    from huggingface_hub import errors

    of_transport: Any = errors.HfHubHTTPError.__bases__[0]  # of the HTTP library, which changes with the hub's version
    try:
        yield
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        missing = "is not in the cache" if offline else "could not be reached and is not (wholly) in the cache"
        raise CheckpointError(
            f"{where}: {missing}; fetch it where there is a network (`ssl-affect backbones download`), set HF_ENDPOINT to"
            f" a mirror, or copy the cache (HF_HOME) over. {_first_line(error)}"
        ) from error
    except (errors.GatedRepoError, errors.RepositoryNotFoundError) as error:
        raise CheckpointError(
            f"{where}: no such repository, or it is closed to you; check the name, and log in with `hf auth login` if it"
            f" needs an account. {_first_line(error)}"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise CheckpointError(f"{where}: the repository has no such revision; {_first_line(error)}") from error
    except errors.HFValidationError as error:
        raise CheckpointError(f"{where}: a repository is named organisation/name; {_first_line(error)}") from error
    except (of_transport, OSError) as error:
        raise CheckpointError(
            f"{where}: the transfer failed; run the same command again, files that had arrived are kept."
            f" {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return f"({str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__})"
