"""Circles for tests: a recipe, a circle that all sign, and a member that lives in it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from functools import lru_cache
from pathlib import Path
from typing import Any

from moonflower.client.app import Member
from moonflower.client.circles import Circles, Own, circles_of
from moonflower.client.code import code_of
from moonflower.client.keyring import identity_of, load_keys
from moonflower.client.ledger.ledger import Ledger
from moonflower.client.ledger.mark import open_ledger
from moonflower.client.seals import Seals
from moonflower.client.secret import NodeSecret
from moonflower.configs.recipe import Recipe, recipe_of
from moonflower.configs.roles import ClientConfig, load_config
from moonflower.configs.schema import load_schema
from moonflower.configs.settings import FloorSettings, load_run
from moonflower.crypto.identity import Identity
from moonflower.federation import practice as practice_circles
from moonflower.protocol.circle import Circle, SignedCircle, sign
from moonflower.server.records import circles as records
from moonflower.server.records.state import State
from moonflower.version import NUMERICS

from support import CONFIGS


@lru_cache(maxsize=32)
def heart_recipe(*overrides: str, practice: bool = False) -> Recipe:
    """Return the recipe of the heart preset."""
    settings = load_run(CONFIGS / "heart.toml", [f"federation.practice={str(practice).lower()}", *overrides])
    assert settings.data.schema_path is not None
    return recipe_of(settings, load_schema(settings.data.schema_path), code_of(settings.task.ref), NUMERICS)


def heart_offer(*overrides: str) -> dict[str, Any]:
    """Return what a run of the heart preset carries, in a circle of nobody that there is."""
    circle = Circle.of(heart_recipe(*overrides), {name: name * 43 for name in "abcd"})
    return circle.offer(circle.recipe.training.seed, circle.recipe.training.rounds)


def pins_of(identities: Iterable[Identity]) -> dict[str, str]:
    return {one.name: one.card.node.pin for one in identities}


def signed_by(circle: Circle, identities: Iterable[Identity]) -> SignedCircle:
    """Return a circle with the signatures of these members."""
    return SignedCircle(circle, {one.name: sign(one, circle) for one in identities if one.name in circle.names})


def circles(
    identity: Identity, ledger: Ledger, recipe: Recipe, clock: Callable[[], float] = time.time, **floor: Any
) -> Circles:
    """Return the circles of a member whose floor is that of a recipe."""
    limits = {"max_train_s": recipe.training.train_timeout_s, "min_approvals": recipe.gate.approvals, **floor}
    own = practice_circles.floor(recipe.federation.min_members)
    practice = recipe.federation.practice
    return Circles(
        Own(identity, practice, FloorSettings(tasks=(recipe.task.ref,), **limits), own), ledger.circles, clock
    )


def live_in(mine: Circles, signed: SignedCircle) -> None:
    """Let a member sign a circle, and live in it."""
    known = mine.standing.of(signed.circle.digest)
    if known is None or not known.begun:
        assert mine.sign(signed.circle, (), by_hand=True) is not None
        mine.enter(signed)


def member(
    identity: Identity,
    signed: SignedCircle,
    secret: NodeSecret,
    ledger: Ledger,
    held: Seals,
    learner: Any,
    **more: Any,
) -> Member:
    """Return a member that lives in a circle."""
    mine = circles(identity, ledger, signed.circle.recipe)
    live_in(mine, signed)
    return Member(mine, secret, ledger, held, learner, **more)


def on_record(state: State, signed: SignedCircle) -> None:
    """Let the coordinator know a circle, as if all members had signed it there."""
    with state.store.read() as db:
        known = records.living_digest(db)
    if known == signed.circle.digest:
        return
    with state.store.transaction() as db:
        records.propose(db, state.log, signed.circle, time.time())
    for name, one in signed.signatures.items():
        with state.store.transaction() as db:
            records.take_signature(db, state.log, signed.circle.digest, name, one, time.time())


def enrolment(run: str, signed: SignedCircle, offer: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the fields of the request to enrol for a run."""
    training = (offer or {"training": signed.circle.recipe.as_dict()["training"]})["training"]
    chosen = {"seed": training["seed"], "rounds": training["rounds"], "start": "", "choice": 0}
    return {"run": run, "circle": signed.as_dict(), **chosen}


def begin(state: State, recipe: Recipe) -> SignedCircle:
    """Let the coordinator have a circle of three that all signed."""
    everybody = [Identity.generate(name) for name in ("anna", "bert", "cleo")]
    with state.store.read() as db:
        number = records.board(db, time.time()).newest + 1
    signed = signed_by(Circle.of(recipe, pins_of(everybody), number=number), everybody)
    on_record(state, signed)
    return signed


def lives_in(path: Path, *overrides: str) -> SignedCircle:
    """Let the node of a client config live in a circle of the heart preset with two others."""
    settings = load_config(ClientConfig, path)
    keys = load_keys(settings.client.state)
    mine, others = identity_of(settings), [Identity.generate("another"), Identity.generate("yet another")]
    signed = signed_by(Circle.of(heart_recipe(*overrides), pins_of([mine, *others])), [mine, *others])
    with closing(open_ledger(settings.client.state, keys.secret)) as ledger:
        live_in(circles_of(settings, keys, ledger.circles), signed)
    return signed
