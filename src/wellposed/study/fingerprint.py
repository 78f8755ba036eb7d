"""How the data of a study are recognized again."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from wellposed.data.arrays import Arrays, Source, Subset, in_numpy
from wellposed.training.problem import Problem


def fingerprint(problem: Problem) -> str:
    """SHA-256 of the data: a table's own, or that of all tensors; of other sources only their sizes are known."""
    if problem.sha256:
        return problem.sha256
    digest = hashlib.sha256()
    data = problem.prepared
    for source in (data.train_clean, data.valid, data.test):
        digest.update(content_digest(source))
    return digest.hexdigest()


def digest_of_test_rows(problem: Problem) -> str:
    """By which test rows are known again, in whatever pieces a network sees their numbers."""
    data = problem.prepared
    return content_digest(data.test, None if data.encoder is None else data.encoder.whole).hex()


def content_digest(source: Source | None, columns: np.ndarray | None = None) -> bytes:
    """Of a source's numbers; of some columns of its inputs (None: all)."""
    if source is None:
        return b"none"
    root = source.source if isinstance(source, Subset) else source
    digest = hashlib.sha256(str(len(source)).encode())
    if isinstance(root, Arrays) and isinstance(root.inputs, torch.Tensor):
        inputs, target = source.batch(torch.arange(len(source)))
        inputs = in_numpy(inputs) if columns is None else in_numpy(inputs)[:, columns]
        digest.update(np.ascontiguousarray(inputs).tobytes())
        digest.update(np.ascontiguousarray(in_numpy(target)).tobytes())
    return digest.digest()
