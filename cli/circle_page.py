"""A circle as an HTML page to print, sign by hand and file."""

from __future__ import annotations

from html import escape

from ..configs.sentences import sentences
from ..protocol.act import Act, pin_words
from ..protocol.circle import Circle, SignedCircle

_STYLE = (
    "body{font:11pt/1.45 Georgia,serif;max-width:42rem;margin:2rem auto;color:#111}h1{font-size:1.5rem}"
    "h2{font-size:1.1rem;margin-top:1.4rem}code{font-size:.85em;overflow-wrap:anywhere}li{margin:.2rem 0}"
    "table{border-collapse:collapse;width:100%}td,th{border-bottom:1px solid #bbb;padding:.3rem .4rem;text-align:left;"
    "vertical-align:top}.line{margin-top:3rem;border-top:1px solid #111;padding-top:.3rem}"
    "@media print{body{margin:0}section{break-after:page}}"
)


def circle_page(signed: SignedCircle, before: Circle | None) -> str:
    """Return a circle as HTML: what it changes, who is in it, its recipe in sentences, and a line to sign on.

    Args:
        signed: the circle, with the signatures so far.
        before: the circle that it follows; None for the current circle, or the first.
    """
    circle = signed.circle
    rows = "".join(
        f"<tr><td>{escape(name)}</td><td><code>{escape(pin_words(pin))}</code><br><code>{escape(pin)}</code></td>"
        f"<td>{'signed' if name in signed.signatures else 'not signed'}</td></tr>"
        for name, pin in circle.members
    )
    recipe = "".join(
        f"<h2>{escape(heading)}</h2>{_list(lines)}"
        for heading, lines in sentences(circle.recipe, len(circle.names)).items()
    )
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Circle {circle.number} of {escape(circle.federation)}</title><style>{_STYLE}</style><section>"
        f"<h1>Circle {circle.number} of {escape(circle.federation)}</h1>"
        f"<h2>What it changes</h2>{_list(Act.between(before, circle).words())}"
        "<h2>Its members</h2><table><tr><th>member</th><th>words of its key, and its pin</th><th></th></tr>"
        f"{rows}</table>"
        f"{recipe}<h2>What is signed</h2><p>The digest <code>sha256:{circle.digest}</code>, which covers the members "
        "and every setting of the recipe.</p>"
        '<p class="line">Place, date, name and signature of the person who signs for a member</p></section></html>\n'
    )


def _list(lines: list[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(line)}</li>' for line in lines)}</ul>"
