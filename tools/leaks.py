"""Measure what sums, words and tallies give away, with the bound off and on: ``python tools/leaks.py`` prints a table.

Each attack is a function of what is weakened; its numbers are those of ``docs/attacks.md``. The attacker is that of
``leaky.py``: the coordinator with all members but two. Where it is another one, the function says so.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from leaky import DRAW, HELPERS, UNKNOWN, Floats, OldLearner, World, auc, coins_of, cosine, dealt, guess, tpr, world
from moonflower.client.tasks import FRACTION_BITS
from moonflower.client.tasks.tabular import Tabular
from moonflower.configs.recipe import not_free, recipe_of
from moonflower.configs.schema import Schema
from moonflower.protocol import gate
from support.federation import NAMES, cast
from torch import nn

NET = ("task.hidden=[16]",)
BITS8 = ("crypto.value_bits=8", "crypto.clip=8.0")
VICTIM, LAST = UNKNOWN
HEART_EDGES = (0.09, 0.19, 0.33, 0.63, 0.8, 0.89, 0.95)  # heart.toml


# 1. Whatever the rules allow, and one rule after the other taken out.


def allowed(w: World, seed: int, sums: int = 14) -> Iterator[tuple[Floats, Floats]]:
    """Yield what a random series of runs over fixed names opens, and what the first unknown member put into each sum.

    What a coordinator with two members may move: seeds, fewer rounds, where a run starts (version 0, or what was
    promoted), which words its members say, numbers that fail and are repeated, restarts, and the rows that its members
    claim, anew in each run.
    """
    rng, made = np.random.default_rng(seed), 0
    promoted = [w.base]
    while made < sums:
        drawn, claimed = int(rng.integers(0, 5)), int(rng.integers(0, 400))
        base = promoted[rng.integers(len(promoted))]
        for number in range(1, int(rng.integers(2, 6))):
            found = w.both(base, drawn, number, claimed)
            if rng.random() < 0.3:  # the number fails; after a restart each seals the same, so nothing new is seen
                again = w.both(base, drawn, number, claimed)
                assert all((one == other).all() for one, other in zip(found, again, strict=True))
            yield found
            made += 1
            word = rng.choice(["promoted", "kept", "refused"])
            if word != "refused":
                base = (base.astype(np.float64) + w.mean(base, drawn, number)).astype(np.float32)
            if word == "promoted":
                promoted.append(base)


def update_ours(seed: int = 0) -> tuple[float, float]:
    """The best linear guess of an update from a series that the rules allow, and from the one sum that it is in."""
    seen = list(allowed(world(*NET), seed))
    at = seed % len(seen)
    return guess(seen[at][1], [total for total, _ in seen]), guess(seen[at][1], [seen[at][0]])


def update_two_weightings() -> float:
    """Two sets of shares over one base."""
    w = world(*NET)
    step = w.scale.steps(0, w.scale.size)
    updates = [w.update(name, w.base, 1, 1) for name in UNKNOWN]
    views = [
        np.asarray(
            sum(w.whole(name, one, share) * step for name, one, share in zip(UNKNOWN, updates, shares, strict=True))
        )
        for shares in ((0.3, 0.2), (0.25, 0.25))
    ]
    return guess(w.whole(VICTIM, updates[0]) * step, views)


def update_free_rates() -> float:
    """Batches of one size, so that members take different numbers of steps, and rates that a run chooses by step.

    Two runs differ in the rate of the last step of whoever takes most.
    """
    w = world(*NET, "training.local_epochs=1", kind=OldLearner)
    views = []
    steps = {name: -(-w.learners[name].rows // 64) for name in UNKNOWN}
    assert steps[VICTIM] > steps[LAST], steps
    for last in (0.1, 0.2):
        total: Any = 0
        for name in UNKNOWN:
            w.learners[name].size = 64  # type: ignore[attr-defined]
            w.learners[name].rates = (0.1,) * steps[LAST] + (last,)  # type: ignore[attr-defined]
            own = w.update(name, w.base, 1, 1)
            total = total + w.whole(name, own) * w.scale.steps(0, w.scale.size)
            if name == VICTIM:
                victim = own
        views.append(total)
    one_step = victim.astype(np.float64)  # at the larger rate; what the difference shows is its last step
    w.learners[VICTIM].rates = (0.1,) * steps[LAST] + (0.0,)  # type: ignore[attr-defined]
    one_step = one_step - w.update(VICTIM, w.base, 1, 1)
    return guess(one_step, [views[1] - views[0]])


def singled_out(w: World, seen: Floats, name: str = VICTIM) -> Floats:
    """How much a difference of two sums looks like each training row of a member: the cosine with its gradient."""
    rows = w.gradients(name, w.base)
    rows = rows - rows.mean(axis=0)
    return np.array([cosine(seen, -one) for one in rows])


def row_batch_size(tries: int = 40) -> float:
    """Two batch sizes, n and n - 1, where a short batch counts as a full step: how often its one row is found."""
    w = world("training.local_epochs=1", kind=OldLearner)
    n, found = w.learners[VICTIM].rows, 0
    assert n > w.learners[LAST].rows
    for seed in range(tries):
        sums = []
        for size in (n, n - 1):
            for name in UNKNOWN:
                w.learners[name].size = size  # type: ignore[attr-defined]
            sums.append(w.both(w.base, seed, 1)[0])
        found += (
            int(np.argmax(singled_out(w, sums[1] - sums[0]))) in last_part(w, seed, ours=False, batch=True).nonzero()[0]
        )
    return found / tries


def row_parts(tries: int = 40) -> float:
    """Two numbers of parts, n and n - 1: how often one of the two rows that share a part is found."""
    worlds, found = [], 0
    for fewer in (0, 1):
        n = world().learners[VICTIM].rows
        worlds.append(world("training.local_epochs=1", f"training.parts={n - fewer}"))
    for seed in range(tries):
        sums = [one.both(one.base, seed, 1)[0] for one in worlds]
        drawn = worlds[1].learners[VICTIM].secret.keyed("batches", f"{seed}|1".encode())
        order = np.random.default_rng(int.from_bytes(drawn, "big")).permutation(n)
        found += int(np.argmax(singled_out(worlds[0], sums[1] - sums[0]))) in order[:2]
    return found / tries


def row_test_fraction() -> float:
    """Two test fractions between which one row of the victim's training rows lies: how often it is found."""
    made = cast("training.local_epochs=5")
    found, tries = 0, 0
    for fraction in np.arange(0.2, 0.3, 0.0025):
        splits = [
            {name: dealt(made, name, DRAW, test_fraction=f) for name in NAMES} for f in (fraction, fraction + 0.0025)
        ]
        sizes = [[len(one[name].train) for name in UNKNOWN] for one in splits]
        if sizes[0][0] - sizes[1][0] != 1 or sizes[0][1] != sizes[1][1]:
            continue
        worlds = [world("training.local_epochs=5", rows=one) for one in splits]
        for one in worlds:
            for learner in one.learners.values():
                learner.prepare(worlds[0].scaling)
        step = worlds[0].scale.steps(0, worlds[0].scale.size)
        share = [one.share(VICTIM) for one in worlds]
        sums = [
            sum(one.whole(name, one.update(name, one.base, 1, 1), 0.3) * step for name in UNKNOWN) for one in worlds
        ]
        first, second = (one.rows(VICTIM).inputs.numpy() for one in worlds)
        kept = {row.tobytes() for row in second}
        gone = [at for at, row in enumerate(first) if row.tobytes() not in kept]
        if len(gone) == 1 and share:
            tries += 1
            found += int(np.argmax(singled_out(worlds[0], np.asarray(sums[0] - sums[1])))) == gone[0]
    return found / max(tries, 1)


def left_out(seeds: int = 100) -> float:
    """One step that leaves two rows out, two seeds: how often both rows are found that the first one left out."""
    w = world("training.local_epochs=1", "training.lr=1.0", kind=OldLearner)
    for name in UNKNOWN:
        w.learners[name].size, w.learners[name].steps = w.learners[VICTIM].rows - 2, 1  # type: ignore[attr-defined]
    sums, rows = [w.both(w.base, seed, 1)[0] for seed in range(seeds)], -w.gradients(VICTIM, w.base)
    beside = [np.mean(sums, axis=0) - one for one in sums]
    return float(np.mean([last_part(w, at, ours=False)[best_pair(one, rows)].all() for at, one in enumerate(beside)]))


def last_part(w: World, seed: int, *, ours: bool, batch: bool = False) -> Any:
    """Which of the victim's rows are in the last part, or the last batch, or are left out by the old batching."""
    learner = w.learners[VICTIM]
    if ours:
        drawn = learner.secret.keyed("batches", f"{seed}|1".encode())
        order = np.random.default_rng(int.from_bytes(drawn, "big")).permutation(learner.rows)
        chosen = np.array_split(order, w.cast.settings.training.parts)[-1]
    else:
        learner.seed = seed
        batches = learner.batches(VICTIM, 1)  # type: ignore[attr-defined]
        chosen = batches[-1] if batch else np.setdiff1d(np.arange(learner.rows), np.concatenate(batches))
    found = np.zeros(learner.rows, dtype=bool)
    found[chosen] = True
    return found


# 2. The variance of a lane.


def variance(count: int, draws: int = 160, begin: int = 0) -> tuple[float, float]:
    """Both unknown members' values from many openings of one mean, at 8 bits; and what the sum alone says of them.

    The draws are sums of the same updates under slightly different shares, as when a helper claims other rows in each
    run: fresh coins. Which of the two values of a lane is whose no such attack tells, so that is given away, here and
    to the guess from the sum alone, which has as many draws of a variance that says nothing.
    """
    w = world(*BITS8, "training.lr=0.03")
    step, names = w.scale.step("*"), (LAST, HELPERS[0])
    updates = {name: w.update(name, w.base, 1, 1) for name in names}
    true = np.array([updates[name] * w.share(name) / step for name in names], dtype=np.float64)
    same = {name: (true.mean(axis=0) * step / w.share(name)).astype(np.float32) for name in names}

    def opened(given: dict[str, Any]) -> Any:
        shares = [1 - 1e-6 * at for at in range(begin, begin + draws)]
        return np.array([sum(w.whole(name, given[name], w.share(name) * one) for name in names) for one in shares])

    with coins_of(count):
        return split_of(opened(updates), true, count), split_of(opened(same), true, count)


def split_of(sums: Any, true: Floats, count: int) -> float:
    """How well the distribution of opened lanes tells two values apart, by likelihood; the worse cosine of the two."""
    grid = np.linspace(-0.5, 0.5, 121)
    laws = np.array([law(one, count) for one in grid])
    width = 2 * laws.shape[1] - 1
    turned = np.fft.rfft(laws, width, axis=1)
    one, other = np.triu_indices(len(grid))
    both = np.log(np.maximum(np.fft.irfft(turned[one] * turned[other], width, axis=1), 1e-9))
    found = []
    for lane, pair in zip(np.asarray(sums, dtype=np.int64).T, true.T, strict=True):
        best = int(np.argmax(both @ np.bincount(lane + width // 2, minlength=width)))
        low, high = grid[one[best]], grid[other[best]]
        found.append((low, high) if pair[0] <= pair[1] else (high, low))
    return min(cosine(np.array(found)[:, at], true[at]) for at in (0, 1))


def law(value: float, count: int, most: int = 9) -> Floats:
    """How likely a value, in steps, becomes each of -most to most with so many coins."""
    thrown = np.ones(1)
    for _ in range(count):
        thrown = np.convolve(thrown, np.full(256, 1 / 256))
    made = np.rint(value + (np.arange(len(thrown)) + count / 2) / 256 - count / 2).astype(np.int64)
    return np.asarray(np.bincount(made + most, weights=thrown, minlength=2 * most + 1), dtype=np.float64)


# 3. Votes.


def judged(w: World, seed: int, rounds: int, noise: float) -> Iterator[tuple[Floats, dict[str, float], dict[str, str]]]:
    """Yield, round by round, candidate less best version, relative gains, and words of all; one member adds noise."""
    rng, settings = np.random.default_rng(seed), w.cast.settings.gate
    base = best = w.base
    losses = best_losses = {name: loss_of(w, name, best) for name in NAMES}
    good = [losses]
    norms: list[float] = []
    refused = 0
    for number in range(1, rounds + 1):
        mean = w.mean(base, seed, number)
        if noise:
            added = rng.normal(size=len(mean))
            mean = mean + added * noise / np.linalg.norm(added)
        candidate = (base.astype(np.float64) + mean).astype(np.float32)
        losses = {name: loss_of(w, name, candidate) for name in NAMES}
        words = {name: gate.vote_on(losses[name], [one[name] for one in good], settings) for name in NAMES}
        gains = {name: losses[name] / best_losses[name] - 1 for name in NAMES}
        yield candidate.astype(np.float64) - best, gains, dict(words)
        norm = float(np.linalg.norm(mean))
        verdict = gate.judge(words, norm, norms, in_range=True, settings=settings)
        refused = 0 if verdict.accepted else refused + 1
        if verdict.accepted:
            base = candidate
            norms.append(norm)
        if verdict.status == "promoted":
            best, best_losses = candidate, losses
            good.append(losses)
        if refused == settings.patience:
            return


@cache
def all_judged(runs: int, rounds: int, noise: float) -> list[tuple[Floats, dict[str, float], dict[str, str]]]:
    """Return the rounds of so many runs, as :func:`judged` yields them."""
    return [judgement for seed in range(runs) for judgement in judged(world(), seed, rounds, noise)]


def loss_of(w: World, name: str, vector: Any) -> float:
    found = w.learners[name].evaluate(vector, "validation")["loss"]
    assert found is not None
    return float(found)


def votes(
    runs: int = 10, numbers: bool = False, noise: float = 0.0, rounds: int = 20
) -> dict[str, tuple[float, float]]:
    """How alike what votes say of each member is to its own gradient, of training and of validation rows.

    The gradient is that at the middle of all candidates; the attacker fits one direction to all votes by ridge.
    """
    w, value = world(), {"better": -1.0, "same": 0.0, "worse": 1.0, "abstain": 0.0}
    steps, said = [], {name: [] for name in NAMES}  # type: ignore[var-annotated]
    for step, gains, words in all_judged(runs, rounds, noise):
        steps.append(step)
        for name in NAMES:
            said[name].append(gains[name] if numbers else value[words[name]])
    last = w.base.astype(np.float64)
    for number in range(1, 6):
        last = last + w.mean(last.astype(np.float32), 99, number)
    at = last.astype(np.float32)  # where runs spend their time; any base near gives the same to .05
    seen = np.array(steps)
    out = {}
    for name in NAMES:
        found = ridge(seen, np.array(said[name]))
        parts = [w.gradients(name, at, part).mean(axis=0) for part in ("train", "validation")]
        out[name] = (cosine(found, parts[0]), cosine(found, parts[1]))
    return out


def ridge(seen: Floats, said: Floats) -> Floats:
    """The direction that fits what was said, by ridge; its weight is the one that predicts left-out votes best."""
    best: tuple[float, Floats] = (np.inf, np.zeros(seen.shape[1]))
    scale = float((seen**2).sum(axis=1).mean())
    for weight in 10.0 ** np.arange(-4, 2):
        gram = seen.T @ seen + weight * scale * np.eye(seen.shape[1])
        hat = seen @ np.linalg.solve(gram, seen.T)
        left = (said - hat @ said) / (1 - np.diag(hat))
        if float((left**2).sum()) < best[0]:
            best = float((left**2).sum()), np.linalg.solve(gram, seen.T @ said)
    return best[1]


# 4. Seeds against short batches, and buffers.


def short_batch(ours: bool, seeds: int = 100) -> float:
    """Pairs of seeds in which the two rows of the victim's short batch are found; in ours two rows of its last part."""
    chosen = ("training.local_epochs=1", "training.lr=0.02")
    w = world(*chosen) if ours else world(*chosen, kind=OldLearner)
    if not ours:
        for name in UNKNOWN:
            w.learners[name].size = w.learners[VICTIM].rows - 2  # type: ignore[attr-defined]
        assert len(w.learners[VICTIM].batches(VICTIM, 1)[-1]) == 2  # type: ignore[attr-defined]
    sums, rows = [w.both(w.base, seed, 1)[0] for seed in range(seeds)], -w.gradients(VICTIM, w.base)
    found = 0
    for seed, seen in enumerate(sums):
        marked = last_part(w, seed, ours=ours, batch=True)
        found += bool(marked[best_pair(seen - np.mean(sums, axis=0), rows)].all())
    return found / seeds


def best_pair(seen: Floats, rows: Floats) -> list[int]:
    """The two rows that a sum, less the mean of many, looks like most."""
    rows = rows - rows.mean(axis=0)
    gram, along = rows @ rows.T, rows @ seen
    lengths = np.sqrt(np.maximum(np.diag(gram)[:, None] + np.diag(gram)[None] + 2 * gram, 1e-12))
    scores = (along[:, None] + along[None]) / lengths
    np.fill_diagonal(scores, -np.inf)
    return [int(one) for one in np.unravel_index(np.argmax(scores), scores.shape)]


class Normalised(Tabular):
    """Logistic regression behind a BatchNorm layer, whose running means travel as buffers."""

    def model(self, schema: Schema, generator: torch.Generator) -> nn.Module:
        """Return the model."""
        inner = super().model(schema, generator)
        width = next(inner.parameters()).shape[1]
        return nn.Sequential(nn.BatchNorm1d(width), inner)


def buffers(ours: bool, seeds: int = 100) -> tuple[float, float]:
    """Two rows of a short last batch from opened running means; in ours two rows of the last part.

    Also how well the last part's rows are told from the others, one by one (AUC).
    """
    chosen, task = ("training.local_epochs=1",), Normalised()
    w = world(*chosen, task=task) if ours else world(*chosen, kind=OldLearner, task=task)
    if not ours:
        for name in UNKNOWN:
            w.learners[name].size = w.learners[VICTIM].rows - 2  # type: ignore[attr-defined]
    ends = np.cumsum([spec.size for spec in w.learners[VICTIM].layout])
    at = next(i for i, spec in enumerate(w.learners[VICTIM].layout) if spec.name.endswith("running_mean"))
    lanes = slice(ends[at - 1], ends[at])
    sums = [w.both(w.base, seed, 1)[0][lanes] for seed in range(seeds)]
    rows = w.rows(VICTIM).inputs.numpy().astype(np.float64)
    found, told = [], []
    for seed, seen in enumerate(sums):
        marked, seen = last_part(w, seed, ours=ours, batch=True), seen - np.mean(sums, axis=0)
        found.append(marked[best_pair(seen, rows)].all())
        told.append(auc((rows - rows.mean(axis=0)) @ seen, marked))
    return float(np.mean(found)), float(np.mean(told))


# 5. Tallies.


def models(runs: int = 60, rounds: int = 20, w: World | None = None) -> Any:
    """Versions of many runs that differ by seed, ``float32[runs, rounds, n]``."""
    w = w or world()
    out = []
    for seed in range(runs):
        base, found = w.base, []
        for number in range(1, rounds + 1):
            base = (base.astype(np.float64) + w.mean(base, seed, number)).astype(np.float32)
            found.append(base)
        out.append(found)
    return np.array(out)


class Tallied:
    """What tallies of many versions hold of each row of the unknown members.

    Args:
        w: members.
        versions: ``float32[k, n]``.
        edges: between bins.
        sums: with the sum of losses and the count of correct rows.
        unit: of the loss sum.
    """

    def __init__(
        self,
        w: World,
        versions: Any,
        edges: Sequence[float],
        *,
        sums: bool = True,
        unit: float = 2.0**-FRACTION_BITS,
        names: Sequence[str] = UNKNOWN,
    ) -> None:
        parts = [w.rows(name, part) for name in names for part in ("train", "validation", "test")]
        inputs = np.concatenate([one.inputs.numpy() for one in parts]).astype(np.float64)
        truth = np.concatenate([one.targets.numpy() for one in parts]) == 1
        columns, noise, self.own = [], [], []
        for version in versions:
            logits = inputs @ version[:-1].astype(np.float64) + version[-1]
            found = np.searchsorted(np.array(edges), 1 / (1 + np.exp(-logits)), side="right")
            found = found + (len(edges) + 1) * ~truth
            self.own.append(found)
            hits = np.unique(found)
            columns.append((found[:, None] == hits).astype(np.float64))
            noise += [1e-3] * len(hits)
            if sums:
                loss = np.logaddexp(0, logits) - truth * logits
                columns.append(np.column_stack([loss, (logits > 0) == truth]))
                noise += [unit * len(names) ** 0.5 / 12**0.5, 1e-3]
        self.rows, self.noise = np.concatenate(columns, axis=1), np.array(noise)
        self.bins = 2 * (len(edges) + 1)

    def known_rows(self, deals: int = 20, share: float = 0.2) -> float:
        """TPR at FPR .01 of whoever knows every row of the unknown members, and asks which are test rows."""
        seen, prior = self.rows / self.noise, 1 / (share * (1 - share))
        rows, sizes, axes = np.linalg.svd(seen, full_matrices=False)
        unsure = rows**2 @ (1 / (sizes**2 + prior)) + (1 - (rows**2).sum(axis=1)) / prior
        rng, inside, outside = np.random.default_rng(0), [], []
        for _ in range(deals):
            chosen = rng.random(len(seen)) < share
            opened = axes @ ((chosen - share) @ seen + rng.normal(size=seen.shape[1]) * (self.noise < 1e-3))
            expected = rows @ (sizes / (sizes**2 + prior) * opened)
            scores = expected / unsure - (1 / unsure - prior) * (0.5 - share)  # how much likelier in than out
            inside.append(scores[chosen])
            outside.append(scores[~chosen])
        return tpr(np.concatenate(inside), np.concatenate(outside))

    def known_patient(self, halves: int = 3, deals: int = 10, share: float = 0.2) -> float:
        """TPR at FPR .01 of whoever knows one row, and how rows like those of these members are spread, from others.

        The best of four guesses of how much the others' rows vary beyond those that it has.
        """
        return max(self._like(extra, halves, deals, share) for extra in (0.03, 0.1, 0.3, 1.0))

    def _like(self, extra: float, halves: int, deals: int, share: float) -> float:
        rng, inside, outside = np.random.default_rng(0), [], []
        noise = np.hypot(self.noise, extra * self.rows.std(axis=0) * (share * len(self.rows)) ** 0.5 + 1e-9)
        for _ in range(halves):
            other = rng.random(len(self.rows)) < 0.5
            like, asked = self.rows[other], self.rows[~other]
            mean, count = like.mean(axis=0), share * len(self.rows)
            _, sizes, axes = np.linalg.svd((like - mean) / noise * (count / len(like)) ** 0.5, full_matrices=False)
            asked = (asked - mean) / noise
            along = asked @ axes.T
            weights = (asked - along @ axes) + (along / (1 + sizes**2)) @ axes
            spread = np.sqrt((weights * asked).sum(axis=1))
            for _ in range(deals):
                chosen = rng.random(len(self.rows)) < share
                opened = (self.rows[chosen].sum(axis=0) - chosen.sum() * mean) / noise
                scores = (weights @ opened) / spread
                inside.append(scores[chosen[~other]])
                outside.append(scores[~chosen[~other]])
        return tpr(np.concatenate(inside), np.concatenate(outside))

    def empty_bins(self, deals: int = 20, share: float = 0.2) -> tuple[float, float]:
        """N7: a patient whose bin is empty in one tally is not among the rows. TPR, and FPR."""
        rng, wrong = np.random.default_rng(0), []
        for _ in range(deals):
            chosen = rng.random(len(self.rows)) < share
            left = np.ones(len(self.rows), dtype=bool)
            for found in self.own:
                left &= np.bincount(found[chosen], minlength=self.bins)[found] > 0
            wrong.append(left[~chosen].mean())
        return 1.0, float(np.mean(wrong))


# 6. What a run could choose, and cannot now.


def signs(clip: float = 1e-4) -> list[float]:
    """Every member's signs from one sum whose clip a run chose; the first helper alone helps, so three are unknown."""
    w = world()
    names = [name for name in NAMES if name != HELPERS[0]]
    updates = [w.update(name, w.base, 1, 1) for name in names]
    cut = world(f"crypto.clip={clip}").scale
    opened = sum(w.whole(name, one, scale=cut) for name, one in zip(names, updates, strict=True))
    patterns = np.array(np.meshgrid(*[(-1, 1)] * 3)).reshape(3, -1).T
    levels = patterns @ np.array([w.share(name) for name in names]) * cut.limit
    found = patterns[np.argmin(np.abs(np.asarray(opened)[:, None] - levels), axis=1)]
    return [
        float((found[:, at] == np.sign(one))[one != 0].mean()) for at, one in enumerate(updates)
    ]  # a value of 0 has no sign


def turned_clip(count: int = 60) -> list[float]:
    """Both unknown members' values from sums over one base, by clips that a run chose."""
    w = world()
    updates = [w.update(name, w.base, 1, 1) for name in UNKNOWN]
    clips = np.geomspace(1e-4, 1.0, count)
    sums = []
    for clip in clips:
        scale = replace(w.scale, stretches=tuple(replace(one, clip=float(clip)) for one in w.scale.stretches))
        opened = sum(w.whole(name, one, scale=scale) for name, one in zip(UNKNOWN, updates, strict=True))
        sums.append(np.asarray(opened) * clip / scale.limit)
    shares = np.array([w.share(name) for name in UNKNOWN])
    slopes = np.diff(np.array([0 * sums[0], *sums]), axis=0) / np.diff([0.0, *clips])[:, None]
    patterns = np.array([(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1)])
    found = np.zeros((2, w.scale.size))
    for width, slope in zip(np.diff([0.0, *clips]), slopes, strict=True):
        best = patterns[np.argmin(np.abs(slope[:, None] - patterns @ shares), axis=1)]
        found += width * best.T
    return [cosine(found[at], one) for at, one in enumerate(updates)]


def rates(count: int, tries: int = 60) -> float:
    """Both unknown members' values of one full-batch gradient from rates against rounding, at 8 bits.

    A run chooses so many rates; which of the two values of a lane is whose is given. The worse cosine of the two.
    """
    w = world(*BITS8, "training.local_epochs=1", "training.parts=1")
    step = w.scale.step("*")
    gradients = [w.gradients(name, w.base).mean(axis=0) * w.share(name) for name in UNKNOWN]
    largest = max(np.abs(one).max() for one in gradients)
    turned = np.linspace(0.5, 20, tries) * step / largest
    with coins_of(count):
        sums = np.array([
            sum(w.whole(name, (one * rate / w.share(name)).astype(np.float32))
                for name, one in zip(UNKNOWN, gradients, strict=True)) for rate in turned
        ])  # fmt: skip
    totals = (turned @ sums) / (turned @ turned)  # in steps for a rate of 1, nearly
    grid = np.linspace(-1.05, 1.05, 4201) * largest / step
    found = []
    for at, about in enumerate(totals):
        fits = []
        for total in about + np.linspace(-0.4, 0.4, 41) / turned[-1]:
            made = np.rint(turned[:, None] * grid) + np.rint(turned[:, None] * (total - grid))
            apart = ((made - sums[:, at][:, None]) ** 2).sum(axis=0)
            fits.append((float(apart.min()), grid[apart.argmin()], total - grid[apart.argmin()]))
        low, high = sorted(min(fits)[1:])
        found.append((low, high) if gradients[0][at] <= gradients[1][at] else (high, low))
    return min(cosine(np.array(found)[:, at], gradients[at]) for at in (0, 1))


def asked(**changed: str) -> tuple[str, ...]:
    """Which of the settings that a run asks for its circle's recipe does not leave to it."""
    ours = cast()
    other = cast(*(f"{key.replace('__', '.')}={value}" for key, value in changed.items()))
    recipes = [recipe_of(one.settings.in_practice(), one.schema, "0" * 64, 1) for one in (ours, other)]
    return tuple(one.key for one in not_free(*recipes))


def pairs(found: dict[str, tuple[float, float]], at: int = 1) -> str:
    """The numbers of all members."""
    return " / ".join(f"{one[at]:.2f}" for one in found.values())


def differential() -> str:
    """The series that the rules allow."""
    found = [update_ours(seed) for seed in range(8)]
    return f"{np.mean([one[0] for one in found]):.2f}, from its own sum alone {np.mean([one[1] for one in found]):.2f}"


def lanes(count: int) -> str:
    """The variance of lanes."""
    found = np.mean([variance(count, begin=1000 * at) for at in range(5)], axis=0)
    return f"{found[0]:.2f}, from the sum {found[1]:.2f}"


def table() -> Iterator[tuple[str, Callable[[], str] | None, Callable[[], str] | None]]:
    """Yield attack, with the bound off, with it on."""

    def refused(**changed: str) -> Callable[[], str]:
        return lambda: "refused: " + ", ".join(asked(**changed))

    w, versions = world(), models()
    fine, finest = (tuple(np.arange(1, bins) / bins) for bins in (64, 2048))

    def tally(seen: Any, edges: Sequence[float], **more: Any) -> str:
        found = Tallied(w, seen, edges, **more)
        other = f"{found.known_patient():.2f}" if seen.size < 1e4 and len(edges) < 99 else "–"
        return f"{found.known_rows():.2f} / {other} / FPR {found.empty_bins()[1]:.3f}"

    yield "an update from 14 sums, cosine: all that rules allow", None, differential
    yield "… two sets of shares", lambda: f"{update_two_weightings():.3f}", lambda: "one share, from counts"
    yield "… rates by step, other numbers of steps", lambda: f"{update_free_rates():.2f}", refused(training__lr="0.2")
    yield (
        "a row, two batch sizes, short batch a full step",
        lambda: f"{row_batch_size():.2f}",
        refused(training__parts="5"),
    )
    yield "… two numbers of parts, n and n - 1", lambda: f"{row_parts():.2f}, chance .01", refused(training__parts="5")
    yield "… two test fractions", lambda: f"{row_test_fraction():.2f}", refused(data__test_fraction="0.25")
    yield "… two rows that a step leaves out, 100 seeds", lambda: f"{left_out():.2f}", lambda: "no row is left out"
    yield (
        "… two rows of a short batch, 100 seeds",
        lambda: f"{short_batch(False):.2f}",
        lambda: f"{short_batch(True):.2f}, chance .06",
    )
    yield (
        "… the same from BatchNorm's running means",
        lambda: f"{buffers(False)[0]:.2f}",
        lambda: "{:.2f}, chance .06; AUC {:.2f}".format(*buffers(True)),
    )
    yield "two values from the variance of lanes, 160 draws, 8 bits", lambda: lanes(1), lambda: lanes(12)
    yield "a member's validation gradient, ten runs", lambda: pairs(votes(numbers=True)), lambda: pairs(votes())
    yield "… of training rows", lambda: pairs(votes(numbers=True), 0), lambda: pairs(votes(), 0)
    yield "… one member adds noise, ten runs", None, lambda: pairs(votes(noise=0.3))
    yield "… one member adds noise, fifty runs", None, lambda: pairs(votes(50, noise=0.3))
    yield (
        "signs of three members, a turned clip",
        lambda: " / ".join(f"{one:.2f}" for one in signs()),
        refused(crypto__clip="1.0"),
    )
    yield "values, 60 clips", lambda: " / ".join(f"{one:.2f}" for one in turned_clip()), refused(crypto__clip="1.0")
    yield "values, 60 rates against rounding", lambda: f"{rates(0):.3f}", refused(training__lr="0.2")
    yield "… and with twelve coins", None, lambda: f"{rates(12):.2f}"
    last = versions[:, -1]
    yield (
        "a patient in 60 tallies: every row known / one row known / N7",
        lambda: f"2,048 bins: {tally(last, finest)}; 64: {tally(last, fine)}",
        lambda: tally(last, HEART_EDGES),
    )
    yield "… without sums of losses", None, lambda: tally(last, HEART_EDGES, sums=False)
    every = versions.reshape(-1, versions.shape[-1])
    yield "… 1,200 tallies, one a round", None, lambda: tally(every, HEART_EDGES)
    yield "… without sums of losses", None, lambda: tally(every, HEART_EDGES, sums=False)


def main() -> None:
    """Print the table."""
    logging.disable(logging.WARNING)
    print("| attack | bound off | bound on |\n|---|---|---|")
    for attack, off, on in table():
        began = time.monotonic()
        print(f"| {attack} | {off() if off else '–'} | {on() if on else '–'} |", flush=True)
        print(f"{attack}: {time.monotonic() - began:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    warnings.simplefilter("error")
    main()
