"""The dashboard in a real browser (Debian's chromium): people watch a live run, release a model, and check the log.

Needs chromium and the extra ``browser`` (Playwright's package without its browsers, axe-core); skips without them.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.office import Office, chromium

PAGES = ("overview", "rounds", "members", "models", "models/3", "log")
WAIT_MS = 60_000


class People:
    """The browsers of several people, and what went wrong in them."""

    def __init__(self, office: Office, browser: Any) -> None:
        self.office, self._browser = office, browser
        self.faults: list[str] = []
        self.sent: list[str] = []
        self.asked: set[str] = set()
        self._desks: dict[str, Any] = {}

    def desk(self, name: str) -> Any:
        """A person's page, logged in."""
        if name not in self._desks:
            page = self.fresh()
            self.office.log_in(page, name)
            self._desks[name] = page
        return self._desks[name]

    def fresh(self, **how: Any) -> Any:
        page = self._browser.new_context(ignore_https_errors=True, **how).new_page()
        page.set_default_timeout(WAIT_MS)
        page.on("console", lambda line: self.faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("request", self._note)
        return page

    def _note(self, request: Any) -> None:
        self.asked.add("/".join(request.url.split("/")[:3]))
        self.sent.append(f"{request.url} {request.post_data or ''}")

    def go(self, name: str, where: str) -> Any:
        page = self.desk(name)
        page.goto(f"{self.office.url}/ui/#/{where}")
        page.locator("h1").wait_for()
        return page

    def decide(self, name: str, version: int, button: str, reason: str = "") -> Any:
        """Sign something about a version, as a person does; returns the page with what came of it."""
        page = self.go(name, f"models/{version}")
        page.get_by_role("heading", name=f"Version {version}").wait_for()
        page.get_by_role("button", name=button).click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Your private key").set_input_files(self.office.keys[name])
        dialog.get_by_text("✓ The key of board").wait_for()
        if reason:
            dialog.get_by_label("Reason").fill(reason)
        dialog.get_by_role("button", name="Sign and send").click()
        dialog.wait_for(state="hidden")
        return page


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> Iterator[People]:
    with chromium() as browser, Office(tmp_path_factory.mktemp("browser"), "training.report_every=1") as office:
        yield People(office, browser)


def says(page: Any, text: str) -> None:
    """Wait until the overview's sentence says something."""
    page.locator("#sentence", has_text=text).wait_for()


def until(true: Callable[[], bool], within_s: float = 30) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.1)


def test_people_watch_a_run_and_release_reject_and_roll_back_its_models(people: People) -> None:
    office, live = people.office, people.office.live
    first, second = live.names[:2]
    watcher = people.desk("Olga")
    says(watcher, "No run yet.")
    says(watcher, "All 4 members are connected.")
    watcher.evaluate("window.mark = 'the same page'")
    run = live.submit("training.rounds=3")
    says(watcher, "of 3: ")
    watcher.locator(".chip").first.wait_for()
    watcher.locator("svg.chart circle").first.wait_for()
    says(watcher, "No run now. The last one ended well: 3 of 3 rounds gave a better version.")
    until(lambda: watcher.locator("#now-metric-t").count() == 1)
    assert live.remote.show(run)["status"] == "done"
    until(lambda: watcher.locator("figure").first.locator("svg.chart circle").count() == 3)
    says(watcher, f"Version 3 waits for 2 approvers, from {first} or {second}.")

    page = people.decide("Anna", 1, "Reject", "loss is too high")
    page.get_by_text("It was rejected. It can never be released").wait_for()
    page = people.decide("Anna", 2, "Approve")
    page.get_by_text(f"1 of 2 approvals are there; 1 more is missing, from {second}.").wait_for()
    says(watcher, f"Version 2 waits for one more approver, from {second}.")
    page.get_by_role("button", name="Approve").click()
    page.get_by_text(f"{first} has signed already.").wait_for()
    page.keyboard.press("Escape")
    other = people.go("Bert", "models/2")
    other.get_by_role("button", name="Approve").click()
    other.get_by_text("With your signature it is released at once.").wait_for()
    other.get_by_label("Your private key").set_input_files(office.keys["Anna"])
    other.get_by_text(f"{first} has signed already.").wait_for()
    other.get_by_role("button", name="Sign and send").click()
    other.get_by_text("This key cannot sign here.").wait_for()
    other.get_by_role("button", name="Cancel").click()
    people.decide("Bert", 2, "Approve").get_by_text("This is the released version, the one to use.").wait_for()
    until(lambda: watcher.get_by_text("version 2").count() > 0)
    people.decide("Anna", 3, "Approve")
    people.decide("Bert", 3, "Approve").get_by_text("This is the released version, the one to use.").wait_for()
    says(watcher, "Version 3 is released.")
    people.decide("Bert", 2, "Roll back", "drift at two sites")
    people.decide("Anna", 2, "Roll back", "drift at two sites").get_by_text("the one to use.").wait_for()
    assert watcher.evaluate("window.mark") == "the same page", "all that without a reload"

    done = [(one["event"], one["details"]["version"]) for one in live.log() if "version" in one.get("details", {})]
    released = [one for one in done if one[0] in ("released", "rolled_back")]
    assert released == [("released", 2), ("released", 3), ("rolled_back", 2)]
    assert [one["member"] for one in live.events("approved")] == [first, second, first, second, second, first]
    assert [one["details"]["version"] for one in live.events("rejected")] == [1]
    live.check_log()
    secrets = [json.loads(path.read_text())["d"] for path in office.keys.values()]
    assert not [line for line in people.sent if any(secret in line for secret in secrets)], "no key was sent"
    assert people.asked == {office.url, office.live.stage.issuer_url}, "nothing from anywhere else"


def test_each_sees_and_does_what_their_scopes_allow(people: People) -> None:
    watcher = people.go("Olga", "models/3")
    watcher.get_by_role("heading", name="Version 3").wait_for()
    assert watcher.get_by_role("button", name="Approve").count() == 0
    assert watcher.get_by_text("You may look, but not decide").count() == 1
    board = people.desk("Nora")
    says(board, "No run now.")
    links = board.get_by_role("navigation").get_by_role("link").all_inner_texts()
    assert links == ["Overview", "Models"]
    assert watcher.evaluate("document.cookie") == "", "no script can read the session"
    assert people.faults == []


def test_the_log_can_be_checked_in_the_browser_and_a_changed_one_is_found(people: People) -> None:
    page = people.go("Anna", "log")
    page.get_by_text("✓ This browser has followed the log").wait_for()
    page.get_by_label("Event").select_option("released")
    until(lambda: page.locator(".entries > li").count() == 2)
    page.locator(".entries > li > details > summary").first.click()
    page.get_by_role("button", name="Check in this browser").click()
    page.get_by_text("is in the signed log.").wait_for()
    assert page.get_by_text("That root is signed by the log’s key").count() == 1

    def lying(route: Any) -> None:
        value = route.fetch().json()
        value["entry"] = value["entry"].replace('"version":3', '"version":1').replace('"version":2', '"version":1')
        route.fulfill(json=value)

    page.route("**/ui/api/log/*/proof", lying)
    page.get_by_role("button", name="Check again").click()
    page.get_by_text("is not what the log signed: the path does not lead to the signed root").wait_for()
    page.unroute("**/ui/api/log/*/proof")
    page.get_by_role("button", name="Check again").click()
    page.get_by_text("is in the signed log.").wait_for()
    page.evaluate(
        "() => { const s = JSON.parse(localStorage['moonflower.log']);"
        " s.root = s.root.replace(/^../, s.root.startsWith('00') ? '11' : '00');"
        " localStorage['moonflower.log'] = JSON.stringify(s); }"
    )
    page.get_by_role("button", name="Check the log now").click()
    page.get_by_text("This is not the log that this browser knows.").wait_for()
    page.locator("nav").get_by_role("link", name="Overview").click()
    assert page.get_by_role("alert").get_by_text("Do not approve anything").count() == 1, "on every page"
    page.evaluate("localStorage.clear()")
    page.reload()
    says(page, "No run now.")


def test_everything_works_with_the_keyboard(people: People) -> None:
    page = people.go("Anna", "overview")
    page.reload()
    says(page, "No run now.")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    models = page.get_by_role("navigation").get_by_role("link", name="Models")
    models.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Models").wait_for()
    until(lambda: page.evaluate("document.activeElement.tagName") == "H1")
    page.keyboard.press("Tab")
    assert "Version 3" in page.evaluate("document.activeElement.textContent")
    page.keyboard.press("Enter")
    page.get_by_role("heading", name="Version 3").wait_for()
    button = page.get_by_role("button", name="Reject")
    button.focus()
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    for _ in range(12):  # the focus stays in the dialog, or goes to the browser's own bar
        page.keyboard.press("Tab")
        assert page.evaluate("!!document.activeElement.closest('dialog') || document.activeElement === document.body")
    page.keyboard.press("Escape")
    dialog.wait_for(state="hidden")
    assert page.evaluate("document.activeElement.textContent").startswith("Reject")


@contextmanager
def dialog_open(page: Any) -> Iterator[None]:
    page.get_by_role("button", name="Reject").click()
    page.get_by_role("dialog").wait_for()
    yield
    page.keyboard.press("Escape")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_shuts_anybody_out(people: People, scheme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="extra: browser").Axe()
    page = people.fresh(color_scheme=scheme, viewport={"width": 1280, "height": 900})
    found: list[str] = []

    def look(where: str) -> None:
        for one in axe.run(page).response["violations"]:
            if one["impact"] in ("serious", "critical"):
                found.append(f"{where}: {one['id']}: {[node['html'][:120] for node in one['nodes'][:3]]}")

    page.goto(people.office.url)
    page.get_by_role("link", name="Log in").wait_for()
    look("welcome")
    page.get_by_role("link", name="Log in").click()
    page.get_by_label("Pass phrase").wait_for()
    look("login")
    people.office.log_in(page, "Anna")
    for width in (1280, 400):
        page.set_viewport_size({"width": width, "height": 900})
        for where in PAGES:
            page.goto(f"{people.office.url}/ui/#/{where}")
            page.get_by_text("Loading …").wait_for(state="detached")
            page.locator(".lede").wait_for()
            until(lambda: not page.get_by_text("Looking …").count())
            if where == "log":
                page.locator(".entries > li > details > summary").nth(1).click()
                page.get_by_role("button", name=re.compile("Check (in this browser|again)")).first.click()
                page.get_by_text("is in the signed log.").wait_for()
            look(f"{where} at {width}")
            wide = page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, f"{where} is {wide} wide"
            if where == "models/3":
                with dialog_open(page):
                    look(f"dialog at {width}")
    assert found == []


def test_a_run_is_stopped_by_whoever_may(people: People) -> None:
    run = people.office.live.submit("training.rounds=40")
    page = people.go("Olga", "rounds")
    page.get_by_role("button", name="Stop this run").click()
    page.get_by_role("dialog").get_by_role("button", name="Stop the run").click()
    page.get_by_text("The run is being stopped.").wait_for()
    page.get_by_text(re.compile(r"^Stopped \(run\.stopped\)")).wait_for()
    assert people.office.live.remote.show(run)["status"] == "stopped"
    page = people.go("Olga", "overview")
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("link", name="Log in").wait_for()
    assert people.faults == []


def test_a_session_that_ends_takes_the_page_with_it(people: People, tmp_path: Path) -> None:
    page = people.go("Bert", "members")
    page.get_by_text("connected.").wait_for()
    page.context.clear_cookies()
    page.get_by_role("navigation").get_by_role("link", name="Log").click()
    page.get_by_text("Your session is over.").wait_for()
    assert page.get_by_text("Cleveland").count() == 0, "and what it showed"
