"""Makes ids; they are random, so that nobody can guess the next one."""

import secrets

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 12


def new_id() -> str:
    """A fresh id of 12 characters, about 62 bits."""
    return "".join(secrets.choice(_ALPHABET) for _ in range(ID_LENGTH))
