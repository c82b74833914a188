"""`plan`: which strategy the data calls for, by what was measured or by the tree alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import BackboneError, DataError, UsageError, pick_device, progress, write_json
from warmstart.data import Dataset, Split, split
from warmstart.planning import (
    Distance,
    Limits,
    Plan,
    Prior,
    bound_by_limits,
    parse_duration,
    parse_limits,
    plan_by_tree,
    read_prior,
)
from warmstart.reporting import write_plan_report
from warmstart.strategies import speaking_names

from .course import deciding_metric
from .measured_plan import Looking, measured_plan
from .prepare import Source, as_backbone, as_dataset
from .retrieval import interaction_options, plan_for_interactions

__all__ = ["check_plan_path", "command_options", "plan", "write_plan"]


def plan(
    data: Source,
    *,
    backbone: Backbone | str | Path | None = None,
    quick: bool = False,
    within: str | float = "2m",
    distance: Distance = "unknown",
    reference: str | Path | None = None,
    budget: str | float | None = None,
    memory: str | int | None = None,
    latency: str | float | None = None,
    max_size: str | int | None = None,
    licence: str | Sequence[str] | None = None,
    prior: Prior | str | Path | None = None,
    metric: str | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    device: str = "auto",
    seed: int = 0,
    group: str | None = None,
    allow_bin: bool = False,
    **reading: Any,
) -> Plan:
    """Recommend a strategy, with the evidence that it rests on.

    The untouched model, the probe and a short fine-tuning are tried on training and validation
    rows, and a few real steps of each way of training are timed. Test rows are never looked at.

    Args:
        data: Anything that `read` takes.
        backbone: What would be adapted; the default for the modality otherwise.
        quick: Whether the number of labels alone decides, without measuring anything.
        within: Time that measuring may take: `2m`.
        distance: How far the data is from the backbone's pretraining data, where you know it.
        reference: Vectors of the pretraining domain to measure the distance to: .npy or .parquet,
            as `embed` writes them with the same backbone.
        budget: Time that training may take: `15m`.
        memory: Memory that training may take: `4GB`.
        latency: Time that an answer may take: `20ms`.
        max_size: Size that the model may have on disk: `1MB` rules most backbones out.
        licence: Licences that the weights may have: `apache-2.0,mit`. Weights of no stated licence
            are out then.
        prior: A table of expectations of one's own, or its file; the package's otherwise.
        metric: What decides, see `compare`.
        image_size: Pixels on a side; the backbone's own otherwise.
        max_length: Tokens; the backbone's own otherwise.
        device: Where to compute.
        seed: Of short trainings and draws.
        group: Column that the split keeps whole.
        allow_bin: Whether the backbone that is named may have pickled weights.
        **reading: Passed to `read`; of these a Dataset takes limit= alone.

    Raises:
        DataError: For data that cannot be read.
        UsageError: For settings out of range, or that need measuring where `quick` is given.
    """
    own = interaction_options(
        data, reading, group=group, budget=budget, allow_bin=allow_bin,
        distance=distance if distance != "unknown" else None, reference=reference, memory=memory,
        latency=latency, max_size=max_size, licence=licence, prior=prior, metric=metric,
        image_size=image_size, max_length=max_length,
    )  # fmt: skip
    if own is not None:
        return plan_for_interactions(data, backbone, **own)
    limits = parse_limits(
        budget=budget, memory=memory, latency=latency, max_size=max_size, licence=licence
    )
    if quick and (limits.need_measuring or reference is not None):
        names = [*limits.need_measuring, *(["--reference"] if reference is not None else [])]
        raise UsageError(f"{', '.join(names)} can only be judged by measuring: leave out --quick.")
    seconds = parse_duration(within)
    if device != "auto":
        pick_device(device)
    table = read_prior(Path(prior)) if isinstance(prior, str | Path) else prior
    dataset = as_dataset(data, group=group, **reading)
    parts = split(dataset, group=group)
    sizes = {"image_size": image_size, "max_length": max_length, "device": device}
    options = command_options(
        {"backbone": backbone, "allow_bin": allow_bin, "group": group, "image_size": image_size,
         "max_length": max_length, "metric": metric, **reading}
    )  # fmt: skip
    found, missing = _open(backbone, dataset, sizes, quick, limits, allow_bin)
    tree = _tree(dataset, parts, found, distance, limits, options)
    if quick or found is None:
        card = None if found is None else found.card
        bound = bound_by_limits(tree, limits, card, dataset.modality, options)
        told = (missing,) if missing else ()
        return bound.model_copy(update={"warnings": (*bound.warnings, *told)})
    looking = Looking(
        dataset, parts, found, distance=distance, limits=limits, prior=table,
        metric=deciding_metric(
            metric, parts.view(dataset).train.labels_N, len(dataset.label_names)
        ),
        reference=None if reference is None else Path(reference), device=device, seed=seed,
        within=seconds, options=tuple(options),
    )  # fmt: skip
    return measured_plan(tree, looking, anew=True)


def _open(
    backbone: Backbone | str | Path | None,
    dataset: Dataset,
    sizes: Mapping[str, Any],
    quick: bool,
    limits: Limits,
    allow_bin: bool,
) -> tuple[Backbone | None, str]:
    """The backbone, where one is needed; why there is none otherwise.

    The default of the modality may lie on a hub that cannot be reached: the tree needs it not.
    """
    named = backbone is not None
    if quick and not limits.need_a_backbone and not (named and dataset.modality == "image"):
        return None, ""
    try:
        return as_backbone(backbone, dataset.modality, sizes, allow_bin=allow_bin), ""
    except BackboneError as error:
        if named or limits.need_a_backbone or limits.need_measuring:
            raise
        progress.note(f"Nothing is measured, since no backbone could be opened: {error}")
        return None, f"Nothing was measured: {error}"


def _tree(
    dataset: Dataset,
    parts: Split,
    backbone: Backbone | None,
    distance: Distance,
    limits: Limits,
    options: Sequence[str],
) -> Plan:
    speak = speaking_names(dataset.label_names)
    if dataset.modality == "image":
        speak = speak and backbone is not None and backbone.modality == "image-text"
    return plan_by_tree(
        parts.view(dataset).train, names_speak=speak, distance=distance,
        budget_seconds=limits.seconds, options=options,
    )  # fmt: skip


def check_plan_path(path: Path) -> None:
    """Refuse an ending that `write_plan` does not know; to be asked before the work.

    Raises:
        UsageError: Naming the endings that it knows.
        DataError: For a folder that is not there.
    """
    if path.suffix.lower() not in {".html", ".json"}:
        raise UsageError(f"{path} must end in .html (the report) or .json.")
    if not path.absolute().parent.is_dir():
        raise DataError(f"The folder {path.parent} does not exist.")


def write_plan(planned: Plan, path: Path, *, source: str = "", command: str = "") -> None:
    """Write the report (.html) or everything (.json).

    Args:
        planned: The plan.
        path: The file to write, replaced whole.
        source: Name of the data, for the report's title.
        command: How it was asked for.

    Raises:
        UsageError: For another ending.
    """
    check_plan_path(path)
    values = planned.model_dump(mode="json")
    if path.suffix.lower() == ".html":
        write_plan_report(values, path, source=source, command=command)
    else:
        write_json(path, values)


def command_options(given: Mapping[str, Any]) -> list[str]:
    """Settings as the command line takes them; what it has no option for is left out."""
    found: list[str] = []
    for name, value in given.items():
        flag = "--" + name.replace("_", "-")
        if value is True:
            found.append(flag)
        elif isinstance(value, list | tuple):
            found += [flag, ",".join(map(str, value))]
        elif isinstance(value, str | int | Path) and value is not False:
            found += [flag, str(value)]
    return found
