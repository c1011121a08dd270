"""Names of members, federations and people: letters of any one script, the same bytes however they were typed."""

from __future__ import annotations

import re
import unicodedata
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

NAME = "a name of 1 to 64 letters, digits, blanks or ._&,'()/- that begins with a letter or digit"
_PATTERN = r"^[\p{L}\p{Nd}][\p{L}\p{M}\p{Nd} ._&,'()/-]{0,63}$"
_TOGETHER = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL", "BOPOMOFO"})
"""Scripts that one name may mix, as East Asian names do."""


def nfc(name: str) -> str:
    """Return a name in Unicode's normal form C, in which all names are kept, signed and compared.

    >>> nfc("Zu\\u0308rich") == "Z\\u00fcrich"
    True
    """
    return unicodedata.normalize("NFC", name)


def slug(name: str) -> str:
    """Return a name in the form that is used for files, folders and accounts: lower-case ASCII.

    >>> slug("VA Long Beach"), slug("Z\\u00fcrich"), slug("\\u6771\\u4eac")
    ('va-long-beach', 'zurich', 'member')
    """
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return "-".join(re.findall(r"[A-Za-z0-9]+", plain)).lower() or "member"


def _normal(value: object) -> object:
    return nfc(value) if isinstance(value, str) else value


def _one_script(name: str) -> str:
    """Return the name.

    Raises:
        ValueError: it mixes scripts, so that a letter could be taken for one of another script.
    """
    scripts = {unicodedata.name(letter, "?").split()[0] for letter in name if letter.isalpha()}
    if len(scripts - _TOGETHER) + bool(scripts & _TOGETHER) > 1:
        found = ", ".join(sorted(script.capitalize() for script in scripts))
        raise ValueError(f"{name!r} mixes letters of {found}; expected letters of one script")
    return name


Name = Annotated[str, BeforeValidator(_normal), Field(pattern=_PATTERN, title=NAME), AfterValidator(_one_script)]
