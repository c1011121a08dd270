"""Words that people use for the two answers of a question, in several languages, in small letters.

They decide which of two classes is the positive one. They are public: a class with such a word is named in a schema
however few rows it has.
"""

from __future__ import annotations

_NEGATIVE = """
0 -1 f false n no non nein nie nee nej nem ne não nao ei hayır hayir ohi όχι нет ні 否 いいえ
negative neg negativ negativo negativa négatif negatief -
control controls kontrolle kontrola controle controllo contrôle ctrl
healthy gesund zdrowy sain sano gezond normal unaffected well
benign gutartig benigno benigna bénin goedaardig absent abwesend absente
alive lebend lebendig vivant vivo viva zyje żyje levend survived überlebt censored zensiert good paid stable
"""
_POSITIVE = """
1 t true y yes ja j oui si sí sì sim tak da evet igen kyllä ναι да так 是 はい
positive pos positiv positivo positiva positif positief +
case cases fall fälle caso cas
sick ill krank chory malade malato enfermo ziek abnormal diseased affected
malignant bösartig maligno maligna malin kwaadaardig present vorhanden présent presente
dead died deceased death tot gestorben verstorben mort décédé muerto morto zmarl zmarły overleden
event relapse default defaulted bad
"""
NEGATIVE, POSITIVE = frozenset(_NEGATIVE.split()), frozenset(_POSITIVE.split())


def is_known(word: str) -> bool:
    """Return whether a word is one of the lists."""
    return word.casefold() in NEGATIVE | POSITIVE


def positive_of(one: str, other: str) -> str | None:
    """Return which of two words is the positive one; None if the lists do not tell.

    >>> positive_of("ja", "nein"), positive_of("case", "control"), positive_of("m", "f"), positive_of("a", "b")
    ('ja', 'case', None, None)
    >>> positive_of("1", "2") is None
    True
    """
    pair = {one.casefold(), other.casefold()}
    if pair in ({"m", "f"}, {"1", "2"}):  # sexes, and numbers that merely count
        return None
    for word, against in ((one, other), (other, one)):
        negative, known = against.casefold() in NEGATIVE, word.casefold() in NEGATIVE
        if negative and not known:
            return word
    for word, against in ((one, other), (other, one)):
        if word.casefold() in POSITIVE and against.casefold() not in POSITIVE:
            return word
    return None
