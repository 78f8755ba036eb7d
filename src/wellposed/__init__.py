"""wellposed: training deep networks as a well-posed problem.

    minimize over w in C    mean_i loss( f_w(x_i + noise), y_i + noise )  +  sum_k strength_k * penalty_k(w)

    test error  =  training cost reached  +  generalization gap
                   (optimization)             (regularization)

Every symbol is a folder: f_w ``models``, loss ``losses``, x and y ``data``, penalty ``penalties``, C ``constraints``,
noise ``noise``, minimize ``optim``. ``watch`` and ``diagnose`` say which of the two summands fails, ``regularize`` enforces
terms exactly with any optimizer, ``improve`` searches and proves the gain on rows it never touched.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from wellposed._version import __version__

if TYPE_CHECKING:
    from wellposed.constraints.balls import MaxNorm
    from wellposed.core.errors import WellposedError
    from wellposed.core.selectors import biases, convs, embeddings, heads, inputs, named, norms, weights
    from wellposed.data.data import Data
    from wellposed.diagnosis.diagnose import diagnose
    from wellposed.diagnosis.evidence import compare
    from wellposed.diagnosis.finding import Finding
    from wellposed.optim.regularize import regularize
    from wellposed.penalties.elementwise import L1, L2, ElasticNet
    from wellposed.penalties.group import GroupL2
    from wellposed.recipe.recipe import Recipe
    from wellposed.reporting.html import report
    from wellposed.search.improve import improve
    from wellposed.search.study import Study
    from wellposed.training.history import History
    from wellposed.training.loop import fit, fit_many
    from wellposed.training.problem import Problem
    from wellposed.training.run import Run
    from wellposed.training.watch import Watch, watch

_PLACES = {
    "core.errors": ["WellposedError"],
    "core.selectors": ["biases", "convs", "embeddings", "heads", "inputs", "named", "norms", "weights"],
    "penalties.elementwise": ["L1", "L2", "ElasticNet"],
    "penalties.group": ["GroupL2"],
    "constraints.balls": ["MaxNorm"],
    "data.data": ["Data"],
    "optim.regularize": ["regularize"],
    "recipe.recipe": ["Recipe"],
    "training.history": ["History"],
    "training.loop": ["fit", "fit_many"],
    "training.problem": ["Problem"],
    "training.run": ["Run"],
    "training.watch": ["Watch", "watch"],
    "diagnosis.diagnose": ["diagnose"],
    "diagnosis.evidence": ["compare"],
    "diagnosis.finding": ["Finding"],
    "search.improve": ["improve"],
    "search.study": ["Study"],
    "reporting.html": ["report"],
}
_WHERE = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "L1",
    "L2",
    "Data",
    "ElasticNet",
    "Finding",
    "GroupL2",
    "History",
    "MaxNorm",
    "Problem",
    "Recipe",
    "Run",
    "Study",
    "Watch",
    "WellposedError",
    "__version__",
    "biases",
    "compare",
    "convs",
    "diagnose",
    "embeddings",
    "fit",
    "fit_many",
    "heads",
    "improve",
    "inputs",
    "named",
    "norms",
    "regularize",
    "report",
    "watch",
    "weights",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import wellposed`` costs nothing."""
    if name not in _WHERE:
        raise AttributeError(f"module 'wellposed' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wellposed.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
