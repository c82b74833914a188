"""`adapt`: from a labelled source to an unlabelled target, chosen without a target label."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from warmstart.backbones import Backbone
from warmstart.core import (
    NotApplicable,
    OutOfMemory,
    Run,
    Streams,
    UsageError,
    fingerprint,
    progress,
)
from warmstart.planning import elapsed_clock
from warmstart.shift import (
    FEATURES,
    TARGET_IMAGES,
    AdaptationMethod,
    DomainInputs,
    DomainVectors,
    DomainView,
    MethodResult,
    NamedMethod,
    Tuning,
    Validators,
    choose,
    domain_view,
    fit_method,
    forget_weights,
    parse_methods,
    parse_trainable,
    read_method,
)
from warmstart.training import Diverged

from .adapt_results import RESULTS_FILE, Outcome, write_adaptation
from .adapt_target import Target, drop_shared, read_target
from .course import ShowAudit, check_seed, deciding_metric, refuse_problems
from .embedding import embed_all
from .folders import default_folder, run_folder
from .prepare import Prepared, Source, prepare
from .recommending import open_run
from .runs import FinishedRun

__all__ = ["adapt"]

_LEAVES_OUT = (NotApplicable, Diverged, OutOfMemory)


def adapt(
    source: Source,
    target: Source,
    *,
    methods: Sequence[str | AdaptationMethod] | None = None,
    trainable: str | Tuning = FEATURES,
    backbone: Backbone | str | Path | None = None,
    seeds: int = 3,
    first_seed: int = 0,
    keep: str | None = None,
    limit: int | None = None,
    image_size: int | None = None,
    max_length: int | None = None,
    metric: str | None = None,
    target_label: str | None = None,
    out: str | Path | None = None,
    replace: bool = False,
    device: str = "auto",
    allow_bin: bool = False,
    command: str | None = None,
    show_audit: ShowAudit | None = None,
    **reading: Any,
) -> FinishedRun:
    """Carry a labelled source over to a target without labels, and keep source-only where in doubt.

    A bottleneck and a head are learned by each method and seed, on the untouched backbone's vectors
    or with a part of the encoder (`trainable`). What is kept is chosen without target labels
    (importance-weighted validation, deep embedded validation, soft neighbourhood density). Where
    the target has labels, they are used for the final report alone, on rows that were held out.

    Args:
        source: Labelled rows: path, hub id, Dataset or Hugging Face datasets object.
        target: Rows to adapt to, of the same modality; labels are not needed.
        methods: Names such as `dann` or `reweight:ratio=kmm`, or values; all when None.
            Source-only is always beside them.
        trainable: What learns beside bottleneck and head: `features` (nothing: vectors are computed
            once), `lora`, `last:N` (the last N layer groups) or `all`.
        backbone: What embeds the rows; the default for the modality otherwise.
        seeds: Training seeds of each method.
        first_seed: The first of them; the others count up from it.
        keep: The method whose model is kept, whatever the evidence says; chosen by it otherwise.
        limit: At most so many rows of each domain.
        image_size: Pixels on a side; the backbone's own otherwise.
        max_length: Tokens; the backbone's own otherwise.
        metric: Primary metric of the final report; by the source's balance otherwise.
        target_label: The target's label column, for the final report; found by its name otherwise.
        out: Folder for the run; `runs/adapt-SOURCE-to-TARGET` otherwise.
        replace: Whether a run of that name may be replaced.
        device: `auto`, `cpu`, `cuda`, `mps`.
        allow_bin: Whether a backbone's pickled weights may be read (with weights_only).
        command: The command line, for the report.
        show_audit: Called with the source's audit before any training.
        **reading: Passed to `read` for both domains; `label=` for the source alone.

    Returns:
        The finished run; `run.predict([...])` answers at once. Interrupted, the same call goes on.

    Raises:
        UsageError: For settings that make no sense.
        DataError: When rows cannot be read, or the target has a class that the source lacks.
        NotApplicable: Where LoRA does not work on the backbone's family.
    """
    started = time.monotonic()
    check_seed(first_seed)
    if not 1 <= seeds <= 1000:
        raise UsageError(f"seeds must be 1 to 1000, got {seeds}. Usual: 3.")
    named, tuning = parse_methods(methods), parse_trainable(trainable)
    names = [one.name for one in named]
    if keep is not None and keep not in names:
        raise UsageError(
            f"keep must be one of the methods that run ({', '.join(names)}), got {keep!r}."
        )
    prepared = prepare(
        source, backbone=backbone, limit=limit, image_size=image_size, max_length=max_length,
        device=device, allow_bin=allow_bin, **reading,
    )  # fmt: skip
    reading.pop("label", None)
    goal = read_target(
        target, prepared.dataset.label_names, label=target_label, limit=limit, **reading
    )
    if goal.test:
        prepared = drop_shared(prepared, goal)
    view = prepared.split.view(prepared.dataset)
    primary = deciding_metric(metric, view.train.labels_N, view.n_classes)
    domains = domain_view(view, goal.dataset.take_ids(goal.adapt))
    if tuning is not None:
        tuning.check(prepared.backbone, view)
    wanted = range(first_seed, first_seed + seeds)
    settings = _settings(
        prepared, goal, named, wanted, limit=limit, metric=metric, tuning=tuning,
        keep=keep,
    )  # fmt: skip
    name = f"{Path(prepared.dataset.source).stem}-to-{Path(goal.dataset.source).stem}"
    final = Path(out) if out else default_folder("adapt", name, settings)
    with (
        run_folder(final, settings, replace=replace) as folder,
        elapsed_clock(folder, started) as begun,
    ):
        if not (folder / RESULTS_FILE).is_file():
            _work(
                folder, prepared, goal, domains, named, tuning, seeds=wanted, device=device,
                primary=primary, started=begun, show_audit=show_audit, settings=settings,
                keep=keep, name=final.name, command=command or f"warmstart adapt --source "
                f"{prepared.dataset.source} --target {goal.dataset.source}",
            )  # fmt: skip
        if tuning is not None:
            _tidy(folder)
    return open_run(final)


def _work(
    folder: Path,
    prepared: Prepared,
    goal: Target,
    domains: DomainView,
    named: Sequence[NamedMethod],
    tuning: Tuning | None,
    *,
    seeds: range,
    device: str,
    primary: str,
    started: float,
    show_audit: ShowAudit | None,
    settings: dict[str, Any],
    keep: str | None,
    name: str,
    command: str,
) -> None:
    """Fit, choose and write everything that the run's folder holds."""
    audited = prepared.audit()
    refuse_problems(audited)
    vectors_ND, embedding = embed_all(prepared, folder, device)
    audited = prepared.audit(vectors_ND)
    if show_audit:
        show_audit(audited)
    refuse_problems(audited)
    rows = _rows(domains, prepared.backbone, tuning, folder)
    validators = Validators(rows, Streams(seeds.start).child("validators"))
    results = _fit_all(folder, rows, named, validators, seeds=seeds, device=device, keep=keep)
    choice = choose(results, rows, validators.gap, keep)
    outcome = Outcome(
        prepared=prepared, target=goal, results=results, choice=choice, gap=validators.gap,
        embedding=embedding, primary=primary, started=started, seeds=len(seeds), tuning=tuning,
    )  # fmt: skip
    write_adaptation(folder, outcome, audited, settings=settings, name=name, command=command)


def _tidy(folder: Path) -> None:
    """Remove what only an unfinished run needs."""
    shutil.rmtree(folder / TARGET_IMAGES, ignore_errors=True)
    for own in (folder / "arms").glob("*/seed-*"):
        forget_weights(own)


def _rows(
    domains: DomainView, backbone: Backbone, tuning: Tuning | None, folder: Path
) -> DomainVectors:
    """What methods get: vectors, and the inputs too where the encoder learns."""
    if tuning is None:
        return DomainVectors.of(domains, backbone)
    progress.note(f"Bottleneck, head and {tuning.title} learn.")
    return DomainInputs.of_tuned(domains, backbone, tuning, folder)


def _fit_all(
    folder: Path,
    rows: DomainVectors,
    named: Sequence[NamedMethod],
    validators: Validators,
    *,
    seeds: range,
    device: str,
    keep: str | None,
) -> list[MethodResult]:
    """Every method under every seed, from disk where it was done before.

    Raises:
        WarmstartError: When source-only, or the method that is to be kept, cannot be fitted.
    """
    results = [MethodResult(one, []) for one in named]
    total = len(seeds) * len(named)
    under = f"{len(seeds)} seed{'s' if len(seeds) > 1 else ''}"
    progress.note(f"{total} fits: {', '.join(one.name for one in named)}; {under}.")
    with progress.task("Adapting", total, unit="fits") as bar:
        for seed in seeds:
            for place, result in enumerate(results):
                own = folder / "arms" / _folder_name(result.named.name) / f"seed-{seed}"
                found = read_method(own)
                if found is None and result.reason is None:
                    run = Run(own, seed=seed, device=device)
                    try:
                        found = fit_method(result.named, rows, run, validators)
                    except _LEAVES_OUT as error:
                        if place == 0 or result.named.name == keep:
                            raise
                        result.reason = str(error)
                        progress.note(f"{result.named.title} is left out: {error}")
                if found is not None:
                    result.seeds.append(found)
                bar.advance()
    return results


def _folder_name(name: str) -> str:
    plain = name.replace(":", "_")
    safe = re.sub(r"[^A-Za-z0-9_.=-]+", "_", plain)[:80]
    return safe if safe == plain else f"{safe}-{fingerprint(name)[:8]}"


def _settings(
    prepared: Prepared,
    target: Target,
    named: Sequence[NamedMethod],
    seeds: range,
    *,
    limit: int | None,
    metric: str | None,
    tuning: Tuning | None,
    keep: str | None,
) -> dict[str, Any]:
    """What decides the result; an unfinished run is continued only under the same settings."""
    values: dict[str, Any] = {
        "methods": {one.name: one.method.model_dump(mode="json") for one in named},
        "trainable": FEATURES if tuning is None else str(tuning),
        "seeds": len(seeds),
        "seed": seeds.start,
        "limit": limit,
        "metric": metric,
        "image_size": prepared.backbone.image_size,
        "max_length": prepared.backbone.max_length,
        "backbone": prepared.backbone.fingerprint,
        "source": prepared.dataset.fingerprint,
        "split": prepared.split.fingerprint,
        "target": target.dataset.fingerprint,
        "target_split": fingerprint(sorted(target.adapt), sorted(target.test)),
    }
    if keep is not None:
        values["keep"] = keep
    return values | {"fingerprint": fingerprint(values)}
