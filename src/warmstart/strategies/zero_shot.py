"""Zero-shot: classify by the names of the classes alone, without a single label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import AfterValidator, BeforeValidator, Field

from warmstart.backbones import Backbone, Encoder
from warmstart.core import NotApplicable, Run, split_text
from warmstart.data import View
from warmstart.models import EncoderModel, Head, NliModel

from .base import Fitted, Strategy
from .registry import register

__all__ = ["IMAGE_TEMPLATES", "TEXT_TEMPLATES", "ZeroShot", "speaking_names"]

TEXT_TEMPLATES = ("{}", "This is {}.", "This text is {}.", "A text about {}.")
IMAGE_TEMPLATES = ("a photo of a {}.", "a photo of {}.", "an image of {}.")
# A number, a letter of an alphabet (one Chinese character is a word), or no letter at all.
_MEANINGLESS = re.compile(
    r"^(label|class|cat|category|target|y)?[\s_\-]*\d+$|^[\0-\u07ff]$|^\W*$", re.I
)
_COSINE_SCALE = 20.0  # softmax temperature 0.05, sentence-transformers' training default


def speaking_names(names: Sequence[str]) -> bool:
    """Whether class names say anything: `0`, `LABEL_1` or `x` do not."""
    return not any(_MEANINGLESS.match(name.strip()) for name in names)


def _words(name: str) -> str:
    """A class name as words: `Casual_Shoes` and `casualShoes` become `casual shoes`."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", re.sub(r"[_\-]+", " ", name))
    return spaced.strip().lower()


def _has_place(template: str) -> str:
    if "{}" not in template:
        raise ValueError("must have {} where the class name goes")
    return template


Template = Annotated[str, AfterValidator(_has_place)]
_Templates = Annotated[tuple[Template, ...], Field(min_length=1)]


@register
class ZeroShot(Strategy):
    """Cosine similarity to the class names' embeddings, or entailment by an NLI model.

    Text: the class names are put into `templates` and embedded by the backbone; a text takes the
    class of the nearest name. With `nli` (a folder or hub id of a sequence classifier with an
    entailment label) a text takes the class whose `hypothesis` it entails most (Yin et al., 2019).
    Images: an image-text backbone such as CLIP compares the image with the names (Radford et al.,
    2021, prompt ensembling in §3.1.4).

    Needs: class names that mean something. Pick when: there are no labels yet.

    Attributes:
        templates: Sentences with `{}` for the class name; the embeddings of all are averaged.
            As text they are divided by `|`: `{}|a text about {}`; or they are a JSON list:
            `["{}", "a text about {}"]`.
        nli: Folder or hub id of an NLI model, text only.
        hypothesis: The NLI hypothesis with `{}` for the class name; of several, given as
            `templates` are, the entailment logits are averaged.
    """

    name: ClassVar[str] = "zero-shot"
    title: ClassVar[str] = "Zero-shot"
    seeded: ClassVar[bool] = False
    has_head: ClassVar[bool] = False
    learns: ClassVar[bool] = False
    templates: Annotated[_Templates | None, BeforeValidator(split_text)] = None
    nli: str | None = None
    hypothesis: Annotated[_Templates, BeforeValidator(split_text)] = ("This text is {}.",)

    @property
    def uses_features(self) -> bool:  # type: ignore[override] # an NLI model reads for itself
        """Whether it embeds rows with the backbone: not where an NLI model reads them."""
        return self.nli is None

    def check(self, backbone: Backbone, view: View) -> None:
        """Names must speak, and images need an image-text model."""
        if not speaking_names(view.label_names):
            shown = ", ".join(repr(name) for name in view.label_names[:4])
            raise NotApplicable(
                f"the class names ({shown}) say nothing; give names that do with --label-names"
            )
        if view.train.modality == "image" and backbone.modality != "image-text":
            raise NotApplicable(
                f"{backbone.name} does not embed text, so class names mean nothing to it; "
                "an image-text backbone such as CLIP does"
            )
        if self.nli and view.train.modality != "text":
            raise NotApplicable("an NLI model reads text, the rows are images")

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Embed the class names; nothing is learned."""
        self.check(backbone, view)
        words = [_words(name) for name in view.label_names]
        if self.nli:
            hypotheses = [one.replace("{}", word) for one in self.hypothesis for word in words]
            entailing = NliModel.open(self.nli, view.label_names, hypotheses, run.device)
            values = {"nli": self.nli, "hypothesis": list(self.hypothesis)}
            return Fitted(entailing, 0, values=values)
        image = view.train.modality == "image"
        templates = self.templates or (IMAGE_TEMPLATES if image else TEXT_TEMPLATES)
        encoder = backbone.text_encoder() if image else backbone.load()
        pooling = "projection" if image else None
        anchors_CD = _embed_names(encoder, words, templates, pooling)
        scale = backbone.logit_scale if image and backbone.logit_scale else _COSINE_SCALE
        head = Head.linear(anchors_CD * scale, np.zeros(len(words)), normalize=True)
        model = EncoderModel(backbone, head, view.label_names, pooling=pooling)
        return Fitted(model, 0, values={"templates": list(templates)})


@torch.inference_mode()
def _embed_names(
    encoder: Encoder, words: Sequence[str], templates: Sequence[str], pooling: str | None
) -> np.ndarray:
    """Unit-length anchors (C, D): the mean of each class's unit-length prompt embeddings."""
    encoder.eval()
    anchors = []
    for word in words:
        prompts = [template.replace("{}", word) for template in templates]
        batch = {k: v.to(encoder.device) for k, v in encoder.preprocess(prompts).items()}
        vectors_PD = encoder(batch, pooling=pooling)
        mean_D = torch.nn.functional.normalize(vectors_PD, dim=-1).mean(dim=0)
        anchors.append(torch.nn.functional.normalize(mean_D, dim=0))
    anchors_CD: np.ndarray = torch.stack(anchors).cpu().numpy().astype(np.float64)
    return anchors_CD
