"""MinHash by datasketch: shingle sets that are alike fall into a common bucket."""

from __future__ import annotations

from fleetssd.shingles import Shingles
from fleetssd.twins import number

BANDS, ROWS = 25, 5
"""The chance to share a bucket is 1 - (1 - j^5)^25: 0.99995 at a likeness j of 0.8, 0.99 at 0.7, 0.06 at 0.3."""
SEED = 1
_CHUNK = 2048  # datasketch hashes a batch as one matrix; a large diff must not make it hundreds of megabytes


def buckets(shingles: Shingles) -> tuple[int, ...]:
    """Return the set's buckets, one a band; none for an empty set. The buckets are for ever: they are kept on disk."""
    from datasketch import MinHash  # noqa: PLC0415  a second of import that only a poll with news pays

    if not shingles:
        return ()
    sketch = MinHash(num_perm=BANDS * ROWS, seed=SEED)
    encoded = sorted(run.encode() for run in shingles)
    for start in range(0, len(encoded), _CHUNK):
        sketch.update_batch(encoded[start : start + _CHUNK])
    values = sketch.hashvalues.astype("<u8")
    return tuple(number(b"%d " % band + values[band * ROWS : (band + 1) * ROWS].tobytes()) for band in range(BANDS))
