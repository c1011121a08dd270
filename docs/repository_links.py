"""MkDocs hook: what lies outside docs/ becomes part of the site, so every link is checked and none needs a network.

README.md is the home page; the other pages of the root and configs/data/README.md are pages, too. A link to any other
file of the repository leads to a copy of it under ``source/``. A link to a file that is not there stays as it is, and
``mkdocs build --strict`` refuses it. The decisions, docs/adr/, get into the navigation by themselves.
"""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
PAGES = {  # file of the repository: page of the site
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "configs/data/README.md": "data.md",
}
FENCE = re.compile(r"(^```.*?^```)", flags=re.M | re.S)
LINK = re.compile(r"\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_config(config: Any, **_: Any) -> Any:
    """Return the configuration with all decisions under the heading that mkdocs.yml left empty."""
    files = sorted(ROOT.glob("docs/adr/*.md"), key=lambda file: (file.stem != "index", file.name))
    decisions = [{_title(file): file.relative_to(ROOT / "docs").as_posix()} for file in files]
    for group in config.nav:
        for parts in group.values():
            for part in parts if isinstance(parts, list) else []:
                if part.get("Decisions") == []:
                    part["Decisions"] = decisions
    return config


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Return the files of docs/, the pages from elsewhere, and a copy of every file that a page links to."""
    for source, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / source).read_text(encoding="utf-8")))
    for file in list(files.documentation_pages()):
        for target, _anchor in LINK.findall(FENCE.sub("", file.content_string)):
            wanted = _wanted(file.src_uri, target)
            copy = f"source/{wanted}.txt"
            if wanted and _page(wanted) is None and files.get_file_from_path(copy) is None:
                files.append(File.generated(config, copy, content=(ROOT / wanted).read_bytes()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Return a page's text with links to the repository turned into links of the site."""
    here = page.file.src_uri

    def mend(found: re.Match[str]) -> str:
        wanted = _wanted(here, found[1])
        if not wanted:
            return found[0]
        target = _page(wanted) or f"source/{wanted}.txt"
        return f"]({relpath(target, PurePosixPath(here).parent)}{found[2] or ''})"

    parts = FENCE.split(markdown)
    return "".join(part if part.startswith("```") else LINK.sub(mend, part) for part in parts)


def _title(file: Path) -> str:
    return file.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")


def _page(wanted: str) -> str | None:
    """Return the page of the site that a file of the repository is."""
    if wanted in PAGES:
        return PAGES[wanted]
    return wanted.removeprefix("docs/") if wanted.startswith("docs/") and wanted.endswith(".md") else None


def _wanted(here: str, target: str) -> str | None:
    """Return the file of the repository that a link on page ``here`` means, if there is one."""
    if re.match(r"[a-z]+:", target):
        return None
    sources = {page: source for source, page in PAGES.items()}
    wanted = normpath((PurePosixPath(sources.get(here, f"docs/{here}")).parent / target).as_posix())
    return wanted if not wanted.startswith("..") and (ROOT / wanted).is_file() else None
