"""Which scheme a run seals with: the one place where a config's [crypto] becomes an epoch's plan, on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from . import planner
from .flood import ThresholdPlan, plan_threshold
from .planner import Plan

EXPERIMENTAL = "scheme threshold is experimental: nobody outside the project has reviewed it"


class Wanted(Protocol):
    """What the table [crypto] says about it: ``configs.settings.CryptoSettings``."""

    @property
    def scheme(self) -> str:
        """``shared`` or ``threshold``."""

    @property
    def value_bits(self) -> int:
        """Bits of one quantised value."""

    @property
    def threshold(self) -> int:
        """t; 0 for the smallest that will do."""

    @property
    def faulty(self) -> int:
        """f."""

    @property
    def combiner(self) -> str:
        """Who puts partial openings together: ``members`` or ``coordinator``."""

    @property
    def epoch_rounds(self) -> int:
        """Rounds of an epoch; 0 for no limit."""


def plan_for(crypto: Wanted, members: int, size: int) -> Plan:
    """Return the parameters of an epoch.

    Args:
        crypto: the run's table.
        members: of the roster.
        size: parameters of an update.

    Raises:
        InputError: ``config.crypto`` or ``config.value``: nothing holds such a sum, or the threshold does not fit.
    """
    if crypto.scheme == "shared":
        return planner.plan(members, crypto.value_bits, size)
    rounds = crypto.epoch_rounds or 1
    plan = plan_threshold(members, crypto.value_bits, size, crypto.faulty, crypto.threshold, rounds)
    return replace(plan, combiner=crypto.combiner)


def parse_plan(fields: Mapping[str, Any]) -> Plan:
    """Return the plan that a RoundContext holds.

    Raises:
        TypeError: fields of another version of moonflower.
        InputError: ``config.crypto`` or ``config.value``: parameters of no plan.
    """
    return ThresholdPlan(**fields) if fields.get("scheme") == "threshold" else Plan(**fields)


def least_members(fields: Mapping[str, Any]) -> int:
    """Return without how many members of a sum it could not be opened, from a RoundContext's plan."""
    return int(fields.get("threshold", 0))


def narrower(plan: Plan, members: int, size: int) -> Plan:
    """Return a plan for the same members with a bit less for every value: what the drill ``wrong-params`` takes."""
    if isinstance(plan, ThresholdPlan):
        return plan_threshold(members, plan.value_bits - 1, size, plan.faulty, plan.threshold)
    return planner.plan(members, plan.value_bits - 1, size)
