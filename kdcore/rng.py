"""Counter-based randomness: each draw is a pure function of (seed, stream, counters).

A resumed run therefore sees the same batches, masks and dropped layers as an unbroken one.
"""

import hashlib
import struct

import numpy as np


def rng(seed: int, stream: str, *counters: int) -> np.random.Generator:
    """The generator of one draw; other seeds, streams or counters give independent ones."""
    name = stream.encode()
    packed = struct.pack(f">QQ{len(name)}s{len(counters)}q", seed, len(name), name, *counters)
    key = np.frombuffer(hashlib.blake2b(packed, digest_size=16).digest(), np.dtype("<u8"))
    return np.random.Generator(np.random.Philox(key=key))
