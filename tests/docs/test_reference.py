"""Pages that the code makes are what it makes; every page is on the site; every alert and every code has an entry."""

from __future__ import annotations

import importlib.util
import re
from types import ModuleType

import audit
import pytest
import sbom
import yaml
from support.pages import ROOT, anchors, documented_codes

MENDED_BY = "run `make reference` and commit what it writes"


def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference", ROOT / "docs/reference.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["configuration.md", "commands.md"])
def test_the_reference_is_what_the_code_makes(name: str) -> None:
    committed = (ROOT / "docs/reference" / name).read_text(encoding="utf-8")
    made: str = reference().PAGES[name]()
    missing = sorted(set(made.splitlines()) - set(committed.splitlines()))
    assert made == committed, f"docs/reference/{name} is not what the code makes: {MENDED_BY}. New there: {missing[:5]}"


def test_every_setting_is_described() -> None:
    lines = reference().configuration().splitlines()
    bare = [line for line in lines if line.startswith("| ") and line.endswith("|  |")]
    assert bare == [], "settings without a description (Field(..., description=...))"


def nav(part: object) -> list[str]:
    if isinstance(part, str):
        return [part]
    parts = part.values() if isinstance(part, dict) else part
    assert isinstance(parts, (list, type({}.values())))
    return [page for one in parts for page in nav(one)]


def test_every_page_is_on_the_site() -> None:
    text = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    config = yaml.safe_load(re.sub(r"!!python/\S+ \{.*\}", "null", text))
    pages = nav(config["nav"])
    docs = {
        file.relative_to(ROOT / "docs").as_posix() for file in ROOT.glob("docs/**/*.md") if file.parent.name != "adr"
    }
    assert sorted(docs - set(pages)) == [], "not in mkdocs.yml's nav"
    others = {"index.md", "data.md", "security.md", "contributing.md", "changelog.md"}  # docs/repository_links.py
    assert set(pages) - docs == others
    assert config["theme"]["font"] is False


def test_the_readme_leads_to_every_page_and_the_list_of_decisions_to_every_decision() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    decisions = ROOT / "docs/adr/index.md"
    pages = {*ROOT.glob("docs/**/*.md")} - {*ROOT.glob("docs/adr/*.md")} | {decisions}
    assert sorted(page for page in pages if f"]({page.relative_to(ROOT).as_posix()}" not in readme) == []
    listed = decisions.read_text(encoding="utf-8")
    others = sorted({*ROOT.glob("docs/adr/*.md")} - {decisions})
    assert [page.name for page in others if f"]({page.name})" not in listed] == []


def test_every_alert_has_an_entry_in_the_runbook() -> None:
    rules = yaml.safe_load((ROOT / "configs/deploy/prometheus/alerts.yml").read_text(encoding="utf-8"))
    alerts = {rule["alert"].lower() for group in rules["groups"] for rule in group["rules"] if "alert" in rule}
    assert alerts
    assert sorted(alerts - anchors(ROOT / "docs/runbook.md")) == []


def test_every_code_says_what_to_do_and_can_be_linked_to() -> None:
    """The table of codes is the runbook of codes: what to do stands in the third column, under an anchor a family."""
    assert "protocol.md#codes" in (ROOT / "docs/runbook.md").read_text(encoding="utf-8")
    protocol = ROOT / "docs/protocol.md"
    table = protocol.read_text(encoding="utf-8").partition("\n## Codes\n")[2].partition("\n## ")[0]
    entries = [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| `")]
    told = {code for cells in entries if cells[-1].strip() for code in re.findall(r"`([a-z]+\.[a-z_]+)`", cells[0])}
    assert sorted(documented_codes() - told) == [], "no word on what to do"


# The list of parts, and the audit of them


def test_what_runs_is_told_from_what_tests() -> None:
    has = {
        "flwr": ["h11; python_version >= '3'", "pytest; extra == 'dev'"],
        "h11": [],
        "httpx": ["h2; extra == 'http2'"],
    }
    has |= {"prometheus-client": [], "h2": []}
    names = sbom.needed(["flwr>=1.41,<1.43", "prometheus_client>=0.21", "httpx[http2]"], has.__getitem__)
    assert names == {"flwr", "h11", "httpx", "h2", "prometheus-client"}
    parts = [{"name": name} for name in ("flwr", "prometheus_client", "h11", "httpx", "h2", "pytest")]
    made = sbom.scoped({"components": parts}, names)
    assert [part["name"] for part in made["components"] if part["scope"] == "excluded"] == ["pytest"]
    with pytest.raises(SystemExit, match="torch"):
        sbom.scoped({"components": parts}, names | {"torch"})


def entry(name: str, *ids: str, **more: str) -> dict[str, object]:
    vulns = [{"id": one, "aliases": [], "fix_versions": ["2"]} for one in ids]
    return {"name": name, "version": "1", "vulns": vulns, **more}


def test_an_audit_that_did_not_happen_is_not_called_clean() -> None:
    status, lines = audit.verdict(None, 3, {})
    assert (status, lines[0][:11]) == (0, "NOT AUDITED")
    report = {"dependencies": [entry("a"), {"name": "b", "skip_reason": "not found"}]}
    status, lines = audit.verdict(report, 2, {})
    assert status == 0
    assert lines == ["NOT AUDITED: the advisory database answered for 1 of 2 packages only."]


def test_a_finding_fails_unless_it_was_accepted() -> None:
    report = {"dependencies": [entry("a", "PYSEC-1"), entry("b")]}
    assert audit.verdict(report, 2, {}) == (1, ["a 1: PYSEC-1, mended in 2", "all 2 packages looked at"])
    assert audit.verdict(report, 2, {"PYSEC-1": "we do not use it"})[0] == 0


def test_every_pin_of_the_audit_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line and not re.match(r"#|[\w.-]+==\S+$", line)] == []
