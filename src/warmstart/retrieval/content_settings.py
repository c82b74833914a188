"""What a track is told of content and of new items, and what cannot be."""

from __future__ import annotations

from typing import Literal, NamedTuple

from warmstart.core import NotApplicable, UsageError

__all__ = ["ContentSettings", "Counts"]

Counts = float | Literal["auto"]


class ContentSettings(NamedTuple):
    """What a track was told of content; each a number, or `auto`.

    Attributes:
        content: What a cosine of contents counts.
        new_items: What scores of new items are raised by.
        new_by_history: What they are raised by for users whose last items were all new.
        new_trust: What their learned vectors count; 1 as those of all others.
    """

    content: Counts
    new_items: Counts = 0.0
    new_by_history: Counts = 0.0
    new_trust: Counts = 1.0

    @property
    def asked(self) -> list[str]:
        """What is set for new items beyond what happens without it."""
        given = {
            "new_items": self.new_items != 0.0,
            "new_by_history": self.new_by_history not in (0.0, "auto"),
            "new_trust": self.new_trust not in (1.0, "auto"),
        }
        return [name for name, set_ in given.items() if set_]

    def check(self, title: str, *, vectors: bool, validation: bool) -> None:
        """Refuse, before anything is trained, what could not be done afterwards.

        Args:
            title: Of the track.
            vectors: Whether the item tower reads vectors.
            validation: Whether there is a validation task.

        Raises:
            NotApplicable: Without vectors that content could come from.
            UsageError: Where something is to be chosen and there is nothing to choose it by.
        """
        asked = self.asked
        needs = asked if self.content in (0.0, "auto") else ["content", *asked]
        if needs and not vectors:
            raise NotApplicable(
                f"{title}: {' and '.join(needs)} need pretrained vectors of the items, and the "
                "towers read none"
            )
        chosen = "auto" in (self.content, self.new_items)
        if vectors and asked and chosen and not validation:
            raise UsageError(
                f"{title}: {' and '.join(asked)} go with what content counts, which is chosen "
                "on a validation task, and none was given. Give one, or numbers, such as "
                "content=1.4 and new_items=0.03."
            )
