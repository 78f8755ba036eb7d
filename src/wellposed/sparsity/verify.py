"""`verify`: what a compressed network claims, checked again from its files alone."""

from __future__ import annotations

import hashlib
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as read_tensors
from safetensors.torch import save
from torch import Tensor, fx, nn

from wellposed._version import __version__
from wellposed.core.checks import checked
from wellposed.core.errors import FolderInUse, FormatError, InputError, first_line
from wellposed.core.files import read_json, write_atomically, write_json
from wellposed.core.formats import count, score, table
from wellposed.core.preserve import random_states_kept
from wellposed.core.reading import memory_limit, read_bytes
from wellposed.core.schemas import Finite, Whole, validate
from wellposed.sparsity import aten_graph
from wellposed.sparsity.aten_graph import as_arguments, from_json, outputs_in, tensors_of, to_json

if TYPE_CHECKING:
    from wellposed.sparsity.compress import Compressed

SCHEMA = 1
CLAIMS, ROWS = "claims.json", "rows.safetensors"
NETWORKS = ("network", "original")
PARTS = (*(f"{name}.{kind}" for name in NETWORKS for kind in ("json", "safetensors")), ROWS)


@dataclass(frozen=True)
class Claims:
    """What a folder says of the network in it, as far as it is checked.

    Attributes:
        before, after: footprints.
        parts: file to its SHA-256.
        inputs: for each input of the network its name, or None by position, and its value where it is no tensor of rows.
    """

    before: dict[str, Finite | None]
    after: dict[str, Finite | None]
    difference: Finite
    tolerance: Finite
    rows: Whole
    parts: dict[str, str]
    inputs: list[tuple[str | None, bool | int | float | None]]


@dataclass(frozen=True)
class Check:
    """One claim: what was claimed, what was found now, and whether it holds; None for what depends on the machine."""

    claim: str
    claimed: str
    found: str
    holds: bool | None


@dataclass(frozen=True, eq=False)
class Verification:
    """What `verify` found. ``str()`` is a table; `holds` whether every claim does.

    Attributes:
        checks: one for each claim.
        model: the smaller network, built again from its files, in evaluation mode.
    """

    checks: tuple[Check, ...]
    model: nn.Module

    @property
    def holds(self) -> bool:
        """Whether every claim that does not depend on the machine holds."""
        return all(check.holds is not False for check in self.checks)

    def __str__(self) -> str:
        said = {True: "holds", False: "DOES NOT HOLD", None: "of this machine"}
        rows = [("claim", "claimed", "found", ""), *((c.claim, c.claimed, c.found, said[c.holds]) for c in self.checks)]
        return "\n".join(table(rows, ruled=True))


def save_compressed(small: Compressed, folder: Path) -> Path:
    """Write what `verify` reads; the claims last, so that a folder without them is no compressed network."""
    if not small.shrunk or not isinstance(small.model, fx.GraphModule):
        raise InputError(
            f"Nothing was removed, so that nothing is written to '{folder}'. {small.notes[0] if small.notes else ''}"
        )
    if folder.is_dir() and os.listdir(folder) and not (folder / CLAIMS).is_file():
        raise FolderInUse(f"'{folder}' holds something other than a compressed network; give the name of a new folder.")
    args, named = as_arguments(small.example)
    inputs: list[tuple[str | None, Any]] = [*((None, value) for value in args), *named.items()]
    contents: dict[str, Any] = {
        ROWS: {str(place): value for place, (_, value) in enumerate(inputs) if isinstance(value, Tensor)}
    }
    for name, net in zip(NETWORKS, (small.model, small.original), strict=True):
        trained = [key for key, tensor in tensors_of(net).items() if isinstance(tensor, nn.Parameter)]
        write_json(folder / f"{name}.json", {"schema": SCHEMA, "trained": trained, **to_json(net)}, folder)
        contents[f"{name}.safetensors"] = tensors_of(net)
    for name, tensors in contents.items():
        whole = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in tensors.items()}
        write_atomically(folder / name, save(whole), folder)
    claims = {
        "schema": SCHEMA,
        "wellposed": __version__,
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
        **small.to_dict(),
        "inputs": [(name, None if isinstance(value, Tensor) else value) for name, value in inputs],
        "parts": {part: _hash(folder / part) for part in PARTS},
    }
    write_json(folder / CLAIMS, claims, folder)
    return folder


def _hash(path: Path) -> str:
    return hashlib.sha256(read_bytes(path, "model", FormatError, called="part of a compressed network")).hexdigest()


@checked
def verify(folder: str | Path) -> Verification:
    """Check from files alone what a compressed network claims: hashes, sizes, and outputs equal to the original's on saved rows.

    Both networks are built again from JSON and safetensors, which runs torch's own operators and nobody's code. Latencies are
    measured again and shown beside those claimed: they depend on the machine.

    Args:
        folder: what `Compressed.save` wrote.
    Raises:
        FormatError: a file is missing, or so damaged that nothing can be checked.

    Example:
        >>> import tempfile, torch, wellposed as wp
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> net[0].weight.data[2:] = 0
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     wp.verify(wp.compress(net, torch.randn(5, 3)).save(f"{folder}/small")).holds
        True
    """
    from wellposed.sparsity.compress import footprints, largest_difference

    folder = Path(folder)
    path = folder / CLAIMS
    said = read_json(path, SCHEMA, "list of claims")
    known = {name: value for name, value in said.items() if name in Claims.__dataclass_fields__}
    claims = validate(Claims, known, f"The list of claims in '{path}'")
    checks = []
    for part in PARTS:
        claimed, found = claims.parts.get(part, "none"), _hash(folder / part)
        checks.append(Check(f"SHA-256 of {part}", claimed[:12], found[:12], claimed == found))
    small, original = (_network(folder, name) for name in NETWORKS)
    rows = _tensors(folder / ROWS)
    try:
        given = [rows.get(str(place), value) for place, (_, value) in enumerate(claims.inputs)]
        named = {name: value for (name, _), value in zip(claims.inputs, given, strict=True) if name is not None}
        batch = named if len(named) == len(given) else tuple(given)
        args, keywords = as_arguments(batch)
        with random_states_kept(), torch.no_grad():
            for network in (original, small):
                aten_graph.refuse_what_does_not_fit(network, batch, memory_limit())
            wanted = original(*args, **keywords)
            difference, tolerance = largest_difference(small, batch, outputs_in(wanted))
            costs = footprints([original, small], batch)
    except InputError:
        raise
    except Exception as error:  # of networks that do not take these rows
        raise FormatError(f"The networks in '{folder}' cannot be run on its rows: {first_line(error)}.") from None
    near = f"{difference:.2g} of {tolerance:.2g}"
    checks.append(Check("largest difference of an output", f"{claims.difference:.2g}", near, difference <= tolerance))
    for side, cost in zip(("before", "after"), costs, strict=True):
        claim = getattr(claims, side)
        for name, value in asdict(cost).items():
            if value is None:  # not measured here
                continue
            timed = name.startswith("latency")
            write = score if timed else count
            same = None if timed else claim.get(name) == value
            checks.append(Check(f"{name} {side}", write(claim.get(name)), write(value), same))
    return Verification(tuple(checks), small)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        return read_tensors(read_bytes(path, "model", FormatError, called="file of tensors"))
    except SafetensorError as error:
        raise FormatError(f"'{path}' is damaged: {first_line(error)}.") from None


def _network(folder: Path, name: str) -> fx.GraphModule:
    path = folder / f"{name}.json"
    graph = read_json(path, SCHEMA, "network")
    trained = graph["trained"] if isinstance(graph.get("trained"), list) else []
    tensors = _tensors(folder / f"{name}.safetensors")
    held = {key: nn.Parameter(t, t.is_floating_point()) if key in trained else t for key, t in tensors.items()}
    return from_json(graph, held, f"The network in '{path}'")
