"""Downloads from the HuggingFace hub, and checks that the hub can be reached.

The check comes first and is short, because the hub's own clients retry for minutes. Nothing
from the hub is ever executed: `datasets` reads data files only, and tokenizers and models are
loaded with `trust_remote_code=False`.
"""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import datasets
import httpx
from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError, RepositoryNotFoundError

from kdcore.config import HubCorpus
from kdcore.data.text_files import split_document
from kdcore.errors import DataError, HubUnavailable

PROBE_TIMEOUT_S = 4.0
_INFO_TIMEOUT_S = 20.0
Split = Literal["train", "validation"]
Read = Callable[[Split], Iterator[str]]


def require_hub(wanted: str, remedy: str) -> None:
    """Raises HubUnavailable, within seconds, if the hub does not answer.

    `wanted` and `remedy` go into the message: what was asked for, and a sentence on what to do.
    """
    reason = _unreachable()
    if reason is not None:
        raise HubUnavailable(_advice(wanted, reason, remedy))


def _unreachable() -> str | None:
    """Why the hub cannot be reached; None if it can."""
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    reasons: list[str | None] = []

    def probe() -> None:
        try:
            httpx.head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
            reasons.append(None)
        except Exception as error:  # any error is the reason why the hub cannot be reached
            reasons.append(str(error) or type(error).__name__)

    # The client's own timeout counts per address, and not for the name's look-up.
    thread = threading.Thread(target=probe, daemon=True)
    thread.start()
    thread.join(PROBE_TIMEOUT_S + 0.5)
    return reasons[0] if reasons else f"no answer within {PROBE_TIMEOUT_S:.0f} seconds"


def _advice(wanted: str, reason: str, remedy: str) -> str:
    return (
        f"{wanted} is on the HuggingFace hub, and {constants.ENDPOINT} cannot be reached from this "
        f"machine ({reason}). {remedy} Or set the environment variable HF_ENDPOINT to a mirror "
        "of the hub."
    )


def hub_files(name: str, revision: str | None, patterns: list[str], remedy: str) -> Path:
    """The folder of a model repository's files that match `patterns`, downloaded into the cache.

    Without the hub, a copy that an earlier run downloaded will do. Loading by this folder, rather
    than by the id, matters: an id that is also a local folder's name would load that folder.
    """
    reason = _unreachable()
    try:
        folder = snapshot_download(
            name,
            revision=revision,
            allow_patterns=patterns,
            local_files_only=reason is not None,
        )
    except LocalEntryNotFoundError as error:
        raise HubUnavailable(_advice(f"'{name}'", reason or str(error), remedy)) from error
    except (OSError, ValueError) as error:  # the hub's own errors are OSErrors
        raise DataError(f"'{name}' cannot be loaded from the hub: {error}") from error
    return Path(folder)


# ----------------------------------------------------------------------------------- datasets


def open_hub_dataset(config: HubCorpus) -> tuple[str, Read, dict[Split, int], dict[Split, int]]:
    """(fingerprint, reader, sizes, rows without text) of a dataset on the hub, downloaded into the
    hub's cache; the last is filled in by reading."""
    commit, loaded = _load(config)
    splits: dict[Split, Any] = {
        "train": _column(config, loaded, config.train_split),
        "validation": _column(config, loaded, config.validation_split),
    }

    blank: dict[Split, int] = {}

    def read(split: Split) -> Iterator[str]:
        blank[split] = 0
        for row in splits[split]:
            text = row[config.column]
            if not text or text.isspace():
                blank[split] += 1
            else:
                yield from (piece for piece in split_document(text) if piece.strip())

    fingerprint = f"{commit} {config.model_dump_json()}"
    return fingerprint, read, {name: len(part) for name, part in splits.items()}, blank


def _load(config: HubCorpus) -> tuple[str, Any]:
    """(commit, splits by name) of the dataset."""
    wanted = f"the dataset '{config.name}'"
    require_hub(wanted, "Choose the offline sample, or upload the text as a file.")
    try:
        found = HfApi().dataset_info(config.name, timeout=_INFO_TIMEOUT_S)
        if "/" not in found.id:
            # `datasets` takes names such as 'json' or 'csv' for its readers of local files.
            raise DataError(f"give {wanted} as organisation/name")
        # Of one commit, so that an equal fingerprint means equal rows; never a local folder.
        loaded = datasets.load_dataset(
            f"hf://datasets/{found.id}", config.config, revision=found.sha
        )
    except RepositoryNotFoundError as error:
        raise DataError(f"{wanted} does not exist on the hub or is private") from error
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"{wanted} cannot be loaded: {error}") from error
    return str(found.sha), loaded


def _column(config: HubCorpus, loaded: Any, split: str) -> Any:
    """The one column of `split` that holds the text."""
    if split not in loaded:
        there = ", ".join(map(str, loaded))
        raise DataError(f"the dataset '{config.name}' has no split '{split}'; there are: {there}")
    features = loaded[split].features
    texts = [
        name
        for name, kind in features.items()
        if getattr(kind, "dtype", None) in ("string", "large_string")
    ]
    if config.column not in texts:
        raise DataError(
            f"the dataset '{config.name}' has no column '{config.column}' of text; "
            f"there are: {', '.join(texts) or 'none'}"
        )
    return loaded[split].select_columns([config.column])
