"""Datasets from the HuggingFace hub, and the check that the hub can be reached at all.

The check comes first and is short, because the hub's own clients retry for minutes. Nothing
from the hub is ever executed: `datasets` reads data files only, and tokenizers and models are
loaded with `trust_remote_code=False`.
"""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import datasets
import httpx
from huggingface_hub import constants

from kdcore.config import HubCorpus
from kdcore.errors import DataError, HubUnavailable
from kdcore.textfiles import split_document

PROBE_TIMEOUT_S = 4.0
Split = Literal["train", "validation"]
Read = Callable[[Split], Iterator[str]]


def require_hub(wanted: str, remedy: str) -> None:
    """Raises HubUnavailable, within seconds, if the hub does not answer."""
    if constants.HF_HUB_OFFLINE:
        raise HubUnavailable(_advice(wanted, constants.ENDPOINT, "HF_HUB_OFFLINE is set", remedy))
    try:
        httpx.head(constants.ENDPOINT, timeout=PROBE_TIMEOUT_S)
    except httpx.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise HubUnavailable(_advice(wanted, constants.ENDPOINT, reason, remedy)) from error


def _advice(wanted: str, endpoint: str, reason: str, remedy: str) -> str:
    return (
        f"{wanted} is on the HuggingFace hub, and {endpoint} cannot be reached from this machine "
        f"({reason}). {remedy} Or point the environment variable HF_ENDPOINT at a mirror."
    )


def open_hub_dataset(config: HubCorpus) -> tuple[str, Read, dict[Split, int]]:
    """(fingerprint, reader, sizes) of a dataset on the hub, downloaded into the hub's cache."""
    require_hub(
        f"the dataset '{config.name}'",
        "Choose the offline sample, or upload the text as a file.",
    )
    try:
        loaded: Any = datasets.load_dataset(config.name, config.config)
    except (ValueError, OSError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(f"the dataset '{config.name}' cannot be loaded: {error}") from error
    splits: dict[Split, Any] = {}
    for split, name in (("train", config.train_split), ("validation", config.validation_split)):
        if name not in loaded:
            raise DataError(
                f"the dataset '{config.name}' has no split '{name}'; there are: {', '.join(loaded)}"
            )
        if config.column not in loaded[name].column_names:
            columns = ", ".join(loaded[name].column_names)
            raise DataError(
                f"the dataset '{config.name}' has no column '{config.column}'; there are: {columns}"
            )
        splits[split] = loaded[name]  # type: ignore[index]

    def read(split: Split) -> Iterator[str]:
        for row in splits[split].select_columns([config.column]):
            text = row[config.column]
            if text and not text.isspace():
                yield from (piece for piece in split_document(text) if piece.strip())

    fingerprint = ":".join(part._fingerprint for part in splits.values())
    sizes: dict[Split, int] = {name: len(part) for name, part in splits.items()}
    return f"{config.name}:{config.column}:{fingerprint}", read, sizes
