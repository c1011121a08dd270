"""All members' answers to a list as they come, and what is sent to openers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..crypto.answer_plan import AnswerSum
from ..crypto.identity import Roster
from ..errors import Refused
from ..protocol.answer import SignedAnswer, list_digest
from ..protocol.context import RoundContext
from ..protocol.messages import Answered, Ask, Open
from .records.contexts import KeptAnswer
from .rules import check_answer


@dataclass
class GivenAnswers:
    """All members' answers to a list.

    Attributes:
        context: of the round.
        roster: all members of the circle.
        running: their sum.
        documents, signatures, seeds, sealed: by member.
    """

    context: RoundContext
    roster: Roster
    running: AnswerSum
    documents: dict[str, bytes] = field(default_factory=dict)
    signatures: dict[str, bytes] = field(default_factory=dict)
    seeds: dict[str, bytes] = field(default_factory=dict)
    sealed: dict[str, bytes] = field(default_factory=dict)

    def add(self, member: str, asked: Ask, answered: Answered) -> SignedAnswer:
        """Check an answer and add it.

        Raises:
            Refused: it is not added: ``open.list``, ``envelope.signature`` or ``envelope.malformed``.
        """
        listed = list_digest(hashlib.sha256(header).hexdigest() for header in asked.headers.values())
        signed = check_answer(self.context, self.roster, member, answered, listed, asked.total)
        self.seeds[member] = self.running.add(answered.answer)
        self.documents[member], self.signatures[member] = signed.data, signed.signature
        self.sealed[member] = answered.answer
        return signed

    def take_up(self, kept: Mapping[str, KeptAnswer], requests: Mapping[str, Ask]) -> None:
        """Add what came before the coordinator was started again. What no longer fits is asked for again."""
        for member, answer in kept.items():
            with suppress(Refused):  # about an envelope that was lost here and sealed again
                self.add(member, requests[member], Answered(**vars(answer), answer_s=0.0))


@dataclass(frozen=True)
class Opening:
    """What is sent to openers: the same for all, except who uploads the result and who gets the answers themselves."""

    round: Mapping[str, Any]
    answers: GivenAnswers
    keys: bytes
    total: bytes
    best: str

    def body(self, *, upload: bool, whole: bool = False) -> Open:
        """Return the request."""
        answers = self.answers
        return Open(
            **self.round,
            documents=answers.documents,
            signatures=answers.signatures,
            seeds=answers.seeds,
            keys=self.keys,
            answers=answers.sealed if whole else {},
            total=self.total,
            best=self.best,
            upload=upload,
        )
