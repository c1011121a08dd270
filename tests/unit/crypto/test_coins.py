"""The coins of rounding: their law, that they come from secret and values alone, and what one coin would tell."""

from __future__ import annotations

import math

import numpy as np
import pytest
from moonflower.crypto.coins import COINS, MOST, Coins

COUNT = 400_000
SECRET, ABOUT = bytes(range(32)), bytes(32)


def test_the_sum_of_twelve_has_mean_0_and_variance_1_and_never_leaves_its_range() -> None:
    thrown = np.concatenate([Coins(SECRET, ABOUT).block(at, COUNT) for at in range(5)])
    assert abs(thrown.mean()) < 5 / math.sqrt(len(thrown))
    assert abs(thrown.var() - (1 - 2**-16)) < 5 * math.sqrt(2 / len(thrown))
    assert np.abs(thrown).max() < MOST
    whole = (thrown + MOST) * 256 - COINS / 2
    assert (whole == np.rint(whole)).all(), "each is a sum of twelve bytes"
    assert len(np.unique(whole)) > 2000


def test_every_byte_is_a_coin_of_its_own() -> None:
    """No two of the twelve move together, and no two values share one."""
    first, second = Coins(SECRET, ABOUT).block(0, COUNT), Coins(SECRET, ABOUT).block(1, COUNT)
    assert abs(np.corrcoef(first, second)[0, 1]) < 5 / math.sqrt(COUNT)
    assert abs(np.corrcoef(first[:-1], first[1:])[0, 1]) < 5 / math.sqrt(COUNT)


def test_the_same_values_have_the_same_coins_and_any_others_have_others() -> None:
    block = Coins(SECRET, ABOUT).block(3, 1000)
    assert (block == Coins(SECRET, ABOUT).block(3, 1000)).all()
    for other in (Coins(SECRET, b"\1" + bytes(31)), Coins(bytes(32), ABOUT)):
        assert (block == other.block(3, 1000)).mean() < 0.01
    assert (block[:10] != Coins(SECRET, ABOUT).block(3, 10)).any(), "a shorter block is another one"


@pytest.mark.parametrize(("secret", "about"), [(b"", ABOUT), (SECRET[:31], ABOUT), (SECRET, b"")])
def test_what_is_too_short_throws_nothing(secret: bytes, about: bytes) -> None:
    with pytest.raises(ValueError, match="expected 32"):
        Coins(secret, about)


def variances(coins: int, draws: int) -> list[float]:
    """Variance of a rounded 0, and of a rounded half step: what whoever opens many sums can tell apart."""
    rng = np.random.default_rng(5)
    thrown = (rng.integers(0, 256, (draws, coins)).sum(axis=1) + coins / 2) / 256 - coins / 2
    return [float(np.rint(value + thrown).var()) for value in (0.0, 0.5)]


def test_the_variance_of_a_sum_does_not_tell_how_it_splits() -> None:
    """With one coin a value of 0 never moves and one of half a step always does; with twelve both move alike."""
    zero, half = variances(1, 200_000)
    assert zero < 0.01 < 0.24 < half
    zero, half = variances(COINS, 2_000_000)
    assert abs(zero - half) < 0.006
    assert zero == pytest.approx(1 + 1 / 12, abs=0.006)
