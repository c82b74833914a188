"""Strategies of other packages: taken in, or left out with a reason."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from warmstart.core import UsageError, progress
from warmstart.strategies import Fitted, Strategy, make, names, registry, strategy_class


class Theirs(Strategy):
    name: ClassVar[str] = "theirs"
    title: ClassVar[str] = "Of another package"

    def fit(self, backbone: Any, view: Any, run: Any) -> Fitted:
        raise NotImplementedError


class Probe(Theirs):
    """Of the same name as ours, and of the same class name."""

    name: ClassVar[str] = "probe"


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_STRATEGIES", dict(registry._STRATEGIES))
    monkeypatch.setattr(registry, "_broken", {})
    monkeypatch.setattr(registry, "_seen_entry_points", False)


def offer(monkeypatch: pytest.MonkeyPatch, **found: Any) -> list[str]:
    """Packages that offer these; returns the notes that will be shown."""

    def point(name: str, value: Any) -> SimpleNamespace:
        def load() -> Any:
            if isinstance(value, Exception):
                raise value
            return value

        package = SimpleNamespace(name=f"pkg-{name}")
        return SimpleNamespace(
            name=name, value=f"pkg:{name}", module="pkg", dist=package, load=load
        )

    points = [point(name, value) for name, value in found.items()]
    monkeypatch.setattr(registry.metadata, "entry_points", lambda group: points)
    notes: list[str] = []
    monkeypatch.setattr(progress, "note", notes.append)
    return notes


def test_a_class_of_the_same_name_replaces_nothing() -> None:
    ours = strategy_class("probe")
    with pytest.raises(
        UsageError, match=r"already registered by warmstart\S+\.Probe; .*another name"
    ):
        registry.register(Probe)
    assert strategy_class("probe") is ours
    registry.register(ours)  # the same again, as a reload does


def test_a_strategy_of_another_package_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = offer(monkeypatch, theirs=Theirs)
    assert make("theirs") == Theirs()
    assert notes == []


def test_a_broken_package_breaks_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = offer(monkeypatch, broken=ImportError("no module x"), theirs=Theirs)
    assert "theirs" in names()
    assert "broken" not in names()
    assert len(notes) == 1
    assert "pkg-broken" in notes[0]
    with pytest.raises(UsageError, match=r"'broken' of the package pkg-broken .*no module x"):
        make("broken")
    make("probe")


def test_what_is_no_strategy_or_takes_our_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = registry._STRATEGIES["probe"]
    notes = offer(monkeypatch, odd=3, probe=Probe)
    assert strategy_class("probe") is ours
    assert len(notes) == 2
    with pytest.raises(UsageError, match="no subclass of"):
        strategy_class("odd")


def test_names_go_along_the_spectrum() -> None:
    from warmstart.strategies import names
    from warmstart.strategies.registry import SPECTRUM

    found = names()
    assert tuple(found[: len(SPECTRUM)]) == SPECTRUM
    assert found.index("probe") < found.index("lora") < found.index("finetune")
