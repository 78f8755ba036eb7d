"""How somebody's model is called on a batch of theirs: where its outputs are, the target, and the loss that it has of its own.

Three lines in a loop do not say this. It is found out on the first batch, when a watch is made: a model that takes labels
and returns a loss shows what its labels mean (those of a causal language model are the inputs, one place further on), and
what cannot be found out is asked for, with the line to type, which was tried before it is shown.
"""

from __future__ import annotations

import inspect
import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.core.batches import mapped
from wellposed.core.errors import (
    DataError,
    InputError,
    ProblemError,
    TargetError,
    WellposedError,
    described,
    first_line,
    guard_call,
)
from wellposed.core.random import seeded
from wellposed.core.selectors import unwrap_model
from wellposed.core.shared import warnings_apart
from wellposed.data.arrays import TARGET_KEYS, split_batch
from wellposed.losses.per_example import Loss
from wellposed.training.evaluate import Forward, call, evaluating
from wellposed.training.sides import GRAPH

Target = Callable[[Any], Any]
TriedLine = tuple[str, Loss, Any, Any]
"""A line that a person may type, with the loss, the outputs and the target that it gives on a batch."""
CLOSE, CLOSE_IN_HALF = 1e-5, 1e-2
"""Relative difference of the model's own loss and ours on one batch, in single and in half precision."""
FIELDS = ("x", "edge_index", "edge_attr", "pos", "batch", "inputs", "images", *TARGET_KEYS)
"""Attributes that batches which are objects, such as graphs, keep their parts in."""


@dataclass(frozen=True)
class Calls:
    """``forward(model, batch)`` gives outputs and ``target(batch)`` the target; ``says`` what was found out of them.

    ``loss`` is the loss that was meant, where the one that was given by name takes other labels; ``whole`` whether the rows of a
    batch have no loss each.
    """

    forward: Forward
    target: Target
    says: str = ""
    loss: Loss | None = None
    whole: bool = False


def plain_call(model: nn.Module, batch: Any) -> Any:
    """The outputs of the model called with all of a batch but its target, leaving out what it does not take."""
    inputs, _ = split_batch(batch)
    return call(model, _taken(model, inputs) if isinstance(inputs, Mapping) else inputs)


def target_shown(batch: Any) -> Any:
    """The target of a batch; of one that shows none the batch itself, or its only part.

    It is the target where inputs are rebuilt, and is not looked at by the loss where the model returns its own.
    """
    with suppress(DataError):
        return split_batch(batch)[1]
    return batch[0] if isinstance(batch, (tuple, list)) and len(batch) == 1 else batch


def checked_calls(model: nn.Module, loss: Loss, batch: Any, calls: Calls) -> Calls:
    """What was said of how a model is called, tried on a batch.

    Raises:
        InputError: it raised, or the loss does not take what it gives; with the line to type where one is found.
    """
    forward, target = guard_call("forward=", calls.forward), guard_call("target=", calls.target)
    with seeded(0, "calls"), evaluating(model, calls.forward, calls.target, loss, weights=True):
        outputs, wanted = forward(model, batch), target(batch)
        try:
            return replace(calls, whole=loss.per_example(outputs, wanted).whole)
        except ProblemError as error:
            ways: Iterator[TriedLine] = ((*way, outputs, wanted) for way in _losses(loss, outputs, wanted))
            if calls.target is target_shown:
                ways = itertools.chain(ways, _target_lines(loss, outputs, batch, _kind(model)))
            if line := _line_that_works(ways):
                raise InputError(f"{error} {line}") from error
            if calls.target is target_shown and target_shown(batch) is batch:
                raise InputError(
                    f"{error} The batch, {described(batch)}, shows no target: say which part it is with target=lambda batch: ..."
                ) from error
            raise


def find_calls(model: nn.Module, loss: Loss, batch: Any) -> Calls:
    """How this model is called on batches like this one.

    Args:
        loss: which outputs and targets fit.
        batch: a few examples, on the model's device.
    Raises:
        InputError: the model or the loss does not take them; with the line to type.
    """
    plain = Calls(plain_call, lambda batch: split_batch(batch)[1])
    with seeded(0, "calls"), evaluating(model, loss, weights=True):
        own = _own(model, loss, batch)
        if own is not None:
            return own
        try:
            return replace(plain, whole=loss.per_example(plain.forward(model, batch), plain.target(batch)).whole)
        except Exception as error:  # whatever a model raises on what it was not made for
            whole = _call_with_labels(model, batch)
            if whole is not None and _takes_labels(loss, calls := _labelled(whole, 0), model, batch):
                return calls
            if isinstance(error, TargetError):  # it names the label, or the number
                raise
            if hasattr(batch, "train_mask"):
                raise InputError(f"{_problem(error, batch)} {GRAPH}") from error
            if line := _line_that_works(_lines(model, loss, batch)):
                raise InputError(f"{_problem(error, batch)} {line}") from error
            if isinstance(error, WellposedError):
                raise
            raise InputError(
                f"{_problem(error, batch)} Say how a batch is read: forward=lambda model, batch: ..., "
                "target=lambda batch: ...; outputs and target are those that your loss takes."
            ) from error


def _problem(error: BaseException, batch: Any) -> str:
    return f"The first batch, {described(batch)}, could not be evaluated: {first_line(error).rstrip('.')}."


def _own(model: nn.Module, loss: Loss, batch: Any) -> Calls | None:
    """The call that the model's own loss comes from, with the labels as that loss takes them; None where it has none.

    Raises:
        InputError: its loss is another than ours.
    """
    whole = _call_with_labels(model, batch)
    if whole is None:
        return None
    try:
        returned = whole(model, batch)
    except Exception:
        return None
    own, outputs, target = _loss_in(returned), _outputs_in(returned), split_batch(batch)[1]
    if own is None or not isinstance(outputs, Tensor) or not math.isfinite(own):
        return None
    nested = isinstance(target, Tensor) and target.ndim > 1 and outputs.ndim > 2
    close = CLOSE if outputs.dtype in (torch.float32, torch.float64) else CLOSE_IN_HALF
    ours: float | None = None
    for tried in (None, _padding_left_out(loss, target)):
        for calls in [_labelled(whole, 0), _labelled(whole, 1)] if nested else [_labelled(whole, 0)]:
            value = _value(tried or loss, calls.forward(model, batch), calls.target(batch))
            ours = value if ours is None else ours
            if value is not None and abs(value - own) <= close * max(abs(own), 1e-3):
                return replace(calls, loss=tried)
    if loss.criterion is None and loss.known is None:
        return None  # a loss of the user's own is meant to differ
    shown = "cannot be computed from its outputs and labels" if ours is None else f"is {ours:.4g}"
    raise InputError(
        f"The model's own loss of the first batch is {own:.4g}, and {loss.name!r} {shown}. Watch the model's own with "
        f"loss=lambda loss, target: loss, forward=lambda model, batch: model({'**' if isinstance(batch, Mapping) else '*'}batch)"
        f"{_loss_at(returned)}; or say how outputs and target are read for yours with forward= and target=."
    )


def _padding_left_out(loss: Loss, target: Any) -> Loss | None:
    """Cross-entropy that leaves out the negative label of this batch, which models of their own loss pad with; None without one."""
    if not (
        loss.classes_are_indices and isinstance(target, Tensor) and not target.is_floating_point() and target.numel()
    ):
        return None
    least = int(target.min())
    plain = not loss.weighted and least < 0 and least != loss.ignored_index
    return Loss(nn.CrossEntropyLoss(ignore_index=least)) if plain and loss.same is not None else None


def _takes_labels(loss: Loss, calls: Calls, model: nn.Module, batch: Any) -> bool:
    """Whether outputs that a model gives with its labels fit them: some language models without give those of the last place."""
    with suppress(Exception):
        return _value(loss, calls.forward(model, batch), calls.target(batch)) is not None
    return False


def _labelled(whole: Forward, on: int) -> Calls:
    """The call with labels, each of which is that of the output ``on`` places before."""

    def forward(model: nn.Module, batch: Any) -> Any:
        outputs = _outputs_in(whole(model, batch))
        return outputs[:, :-on] if on else outputs

    def target(batch: Any) -> Any:
        found = split_batch(batch)[1]
        return found[:, on:] if on else found

    return Calls(forward, target, "the labels are the inputs, one place further on" if on else "")


def _call_with_labels(model: nn.Module, batch: Any) -> Forward | None:
    """The call of a model that takes its target among the inputs; None where it does not say so."""
    parameters = _parameters(model)
    if isinstance(batch, Mapping):
        key = next((key for key in TARGET_KEYS if key in batch), None)
        return (lambda model, batch: model(**_taken(model, batch))) if key in parameters else None
    names = [name for name, p in parameters.items() if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if isinstance(batch, (tuple, list)) and 2 <= len(batch) <= len(names) and names[len(batch) - 1] in TARGET_KEYS:
        return lambda model, batch: model(*batch)
    return None


def _parameters(given: Any) -> Mapping[str, inspect.Parameter]:
    """What a model, or a function, is called with."""
    try:
        return inspect.signature(unwrap_model(given).forward if isinstance(given, nn.Module) else given).parameters
    except (TypeError, ValueError):
        return {}


def _taken(model: nn.Module, inputs: Mapping[str, Any]) -> dict[str, Any]:
    """The entries that the model's forward takes; all of them where it takes any."""
    parameters = _parameters(model)
    if not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return dict(inputs)
    return {key: value for key, value in inputs.items() if key in parameters}


def _parts(returned: Any) -> list[Any]:
    if isinstance(returned, Mapping):
        return list(returned.values())
    return list(returned) if isinstance(returned, (tuple, list)) else [returned]


def _loss_in(returned: Any) -> float | None:
    """The loss among what a model returned: by its name, else the number without axes."""
    named = returned.get("loss") if isinstance(returned, Mapping) else getattr(returned, "loss", None)
    found = [named] if named is not None else _parts(returned) if not isinstance(returned, Tensor) else []
    return next((float(p.detach()) for p in found if _is_number(p)), None)


def _loss_at(returned: Any) -> str:
    """How `_loss_in` is written behind the call."""
    if hasattr(returned, "loss"):
        return ".loss"
    items = returned.items() if isinstance(returned, Mapping) else enumerate(returned)
    numbers = [key for key, value in items if _is_number(value)]
    return f"[{('loss' if 'loss' in numbers else numbers[0])!r}]"


def _is_number(value: Any) -> bool:
    return isinstance(value, Tensor) and value.ndim == 0 and value.is_floating_point()


def _outputs_in(returned: Any) -> Any:
    """The scores among what a model returned: by their name, else the first tensor with axes."""
    named = returned.get("logits") if isinstance(returned, Mapping) else getattr(returned, "logits", None)
    return named if named is not None else next((p for p in _parts(returned) if isinstance(p, Tensor) and p.ndim), None)


def _value(loss: Loss, outputs: Any, target: Any) -> float | None:
    """The mean loss; None where the loss does not take these, or is not finite."""
    with suppress(Exception):
        value = float(loss.per_example(outputs, target).mean())
        return value if math.isfinite(value) else None
    return None


def _line_that_works(lines: Iterator[TriedLine]) -> str:
    """The first of the lines that gives a loss, without broadcasting; empty where none does."""
    with warnings_apart():
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "Using a target size")
        found = (line for line, loss, outputs, target in lines if _value(loss, outputs, target) is not None)
        line = next(found, "")
    return f"This works on the first batch: {line}." if line else ""


def _lines(model: nn.Module, loss: Loss, batch: Any) -> Iterator[TriedLine]:
    """Lines that a person may type, with the loss, the outputs and the target that they give on the batch."""
    parts = dict(_named_parts(batch))
    with suppress(Exception):
        outputs, target = plain_call(model, batch), target_shown(batch)
        yield from ((line, tried, outputs, target) for line, tried in _losses(loss, outputs, target))
    kind = _kind(model)
    last: list[TriedLine] = []
    for inputs, given in _inputs(batch, parts, kind):
        with suppress(Exception):
            returned = model(**given[0]) if inputs == "**batch" else model(*given)
            for suffix, outputs in _picked(returned):
                forward = f"forward=lambda model, batch: model({inputs}){suffix}"
                if inputs in ("batch", "*batch", "**batch"):
                    yield forward, loss, outputs, target_shown(batch)
                    if _is_number(outputs) and suffix in ("", "['loss']"):
                        own = f"loss=lambda loss, target: loss, {forward}"
                        last.append((own, Loss(lambda loss, target: loss), outputs, target_shown(batch)))
                for line, *found in _target_lines(loss, outputs, batch, kind, inputs):
                    yield f"{forward}, {line}", *found
                if inputs in parts and loss.same is None:  # inputs are rebuilt, or compared with outputs
                    last.append((f"{forward}, target=lambda batch: {inputs}", loss, outputs, given[0]))
    yield from last


def _kind(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _target_lines(loss: Loss, outputs: Any, batch: Any, kind: torch.dtype, inputs: str = "") -> Iterator[TriedLine]:
    """Lines for the target, which is none of ``inputs``, and for the loss where it takes it in another way."""
    for text, target in _targets(batch, dict(_named_parts(batch)), kind, not isinstance(outputs, Tensor)):
        if text not in inputs:
            yield f"target=lambda batch: {text}", loss, outputs, target
            for more, one in _losses(loss, outputs, target):
                yield f"target=lambda batch: {text}, {more}", one, outputs, target


def _losses(loss: Loss, outputs: Any, target: Any) -> Iterator[tuple[str, Loss]]:
    """The loss as it takes several outputs or targets, with the line that says so."""
    given, many, several = loss.given, isinstance(outputs, (tuple, list)), isinstance(target, (tuple, list))
    name = getattr(given, "__name__", "loss")
    name = name if name.isidentifier() else "loss"
    ways: dict[str, Callable[[Any, Any], Any]] = {}
    if many:
        ways |= {
            "*outputs, target": lambda o, t: given(*o, t),
            "outputs[0], target, *outputs[1:]": lambda o, t: given(o[0], t, *o[1:]),
        }
    if several:
        ways["outputs, *target"] = lambda o, t: given(o, *t)
    if len(_parameters(given)) == 1:
        ways["outputs"] = lambda o, t: given(o)
    lines = {f"{name}({way})": call for way, call in ways.items()}
    if callable(given):
        with suppress(Exception):
            lines |= _line_of_parts(given, f"{name}(outputs, target)", outputs, target)
        yield from ((f"loss=lambda outputs, target: {line}", Loss(call)) for line, call in lines.items())


def _line_of_parts(given: Any, call: str, outputs: Any, target: Any) -> dict[str, Callable[[Any, Any], Any]]:
    """How a loss that comes in parts, such as those of boxes and of classes, is one: their sum, without numbers for a log, through
    which no gradient flows, and without what another part is made of: a total comes with what it adds up."""
    with torch.enable_grad():
        returned = given(mapped(_differentiable, outputs), target)
    keys = returned.keys() if isinstance(returned, Mapping) else range(len(returned))
    if isinstance(returned, Tensor) or not keys:
        return {}
    found = {key: getattr(returned[key], "grad_fn", None) for key in keys}
    inside = _below(node for node in found.values() if node is not None)
    tops = {node: key for key, node in reversed(found.items()) if node is not None and node not in inside}
    parts = sorted(tops.values(), key=list(keys).index)
    if len(parts) == 1:
        return {f"{call}[{parts[0]!r}]": lambda o, t: given(o, t)[parts[0]]}
    values = f"{call}.values()" if isinstance(returned, Mapping) else call
    values = values if len(parts) == len(keys) else f"map({call}.__getitem__, {parts})"
    return {f"sum({values})": lambda o, t: sum(map(given(o, t).__getitem__, parts))}


def _differentiable(part: Any) -> Any:
    """A copy of numbers through which gradients flow."""
    numbers = isinstance(part, Tensor) and part.is_floating_point()
    return part.detach().requires_grad_().clone() if numbers else part


def _below(nodes: Iterable[Any]) -> set[Any]:
    """All nodes of a graph that lie below these."""
    found: set[Any] = set()
    todo = list(nodes)
    while todo:
        new = {node for node, _ in todo.pop().next_functions if node is not None} - found
        found |= new
        todo += new
    return found


def _named_parts(batch: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(batch, Mapping):
        kinds = {key: value[0] if isinstance(value, list) and value else value for key, value in batch.items()}
        yield from ((f"batch[{key!r}]", batch[key]) for key, kind in kinds.items() if isinstance(kind, Tensor))
    elif isinstance(batch, (tuple, list)):
        for at, value in enumerate(batch):
            if isinstance(value, (Tensor, Mapping)):
                yield f"batch[{at}]", value
            elif isinstance(value, (tuple, list)) and value and isinstance(value[0], Tensor):
                yield f"*batch[{at}]", value
    else:
        found = ((f"batch.{name}", getattr(batch, name, None)) for name in FIELDS)
        yield from ((name, value) for name, value in found if isinstance(value, Tensor))


def _cast(text: str, value: Any, kind: torch.dtype) -> Iterator[tuple[str, Any]]:
    """A tensor as numbers of the kind that the network reckons in, where it is another."""
    if isinstance(value, Tensor) and value.dtype == torch.uint8:
        yield f"{text}.float() / 255", value.float() / 255
    elif isinstance(value, Tensor) and value.is_floating_point() and value.dtype != kind:
        yield f"{text}.to({kind})", value.to(kind)


def _targets(batch: Any, parts: Mapping[str, Any], kind: torch.dtype, several: bool) -> Iterator[tuple[str, Any]]:
    """Parts that may be the target; of a tuple also all after the first together, and any neighbours: the first among them where
    there are ``several`` outputs."""
    for text, value in parts.items():
        if not text.startswith("*"):
            yield text, value
            yield from _cast(text, value, kind)
    if isinstance(batch, (tuple, list)) and len(batch) > 2:
        yield "batch[1:]", batch[1:]
        for start, end in itertools.combinations(range(0 if several else 1, len(batch) + 1), 2):
            if 1 < end - start < len(batch):
                yield f"batch[{start}:{end}]", batch[start:end]


def _inputs(batch: Any, parts: Mapping[str, Any], kind: torch.dtype) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """One part, also as numbers of the network's kind; the leading two and three together, as graphs are given; the batch itself,
    and all of its parts, for a model that returns its loss."""
    for text, value in parts.items():
        yield text, tuple(value) if text.startswith("*") else (value,)
        yield from ((line, (found,)) for line, found in _cast(text, value, kind))
    names = list(parts)
    for count in (2, 3):
        if len(names) > count:
            yield ", ".join(names[:count]), tuple(parts[name] for name in names[:count])
    if all(name in parts for name in ("batch.x", "batch.edge_index", "batch.batch")):
        graph = ("batch.x", "batch.edge_index", "batch.batch")
        yield ", ".join(graph), tuple(parts[name] for name in graph)
    yield "batch", (batch,)
    if isinstance(batch, (tuple, list)):
        yield "*batch", tuple(batch)
    elif isinstance(batch, Mapping):
        yield "**batch", (batch,)


def _picked(returned: Any) -> Iterator[tuple[str, Any]]:
    """What a model returned, then its parts."""
    yield "", returned
    if isinstance(returned, Mapping):
        yield from ((f"[{key!r}]", value) for key, value in returned.items() if isinstance(value, Tensor))
    elif isinstance(returned, (tuple, list)):
        yield from ((f"[{at}]", value) for at, value in enumerate(returned) if isinstance(value, Tensor))
    for name in ("logits", "logits_per_image", "last_hidden_state"):
        if isinstance(value := getattr(returned, name, None), Tensor):
            yield f".{name}", value
