"""``moonflower model``: versions, their cards, and decisions about them, in a folder or at a server."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ..canonical import canonical
from ..client.approver import load_approver_key
from ..configs.names import nfc
from ..configs.roles import ClientConfig, OperatorConfig, load_config
from ..errors import InputError, Refused
from ..protocol.approval import REASON_HELP, Action, reason_problem
from ..protocol.model_version import Version, parse
from ..report.findings import votes
from ..server.records.state import State, log_name, open_existing
from ..server.releases.card import beside
from ..server.releases.card_text import markdown
from ..server.releases.registry import Registry
from .deciding import Versions, decided, tell
from .options import AsJson
from .output import page, print_json, visible, write_new

model = typer.Typer(no_args_is_help=True, help="Model versions: list, show, approve, export.")
VersionArgument = Annotated[str, typer.Argument(help="Version number, or the first digits of its SHA-256.")]
StateOption = Annotated[
    Path | None, typer.Option("--state", help="Folder of a server or a simulation.  [default: state]")
]
AsOption = Annotated[
    Path | None, typer.Option("--as", help="Operator config (TOML): ask the server instead of a folder.")
]
KeyOption = Annotated[Path, typer.Option("--key", help="Your private key (moonflower keys approver).")]
MemberOption = Annotated[
    str, typer.Option("--member", callback=nfc, help="Member that you sign for, if your key is on several cards.")
]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask before signing.")]
ReasonOption = Annotated[str, typer.Option("--reason", help=REASON_HELP)]
DECISIONS: dict[Action, str] = {
    "approve": """Sign for the release of a version, on behalf of a member. With enough approvals it is released.

    Released means good enough to use. It does not change what rounds start from: the last version that was not refused.
    """,
    "reject": """Reject a version: it is never released (again). One approver is enough, and a rejection is final.

    The released version cannot be rejected: approve a newer one, or roll back.
    """,
    "rollback": """Sign for going back to an older version that was released. It takes as many approvals as a release.

    It changes what is used, not what is trained: rounds still start from the last version that was not refused.
    """,
}


class Form(StrEnum):
    """Formats of an exported file."""

    safetensors = "safetensors"
    torch = "torch"
    onnx = "onnx"


ENOUGH = 2  # approvals that ``verify`` asks for unless a client config says otherwise


@model.command("list")
def list_versions(state: StateOption = None, operator: AsOption = None, as_json: AsJson = False) -> None:
    """List every version: the start, promoted versions, kept and refused candidates, and which version is released."""
    with _source(state, operator) as source:
        listing = source.listing()
    if as_json:
        print_json(listing)
        return
    table = Table("version", "status", "round", "members", "loss", "auc", "sha256")
    for version in listing["versions"]:
        metrics = version["metrics"] or {}
        table.add_row(
            "–" if version["version"] is None else str(version["version"]),
            _status(version),
            str(version["number"]),
            str(len(version["members"])),
            *("–" if metrics.get(name) is None else f"{metrics[name]:.3f}" for name in ("loss", "auc")),
            version["sha256"][:12],
        )
    with page() as console:
        console.print(table)
        for version in listing["imports"]:
            console.print(f"imported {version['created']}: {version['sha256']}", markup=False)


@model.command("show")
def show(
    version: VersionArgument, state: StateOption = None, operator: AsOption = None, as_json: AsJson = False
) -> None:
    """Show one version's lineage: base, round, members, verdict, who signed it, metrics, release."""
    with _source(state, operator) as source:
        shown = source.shown(version)
    lineage, release = shown["lineage"], shown["card"]["release"]
    path = None
    if operator is None and lineage["version"] is not None:
        path = str(_folder(state) / "models" / f"{lineage['sha256']}.safetensors")
    fields = {**lineage, "path": path}
    if as_json:
        print_json({**fields, "release": release})
        return
    table = Table.grid(padding=(0, 2))
    for name, value in {
        **fields,
        "proof": f"signed by {', '.join(sorted(lineage['proof']['signatures']))}",
        "members": ", ".join(lineage["members"]),
        "votes": votes(lineage["votes"]),
        "status": _status({**release, "code": lineage["code"], "approvals": len(release["approvals"])}),
    }.items():
        table.add_row(name, "–" if value is None or value == "" else visible(str(value)))
    with page() as console:
        console.print(table, markup=False)


@model.command("card")
def card(
    version: VersionArgument, state: StateOption = None, operator: AsOption = None, as_json: AsJson = False
) -> None:
    """Print a version's model card (Markdown): origin, members, quality, what protects whom, limits, approvals."""
    with _source(state, operator) as source:
        document = source.shown(version)["card"]
    if as_json:
        print_json(document)
    else:
        typer.echo(markdown(document), nl=False)


def _decision(action: Action, words: str) -> None:
    """Mount the command with which an approver takes a decision."""

    def decide(
        version: VersionArgument,
        key: KeyOption,
        reason: ReasonOption = "",
        member: MemberOption = "",
        state: StateOption = None,
        operator: AsOption = None,
        yes: YesOption = False,
        as_json: AsJson = False,
    ) -> None:
        private = load_approver_key(key)
        if problem := reason_problem(action, reason):
            raise InputError("release.reason", problem)
        with _source(state, operator, deciding=True) as source:
            outcome = decided(source, action, version, private, member, reason, ask=not yes)
        tell(outcome, as_json)

    decide.__doc__ = words
    model.command(action)(decide)


for _action, _words in DECISIONS.items():
    _decision(_action, _words)


@model.command("export")
def export(
    version: VersionArgument,
    out: Annotated[Path, typer.Option("--out", help="File to write; neither it nor its card may exist.")],
    form: Annotated[
        Form,
        typer.Option(
            "--format", help="The version itself, a state_dict for torch.load, or ONNX (pip install moonflower[onnx])."
        ),
    ] = Form.safetensors,
    unreleased: Annotated[
        bool, typer.Option("--unreleased", help="Write a version that is not released, too; file or card says so.")
    ] = False,
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Task of yours that the version may name, for torch and onnx; code is imported."),
    ] = None,
    state: StateOption = None,
    operator: AsOption = None,
) -> None:
    """Write a released version's file, with its model card beside it: OUT.card.md and OUT.card.json.

    Only the version itself (safetensors) carries schema and scaling for predict, and only it can be verified. The other
    formats take prepared rows and give the model's outputs.
    """
    cards = out.with_name(f"{out.name}.card.md"), out.with_name(f"{out.name}.card.json")
    with _source(state, operator) as source:
        document = source.shown(version)["card"]
        try:
            file = source.file(version, unreleased=unreleased)
        except Refused as error:
            if error.code == "release.unreleased":
                error.hint = "--unreleased writes it anyway, marked as unreleased"
            raise
    whole = beside(document, out.name, file)
    data = file.data
    if form is not Form.safetensors:
        data = _converted(file, str(document["sha256"]), form, task or [])
        whole = beside(document, out.name, file, (form.value, data))
    write_new({cards[0]: markdown(whole).encode(), cards[1]: canonical(whole) + b"\n", out: data})
    typer.echo(str(out))


def _converted(version: Version, sha256: str, form: Form, tasks: list[str]) -> bytes:
    """Return a version in a format of others; ``sha256`` is that of the version as members signed it."""
    from ..client.learning.export import onnx_file, torch_file  # torch takes seconds
    from ..client.learning.predict import open_version
    from ..client.tasks import own_tasks

    predictor = open_version(version, allow=[*own_tasks(), *tasks])
    return torch_file(predictor) if form is Form.torch else onnx_file(predictor, sha256)


@model.command("import")
def import_file(
    file: Annotated[Path, typer.Argument(help="Model version (safetensors), as model export writes it.")],
    state: StateOption = None,
    as_json: AsJson = False,
) -> None:
    """Import a model version from outside, for a circle to start from: circle propose CONFIG --start SHA256.

    All members sign that start. The numbers of a model do not show what it was shaped for: import only what you trust.
    """
    try:
        version = parse(file.read_bytes())
    except OSError as error:
        raise InputError("data.file", f"{file} cannot be read: {error.strerror}") from None
    except InputError as error:
        raise InputError(error.code, f"{file}: {error}") from None
    with _source(state, None, deciding=True) as source:
        assert isinstance(source, Registry)
        new = source.keep_import(version)
    if as_json:
        print_json({"sha256": version.sha256, "new": new})
        return
    typer.echo(f"{'imported' if new else 'imported already'}: {version.sha256}", err=True)
    typer.echo(version.sha256)


@model.command("verify")
def verify(
    file: Annotated[Path, typer.Argument(help="Model file that you were given, with FILE.card.json beside it.")],
    config: Annotated[Path | None, typer.Option("--config", help="Client config (TOML): pins of the members.")] = None,
    pin: Annotated[
        list[str] | None, typer.Option("--pin", metavar="MEMBER=PIN", help="A member's pin (repeatable).")
    ] = None,
    approvals: Annotated[
        int | None,
        typer.Option("--approvals", min=0, help=f"Members whose approvers must sign.  [default: {ENOUGH}]"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check without the coordinator that the members made this exact file together and that enough of them released it.

    It cannot show whether the version was replaced or rejected later: the log says that.
    """
    from ..protocol.released import check

    pins, needed = _pins(config, pin or [])
    beside_it = file.with_name(f"{file.name}.card.json")
    try:
        version, text = parse(file.read_bytes()), beside_it.read_text(encoding="utf-8")
        value = json.loads(text)
    except OSError as error:
        raise InputError("data.file", f"{error.filename} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise InputError("release.malformed", f"{beside_it}: not a model card; expected JSON") from None
    checked = check(version, value, pins, min_approvals=needed if approvals is None else approvals)
    who = [
        {"member": approval.member, "approver": approval.approver, "action": approval.action}
        for approval in checked.approvals
    ]
    if as_json:
        openers = list(checked.openers)
        print_json(
            {
                "ok": True,
                "sha256": version.sha256,
                "federation": checked.federation,
                "openers": openers,
                "approvals": who,
            }
        )
        return
    names = (
        ", ".join(f"{approver['member']} ({approver['approver']})" for approver in who)
        or "nobody, and no approval was required"
    )
    typer.echo(visible(f"{checked.federation}: made and signed by {', '.join(checked.openers)}"))
    typer.echo(visible(f"approved by {names}"))


def _status(version: Mapping[str, Any]) -> str:
    """Return the status of a version, in a few words."""
    have = f"{version['approvals']} of {version['required']}"
    if version["status"] == "promoted":
        return f"promoted, {have}" if version["step"] else "promoted"
    if version["status"] == "replaced" and version["approvals"]:
        return f"replaced, {have}"
    return f"{version['status']} {version['code']}".strip()


def _pins(config: Path | None, texts: list[str]) -> tuple[dict[str, str], int]:
    """Return member → pin, and how many approvals are required."""
    pins, needed = {}, ENOUGH
    if config is not None:
        from ..client.ledger.ledger import FILE_NAME, Ledger

        settings = load_config(ClientConfig, config)
        ledger = Ledger(settings.client.state / FILE_NAME)
        try:
            living = ledger.circles.standing().living
        finally:
            ledger.close()
        pins = {} if living is None else dict(living.pins)
        needed = settings.client.min_approvals
    for pair in texts:
        member, _, text = pair.rpartition("=")
        if not member or not re.fullmatch(r"[A-Za-z0-9_-]{43}", text):
            raise InputError("config.value", f"--pin {pair}: expected MEMBER=PIN, a pin of 43 characters")
        pins[nfc(member)] = text
    if not pins:
        raise InputError("config.value", "no pin is known; expected --config of a node that is in a circle, or --pin")
    return pins, needed


@contextmanager
def _source(state: Path | None, operator: Path | None, *, deciding: bool = False) -> Iterator[Versions]:
    """Yield the versions of a folder, or of a server."""
    if operator is not None:
        if state is not None:
            raise InputError("config.value", "--state and --as exclude each other")
        settings = load_config(OperatorConfig, operator)
        from ..federation.remote import Remote

        remote = Remote(settings, "fl:approve")
        try:
            yield remote
        finally:
            remote.close()
        return
    store, models = open_existing(_folder(state))
    try:
        if not deciding:
            yield Registry(store, models)
            return
    finally:
        store.close()
    opened = State(_folder(state), log_name(_folder(state)))
    try:
        yield Registry(opened.store, opened.models, opened.log)
    finally:
        opened.close()


def _folder(state: Path | None) -> Path:
    return Path("state") if state is None else state
