"""A trained two-tower model: vectors of users and items, scores, new items, and its folder."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from warmstart.backbones import Backbone, embed_inputs
from warmstart.core import (
    DataError,
    RunError,
    UsageError,
    fingerprint,
    pick_device,
    publishing,
    read_json,
    verify_manifest,
    write_json,
)
from warmstart.data import from_inputs

from .content_part import FLAG, MULTIPLE, ContentPart
from .item_texts import apply_text_weights, load_text_encoder
from .profiles import ProfileCode
from .sequences import QueryRows
from .towers import Towers, TowerShape
from .two_tower_asked import Asked, told_about
from .user_texts import UserTexts, asked_windows

__all__ = ["TwoTowerModel", "join_features"]

_WEIGHTS, _ITEMS, _FACTS = "towers.safetensors", "items.safetensors", "model.json"
_TEXTS, _TOLD = "texts.safetensors", "told.json"
_KIND = "two-tower"


@dataclass(frozen=True)
class TwoTowerModel:
    """Trained towers and the vectors of a catalogue.

    Attributes:
        towers: In evaluation mode.
        items_ID: Learned unit vectors of all items.
        known_I: True for items that training has seen.
        share_I: Each item's share of the training events.
        item_ids: The users' own names of the items, in the order of their codes.
        text: Length of the text vectors that the item tower reads, 0 without.
        image: Length of its image vectors, 0 without.
        popularity: Strength of the popularity calibration, 0 for none.
        profile_UP: Attributes of the users; None without.
        profiles: How attributes are coded, for users that are not among them; None where they were
            given as numbers, or without.
        text_weights: Weights of the text encoder that were tuned, by name; None where it is the
            pretrained one.
        teller: Users as texts, for a user tower that reads them; None for any other.
        content: What pretrained vectors say beside the learned ones; None without.
        facts: What is worth keeping of the fit: settings, epochs, notes.
        name: What tables call it.
    """

    towers: Towers
    items_ID: Tensor
    known_I: Tensor
    share_I: Tensor
    item_ids: tuple[str, ...]
    text: int = 0
    image: int = 0
    popularity: float = 0.0
    profile_UP: Tensor | None = None
    facts: dict[str, Any] = field(default_factory=dict)
    name: str = "two-tower"
    profiles: ProfileCode | None = None
    text_weights: dict[str, Tensor] | None = None
    teller: UserTexts | None = None
    content: ContentPart | None = None

    @property
    def device(self) -> torch.device:
        """Where the towers are."""
        return self.items_ID.device

    @property
    def dimension(self) -> int:
        """D, with the components of the content and of the popularity calibration."""
        beside = 0 if self.content is None else self.content.dimension
        return int(self.items_ID.shape[1]) + beside + (MULTIPLE if self.popularity else 0)

    @property
    def fingerprint(self) -> str:
        """Of the item tower: vectors of two models may be compared only where it is the same."""
        weights = {
            key: value.detach().cpu().numpy()
            for key, value in self.towers.items.state_dict().items()
        }
        tuned = {key: value.cpu().numpy() for key, value in (self.text_weights or {}).items()}
        beside = []
        if self.content is not None:
            code = self.content.code
            beside = [self.content.facts(), code.mean_E.numpy(), code.basis_EP.numpy()]
        if self.popularity:
            beside.append({"rarest": self._rarest})
        return fingerprint(
            "item tower", self.text, self.image, weights, *([tuned] if tuned else ()), *beside
        )

    def item_vectors(self) -> np.ndarray:
        """Vectors (I, D) of all items, float32; of unit length without content and calibration."""
        found: np.ndarray = self._joined_ID.cpu().numpy()
        return found

    def user_vectors(
        self, queries: QueryRows, attributes: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Vectors (Q, D), float32; the newest events count.

        Of unit length without content and popularity calibration. What ranks items is the inner
        product with theirs.

        Args:
            queries: Users and their histories; a history may be empty, a user unknown.
            attributes: What is known of the users, in place of what the model knows of them.

        Raises:
            UsageError: For attributes that the towers do not read.
        """
        found: np.ndarray = self._users(queries, attributes).cpu().numpy()
        return found

    def scores(self, queries: QueryRows, attributes: Mapping[str, Any] | None = None) -> Tensor:
        """Scores (Q, I), higher is better, on the model's device.

        Cosines, what content adds to them, and s log p times the temperature where popularity is
        calibrated by s: an index of the item vectors gives the same.

        Args:
            queries: As for `user_vectors`.
            attributes: As for `user_vectors`.
        """
        return self._scores(self._users(queries, attributes))

    @torch.inference_mode()
    def learned_vectors(
        self, queries: QueryRows, attributes: Mapping[str, Any] | None = None, block: int = 1024
    ) -> Tensor:
        """What the user tower says (Q, D) without content, on the model's device.

        Args:
            queries: As for `user_vectors`.
            attributes: As for `user_vectors`.
            block: Queries whose histories are read at once.
        """
        asked = Asked(queries, self.profile_UP)
        if attributes is not None:
            asked = told_about(queries, attributes, self.profiles, self.teller)
        profile_UP = None if asked.profile_UP is None else asked.profile_UP.to(self.device)
        found = [torch.zeros(0, self.items_ID.shape[1], device=self.device)]
        for start in range(0, len(queries), block):
            windows = asked_windows(
                asked.queries, start, min(start + block, len(queries)),
                self.towers.shape.history, self.teller, asked.about,
            )  # fmt: skip
            here = windows.to(self.device)
            found.append(self.towers.user_vectors(here, self.items_ID, profile_UP))
        return torch.cat(found)

    def scores_of(self, learned_QD: Tensor, queries: QueryRows) -> Tensor:
        """What `scores` gives where `learned_vectors` of the queries are known already.

        They are the same for every content and calibration.
        """
        return self._scores(self._with_content(learned_QD, queries))

    def encode_items(
        self, text_NT: np.ndarray | None = None, image_NG: np.ndarray | None = None
    ) -> np.ndarray:
        """Vectors (N, D) of items that training has not seen, from what is given of them.

        Args:
            text_NT: Their text vectors, from the encoder that the model was trained with: see
                `encode_texts`.
            image_NG: Their image vectors, alike.

        Raises:
            UsageError: When a kind of vectors that the model reads is missing, or one that it does
                not read is given.
            DataError: For vectors of another length or with values that are not finite.
        """
        given = join_features(text_NT, image_NG)
        self._check_given(text_NT, image_NG)
        if given is None:
            raise UsageError(
                "this model knows items by their ids alone, so a new item has no vector. Train "
                "with text vectors (use_text)."
            )
        found = [np.zeros((0, self.dimension), dtype=np.float32)]
        with torch.inference_mode():
            for start in range(0, len(given), 8192):
                part = torch.from_numpy(given[start : start + 8192]).to(self.device)
                unknown = torch.zeros(len(part), dtype=torch.bool, device=self.device)
                made = self.towers.items(None, part, unknown)
                if self.content is not None:
                    rows = self.content.code(part).to(self.device)
                    made = self.content.items(made, rows, unknown)
                if self.popularity:
                    made = self._with_shares(made, torch.zeros(len(part), device=self.device))
                found.append(made.cpu().numpy())
        return np.concatenate(found)

    def encode_texts(self, backbone: Backbone, texts: Sequence[str]) -> np.ndarray:
        """Text vectors (N, E) as the towers read them: tuned weights are put into the encoder.

        Args:
            backbone: That the model was trained with.
            texts: Blank ones become zeros.

        Raises:
            BackboneError: When the tuned weights do not fit it.
        """
        found_NE = np.zeros((len(texts), self.text), dtype=np.float32)
        told = [place for place, text in enumerate(texts) if text and text.strip()]
        if not told:
            return found_NE
        chosen = [texts[place] for place in told]
        if self.text_weights is None:
            vectors_NE = backbone.features(from_inputs(chosen, "text")).vectors_ND
        else:
            encoder = load_text_encoder(backbone)
            vectors_NE = embed_inputs(apply_text_weights(encoder, self.text_weights), chosen)
        if vectors_NE.shape[1] != self.text:
            raise DataError(
                f"this model reads text vectors of length {self.text}, and {backbone.name} gives "
                f"{vectors_NE.shape[1]}. Use the encoder that it was trained with."
            )
        found_NE[told] = vectors_NE
        return found_NE

    def with_items(
        self,
        item_ids: Sequence[str],
        text_NT: np.ndarray | None = None,
        image_NG: np.ndarray | None = None,
    ) -> TwoTowerModel:
        """This model with new items after those it has.

        Args:
            item_ids: Names of the new items.
            text_NT: Their text vectors.
            image_NG: Their image vectors.
        """
        twice = sorted(set(item_ids) & set(self.item_ids))
        if twice or len(set(item_ids)) != len(item_ids):
            shown = ", ".join(twice[:3]) or "one of the new ids"
            raise DataError(f"item ids must be new and different, but {shown} is there already.")
        added = self.encode_items(text_NT, image_NG)
        if len(added) != len(item_ids):
            raise DataError(f"there are {len(item_ids)} item ids and {len(added)} vectors.")
        return self._extended(self.item_ids + tuple(item_ids), added)

    def with_vectors(self, item_ids: Sequence[str], added_ND: np.ndarray) -> TwoTowerModel:
        """This model with the vectors of a longer catalogue, whose first items are its own.

        Args:
            item_ids: Names of all items.
            added_ND: Vectors of those that the model lacks, as `encode_items` gave them.

        Raises:
            DataError: When the catalogue does not begin with the model's items.
        """
        own = len(self.item_ids)
        if tuple(item_ids[:own]) != self.item_ids or len(added_ND) != len(item_ids) - own:
            raise DataError("the catalogue does not begin with the items of this model.")
        return self._extended(tuple(item_ids), added_ND)

    def reading(self, backbone: Backbone) -> TwoTowerModel:
        """This model with the encoder that its user tower reads texts by.

        Raises:
            RunError: When it is another one than it was trained on.
            UsageError: When the tower reads no texts of users.
        """
        if self.teller is None:
            raise UsageError("this user tower reads item vectors, and needs no encoder.")
        return replace(self, teller=self.teller.reading(backbone))

    def with_titles(self, titles: Sequence[str]) -> TwoTowerModel:
        """This model with the titles of a longer catalogue, by which users are told."""
        if self.teller is None:
            return self
        return replace(self, teller=replace(self.teller, titles=tuple(titles)))

    def save(self, folder: Path | str, *, replace: bool = False) -> None:
        """Write the model: safetensors and JSON under a manifest.

        Args:
            folder: To publish whole.
            replace: Whether an existing one may be replaced.
        """
        tensors = {"vectors": self.items_ID, "known": self.known_I, "share": self.share_I}
        if self.content is not None:
            tensors |= self.content.tensors()
        if self.profile_UP is not None:
            tensors["profile"] = self.profile_UP
        facts = {
            "shape": self.towers.shape.model_dump(), "text": self.text, "image": self.image,
            "popularity": self.popularity, "name": self.name, "facts": self.facts,
            "learned_temperature": self.towers.temperature.raw is not None,
            "item_tower": self.fingerprint, "item_ids": list(self.item_ids),
            "content": None if self.content is None else self.content.facts(),
            "profiles": None if self.profiles is None else self.profiles.model_dump(mode="json"),
        }  # fmt: skip
        with publishing(Path(folder), replace=replace, kind=_KIND) as temporary:
            save_file(_plain(self.towers.state_dict()), temporary / _WEIGHTS)
            save_file(_plain(tensors), temporary / _ITEMS)
            if self.teller is not None:
                write_json(temporary / _TOLD, self.teller.to_json())
            if self.text_weights is not None:
                save_file(_plain(self.text_weights), temporary / _TEXTS)
            write_json(temporary / _FACTS, facts)

    @classmethod
    def load(cls, folder: Path | str, *, device: str = "cpu") -> TwoTowerModel:
        """Read a model that `save` wrote.

        Args:
            folder: The published folder.
            device: Where to put it.

        Raises:
            RunError: When a file is missing or damaged, or it is another kind of folder.
        """
        path = Path(folder)
        manifest = verify_manifest(path)
        if manifest.get("kind") != _KIND:
            raise RunError(f"{path} holds {manifest.get('kind')!r}, not a two-tower model.")
        facts = read_json(path / _FACTS)
        where = pick_device(device)
        towers = Towers(
            TowerShape(**facts["shape"]), learn_temperature=facts["learned_temperature"]
        )
        towers.load_state_dict(load_file(path / _WEIGHTS))
        tensors = {key: value.to(where) for key, value in load_file(path / _ITEMS).items()}
        coded = facts.get("profiles")
        profiles = None if coded is None else ProfileCode.parse(coded, f"{path / _FACTS}")
        tuned = load_file(path / _TEXTS) if (path / _TEXTS).is_file() else None
        teller = None
        if (path / _TOLD).is_file():
            teller = UserTexts.from_json(read_json(path / _TOLD))
        beside = facts.get("content")
        content = None if beside is None else ContentPart.of_tensors(tensors, beside)
        return cls(
            towers.to(where).eval(), tensors["vectors"], tensors["known"], tensors["share"],
            tuple(facts["item_ids"]), facts["text"], facts["image"], facts["popularity"],
            tensors.get("profile"), facts["facts"], facts["name"], profiles, tuned, teller, content,
        )  # fmt: skip

    def _users(self, queries: QueryRows, attributes: Mapping[str, Any] | None = None) -> Tensor:
        """User vectors (Q, D) on the model's device."""
        return self._with_content(self.learned_vectors(queries, attributes), queries)

    def _with_content(self, learned_QD: Tensor, queries: QueryRows) -> Tensor:
        """The learned vectors with what content and calibration say beside them."""
        found_QD = learned_QD
        if self.content is not None:
            found_QD = self.content.users(learned_QD, queries, self.known_I)
        if not self.popularity:
            return found_QD
        strength = self.popularity * self._temperature() * -self._rarest / FLAG
        lift_Q1 = strength.expand(len(found_QD), 1).to(found_QD)
        return functional.pad(torch.cat([found_QD, lift_Q1], dim=1), (0, MULTIPLE - 1))

    def _with_shares(self, vectors_ND: Tensor, share_N: Tensor) -> Tensor:
        """Item vectors (N, D) with the logarithm of the items' shares of the events.

        By it an inner product holds the popularity calibration; it is at most `FLAG`, so that
        items compared with one another hardly feel it.
        """
        rarest_N = torch.full_like(share_N, self._rarest)
        log_N = torch.where(share_N > 0, torch.log(share_N), rarest_N)
        lift_N1 = -FLAG / self._rarest * log_N[:, None]
        return functional.pad(torch.cat([vectors_ND, lift_N1], dim=1), (0, MULTIPLE - 1))

    def _scores(self, users_QD: Tensor) -> Tensor:
        return users_QD @ self._joined_ID.T

    @cached_property
    def _joined_ID(self) -> Tensor:
        """Item vectors (I, D) on the model's device."""
        found_ID = self.items_ID
        if self.content is not None:
            found_ID = self.content.items(found_ID, self.content.rows_IP, self.known_I)
        return self._with_shares(found_ID, self.share_I) if self.popularity else found_ID

    def _extended(self, item_ids: tuple[str, ...], added_ND: np.ndarray) -> TwoTowerModel:
        """This model with the vectors of new items after its own."""
        added = torch.from_numpy(np.ascontiguousarray(added_ND, dtype=np.float32)).to(self.device)
        none, content = torch.zeros(len(added), device=self.device), self.content
        if self.popularity:
            added = added[:, :-MULTIPLE]
        if content is not None:
            added, rows = content.parts_of(added)
            content = content.extended(rows)
        return replace(
            self,
            items_ID=torch.cat([self.items_ID, added]),
            known_I=torch.cat([self.known_I, none.bool()]),
            share_I=torch.cat([self.share_I, none]),
            item_ids=item_ids,
            content=content,
        )

    def _temperature(self) -> Tensor:
        found: Tensor = self.towers.temperature().detach()
        return found

    @cached_property
    def _rarest(self) -> float:
        """Logarithm of half of the least share: what items without events get."""
        return math.log(float(self.share_I[self.share_I > 0].min()) / 2)

    def _check_given(self, text: np.ndarray | None, image: np.ndarray | None) -> None:
        for name, wanted, given in (("text", self.text, text), ("image", self.image, image)):
            length = 0 if given is None else int(given.shape[1])
            if length and not wanted:
                raise UsageError(f"this model reads no {name} vectors. Leave them out.")
            if wanted and not length:
                raise UsageError(f"this model reads {name} vectors of length {wanted}. Give them.")
            if length != wanted:
                raise DataError(
                    f"this model reads {name} vectors of length {wanted}, got {length}. Use the "
                    "encoder that it was trained with."
                )


def join_features(text_IT: np.ndarray | None, image_IG: np.ndarray | None) -> np.ndarray | None:
    """Text and image vectors side by side (I, F) in float32; None without either.

    Raises:
        DataError: When they are not one finite vector an item.
    """
    parts: list[np.ndarray] = []
    for name, given in (("text", text_IT), ("image", image_IG)):
        if given is None:
            continue
        if given.ndim != 2 or (parts and len(given) != len(parts[0])):
            raise DataError(
                f"{name} vectors must be one row an item, got an array of shape {given.shape}."
            )
        if not np.isfinite(given).all():
            raise DataError(f"{name} vectors must be finite; some values are not. Make them again.")
        parts.append(np.asarray(given, dtype=np.float32))
    return np.concatenate(parts, axis=1) if parts else None


def _plain(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous().clone() for key, value in tensors.items()}
