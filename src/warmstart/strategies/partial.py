"""Training the last layer groups only: the rest of the backbone is frozen."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from warmstart.backbones import Backbone, Encoder
from warmstart.core import UsageError, typical
from warmstart.data import View

from .registry import register
from .trained import Replaying

__all__ = ["Partial"]


@register
class Partial(Replaying):
    """The last n layer groups and the head learn; the groups before them are frozen.

    Earlier layers transfer better than later ones (Yosinski et al. 2014), so little is lost, each
    step is cheaper, and what the frozen groups put out is computed once. Settings that are not
    named here are those of fine-tuning.

    Needs: some hundred labels. Pick when: the domain is near, or fine-tuning overfits or is slow.

    Attributes:
        last: How many backbone groups learn, at least 1, or `third` for the last third of them.
    """

    name: ClassVar[str] = "partial"
    title: ClassVar[str] = "Partial fine-tuning"
    rate: PositiveFloat = Field(5e-4, json_schema_extra=typical("2e-5 to 1e-3"))
    last: PositiveInt | Literal["third"] = "third"

    def check(self, backbone: Backbone, view: View) -> None:
        """Something must be left to freeze.

        Raises:
            UsageError: When `last` takes in every group of the backbone, or for what fine-tuning
                refuses.
        """
        super().check(backbone, view)
        count = len(backbone.group_names)
        if self.last != "third" and self.last >= count:
            raise UsageError(
                f"partial.last must be between 1 and {count - 1} for {backbone.name}, which has "
                f"{count} layer groups, got {self.last}. To train all of them use finetune."
            )

    def _frozen(self, encoder: Encoder) -> tuple[str, ...]:
        names = encoder.groups.names
        last = max(1, round(len(names) / 3)) if self.last == "third" else self.last
        return names[: len(names) - last]
