"""TF-IDF with logistic regression: the control for text that costs seconds."""

from __future__ import annotations

from typing import Annotated, ClassVar

import numpy as np
from pydantic import BeforeValidator, Field, PositiveFloat
from sklearn.linear_model import LogisticRegression

from warmstart.backbones import Backbone
from warmstart.core import NotApplicable, Run, split_text
from warmstart.data import View
from warmstart.models import TfidfModel
from warmstart.models.tfidf import new_vectorizer

from .base import Fitted, Role, Strategy
from .logistic import per_class, stratified_folds
from .registry import register

__all__ = ["Tfidf"]


@register
class Tfidf(Strategy):
    """Words and word pairs weighted by TF-IDF, under logistic regression with C by 3 folds.

    Attributes:
        strengths: Values of C (inverse regularisation) to choose from; as text `1|10|100`.
    """

    name: ClassVar[str] = "tfidf"
    title: ClassVar[str] = "TF-IDF + logistic regression"
    role: ClassVar[Role] = "control"
    uses_backbone: ClassVar[bool] = False
    modalities: ClassVar[tuple[str, ...]] = ("text",)
    seeded: ClassVar[bool] = False
    strengths: Annotated[
        tuple[PositiveFloat, ...], Field(min_length=1), BeforeValidator(split_text)
    ] = (1.0, 3.0, 10.0, 30.0, 100.0)

    def check(self, backbone: Backbone, view: View) -> None:
        """Only text has words."""
        if view.train.modality != "text":
            raise NotApplicable("the rows are images, which have no words")

    def fit(self, backbone: Backbone, view: View, run: Run) -> Fitted:
        """Count words and solve."""
        self.check(backbone, view)
        order = np.argsort(np.asarray(view.train.ids))
        texts = view.train.inputs([int(i) for i in order])
        labels_N = view.train.labels_N[order]
        vectorizer = new_vectorizer()
        try:
            features_NV = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise NotApplicable(f"the training texts have no words to count ({error})") from None
        fold_N = stratified_folds(labels_N, 3)

        def held_out(strength: float) -> float:
            right = 0.0
            for fold in range(3):
                train_N, held_N = fold_N != fold, fold_N == fold
                if len(np.unique(labels_N[train_N])) < 2 or not held_N.any():
                    continue
                solver = LogisticRegression(C=strength, max_iter=2000, tol=1e-3)
                solver.fit(features_NV[train_N], labels_N[train_N])
                right += float((solver.predict(features_NV[held_N]) == labels_N[held_N]).sum())
            return right

        strength = max(self.strengths, key=lambda s: (held_out(s), -s))
        solver = LogisticRegression(C=strength, max_iter=5000).fit(features_NV, labels_N)
        weight_CV, bias_C = per_class(solver, len(view.label_names))
        model = TfidfModel(vectorizer, weight_CV, bias_C, tuple(view.label_names))
        return Fitted(model, model.parameters, values={"C": strength})
