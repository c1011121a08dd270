"""What rounds cost: bytes and seconds."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Wire:
    """Bytes and seconds of update rounds: one figure for each envelope, answer or opening. Reports show medians."""

    upload_bytes: list[int] = field(default_factory=list)
    answer_bytes: list[int] = field(default_factory=list)
    word_bytes: list[int] = field(default_factory=list)
    download_bytes: list[int] = field(default_factory=list)
    seal_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    add_s: list[float] = field(default_factory=list)
    open_s: list[float] = field(default_factory=list)

    def sealed(self, envelope_bytes: int, seal_s: float, add_s: float) -> None:
        """Count an envelope."""
        self.upload_bytes.append(envelope_bytes)
        self.seal_s.append(seal_s)
        self.add_s.append(add_s)

    def summary(self, params: int) -> dict[str, Any]:
        """Return the medians in the form of result.json; null if nothing was measured."""
        medians: dict[str, Any] = {
            name: statistics.median(values) if values else None for name, values in vars(self).items()
        }
        parts = [medians.pop(name) for name in ("answer_bytes", "word_bytes")]
        upload = medians["upload_bytes"]
        if upload is not None:  # all that a member sends in a round: envelope, answer, words
            upload = medians["upload_bytes"] = upload + sum(part or 0 for part in parts)
        a_param = upload / params if upload is not None and params else None
        return {"params": params, "upload_bytes_per_param": a_param, **medians}
