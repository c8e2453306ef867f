"""The sketch of real MinHash: it finds what is alike, hardly anything else, and never changes."""

from __future__ import annotations

from random import Random

from fleetssd.adapters.minhash import BANDS, buckets


def near(rng: Random, size: int, changed: int) -> tuple[frozenset[str], frozenset[str]]:
    """Make two sets of `size` that differ in `changed` elements each."""
    common = [str(rng.random()) for _ in range(size - changed)]
    one, other = ([str(rng.random()) for _ in range(changed)] for _ in range(2))
    return frozenset(common + one), frozenset(common + other)


def test_what_is_alike_shares_a_bucket() -> None:
    """Of 200 pairs with a likeness of 0.8, hardly one is missed; the odds against one are 20,000 to 1."""
    rng = Random(1)
    pairs = [near(rng, 90, 10) for _ in range(200)]
    assert sum(not set(buckets(a)) & set(buckets(b)) for a, b in pairs) <= 1


def test_what_is_not_alike_shares_none() -> None:
    """Of 100 pairs with nothing in common, none shares a bucket."""
    rng = Random(2)
    assert not any(set(buckets(a)) & set(buckets(b)) for a, b in (near(rng, 50, 50) for _ in range(100)))


def test_buckets_are_for_ever() -> None:
    """Buckets are on disk, so the same set must have the same ones in every version; they fit SQLite's integers."""
    found = buckets(frozenset({"a b c", "b c d"}))
    assert len(found) == BANDS
    assert found[:2] == (1550264017779569160, 3917020674476902068)
    assert all(-(2**63) <= bucket < 2**63 for bucket in found)


def test_an_empty_set_has_no_bucket() -> None:
    """Nothing is not alike to nothing."""
    assert buckets(frozenset()) == ()


def test_a_large_set_is_hashed_in_parts() -> None:
    """The order and the size of the parts change nothing."""
    many = frozenset(map(str, range(5000)))
    assert buckets(many) == buckets(frozenset(sorted(many, reverse=True)))
