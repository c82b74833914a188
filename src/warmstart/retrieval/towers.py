"""The two networks: one makes a vector of an item, the other one of a user."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from warmstart.core import Config, Streams, UsageError
from warmstart.objectives import TEMPERATURES, bounded_temperature, unbounded_temperature

from .sequences import WindowBatch

__all__ = ["ItemTower", "Temperature", "TextUserTower", "TowerShape", "Towers", "UserTower"]


class TowerShape(Config):
    """What is needed to build the towers before their weights are read.

    Attributes:
        items: Items with an id of their own, I; 0 without id embeddings.
        features: Length F of the given item vectors (text and image side by side); 0 without.
        profile: Length P of a user's attributes; 0 without.
        profile_dropout: Share of windows whose attributes are taken away in a training step.
        width: Length D of item and user vectors.
        layers: Blocks of the user tower; 0 for the mean of the history under a projection.
        heads: Attention heads of a block.
        history: Events that the user tower looks back on.
        dropout: Of the user tower, while training.
        feature_dropout: Of the given item vectors, while training.
        id_dropout: Share of items whose id part is taken away in a training step.
        hidden: Width of the hidden layer between given vectors and the item's vector; 0 for none.
        told: Length E of the vectors of users' texts, which the user tower then reads in place of
            item vectors; 0 for item vectors.
    """

    items: int
    features: int
    profile: int = 0
    profile_dropout: float = 0.0
    width: int = 128
    layers: int = 2
    heads: int = 2
    history: int = 50
    dropout: float = 0.2
    feature_dropout: float = 0.0
    id_dropout: float = 0.1
    hidden: int = 0
    told: int = 0


class ItemTower(nn.Module):
    """An item's vector from what is known of it: given vectors, and an id once it was trained on.

    The id part of items that training did not see, and of a random share of items in each training
    step, is one learned vector, the same for all of them: so the rest learns to do without.
    """

    def __init__(self, shape: TowerShape, streams: Streams) -> None:
        super().__init__()
        if not shape.items and not shape.features:
            raise UsageError(
                "an item tower needs item ids, given vectors or both, got neither. "
                "Set use_ids, or give text vectors."
            )
        generator = streams.torch("item tower")
        self.shape = shape
        self.ids = _embedding(shape.items, shape.width, generator) if shape.items else None
        self.unknown: nn.Parameter | None = None
        if shape.items:
            self.unknown = nn.Parameter(_normal((shape.width,), shape.width**-0.5, generator))
        self.hidden: nn.Linear | None = None
        self.features: nn.Linear | None = None
        if shape.features:
            inner = shape.hidden or shape.features
            if shape.hidden:
                self.hidden = _linear(shape.features, shape.hidden, generator)
            self.features = _linear(inner, shape.width, generator)
        self.feature_drop = nn.Dropout(shape.feature_dropout)
        self.output = _linear(shape.width, shape.width, generator)
        with torch.no_grad():  # an item of which nothing is known has a direction too
            self.output.bias.copy_(_normal((shape.width,), 0.02, generator))

    def forward(self, ids_K: Tensor | None, features_KF: Tensor | None, known_K: Tensor) -> Tensor:
        """Unit vectors (K, D).

        Args:
            ids_K: Codes of the items; None only without id embeddings or where none is known.
            features_KF: Their given vectors; None where the tower takes none.
            known_K: True for items that training has seen; the id part of others is left out.
        """
        mixed_KD = torch.zeros(len(known_K), self.shape.width, device=known_K.device)
        if self.features is not None:
            if features_KF is None:
                raise UsageError("this item tower was trained on given vectors. Give theirs.")
            inner_KF = self.feature_drop(features_KF.to(self.features.weight.dtype))
            if self.hidden is not None:
                inner_KF = functional.gelu(self.hidden(inner_KF))
            mixed_KD = mixed_KD + self.features(inner_KF)
        if self.ids is not None and self.unknown is not None:
            mixed_KD = mixed_KD + self._id_part(ids_K, known_K)
        return functional.normalize(self.output(mixed_KD).float(), dim=-1)

    def _id_part(self, ids_K: Tensor | None, known_K: Tensor) -> Tensor:
        assert self.ids is not None
        assert self.unknown is not None
        if ids_K is None:
            return self.unknown.expand(len(known_K), -1)
        if self.training and self.shape.id_dropout:
            drawn_K = torch.rand(len(known_K), device=known_K.device)
            known_K = known_K & (drawn_K >= self.shape.id_dropout)
        own_KD = self.ids(torch.where(known_K, ids_K, 0))
        return torch.where(known_K[:, None], own_KD, self.unknown)


class UserTower(nn.Module):
    """A user's vector after each of the last events, by a causal transformer over item vectors.

    Every sequence begins with a learned start vector, to which the user's attributes are added: a
    user without any history has a vector too. Without blocks they are added to the mean as well.
    """

    absent_P: Tensor

    def __init__(self, shape: TowerShape, streams: Streams, absent_P: Tensor | None = None) -> None:
        super().__init__()
        if shape.width % shape.heads:
            raise UsageError(
                f"width must be a multiple of heads, got width={shape.width} and "
                f"heads={shape.heads}. Typical: 128 and 2."
            )
        generator = streams.torch("user tower")
        self.shape = shape
        self.start = nn.Parameter(_normal((shape.width,), 0.02, generator))
        self.places = nn.Parameter(_normal((shape.history + 1, shape.width), 0.02, generator))
        self.input = _linear(shape.width, shape.width, generator)
        self.profile = _linear(shape.profile, shape.width, generator) if shape.profile else None
        if shape.profile:  # what stands for a user of whom nothing is known
            absent_P = torch.zeros(shape.profile) if absent_P is None else absent_P.clone()
            self.register_buffer("absent_P", absent_P)
        self.blocks = nn.ModuleList(_Block(shape, generator) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.output = _linear(shape.width, shape.width, generator)
        self.drop = nn.Dropout(shape.dropout)

    def forward(
        self, vectors_BTD: Tensor, row_N: Tensor, place_N: Tensor, profile_BP: Tensor | None = None
    ) -> Tensor:
        """Unit vectors (N, D) at the asked places.

        Args:
            vectors_BTD: Item vectors, oldest first; what stands after the last asked place of a
                row does not matter.
            row_N: Row of each asked place.
            place_N: Events before it in its row, 0 to T.
            profile_BP: Attributes of each row's user; None where nothing is known of any.
        """
        count = len(vectors_BTD)
        start_BD, told_BD = self.start.expand(count, -1), None
        if self.profile is not None:
            told_BD = self.profile(self._told(profile_BP, count))
            start_BD = start_BD + told_BD
        if not self.shape.layers:
            mean_BTD = _running_mean(vectors_BTD)
            if told_BD is not None:
                mean_BTD = mean_BTD + told_BD[:, None]
            states_BSD = torch.cat([start_BD[:, None], mean_BTD], dim=1)
        else:
            scaled_BTD = self.input(vectors_BTD) * math.sqrt(self.shape.width)
            states_BSD = torch.cat([start_BD[:, None], scaled_BTD], dim=1)
            states_BSD = self.drop(states_BSD + self.places[: states_BSD.shape[1]])
        # One place a row is what serving asks: then the last block leaves out all others.
        few = bool(self.blocks) and not self.training and 0 < len(row_N) <= count
        for block in self.blocks[:-1] if few else self.blocks:
            states_BSD = block(states_BSD)
        if few:
            asked_ND = cast("_Block", self.blocks[-1]).asked(states_BSD, row_N, place_N)
        else:
            asked_ND = states_BSD[row_N, place_N]
        return functional.normalize(self.output(self.norm(asked_ND)).float(), dim=-1)

    def _told(self, profile_BP: Tensor | None, count: int) -> Tensor:
        """Attributes of each row; in training a random share of the rows goes without."""
        if profile_BP is None:
            return self.absent_P.expand(count, -1)
        if self.training and self.shape.profile_dropout:
            kept_B = torch.rand(count, device=profile_BP.device) >= self.shape.profile_dropout
            profile_BP = torch.where(kept_B[:, None], profile_BP, self.absent_P)
        return profile_BP


class TextUserTower(nn.Module):
    """A user's vector from the vector of a text about the user, by a projection with hidden layers.

    The vector of a user of whom nothing is told is zero; the biases are such a user's.
    """

    def __init__(self, shape: TowerShape, streams: Streams) -> None:
        super().__init__()
        generator = streams.torch("user tower")
        self.shape = shape
        widths = [shape.told, *[2 * shape.width] * shape.layers]
        pairs = pairwise(widths)
        self.blocks = nn.ModuleList(_linear(given, made, generator) for given, made in pairs)
        self.output = _linear(widths[-1], shape.width, generator)
        with torch.no_grad():  # somebody of whom nothing is known has a direction too
            self.output.bias.copy_(_normal((shape.width,), 0.02, generator))
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, told_NE: Tensor) -> Tensor:
        """Unit vectors (N, D) of vectors of texts."""
        unit_NE = functional.normalize(told_NE.float(), dim=-1)
        state_NH = self.drop(unit_NE * math.sqrt(self.shape.told))
        for block in self.blocks:
            state_NH = self.drop(functional.gelu(block(state_NH)))
        return functional.normalize(self.output(state_NH).float(), dim=-1)


def _running_mean(vectors_BTD: Tensor) -> Tensor:
    """The mean of each row's vectors up to each place."""
    counts_T1 = torch.arange(1, vectors_BTD.shape[1] + 1, device=vectors_BTD.device)[:, None]
    return vectors_BTD.cumsum(dim=1) / counts_T1


class _Block(nn.Module):
    """Attention to what came before, then two layers, each beside a short cut (pre-norm)."""

    def __init__(self, shape: TowerShape, generator: torch.Generator) -> None:
        super().__init__()
        self.heads = shape.heads
        self.attention_norm = nn.LayerNorm(shape.width)
        self.attention_in = _linear(shape.width, 3 * shape.width, generator)
        self.attention_out = _linear(shape.width, shape.width, generator)
        self.inner_norm = nn.LayerNorm(shape.width)
        self.inner_in = _linear(shape.width, 4 * shape.width, generator)
        self.inner_out = _linear(4 * shape.width, shape.width, generator)
        self.drop = nn.Dropout(shape.dropout)

    def forward(self, states_BSD: Tensor) -> Tensor:
        batch, length, width = states_BSD.shape
        packed = self.attention_in(self.attention_norm(states_BSD))
        query, key, value = packed.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        return self._ended(states_BSD, mixed.transpose(1, 2).reshape(batch, length, width))

    def asked(self, states_BSD: Tensor, row_N: Tensor, place_N: Tensor) -> Tensor:
        """What `forward` gives (N, D) at these places, computed for them alone."""
        length, width = states_BSD.shape[1:]
        normed_BSD = self.attention_norm(states_BSD)
        weights, biases = self.attention_in.weight, self.attention_in.bias
        query_ND = functional.linear(normed_BSD[row_N, place_N], weights[:width], biases[:width])
        packed = functional.linear(normed_BSD[row_N], weights[width:], biases[width:])
        key, value = packed.view(len(row_N), length, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        places_S = torch.arange(length, device=place_N.device)
        mixed = functional.scaled_dot_product_attention(
            query_ND.view(len(row_N), self.heads, 1, -1), key, value,
            attn_mask=(places_S <= place_N[:, None])[:, None, None],
        )  # fmt: skip
        return self._ended(states_BSD[row_N, place_N], mixed.reshape(len(row_N), width))

    def _ended(self, states: Tensor, joined: Tensor) -> Tensor:
        """The second half: what attention joined, and the layers after it."""
        states = states + self.drop(self.attention_out(joined))
        inner = functional.gelu(self.inner_in(self.inner_norm(states)))
        result: Tensor = states + self.drop(self.inner_out(inner))
        return result


class Temperature(nn.Module):
    """What cosines are divided by: a constant, or learned within its bounds."""

    fixed: Tensor

    def __init__(self, start: float = 0.07, *, learned: bool = False) -> None:
        super().__init__()
        low, high = TEMPERATURES
        if not low <= start <= high:
            raise UsageError(
                f"temperature must be {low:g} to {high:g}, got {start}. Typical: 0.05 to 0.1."
            )
        self.raw = nn.Parameter(torch.tensor(unbounded_temperature(start))) if learned else None
        if not learned:
            self.register_buffer("fixed", torch.tensor(start))

    def forward(self) -> Tensor:
        """The temperature, a scalar."""
        return self.fixed if self.raw is None else bounded_temperature(self.raw)


class Towers(nn.Module):
    """Both towers and the temperature between them.

    Several processes wrap this as one module, so what training needs comes from one `forward`.
    """

    def __init__(
        self,
        shape: TowerShape,
        *,
        temperature: float = 0.07,
        learn_temperature: bool = False,
        streams: Streams | None = None,
        absent_P: Tensor | None = None,
    ) -> None:
        super().__init__()
        named = streams or Streams(0)
        self.shape = shape
        self.items = ItemTower(shape, named)
        self.users: UserTower | TextUserTower = (
            TextUserTower(shape, named) if shape.told else UserTower(shape, named, absent_P)
        )
        self.temperature = Temperature(temperature, learned=learn_temperature)

    def forward(
        self,
        windows: WindowBatch,
        ids_K: Tensor,
        features_KF: Tensor | None,
        known_K: Tensor,
        profile_UP: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """What a loss needs: user vectors (N, D), item vectors (K, D) and the temperature.

        Args:
            windows: With items given by their row among the K.
            ids_K: Codes of the items.
            features_KF: Their given vectors.
            known_K: True for items that training has seen.
            profile_UP: Attributes of all users.
        """
        items_KD = self.items(ids_K, features_KF, known_K)
        return self.user_vectors(windows, items_KD, profile_UP), items_KD, self.temperature()

    def parameter_groups(
        self, *, blocks: bool = False
    ) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Names and parameters by part: item tower, user tower, temperature.

        Args:
            blocks: Whether the user tower comes in parts too: what is before its blocks
                (`users.stem`), each block (`users.block.0`), what is after them (`users.head`).
        """
        groups: dict[str, list[tuple[str, nn.Parameter]]] = {"items": []}
        inner = [f"users.block.{place}" for place in range(len(self.users.blocks))]
        for name in ["users.stem", *inner, "users.head"] if blocks else ["users"]:
            groups[name] = []
        groups["temperature"] = []
        for key, value in self.named_parameters():
            name = key.partition(".")[0]
            if blocks and name == "users":
                part = key.split(".")
                name = "users.head" if part[1] in ("norm", "output") else "users.stem"
                name = f"users.block.{part[2]}" if part[1] == "blocks" else name
            groups[name].append((key, value))
        return {name: members for name, members in groups.items() if members}

    def user_vectors(
        self, windows: WindowBatch, items_KD: Tensor, profile_UP: Tensor | None = None
    ) -> Tensor:
        """User vectors (N, D) at the places that the windows ask for.

        Args:
            windows: With items given by their row in `items_KD`.
            items_KD: Item vectors.
            profile_UP: Attributes of all users. For a user without a row there, and for all where
                it is None, stands what the tower was given for nobody known.
        """
        if isinstance(self.users, TextUserTower):
            if windows.told_NE is None:
                raise UsageError("this user tower reads texts of users. Give their vectors.")
            read_ND: Tensor = self.users(windows.told_NE)
            return read_ND
        vectors_BTD = functional.embedding(windows.items_BT.clamp(min=0), items_KD)
        profile_BP = None
        if profile_UP is not None and len(profile_UP) and self.users.profile is not None:
            known_B = (windows.users_B >= 0) & (windows.users_B < len(profile_UP))
            own_BP = profile_UP[torch.where(known_B, windows.users_B, 0)]
            profile_BP = torch.where(known_B[:, None], own_BP, self.users.absent_P)
        found_ND: Tensor = self.users(vectors_BTD, windows.row_N, windows.place_N, profile_BP)
        return found_ND


def _linear(inputs: int, outputs: int, generator: torch.Generator) -> nn.Linear:
    """A layer whose weights come from the named stream: N(0, 1 / inputs), biases 0."""
    layer = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        layer.weight.copy_(_normal((outputs, inputs), inputs**-0.5, generator))
        layer.bias.zero_()
    return layer


def _embedding(rows: int, width: int, generator: torch.Generator) -> nn.Embedding:
    return nn.Embedding(rows, width, _weight=_normal((rows, width), width**-0.5, generator))


def _normal(shape: tuple[int, ...], scale: float, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator) * scale
