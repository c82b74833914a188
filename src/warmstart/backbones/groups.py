"""Layer groups: a backbone's parameters as an ordered, checked partition.

The order is the order of the forward pass: `stem`, `block.0`, `block.1`, ... The final norm, the
pooler and a projection belong to the last block's group, so the last group L is always a real
block and `rate_l = base / 2.6^(L - l)` gives it the base rate. (A ResNet has five groups: the stem
and four stages.)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from warmstart.core import BackboneError, nearest

from .families import Family

__all__ = ["LayerGroups", "batch_norms", "count_weights", "find_groups", "groups_of_family"]


class LayerGroups:
    """An ordered partition of a module's parameters.

    Attributes:
        names: The groups, first to run first.
        shared_note: A sentence where a group's block runs more than once in a pass, else None.
    """

    def __init__(
        self,
        module: nn.Module,
        prefixes: Mapping[str, Sequence[str]],
        *,
        blocks: Sequence[str] = (),
        shared_note: str | None = None,
    ) -> None:
        """Divide `module`.

        Args:
            module: The network.
            prefixes: Group name to paths of its modules or parameters, in the order of the pass.
            blocks: Paths of the modules whose calls count as depth; may be empty.
            shared_note: See the class.

        Raises:
            BackboneError: When this is no partition.
        """
        self._module = module
        self._prefixes = {name: tuple(paths) for name, paths in prefixes.items()}
        self.block_paths = tuple(blocks)
        self.shared_note = shared_note
        self.check()

    @property
    def names(self) -> tuple[str, ...]:
        """Group names in the order of the forward pass."""
        return tuple(self._prefixes)

    @property
    def L(self) -> int:
        """Index of the last backbone group."""
        return len(self._prefixes) - 1

    @property
    def prefixes(self) -> dict[str, tuple[str, ...]]:
        """The paths of each group."""
        return dict(self._prefixes)

    def __len__(self) -> int:
        return len(self._prefixes)

    def __repr__(self) -> str:
        counts = {n: sum(p.numel() for _, p in self.parameters(n)) for n in self.names}
        return f"LayerGroups({counts})"

    def parameters(self, name: str) -> list[tuple[str, nn.Parameter]]:
        """The parameters of a group with their names in the module.

        They are looked up at each call, so that adapters put into a block belong to its group.
        """
        paths = self._paths(name)
        return [
            (key, value) for key, value in self._module.named_parameters() if _within(key, paths)
        ]

    def buffers(self, name: str) -> list[tuple[str, Tensor]]:
        """The buffers of a group (batch-norm statistics and the like) with their names."""
        paths = self._paths(name)
        return [(key, value) for key, value in self._module.named_buffers() if _within(key, paths)]

    def modules(self, name: str) -> list[nn.Module]:
        """The outermost modules of a group."""
        found = (_module_at(self._module, path) for path in self._paths(name))
        return [module for module in found if module is not None]

    def blocks(self) -> list[nn.Module]:
        """The modules whose calls count as depth."""
        found = (_module_at(self._module, path) for path in self.block_paths)
        return [module for module in found if module is not None]

    def group_of(self, parameter: str) -> str:
        """The group of a parameter, by its name in the module.

        Raises:
            BackboneError: When there is no such parameter.
        """
        for name, paths in self._prefixes.items():
            if _within(parameter, paths):
                return name
        raise BackboneError(f"no layer group holds the parameter {parameter!r}.")

    def check(self) -> None:
        """Prove that every parameter is in exactly one group.

        Raises:
            BackboneError: Naming parameters without a group or with several, an empty group, or a
                path that matches nothing.
        """
        who = type(self._module).__name__
        keys = [key for key, _ in self._module.named_parameters()]
        modules = {key for key, _ in self._module.named_modules()}
        for name, paths in self._prefixes.items():
            for path in paths:
                if path not in modules and not any(_within(key, (path,)) for key in keys):
                    raise BackboneError(
                        f"{who}: group {name!r} names {path!r}, which matches no parameter and no "
                        f"module.{nearest(path, modules - {''})}"
                    )
            if not any(_within(key, paths) for key in keys):
                raise BackboneError(f"{who}: group {name!r} holds no parameter.")
        owners = {
            key: [name for name, paths in self._prefixes.items() if _within(key, paths)]
            for key in keys
        }
        none = [key for key, names in owners.items() if not names]
        if none:
            raise BackboneError(
                f"{who}: {len(none)} parameters belong to no layer group: {_some(none)}. Every "
                "parameter must be in exactly one; give groups={name: [parameter prefixes]}."
            )
        twice = [f"{key} ({', '.join(names)})" for key, names in owners.items() if len(names) > 1]
        if twice:
            raise BackboneError(
                f"{who}: {len(twice)} parameters belong to several layer groups: {_some(twice)}. "
                "Every parameter must be in exactly one."
            )

    def _paths(self, name: str) -> tuple[str, ...]:
        try:
            return self._prefixes[name]
        except KeyError:
            raise BackboneError(
                f"no layer group is called {name!r}.{nearest(name, self._prefixes)}"
            ) from None


def groups_of_family(module: nn.Module, family: Family) -> LayerGroups:
    """Divide a model of a known family.

    Raises:
        BackboneError: When the model does not have the family's parts.
    """
    path = next((p for p in family.blocks if _module_at(module, p) is not None), None)
    if path is None:
        raise BackboneError(
            f"{type(module).__name__} has none of {', '.join(family.blocks)}, where "
            f"{family.label} keeps its blocks. This transformers may be too new or too old: "
            "give groups={name: [parameter prefixes]}."
        )
    return _divide(
        module,
        path,
        stem=[p for p in family.stem if _module_at(module, p) is not None],
        tail=[p for p in family.tail if _module_at(module, p) is not None],
        first=[p for p in family.first if _module_at(module, p) is not None],
        shared=family.shared,
    )


def find_groups(module: nn.Module) -> LayerGroups:
    """Divide a model of an unknown family by its own repeated blocks.

    The blocks are the largest `nn.ModuleList` or `nn.Sequential` of two or more modules of one
    class. What is registered before them is the stem, what comes after goes with the last block.

    Raises:
        BackboneError: When there is no such list, or no single largest one.
    """
    who = type(module).__name__
    candidates = {
        path: sum(p.numel() for p in child.parameters())
        for path, child in module.named_modules()
        if isinstance(child, nn.ModuleList | nn.Sequential)
        and len(child) > 1
        and len({type(part) for part in child}) == 1
        and all(any(True for _ in part.parameters()) for part in child)
    }
    ranked = sorted(candidates.items(), key=lambda item: -item[1])
    if not ranked or (len(ranked) > 1 and ranked[0][1] == ranked[1][1]):
        why = "has no list of repeated blocks" if not ranked else "has several equal block lists"
        raise BackboneError(
            f"{who} {why}, so it cannot be divided into layer groups by itself. Give "
            "groups={name: [parameter prefixes]}, first to run first."
        )
    path = ranked[0][0]
    keys = [key for key, _ in module.named_parameters()]
    inside = [position for position, key in enumerate(keys) if _within(key, (path,))]
    first, last = inside[0], inside[-1]
    stem = list(dict.fromkeys(_owner(key) for key in keys[:first]))
    tail = list(dict.fromkeys(_owner(key) for key in keys[last + 1 :]))
    between = [key for key in keys[first:last] if not _within(key, (path,))]
    if between or (set(stem) & set(tail)):
        raise BackboneError(
            f"{who}: parameters lie between its blocks ({_some(between or stem)}). Give "
            "groups={name: [parameter prefixes]}, first to run first."
        )
    return _divide(module, path, stem=stem, tail=tail)


def count_weights(parameter: Tensor) -> int:
    """Weights that a parameter stands for: a 4-bit one keeps two of them in each byte."""
    state = getattr(parameter, "quant_state", None)
    return parameter.numel() if state is None else math.prod(state.shape)


def batch_norms(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """Every batch normalisation within a network, with its name."""
    kind = nn.modules.batchnorm._BatchNorm
    return [(name, part) for name, part in module.named_modules() if isinstance(part, kind)]


def _divide(
    module: nn.Module,
    path: str,
    *,
    stem: Sequence[str],
    tail: Sequence[str],
    first: Sequence[str] = (),
    shared: bool = False,
) -> LayerGroups:
    holder = _module_at(module, path)
    count = len(list(holder.children())) if holder is not None else 0
    blocks = [f"{path}.{index}" for index in range(count)]
    prefixes: dict[str, list[str]] = {}
    if any(_within(key, stem) for key, _ in module.named_parameters()):
        prefixes["stem"] = list(stem)
    for index, block in enumerate(blocks):
        prefixes[f"block.{index}"] = [block]
    if not blocks:
        raise BackboneError(f"{type(module).__name__}.{path} holds no block.")
    prefixes["block.0"] += first
    prefixes[f"block.{count - 1}"] += tail
    note = None
    if shared:
        passes = int(getattr(getattr(module, "config", None), "num_hidden_layers", 0)) or "several"
        note = (
            f"{count} shared block{'s' if count > 1 else ''} run {passes} times in a pass: its "
            "layers cannot be frozen or given rates one by one."
        )
    return LayerGroups(module, prefixes, blocks=blocks, shared_note=note)


def _owner(key: str) -> str:
    """The path of the module that holds a parameter; the parameter itself at the root."""
    return key.rpartition(".")[0] or key


def _module_at(module: nn.Module, path: str) -> nn.Module | None:
    for part in path.split("."):
        child = module._modules.get(part)
        if child is None:
            return None
        module = child
    return module


def _within(key: str, paths: Sequence[str]) -> bool:
    return any(key == path or key.startswith(path + ".") for path in paths)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
