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
    from wellposed.bayes.calibration import Calibration, calibration
    from wellposed.bayes.calibrators import calibrate, conformal
    from wellposed.bayes.cross_fit import CrossFitted, cross_fit
    from wellposed.bayes.ensembles import SWAG, Ensemble, ensemble
    from wellposed.bayes.evidence import Evidence, evidence
    from wellposed.bayes.heads import crps_of_samples, distribution_of
    from wellposed.bayes.ivon import IVON
    from wellposed.bayes.laplace import Laplace, laplace
    from wellposed.bayes.predictive import Predictive, PredictiveClasses, PredictiveNumbers
    from wellposed.bayes.selective import risk_coverage
    from wellposed.bayes.variational import bayesian, kl, mc_dropout, predictive
    from wellposed.constraints.balls import L1Ball, L2Ball, LInfBall, MaxNorm, UnitNorm
    from wellposed.constraints.multiplier import NormBound
    from wellposed.constraints.patterns import Box, HalfSpace, NonNegative, Simplex, TopK
    from wellposed.constraints.spectral import Orthogonal, SpectralBall
    from wellposed.core.errors import (
        CompositionError,
        DataError,
        InputError,
        ProblemError,
        RecipeError,
        SelectorError,
        ShapeError,
        TrainingError,
        WellposedError,
    )
    from wellposed.core.reading import reading_up_to
    from wellposed.core.selectors import biases, convs, embeddings, inputs, named, norms, outputs, weights
    from wellposed.data.data import Data
    from wellposed.data.piecewise import PiecewiseLinear
    from wellposed.decomposition.bias_variance import BiasVariance, bias_variance, bias_variance_path
    from wellposed.decomposition.error_budget import error_budget
    from wellposed.decomposition.gap_split import GapSplit, gap_split
    from wellposed.decomposition.learning_curve import LearningCurve, learning_curve
    from wellposed.decomposition.measured_budget import ErrorBudget
    from wellposed.decomposition.price import Price, price
    from wellposed.diagnosis.diagnose import diagnose, diagnose_many
    from wellposed.diagnosis.finding import Finding
    from wellposed.diagnosis.forks import Fork, fork
    from wellposed.diagnosis.rules.rule import Rule
    from wellposed.diagnosis.stopping import stop_when_sure
    from wellposed.estimators.classifier import Classifier
    from wellposed.estimators.regressor import Regressor
    from wellposed.estimators.saved import load
    from wellposed.integrations.keras import KerasWatch
    from wellposed.integrations.lightning import LightningWatch
    from wellposed.integrations.skorch import SkorchWatch
    from wellposed.integrations.transformers import TransformersWatch
    from wellposed.logs.log import Log
    from wellposed.losses.any_metric import Metric
    from wellposed.losses.distributions import GaussianMixture, Quantiles, StudentT
    from wellposed.losses.regression import Huber, Poisson, Quantile
    from wellposed.noise.gradient_noise import GradientNoise
    from wellposed.noise.inputs import cutmix, cutout, mixup, mixup_or_cutmix
    from wellposed.noise.labels import mixed_targets
    from wellposed.noise.mixing import ManifoldMixup
    from wellposed.noise.noise import Noise
    from wellposed.noise.perturb import (
        DropConnect,
        Dropout,
        GaussianDropout,
        SpatialDropout,
        StochasticDepth,
        WeightNoise,
        perturb,
    )
    from wellposed.optim.any_optimizer import audit
    from wellposed.optim.averaging import Average
    from wellposed.optim.lookahead import Lookahead
    from wellposed.optim.optimizer_metrics import Diagonal, OptimizerMetric
    from wellposed.optim.regularize import regularize
    from wellposed.optim.schedules import decay_to, named_schedule, ramp, staircase
    from wellposed.optim.sharpness import SAM
    from wellposed.optimality.certify import Certificate, certify
    from wellposed.optimality.settle import settle
    from wellposed.parallel.executors import fit_many
    from wellposed.penalties.base import (
        Constraint,
        Context,
        CoupledPenalty,
        FunctionalPenalty,
        Penalty,
        Searched,
        Term,
        Traits,
    )
    from wellposed.penalties.conventions import translate_decay
    from wellposed.penalties.coupled import TiedGroups
    from wellposed.penalties.divergence import KL, GaussianPrior, KLToStandardNormal, LaplacePrior, ScaleMixturePrior
    from wellposed.penalties.elementwise import L1, L2, ElasticNet, WeightedL1, WeightedL2
    from wellposed.penalties.functional import ActivationL1, ActivationL2, Confidence, Consistency, Jacobian, LogitL2
    from wellposed.penalties.group import GroupL2, GroupMCP, SparseGroup
    from wellposed.penalties.hierarchical import Hierarchical
    from wellposed.penalties.matrix import Nuclear, Orthogonality, RowL21, Spectral
    from wellposed.penalties.nonconvex import L0, MCP, SCAD
    from wellposed.penalties.reference import L1SP, L2SP
    from wellposed.penalties.variation import TotalVariation
    from wellposed.recipe.recipe import Recipe
    from wellposed.reporting.html import report
    from wellposed.search.improve import improve
    from wellposed.sparsity.compress import Compressed, compress
    from wellposed.sparsity.feature_selector import FeatureSelector
    from wellposed.sparsity.path import Path, strength_path
    from wellposed.sparsity.select import Selection, select
    from wellposed.sparsity.verify import Verification, verify
    from wellposed.statistics.compare import compare
    from wellposed.study.study import Study
    from wellposed.training.history import History
    from wellposed.training.loop import fit
    from wellposed.training.problem import Problem
    from wellposed.training.range_test import RangeTest, lr_range_test
    from wellposed.training.run import Run
    from wellposed.training.watch import Watch, watch

_PLACES = {
    "bayes.cross_fit": ("CrossFitted", "cross_fit"),
    "bayes.ensembles": ("SWAG", "Ensemble", "ensemble"),
    "bayes.evidence": ("Evidence", "evidence"),
    "bayes.laplace": ("Laplace", "laplace"),
    "bayes.predictive": ("Predictive", "PredictiveClasses", "PredictiveNumbers"),
    "integrations.keras": ("KerasWatch",),
    "integrations.lightning": ("LightningWatch",),
    "integrations.skorch": ("SkorchWatch",),
    "integrations.transformers": ("TransformersWatch",),
    "bayes.ivon": ("IVON",),
    "bayes.variational": ("bayesian", "kl", "mc_dropout", "predictive"),
    "core.errors": ("CompositionError", "DataError", "InputError", "ProblemError", "RecipeError", "SelectorError",
        "ShapeError", "TrainingError", "WellposedError"),
    "core.reading": ("reading_up_to",),
    "core.selectors": ("biases", "convs", "embeddings", "outputs", "inputs", "named", "norms", "weights"),
    "penalties.base": ("Constraint", "Context", "CoupledPenalty", "FunctionalPenalty", "Penalty", "Searched", "Term", "Traits"),
    "penalties.divergence": ("KL", "GaussianPrior", "KLToStandardNormal", "LaplacePrior", "ScaleMixturePrior"),
    "penalties.elementwise": ("L1", "L2", "ElasticNet", "WeightedL1", "WeightedL2"),
    "penalties.nonconvex": ("L0", "MCP", "SCAD"),
    "penalties.reference": ("L1SP", "L2SP"),
    "penalties.group": ("GroupL2", "GroupMCP", "SparseGroup"),
    "penalties.variation": ("TotalVariation",),
    "penalties.matrix": ("Nuclear", "Orthogonality", "RowL21", "Spectral"),
    "penalties.coupled": ("TiedGroups",),
    "penalties.hierarchical": ("Hierarchical",),
    "penalties.functional": ("ActivationL1", "ActivationL2", "Confidence", "Consistency", "Jacobian", "LogitL2"),
    "bayes.calibration": ("Calibration", "calibration"),
    "bayes.calibrators": ("calibrate", "conformal"),
    "bayes.heads": ("crps_of_samples", "distribution_of"),
    "bayes.selective": ("risk_coverage",),
    "constraints.balls": ("L1Ball", "L2Ball", "LInfBall", "MaxNorm", "UnitNorm"),
    "constraints.patterns": ("Box", "HalfSpace", "NonNegative", "Simplex", "TopK"),
    "constraints.spectral": ("Orthogonal", "SpectralBall"),
    "constraints.multiplier": ("NormBound",),
    "losses.any_metric": ("Metric",),
    "losses.distributions": ("GaussianMixture", "Quantiles", "StudentT"),
    "losses.regression": ("Huber", "Poisson", "Quantile"),
    "noise.gradient_noise": ("GradientNoise",),
    "noise.inputs": ("cutmix", "cutout", "mixup", "mixup_or_cutmix"),
    "noise.labels": ("mixed_targets",),
    "noise.mixing": ("ManifoldMixup",),
    "noise.noise": ("Noise",),
    "noise.perturb": ("DropConnect", "Dropout", "GaussianDropout", "SpatialDropout", "StochasticDepth", "WeightNoise", "perturb"),
    "data.data": ("Data",),
    "data.piecewise": ("PiecewiseLinear",),
    "optim.averaging": ("Average",),
    "optim.lookahead": ("Lookahead",),
    "optim.optimizer_metrics": ("Diagonal", "OptimizerMetric"),
    "optim.any_optimizer": ("audit",),
    "penalties.conventions": ("translate_decay",),
    "optim.regularize": ("regularize",),
    "optim.schedules": ("decay_to", "ramp", "named_schedule", "staircase"),
    "optim.sharpness": ("SAM",),
    "recipe.recipe": ("Recipe",),
    "optimality.certify": ("Certificate", "certify"),
    "parallel.executors": ("fit_many",),
    "training.history": ("History",),
    "training.loop": ("fit",),
    "training.problem": ("Problem",),
    "training.range_test": ("RangeTest", "lr_range_test"),
    "training.run": ("Run",),
    "optimality.settle": ("settle",),
    "training.watch": ("Watch", "watch"),
    "decomposition.bias_variance": ("BiasVariance", "bias_variance", "bias_variance_path"),
    "diagnosis.diagnose": ("diagnose", "diagnose_many"),
    "decomposition.measured_budget": ("ErrorBudget",),
    "decomposition.error_budget": ("error_budget",),
    "statistics.compare": ("compare",),
    "logs.log": ("Log",),
    "diagnosis.rules.rule": ("Rule",),
    "decomposition.price": ("Price", "price"),
    "diagnosis.forks": ("Fork", "fork"),
    "diagnosis.finding": ("Finding",),
    "decomposition.learning_curve": ("LearningCurve", "learning_curve"),
    "decomposition.gap_split": ("GapSplit", "gap_split"),
    "diagnosis.stopping": ("stop_when_sure",),
    "estimators.classifier": ("Classifier",),
    "estimators.regressor": ("Regressor",),
    "estimators.saved": ("load",),
    "search.improve": ("improve",),
    "sparsity.compress": ("Compressed", "compress"),
    "sparsity.verify": ("Verification", "verify"),
    "sparsity.path": ("Path", "strength_path"),
    "sparsity.feature_selector": ("FeatureSelector",),
    "sparsity.select": ("Selection", "select"),
    "study.study": ("Study",),
    "reporting.html": ("report",),
}  # fmt: skip
"""The public names of each module."""
_RENAMED = {"LogitNorm": "LogitL2", "heads": "outputs", "mixed": "mixed_targets", "shaped": "named_schedule"}
_WHERE = {name: place for place, names in _PLACES.items() for name in names}

__all__ = [
    "IVON", "KL", "L0", "L1", "L1SP", "L2", "L2SP", "MCP", "SAM", "SCAD", "SWAG", "ActivationL1", "ActivationL2",
    "Average", "BiasVariance", "Box", "Calibration", "Certificate", "Classifier", "CompositionError", "Compressed", "Confidence",
    "Consistency", "Constraint", "Context", "CoupledPenalty", "CrossFitted", "Data", "DataError", "Diagonal",
    "DropConnect", "Dropout", "ElasticNet", "Ensemble", "ErrorBudget", "Evidence", "FeatureSelector", "Finding", "Fork",
    "FunctionalPenalty", "GapSplit", "GaussianDropout", "GaussianMixture", "GaussianPrior", "GradientNoise", "GroupL2",
    "GroupMCP", "HalfSpace", "Hierarchical", "History", "Huber", "InputError", "Jacobian", "KLToStandardNormal",
    "KerasWatch", "L1Ball", "L2Ball", "LInfBall", "Laplace", "LaplacePrior", "LearningCurve", "LightningWatch", "Log",
    "LogitL2", "Lookahead", "ManifoldMixup", "MaxNorm", "Metric", "Noise", "NonNegative", "NormBound", "Nuclear",
    "OptimizerMetric", "Orthogonal", "Orthogonality", "Path", "Penalty", "PiecewiseLinear", "Poisson", "Predictive",
    "PredictiveClasses", "PredictiveNumbers", "Price", "Problem", "ProblemError", "Quantile", "Quantiles", "RangeTest",
    "Recipe", "RecipeError", "Regressor", "RowL21", "Rule", "Run", "ScaleMixturePrior", "Searched", "Selection", "SelectorError",
    "ShapeError", "Simplex", "SkorchWatch", "SparseGroup", "SpatialDropout", "Spectral", "SpectralBall",
    "StochasticDepth", "StudentT", "Study", "Term", "TiedGroups", "TopK", "TotalVariation", "TrainingError", "Traits",
    "TransformersWatch", "UnitNorm", "Verification", "Watch", "WeightNoise", "WeightedL1", "WeightedL2", "WellposedError",
    "__version__", "audit", "bayesian", "bias_variance", "bias_variance_path", "biases", "calibrate", "calibration",
    "certify", "compare", "compress", "conformal", "convs", "cross_fit", "crps_of_samples", "cutmix", "cutout",
    "decay_to", "diagnose", "diagnose_many", "distribution_of", "embeddings", "ensemble", "error_budget", "evidence",
    "fit", "fit_many", "fork", "gap_split", "improve", "inputs", "kl", "laplace", "learning_curve", "load", "lr_range_test",
    "mc_dropout", "mixed_targets", "mixup", "mixup_or_cutmix", "named", "named_schedule", "norms", "outputs", "perturb",
    "predictive", "price", "ramp", "reading_up_to", "regularize", "report", "risk_coverage", "select", "settle",
    "staircase", "stop_when_sure", "strength_path", "translate_decay", "verify", "watch", "weights",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``import wellposed`` costs nothing."""
    if name in _RENAMED:
        raise AttributeError(f"wellposed.{name} is called wellposed.{_RENAMED[name]} now.")
    if name not in _WHERE:
        raise AttributeError(f"module 'wellposed' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"wellposed.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
