"""Who is charged: selectors choose parameters by what they do in their module, never by a piece of their name.

wp.weights                       weight matrices and kernels (the default of every penalty)
wp.biases                        what is added: biases of any layer
wp.norms                         gains and shifts of norms and layer scales
wp.embeddings                    tables of tokens and positions, tied heads too
wp.convs                         kernels of convolutions
wp.inputs                        the first weight that the model registers
wp.outputs                       the last weight that the model registers
"distributions"                  what wp.bayesian has made a distribution of
"encoder.*"                      a glob over parameter and module names, among wp.weights
wp.named("encoder.norm.*")       a glob over any parameter
nn.Linear                        a module type, among wp.weights
lambda name, parameter: ...      a predicate over any parameter
a | b,  a & b,  a - b            unions, intersections, differences
"""

from __future__ import annotations

import fnmatch
import functools
import inspect
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.parametrize import ParametrizationList

from wellposed.core.checks import checked
from wellposed.core.errors import RENAMED, InputError, SelectorError, described, did_you_mean, listed

Role = Literal["weight", "bias", "norm", "embedding", "spread"]

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
PARAMETRIZED = re.compile(r"\bparametrizations\.([^.]+)\.original\d*$")
COMPILED = re.compile(r"(?<![^.])_orig_mod\.")
PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)
TRAINERS = {"accelerate", "deepspeed", "lightning", "lightning_fabric", "pytorch_lightning"}
"""Packages whose own modules are wrappers around somebody's network, which these attributes hold."""
WRAPPED = ("_original_module", "_forward_module", "module")


@dataclass(frozen=True, eq=False)
class Leaf:
    """A parameter as it stands in a model: the ``tensor`` itself, what it does (``role``) in the ``module`` that owns it, and its
    qualified ``name``, the first of ``aliases``, of which it has several when it is tied.
    """

    name: str
    aliases: tuple[str, ...]
    tensor: nn.Parameter
    role: Role
    module: nn.Module

    @property
    def paths(self) -> set[str]:
        """The parameter's names and the names of every module above it.

        A parametrized ``fc.parametrizations.weight.original0`` goes by ``fc.weight`` too, and ``fc._orig_mod.weight`` of a
        layer that is compiled alone as well.
        """
        found: set[str] = set()
        for alias in {*self.aliases, *(COMPILED.sub("", alias) for alias in self.aliases)}:
            found.add(PARAMETRIZED.sub(r"\1", alias))
            parts = alias.split(".")
            found.update(".".join(parts[:end]) for end in range(1, len(parts) + 1))
        return found


def is_vector(tensor: Tensor) -> bool:
    """At most one axis is longer than 1, and there are fewer than two axes or all others are broadcasts (1, C, 1, 1)."""
    long_axes = sum(size > 1 for size in tensor.shape)
    return tensor.ndim <= 1 or (long_axes <= 1 and tensor.ndim > 2)


def role_of(name: str, parameter: nn.Parameter, module: nn.Module) -> Role:
    """What a parameter does: a norm's gain and shift, an embedding's table, a bias, or a weight; ``spread``, which only a name
    selects, where the module's class says so of how widely weights spread that are distributions.

    A module that is no layer of torch's is judged by the shapes that it holds: one with vectors only scales and shifts (a norm,
    a layer scale), but for a lone ``bias``, and one beside matrices of modules inside (a graph layer's); a vector beside a
    matrix is added (a bias); ``(1, n, features)``, the same rows for every example, is a table of positions or tokens (an
    embedding).
    """
    if getattr(type(module), "role", None) == "spread":
        return "spread"
    if isinstance(module, NORMS):
        return "norm"
    if isinstance(module, EMBEDDINGS):
        return "embedding"
    if isinstance(module, (nn.Linear, nn.Bilinear, _ConvNd)):
        gain = name.endswith("_g") and hasattr(module, f"{name[:-1]}v")  # torch.nn.utils.weight_norm, the older one
        return "bias" if name == "bias" else "norm" if gain else "weight"
    if isinstance(module, nn.MultiheadAttention):
        return "weight" if name.endswith("proj_weight") else "bias"
    if is_vector(parameter):
        others = [p for p in module.parameters(recurse=name == "bias") if p is not parameter]
        return "bias" if any(not is_vector(p) for p in others) or (name == "bias" and not others) else "norm"
    return "embedding" if parameter.ndim == 3 and parameter.shape[0] == 1 else "weight"


def _owner_and_name(model: nn.Module, module_name: str, module: nn.Module, name: str) -> tuple[nn.Module, str]:
    """See through parametrizations: ``fc.parametrizations.weight.original`` is the weight of ``fc``."""
    if isinstance(module, ParametrizationList):
        owner, _, tensor_name = module_name.rpartition(".parametrizations.")
        return model.get_submodule(owner), tensor_name
    return module, name


def _is_gain(name: str, parameter: nn.Parameter, module: nn.Module) -> bool:
    """Whether an original of a parametrization scales another one: the first of weight norm's two."""
    second = getattr(module, "original1", None) if isinstance(module, ParametrizationList) else None
    if name != "original0" or not isinstance(second, Tensor):
        return False
    return parameter.ndim == second.ndim and sum(size > 1 for size in parameter.shape) <= 1


def unwrap_model(model: nn.Module) -> nn.Module:
    """The network inside of ``torch.compile``, a parallel wrapper or a trainer's: names are its own."""
    inner = getattr(model, "_orig_mod", None) or unwrap_parallel(model)
    return unwrap_model(inner) if isinstance(inner, nn.Module) and inner is not model else model


def unwrap_parallel(model: nn.Module) -> nn.Module:
    """The network inside of wrappers that talk to other processes, or make a forward call count as one of training."""
    if isinstance(model, PARALLEL):
        return unwrap_parallel(model.module)
    if type(model).__module__.split(".")[0] in TRAINERS:
        inner = next((m for name in WRAPPED if isinstance(m := getattr(model, name, None), nn.Module)), model)
        return model if inner is model else unwrap_parallel(inner)
    return model


def refuse_scripted(caller: str, model: nn.Module) -> None:
    """Refuse a model that was scripted: it takes no hooks and cannot be frozen."""
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError(f"{caller} needs the model as it was before scripting or tracing; give it that one.")


def leaves(model: nn.Module) -> list[Leaf]:
    """Every parameter of the model once, in registration order; a tied one carries all its names, and is an embedding if one of
    its places is. A compiled or parallel model is seen through.
    """
    model = unwrap_model(model)
    names: dict[int, list[str]] = {}
    first: dict[int, tuple[nn.Parameter, nn.Module]] = {}
    roles: dict[int, list[Role]] = {}
    for module_name, module in model.named_modules(remove_duplicate=False):
        for name, parameter in module.named_parameters(recurse=False, remove_duplicate=False):
            owner, own_name = _owner_and_name(model, module_name, module, name)
            key = id(parameter)
            names.setdefault(key, []).append(f"{module_name}.{name}" if module_name else name)
            first.setdefault(key, (parameter, owner))
            role = "norm" if _is_gain(name, parameter, module) else role_of(own_name, parameter, owner)
            roles.setdefault(key, []).append(role)
    return [
        Leaf(
            names[key][0],
            tuple(dict.fromkeys(names[key])),
            parameter,
            "embedding" if "embedding" in roles[key] else roles[key][0],
            owner,
        )
        for key, (parameter, owner) in first.items()
    ]


@dataclass(frozen=True, eq=False)
class Selector:
    """A choice among a model's parameters. Combine with ``|``, ``&`` and ``-``, also with what `selector` takes.

    ``wp.weights`` are matrices and kernels, ``wp.biases`` what is added, ``wp.norms`` gains and shifts, ``wp.embeddings``
    tables of tokens and positions, ``wp.convs`` kernels of convolutions, ``wp.inputs`` and ``wp.outputs`` the first and the
    last weight in the order of registration; ``wp.named(glob)`` any parameter by its name.
    """

    text: str
    choose: Callable[[list[Leaf]], list[Leaf]]
    said: str | tuple[str, ...] | None = None
    """What a recipe writes for it; None where only Python can say it."""

    def __or__(self, other: object) -> Selector:
        return _combine(self, selector(other), "|", lambda mine, theirs: mine or theirs)

    def __and__(self, other: object) -> Selector:
        return _combine(self, selector(other), "&", lambda mine, theirs: mine and theirs)

    def __sub__(self, other: object) -> Selector:
        return _combine(self, selector(other), "-", lambda mine, theirs: mine and not theirs)

    def __repr__(self) -> str:
        return self.text

    def __reduce__(self) -> str | tuple[Any, ...]:
        return super().__reduce__() if self.said is None else (selector, (self.said,))


def _combine(a: Selector, b: Selector, sign: str, keep: Callable[[bool, bool], bool]) -> Selector:
    def choose(candidates: list[Leaf]) -> list[Leaf]:
        mine = {id(leaf.tensor) for leaf in a.choose(candidates)}
        theirs = {id(leaf.tensor) for leaf in b.choose(candidates)}
        return [leaf for leaf in candidates if keep(id(leaf.tensor) in mine, id(leaf.tensor) in theirs)]

    words = [(said,) if isinstance(said, str) else said for said in (a.said, b.said) if said]
    said = tuple(dict.fromkeys(word for part in words for word in part)) if sign == "|" and len(words) == 2 else None
    return Selector(f"({a.text} {sign} {b.text})", choose, said)


def _role(name: str, role: Role, part: slice = slice(None), kinds: type[nn.Module] = nn.Module) -> Selector:
    def choose(candidates: list[Leaf]) -> list[Leaf]:
        return [leaf for leaf in candidates if leaf.role == role and isinstance(leaf.module, kinds)][part]

    return Selector(name, choose, name)


weights = _role("weights", "weight")
biases = _role("biases", "bias")
norms = _role("norms", "norm")
embeddings = _role("embeddings", "embedding")
inputs = _role("inputs", "weight", slice(1))
outputs = _role("outputs", "weight", slice(-1, None))
convs = _role("convs", "weight", kinds=_ConvNd)

distributions = Selector(
    "distributions",
    lambda found: [leaf for leaf in found if leaf.name.rpartition(".")[2] in _drawn_by(leaf.module)],
    "distributions",
)
"""Weights that are distributions (`wellposed.bayesian`), whatever their role: those that their layer's posterior names."""


def _drawn_by(module: nn.Module) -> Iterable[str]:
    posterior: Any = getattr(module, "posterior", None)
    return posterior.sites if getattr(type(posterior), "role", None) == "spread" else ()


ROLES: dict[str, Selector] = {
    s.text: s for s in (weights, biases, norms, embeddings, inputs, outputs, convs, distributions)
}


@checked
def named(pattern: str) -> Selector:
    """Any parameter (bias, norm, embedding too) whose name, or a module above it, matches the glob.

    Names match whole: ``"1.weight"`` does not match ``"11.weight"``.
    """

    def choose(candidates: list[Leaf]) -> list[Leaf]:
        return [leaf for leaf in candidates if any(fnmatch.fnmatchcase(path, pattern) for path in leaf.paths)]

    return Selector(f"named:{pattern}", choose, f"named:{pattern}")


def selector(value: object) -> Selector:
    """A selector from what people write: a selector, a role's name, a glob, a module type, a predicate, or several."""
    if isinstance(value, Selector):
        return value
    if isinstance(value, str):
        if value in ROLES:
            return ROLES[value]
        if RENAMED.get(value) in ROLES:
            raise SelectorError(
                f'There is no role {value!r}.{did_you_mean(value, ROLES)} Write "{value}.*" for modules of that name.'
            )
        if value.startswith("named:"):
            return named(value.removeprefix("named:"))
        matching = weights & named(value)
        return Selector(value, matching.choose, value)
    if isinstance(value, type) and issubclass(value, nn.Module):
        return Selector(
            value.__name__,
            lambda found: [leaf for leaf in found if leaf.role == "weight" and isinstance(leaf.module, value)],
        )
    if isinstance(value, nn.Module):
        raise SelectorError(_by_name(value, "selector"))
    if isinstance(value, Tensor):
        raise SelectorError(
            f"A selector names parameters, and a tensor of shape {tuple(value.shape)} does not say its name. "
            'Give the name that model.named_parameters() has for it, such as "encoder.0.weight".'
        )
    if callable(value) and not isinstance(value, type):
        _takes(value, "parameter")
        return Selector("predicate", lambda found: [leaf for leaf in found if _holds(value, leaf.name, leaf.tensor)])
    if isinstance(value, Iterable) and not isinstance(value, (type, Mapping)):
        parts = [selector(part) for part in value]
        if parts:
            return functools.reduce(operator.or_, parts)
    raise SelectorError(
        f"A selector is wp.weights, another role, a glob, a module type or a predicate; {described(value)} is none of them."
    )


def _by_name(module: nn.Module, what: str) -> str:
    kind = type(module).__name__
    return (
        f"A {what} says which modules by name or by type, and was given a module of type {kind} itself. "
        f'Give the name that model.named_modules() has for it, a glob such as "encoder.*", or its type, {kind}.'
    )


def _takes(predicate: Callable[..., object], what: str) -> None:
    """Refuse a predicate that cannot be called with a name and what it names."""
    try:
        signature = inspect.signature(predicate)
    except (TypeError, ValueError):  # some builtins have none to look at
        return
    try:
        signature.bind("name", None)
    except TypeError:
        raise SelectorError(
            f"A predicate takes two arguments, the name and the {what}; it was given {signature}. "
            f"Write lambda name, {what}: ..."
        ) from None


def _holds(predicate: Callable[..., object], name: str, thing: object) -> bool:
    answer = predicate(name, thing)
    if getattr(answer, "shape", ()) and math.prod(answer.shape) != 1:  # type: ignore[attr-defined]
        raise SelectorError(
            f"A predicate says True or False; for {name!r} it gives {described(answer)}. "
            "Write bool((...).all()) or bool((...).any())."
        )
    return bool(answer)


def _nearest_place(glob: str, candidates: list[Leaf]) -> str:
    """The parameter or module whose name is nearest to a glob's, with the glob's own ending."""
    stem, star, rest = glob.partition(".*")
    places = dict.fromkeys(path for leaf in candidates for path in sorted(leaf.paths))
    return did_you_mean(f"{stem}{star}{rest}", [f"{place}{star}{rest}" for place in places])


def select(model: nn.Module, value: object) -> list[Leaf]:
    """The parameters that a selector chooses in a model, each once.

    Raises:
        SelectorError: nothing matches, or ``value`` is no selector.
    """
    chosen = selector(value)
    candidates = leaves(model)
    found = chosen.choose(candidates)
    if found:
        return found
    others = named(chosen.text).choose(candidates)
    if others:
        raise SelectorError(
            f"{chosen.text!r} matches {listed(leaf.name for leaf in others)}, but no weight matrix or kernel. "
            f'To charge these nevertheless, use wp.named("{chosen.text}").'
        )
    names = [leaf.name for leaf in candidates]
    hint = _nearest_place(chosen.text.removeprefix("named:"), candidates)
    raise SelectorError(
        f"The selector {chosen.text!r} matches no parameter.{hint} The model has: {listed(names)}."
        if names
        else f"The selector {chosen.text!r} matches no parameter: the model has none."
    )


def modules(model: nn.Module, where: object) -> dict[str, nn.Module]:
    """The modules that ``where`` chooses, by name: a glob (names match whole), a module type, a predicate ``(name, module)``, or
    several.
    """
    model = unwrap_model(model)
    parts = list(where) if isinstance(where, (list, tuple, set)) else [where]
    found: dict[str, nn.Module] = {}
    for part in parts:
        found |= {name: module for name, module in model.named_modules() if _chooses(part, name, module)}
    if not found:
        names = [name for name, _ in model.named_modules() if name]
        raise SelectorError(f"{_unmatched(where, names)} The model has: {listed(names)}.")
    return found


def _unmatched(where: object, names: list[str]) -> str:
    if isinstance(where, str):
        return f"{where!r} matches no module.{did_you_mean(where, names)}"
    if isinstance(where, type):
        return (
            f"{where.__name__} matches no module. Functional calls are no modules: give names, or use a layer instead."
        )
    return f"{where!r} matches no module."


def _chooses(where: object, name: str, module: nn.Module) -> bool:
    if isinstance(where, str):
        return fnmatch.fnmatchcase(name, where)
    if isinstance(where, type) and issubclass(where, nn.Module):
        return isinstance(module, where)
    if isinstance(where, nn.Module):
        raise SelectorError(_by_name(where, "place"))
    if callable(where) and not isinstance(where, type):
        _takes(where, "module")
        return _holds(where, name, module)
    raise SelectorError(
        f"Modules are chosen by a glob, a module type or a predicate; {described(where)} is none of them."
    )
