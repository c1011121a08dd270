"""``moonflower circle``: who trains together and under which recipe. A submitter proposes it; every node signs it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from ..configs.names import nfc
from ..configs.recipe import Recipe, recipe_of
from ..configs.roles import ClientConfig, OperatorConfig, load_config
from ..configs.schema import Schema
from ..configs.sentences import sentences
from ..configs.settings import RunSettings, load_run
from ..errors import InputError, nearest
from ..protocol.act import Act, pin_words
from ..protocol.circle import Circle, SignedCircle, Start
from ..protocol.circle_board import CircleBoard
from ..version import NUMERICS
from .card import read_card
from .circle_page import circle_page
from .options import OPERATOR, AsJson, ClientFile, Operator, Overrides, RunConfig
from .output import page, print_list, write_new

if TYPE_CHECKING:
    from torch import nn

    from ..client.circles import Circles
    from ..client.desk import CircleDesk
    from ..client.standing import LetGo
    from ..federation.remote import Remote

circle = typer.Typer(no_args_is_help=True, help="Who trains together: propose, show, sign, leave.")
JUMP = 100
Page = Annotated[Path | None, typer.Option("--page", help="Also write it as an HTML page to print and file.")]


def _normal(names: list[str] | None) -> list[str]:
    return [nfc(name) for name in names or ()]


Without = Annotated[
    list[str] | None, typer.Option("--without", metavar="NAME", callback=_normal, help="Member to let go (repeatable).")
]
NewLedger = Annotated[
    list[str] | None,
    typer.Option("--new-ledger", metavar="NAME", callback=_normal, help="Member whose ledger was lost (repeatable)."),
]


@circle.command("propose")
def propose(
    config: RunConfig,
    with_cards: Annotated[
        list[Path] | None, typer.Option("--with", metavar="CARD", help="Card of a joining member (repeatable).")
    ] = None,
    without: Without = None,
    new_ledger: NewLedger = None,
    start: Annotated[
        str,
        typer.Option("--start", metavar="VERSION", help="Version that runs start from: promoted or imported."),
    ] = "",
    operator: Operator = OPERATOR,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Propose a circle: its members, and the run config as its recipe. It begins when every member has signed it.

    The first circle names every member with --with CARD. A later circle keeps the members of the last one, except for
    the changes given here.
    """
    from ..client.tasks import load_task, schema_for
    from ..federation.remote import Remote

    settings = load_run(config, overrides or ())
    schema = schema_for(load_task(settings.task.ref, settings.task.options), settings.data)
    cards = {card.name: card.node.pin for card in map(read_card, with_cards or ())}
    remote = Remote(load_config(OperatorConfig, operator))
    try:
        shown = remote.circles()
        before, number = shown.living.circle if shown.living else None, shown.newest + 1
        recipe = _recipe(settings, schema, number)
        circle = Circle.of(
            recipe, _members(before, cards, without or []), number=number, new_ledgers=[*map(nfc, new_ledger or ())]
        )
        model = _model(settings, circle)
        if start:
            circle = replace(circle, start=_start(remote, start, model, recipe.training.personal))
        if before is not None and not Act.between(before, circle).must_recount:
            circle = replace(circle, counted=before.counted)
        act = Act.between(before, circle)
        if before is not None and not (act.settings or act.joins or act.leaves or act.new_ledgers or act.start):
            raise InputError(
                "config.value",
                f"{config}: circle {before.number} already has these members and this recipe; expected a change",
            )
        remote.propose(circle)
    finally:
        remote.close()
    if as_json:
        summary = {"circle": circle.digest, "number": circle.number, "members": list(circle.names), "act": act.words()}
        typer.echo(json.dumps(summary))
        return
    with page() as console:
        console.print(f"Circle {circle.number} of {escape(circle.federation)!r} is proposed: sha256:{circle.digest}")
        print_list(console, "What it changes", act.words())
        console.print(f"\nIt begins when all have signed: {', '.join(circle.names)}", markup=False)
        console.print("Each member runs: moonflower circle sign CLIENT.toml")


@circle.command("show")
def show(operator: Operator = OPERATOR, page_file: Page = None, as_json: AsJson = False) -> None:
    """Show the current circle, the circles that wait for signatures, and whose signatures are missing."""
    from ..federation.remote import Remote

    remote = Remote(load_config(OperatorConfig, operator))
    try:
        shown = remote.circles()
    finally:
        remote.close()
    before = shown.living.circle if shown.living else None
    if page_file is not None:
        pages = [circle_page(signed, None if signed.circle == before else before) for signed in shown.all]
        write_new({page_file: "\n".join(pages).encode()})
    if as_json:
        typer.echo(json.dumps({"circles": [_as_json(signed, before) for signed in shown.all]}))
        return
    with page() as console:
        if not shown.all:
            console.print("There is no circle yet: moonflower circle propose RUN.toml --with CARD ...", markup=False)
        for signed in shown.all:
            lives = signed.circle == before
            state = "has begun" if lives else f"waits for {', '.join(signed.missing)}"
            heading = f"Circle {signed.circle.number} {state}: sha256:{signed.circle.digest}"
            print_list(
                console, heading, _members_lines(signed.circle) if lives else Act.between(before, signed.circle).words()
            )
        for left in shown.farewells:
            console.print(f"{left.name} has said farewell to the current circle.", markup=False)


@circle.command("sign")
def sign(
    config: ClientFile,
    number: Annotated[
        int | None, typer.Option("--number", help="Number of the circle, if several wait for signatures.")
    ] = None,
    yes: Annotated[
        bool,
        typer.Option("--yes", help="Do not ask, except about letting go of a member that gave no farewell."),
    ] = False,
    new_ledger: Annotated[
        bool, typer.Option("--new-ledger", help="This node lost its ledger: start a new one.")
    ] = False,
    page_file: Page = None,
) -> None:
    """Sign a proposed circle for this node. Shows its members, what it changes, and its recipe in sentences.

    It works while the client runs. Compare the words of the other members' keys with them over another channel, such
    as the telephone: the coordinator alone decides whose messages arrive.
    """
    with _node(config) as (settings, circles, desk):
        shown = desk.shown()
        circles.look(shown.all)
        chosen = _choose(shown, circles, number)
        circle, living = chosen.circle, circles.standing.living
        if (circles.name in circle.new_ledgers) != new_ledger:
            difference = "says that this node's ledger was lost" if not new_ledger else "does not say that it was lost"
            raise InputError(
                "config.value",
                f"circle {circle.number} {difference}",
                hint="--new-ledger is for a circle that says so, and only for that",
            )
        circles.check(circle)
        _check_rows(settings, circle)
        act = Act.between(living, circle)
        _print(circle, act.words(spent=circles.start(circle).summed), circles.name, living)
        if page_file is not None:
            write_new({page_file: circle_page(chosen, living).encode()})
        waiting = circles.pending(circle, shown.farewells)
        _ask(circle, act, circles, waiting, yes=yes)
        signature = circles.sign(circle, shown.farewells, by_hand=True)
        if signature is None:
            typer.echo(f"agreed; this node signs by itself when the time is over, {_day(waiting)}", err=True)
            return
        begins = desk.hand_in(circle, circles.name, signature)
        left = [name for name in chosen.missing if name != circles.name]
        outcome = "it begins" if begins else f"it waits for {', '.join(left)}"
        typer.echo(f"signed circle {circle.number}: {outcome}", err=True)


@circle.command("farewell")
def farewell(
    config: ClientFile,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Leave the circle: this node seals nothing in it any more, and the others may begin the next circle at once.

    It needs only the node key from the state folder, so a member that lost its disk can still leave.
    """
    with _node(config) as (_, circles, desk):
        pin, shown = circles.own.identity.card.node.pin, desk.shown()
        mine = [signed.circle for signed in shown.all if signed.circle.pins.get(circles.name) == pin]
        if not mine:
            raise InputError(
                "config.value", f"{config}: the server has no circle that names {circles.name!r} with this node's key"
            )
        numbers = " and ".join(str(circle.number) for circle in mine)
        if not yes and not typer.confirm(f"Leave circle {numbers}? Runs in it end, for all members"):
            raise typer.Exit(1)
        for circle in mine:
            desk.leave(circles.farewell(circle))
    typer.echo(f"{circles.name} left circle {numbers}", err=True)


@contextmanager
def _node(path: Path) -> Iterator[tuple[ClientConfig, Circles, CircleDesk]]:
    """Yield a node's config, its circles, and its connection to the server."""
    from ..client.circles import circles_of
    from ..client.desk import CircleDesk
    from ..client.keyring import load_keys
    from ..client.ledger.mark import open_ledger
    from ..oauth.login import DpopKey, ServerAuth, TokenSource

    settings = load_config(ClientConfig, path)
    keys = load_keys(settings.client.state)
    bound = DpopKey(keys.node) if settings.oauth.binding == "dpop" else None
    ledger, tokens = open_ledger(settings.client.state, keys.secret), TokenSource(settings.oauth, bound, "fl:train")
    desk = CircleDesk(settings.client, ServerAuth(tokens, bound))
    try:
        yield settings, circles_of(settings, keys, ledger.circles), desk
    finally:
        desk.close()
        tokens.close()
        ledger.close()


def _recipe(settings: RunSettings, schema: Schema, number: int) -> Recipe:
    """Return the recipe of a circle: a run config, with a version 0 that no earlier circle had."""
    from ..client.code import code_of

    training = settings.training.model_copy(update={"init_seed": settings.training.init_seed + number - 1})
    own = settings.model_copy(update={"training": training})
    return recipe_of(own, schema, code_of(settings.task.ref), NUMERICS)


def _model(settings: RunSettings, circle: Circle) -> nn.Module:
    """Return the model of a circle's version 0, after a check that it can be trained as the recipe says."""
    from ..client.learning.pretrained import load_pretrained, start_model
    from ..client.learning.tensors import check_trainable
    from ..client.tasks import load_task

    recipe = circle.recipe
    task = load_task(recipe.task.ref, recipe.task.options)
    pretrained = load_pretrained(settings.data.checkpoint, recipe.checkpoint)
    model = start_model(task, Schema.from_dict(recipe.columns), circle.draw, pretrained)
    check_trainable(task, model, recipe.training)
    return model


def _start(remote: Remote, name: str, model: nn.Module, personal: Iterable[str]) -> Start:
    """Return where a circle starts, after a check that the version fits the circle's model."""
    from ..client.learning.tensors import check_fits

    start, version = remote.start(name)
    check_fits(version, model, personal)
    return start


def _members(before: Circle | None, cards: dict[str, str], without: list[str]) -> dict[str, str]:
    """Return name → pin of a proposed circle."""
    pins = dict(before.pins) if before is not None else {}
    if not pins and not cards:
        raise InputError("config.member", "there is no circle yet; expected --with CARD for every member of the first")
    for name in without:
        if name not in pins:
            raise InputError("config.member", f"--without {name}: not in the circle; {nearest(name, pins)}")
        del pins[name]
    return pins | cards


def _choose(shown: CircleBoard, circles: Circles, number: int | None) -> SignedCircle:
    """Return the circle to sign."""
    waiting = [signed for signed in shown.proposed if circles.name in signed.missing]
    if number is not None:
        waiting = [signed for signed in waiting if signed.circle.number == number]
    if not waiting:
        what = f"circle {number} does not wait" if number is not None else "no circle waits"
        raise InputError(
            "config.value",
            f"{what} for the signature of {circles.name!r}; expected a proposed circle",
            hint="the submitter proposes one: moonflower circle propose RUN.toml",
        )
    if len(waiting) > 1:
        numbers = ", ".join(str(signed.circle.number) for signed in waiting)
        raise InputError("config.value", f"circles {numbers} wait for a signature; expected --number with one of them")
    return waiting[0]


def _check_rows(settings: ClientConfig, circle: Circle) -> None:
    """Check that this node's rows fit the recipe, before anything is signed."""
    from ..client.claim import claim
    from ..client.keyring import load_keys
    from ..client.own_rows import OwnRows

    claim(settings, circle.federation)
    rows = OwnRows(settings, load_keys(settings.client.state).secret)
    rows.check(circle.recipe)
    if left_out := rows.left_out(circle.recipe):
        most = circle.recipe.training.max_rows
        typer.echo(f"training.max_rows = {most}: {left_out} of this node's training rows do not count", err=True)


def _print(circle: Circle, act: list[str], me: str, before: Circle | None) -> None:
    """Print a circle for the person who signs it; lines that the last circle did not have are marked."""
    last = sentences(before.recipe, len(before.names)) if before is not None else {}
    with page() as console:
        console.print(f"Circle {circle.number} of {escape(circle.federation)!r}", style="bold")
        print_list(console, "What it changes", act)
        print_list(console, "Its members, and the words of their keys", _members_lines(circle, me))
        for heading, lines in sentences(circle.recipe, len(circle.names)).items():
            known = {*last.get(heading, lines)}
            print_list(console, heading, [line if line in known else f"CHANGED: {line}" for line in lines])
        console.print(f"\nThe digest that is signed:\nsha256:{circle.digest}")


def _members_lines(circle: Circle, me: str = "") -> list[str]:
    own = {me: " (this node)"}
    return [f"{name}{own.get(name, '')}: {pin_words(pin)} ({pin})" for name, pin in circle.members]


def _ask(circle: Circle, act: Act, circles: Circles, waiting: tuple[LetGo, ...], *, yes: bool) -> None:
    """Ask the person who signs. Only a person who has read the circle can answer."""
    last = circles.standing.newest.circle.number if circles.standing.newest else 0
    if circle.number > last + JUMP + 1 and not typer.confirm(
        f"Circle {circle.number} comes after {last}. Is that meant"
    ):
        raise typer.Exit(1)
    for absent in waiting:
        typer.echo(
            f"{absent.name} gave no farewell. The coordinator alone decides whose messages arrive here: ask "
            f"{absent.name} over the channel by which you read its key.",
            err=True,
        )
        typed = typer.prompt(
            f"Type its name to let it go on {_day([absent])}", default="", show_default=False, err=True
        )
        if typed != absent.name:
            raise InputError("config.value", f"{absent.name} was not let go; nothing was signed")
    if yes:
        return
    for name, pin in act.joins:
        if name == circles.name:
            continue
        which, words = secrets.randbelow(6), pin_words(pin).split("-")
        typed = typer.prompt(f"Word {which + 1} of the six that {name} reads to you", err=True)
        if typed.strip().lower() != words[which]:
            raise InputError(
                "config.member", f"{typed!r} is not word {which + 1} of the key of {name}; nothing was signed"
            )
    typed = typer.prompt("To sign, type the first four digits of the digest", err=True)
    if typed.strip().lower().removeprefix("sha256:") != circle.digest[:4]:
        raise InputError("config.value", "these are not the first digits of this circle's digest; nothing was signed")


def _day(waiting: tuple[LetGo, ...] | list[LetGo]) -> str:
    due = max((absent.due_s for absent in waiting), default=0.0)
    return datetime.fromtimestamp(due, UTC).isoformat(timespec="minutes").replace("+00:00", "Z")


def _as_json(signed: SignedCircle, before: Circle | None) -> dict[str, object]:
    begun = signed.circle == before
    return {
        "circle": signed.circle.digest,
        "number": signed.circle.number,
        "begun": begun,
        "members": signed.circle.pins,
        "missing": list(signed.missing),
        "act": [] if begun else Act.between(before, signed.circle).words(),
        "document": signed.circle.as_dict(),
    }
