"""The circle: the same digest for all that hold the same members, and none that could give one member away."""

from __future__ import annotations

import unicodedata
from typing import Any

import pytest
from moonflower.canonical import digest
from moonflower.configs.recipe import Recipe, chosen, not_free
from moonflower.configs.settings import Offer
from moonflower.configs.training import Choice
from moonflower.crypto.identity import Identity, parse_roster
from moonflower.errors import InputError, Refused
from moonflower.protocol.act import Act
from moonflower.protocol.circle import Circle
from moonflower.protocol.statement import Statement
from support.circles import heart_recipe
from support.protocol import context, statement

PINS = {"cleo": "pin-c", "anna": "pin-a", "bert": "pin-b"}


def circle_of(pins: dict[str, str], smallest: int = 2, *overrides: str, **more: Any) -> Circle:
    practice = bool(more.pop("practice", False))
    return Circle.of(heart_recipe(f"federation.min_members={smallest}", *overrides, practice=practice), pins, **more)


def refused(pins: dict[str, str], smallest: int = 2) -> str:
    with pytest.raises(Refused) as refusal:
        circle_of(pins, smallest)
    assert refusal.value.code == "circle.differs"
    return str(refusal.value)


def test_a_circle_lists_its_members_by_name_whatever_the_order_in_a_config() -> None:
    circle = circle_of(PINS)
    assert circle.names == ("anna", "bert", "cleo")
    assert circle.first == "anna"
    assert circle.pins == PINS
    assert circle_of(dict(reversed(PINS.items()))) == circle


def test_a_circle_has_the_order_of_rosters_and_statements() -> None:
    """Or nobody could take a seat in a circle whose names are not in composed form."""
    names = ["Zürich", "Köln", unicodedata.normalize("NFD", "Győr"), "anna"]
    identities = {name: Identity.generate(name) for name in names}
    circle = circle_of({name: one.card.node.pin for name, one in identities.items()})
    cards = [identities[name].card.as_dict() for name in circle.names]
    assert parse_roster(cards, circle.pins).names == circle.names
    said = statement(context(), circle.names)
    assert Statement.parse(said.encode()).members == circle.names


def test_the_digest_is_over_everything_that_members_must_share() -> None:
    circle = circle_of(PINS)
    body = {
        "kind": "moonflower.circle",
        "number": 1,
        "members": [["anna", "pin-a"], ["bert", "pin-b"], ["cleo", "pin-c"]],
        "recipe": circle.recipe.as_dict(),
        "counted": 1,
        "new_ledgers": [],
        "start": None,
    }
    assert circle.digest == digest(body)
    others = [
        circle_of(PINS, 2, "federation.name=g"),
        circle_of(PINS, practice=True),
        circle_of(PINS, 2, "training.lr=0.2"),
        circle_of(PINS, 3),
        circle_of(PINS, number=2),
        circle_of(PINS, number=2, counted=1),
        circle_of(PINS, new_ledgers=["anna"]),
        circle_of({**PINS, "anna": "another"}),
        circle_of({**PINS, "dora": "pin-d"}),
        circle_of({name: pin for name, pin in PINS.items() if name != "cleo"}),
    ]
    assert len({circle.digest, *(one.digest for one in others)}) == len(others) + 1


def test_a_recipe_without_a_bound_on_rows_is_for_practice_alone() -> None:
    assert heart_recipe("training.max_rows=0", practice=True).training.max_rows == 0
    with pytest.raises(InputError) as raised:
        heart_recipe("training.max_rows=0")
    assert raised.value.code == "config.value"
    assert "training.max_rows = 0; expected a whole number at least 1" in str(raised.value)


def test_another_bound_on_rows_has_them_counted_anew_by_hand() -> None:
    act = Act.between(circle_of(PINS), circle_of(PINS, 2, "training.max_rows=300", number=2))
    assert (act.must_recount, act.by_rule) == (True, False)
    quiet = Act.between(circle_of(PINS, counted=1), circle_of(PINS, 2, "training.max_rows=300", number=2, counted=1))
    assert (quiet.must_recount, quiet.by_rule) == (True, False)
    other = Act.between(circle_of(PINS), circle_of(PINS, 2, "training.parts=3", number=2, counted=1))
    assert (other.must_recount, other.by_rule) == (False, True)


def test_one_alone_is_no_circle() -> None:
    """Of one alone the sum is its own update."""
    said = refused({"anna": "pin-a"})
    assert said == "a circle of one member; expected two or more: the sum of one member is its own update"
    assert "a circle of 0 members" in refused({})
    assert "a circle of one member" in refused({"anna": "pin-a"}), "two are the fewest"


def test_two_are_a_circle_only_where_min_members_says_so() -> None:
    two = {"anna": "pin-a", "bert": "pin-b"}
    said = refused(two, smallest=3)
    why = "in a circle of two, each member reads the other's update"
    assert said == f"a circle of 2 members; expected 3 or more (min_members); {why}"
    assert circle_of(two).names == ("anna", "bert")
    assert circle_of(PINS, 3).names == ("anna", "bert", "cleo")
    assert "a circle of 3 members" in refused(PINS, smallest=4)


def test_two_members_that_are_one_are_no_circle() -> None:
    """Two names of one key, or one name twice, would count one member as two."""
    assert "share a name or a pin" in refused({**PINS, "dora": "pin-a"})
    composed, taken_apart = (unicodedata.normalize(form, "Köln") for form in ("NFC", "NFD"))
    assert composed != taken_apart
    assert "share a name or a pin" in refused({composed: "pin-a", taken_apart: "pin-b"})


# Server optimisers


def offering(*overrides: str) -> Circle:
    """Return a circle whose recipe offers two server optimisers beside that of ``[training]``."""
    recipe = heart_recipe("federation.min_members=2", *overrides)
    others = (Choice(server_optimizer="adam", server_lr=0.1), Choice(server_optimizer="momentum"))
    return Circle.of(recipe.model_copy(update={"choice": others}), PINS)


def test_a_run_takes_one_of_the_server_optimisers_that_the_recipe_offers() -> None:
    circle = offering()
    plain, adam = (circle.offer(7, 3, choice=choice)["training"] for choice in (0, 1))
    assert (plain["server_optimizer"], adam["server_optimizer"], adam["server_lr"]) == ("average", "adam", 0.1)
    same = {name: value for name, value in adam.items() if not name.startswith("server_")}
    assert same == {name: value for name, value in plain.items() if not name.startswith("server_")}
    assert Offer.model_validate(circle.offer(7, 3, choice=2)).training.server_optimizer == "momentum"
    for wrong in (-1, 3):
        with pytest.raises(Refused, match=f"choice {wrong}; expected 0 to 2"):
            circle.offer(7, 3, choice=wrong)


def test_a_run_says_which_by_its_settings_and_another_one_is_not_free() -> None:
    recipe = offering().recipe

    def asking(**changes: Any) -> Recipe:
        return recipe.model_copy(update={"training": recipe.training.model_copy(update=changes)})

    for number, changes in enumerate(({}, {"server_optimizer": "adam", "server_lr": 0.1})):
        assert (not_free(recipe, asking(**changes)), chosen(recipe, asking(**changes))) == ((), number)
    assert [one.key for one in not_free(recipe, asking(server_optimizer="adam", server_lr=0.2))] == [
        "training.server_optimizer",
        "training.server_lr",
    ]
    assert [one.key for one in not_free(recipe, asking(server_optimizer="adam", server_lr=0.1, lr=9.0))] == [
        "training.lr"
    ]
    fewer = asking(server_optimizer="momentum").model_copy(update={"choice": ()})
    assert [one.key for one in not_free(recipe, fewer)] == ["choice"]


def test_the_act_says_what_own_training_and_own_tensors_give_away() -> None:
    before = circle_of(PINS)
    own, personal = (
        Act.between(before, circle_of(PINS, 2, *changes, number=2, counted=1))
        for changes in (("training.loop=own",), ('training.personal=["0.*"]',))
    )
    assert any("which patient is in a short batch may be read" in line for line in own.words())
    assert any("How fast each member's own part settles can be told" in line for line in personal.words())
    assert (own.by_rule, personal.by_rule) == (False, False)
    pins = {name: letter * 43 for name, letter in zip(PINS, "ABC", strict=True)}
    assert "may be read" in " ".join(Act.between(None, circle_of(pins, 2, "training.loop=own")).words())
    assert Act.between(before, circle_of(PINS, 2, "training.optimizer=adam", number=2, counted=1)).by_rule
