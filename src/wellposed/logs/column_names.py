"""Which column is what, told by the words in its name: whose it is, of which quantity, of which part, and how it was taken.

``val_loss``, ``Loss/validation``, ``validationLoss``, ``evalloss`` and ``valid_0's binary_logloss`` are taken apart by one parser:
a name is split at signs, at capitals and where two known words are glued; each word is a side, a quantity, says how the number was
taken, or is a word of the writer's own, as of one part of a loss (``box``). `guess` then looks for the pair of losses that belong
together. What it cannot place is carried on as ``unassigned``, so that whoever judges the curves can ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from wellposed.core.csv import NUMBER
from wellposed.core.errors import listed
from wellposed.logs.log import normalize_name

TRAIN, VALID, TEST, NOBODY = "train", "valid", "test", ""
SIDES = {
    **dict.fromkeys(("train", "training", "trains", "trained", "tr", "trn", "tra", "fit", "learn", "trainset", "insample",
                     "trainings", "entrainement", "entrenamiento", "treino", "treinamento", "addestramento", "latih", "pelatihan",
                     "treningowa", "treningowy", "egitim"), TRAIN),
    **dict.fromkeys(
        ("valid", "validation", "validate", "validating", "val", "vals", "vl", "va", "vld", "cv", "eval", "evaluation", "evaluate",
         "evaluating", "dev", "devel", "development", "holdout", "heldout", "validset", "valset", "devset", "evalset",
         "validierung", "validierungs", "validacion", "validacao", "validazione", "validasi", "validatie", "walidacja",
         "walidacyjna", "walidacyjny"), VALID),
    **dict.fromkeys(("test", "testing", "tst", "te", "testset", "outofsample"), TEST),
}  # fmt: skip
LOSS = ("loss", "losses", "los", "verlust", "perte", "perdida", "perda", "perdita", "strata", "verlies", "forlust")
LOSSLIKE = (
    "nll", "logloss", "mlogloss", "ce", "bce", "xent", "deviance", "cost", "objective", "mse", "rmse", "rmsle", "mae", "mape",
    "rmspe", "smape", "wape", "nrmse", "l2", "l1", "smoothl1", "huber", "ppl", "bpc", "bpb", "bpd", "elbo",
)  # fmt: skip
METRICS = {
    **dict.fromkeys(("accuracy", "acc", "accuracies", "accs", "top1", "acc1", "prec1", "acuracia", "exactitud", "exactitude",
                     "genauigkeit"), "accuracy"),
    **dict.fromkeys(("f1", "fscore", "fmeasure", "fbeta"), "f1"),
    **dict.fromkeys(("auc", "auroc", "rocauc", "roc"), "auc"),
    **dict.fromkeys(("map", "mean_ap", "ap", "auprc", "prauc"), "map"),
    **dict.fromkeys(("rouge", "rougel", "rougelsum"), "rouge"),
    **dict.fromkeys(("iou", "miou", "jaccard"), "iou"), **dict.fromkeys(("dice", "dsc"), "dice"),
    **dict.fromkeys(("kappa", "mcc", "bleu", "sacrebleu", "meteor", "chrf", "cider", "ndcg", "mrr", "recall", "em"), ""),
    **dict.fromkeys(("gini", "dcg", "pfound", "precision", "prec", "sensitivity", "specificity", "spearman", "pearson"), ""),
    **dict.fromkeys(("psnr", "ssim", "r2", "rsquared", "uas", "las"), ""),
    **dict.fromkeys(("wer", "cer", "ter", "eer"), ""), **dict.fromkeys(("error", "err", "errors", "merror", "top1err"), "error"),
    **{word: "" for word in LOSSLIKE if word in ("rmse", "mae", "mse", "mape", "rmsle", "ppl")},
}  # fmt: skip
"""Word of a metric -> its name, if that is another. In order of preference: what people look at first."""
METRICS_TOO = frozenset(word for word in LOSSLIKE if word in METRICS and word != "ppl")
METRICS = {word: name or word for word, name in METRICS.items()}
LOWER_IS_BETTER = frozenset(("wer", "cer", "ter", "eer", "error", "rmse", "mae", "mse", "mape", "rmsle", "ppl"))
NO_RATE = frozenset(
    ("r2", "rsquared", "rmse", "mse", "mae", "mape", "rmsle", "ppl", "psnr", "kappa", "mcc", "spearman", "pearson")
)
"""Metrics that are no share of hits or misses."""
PHRASES = {
    "root_mean_squared_error": "rmse", "mean_squared_error": "mse", "mean_absolute_error": "mae", "mean_average_precision": "map",
    "average_precision": "map", "m_ap": "map", "m_io_u": "iou", "io_u": "iou", "mean_iou": "iou",
    "roc_auc": "auc", "pr_auc": "auprc",
    "cross_entropy": "ce", "crossentropy": "ce", "log_loss": "logloss", "negative_log_likelihood": "nll", "perplexity": "ppl",
    "word_error_rate": "wer", "character_error_rate": "cer", "char_error_rate": "cer", "error_rate": "error", "f_1": "f1",
    "f_score": "f1", "ents_f": "f1", "r_2": "r2", "r_squared": "r2", "top_1": "top1", "acc_1": "acc1", "exact_match": "em",
    "bits_per_byte": "bpb", "negative_elbo": "loss", "neg_elbo": "loss",
    "time_cost": "time", "mini_batch": "minibatch", "smooth_l1": "smoothl1", "bits_per_char": "bpc",
    "bits_per_dim": "bpd", "learning_rate": "lr", "held_out": "heldout",
    "hold_out": "holdout", "in_sample": "insample", "out_of_sample": "outofsample", "sparse_categorical": "", "categorical": "",
    "binary": "", "multiclass": "", "balanced": "", "multi_logloss": "logloss", "tel": "test_loss", "trl": "train_loss",
    "multi_error": "error", "accuracy_score": "accuracy", "f1_score": "f1", "accuracy_top1": "accuracy",
    "top1_accuracy": "accuracy",
}  # fmt: skip
OURS = (
    "train_loss_se", "valid_loss_se", "train_metric", "valid_metric", "cost", "penalty", "grad_norm", "weight_norm",
    "zeros", "valid_rise", "valid_rise_se",
)  # fmt: skip
OF_OURS = (*OURS, "seconds", "watch_seconds")
RATES = ("lr", "learning_rate", "lr_adam", "lr_adamw", "lr_sgd")
EPOCHS = (
    "epoch", "epochs", "ep", "epoch_number", "current_epoch", "trainer_epoch", "train_epoch", "epoch_idx", "epoch_num", "epoch_id",
    "n_epoch", "epoch_no", "training_epoch", "epoca", "epoche", "epoque", "epok", "epoka",
)  # fmt: skip
STEPS = (
    "step", "global_step", "trainer_global_step", "train_global_step", "steps", "iteration", "iterations", "iter", "iters",
    "update", "updates", "num_updates", "batch", "round", "rounds", "rodada", "ronda", "runde", "ronde", "server_round",
    "communication_round", "train_step", "training_step", "n_iter", "it", "iter_num",
    "current_steps", "current_step",
    "boosting_round", "num_iterations", "tree", "minibatch", "training_iteration", "episode", "episodes", "timesteps",
    "total_timesteps",
)  # fmt: skip
AS_USUAL = {
    "epoch", "epochs", "mean", "avg", "average", "averaged", "total", "history", "metrics", "metric", "score", "scores", "end",
    "overall", "set", "data", "dataset", "subset", "split", "combined", "global", "all", "main", "value", "values", "loss", "s",
    "results", "result", "scalars", "scalar", "over", "of", "on", "for", "the", "is", "per", "in", "at", "and", "with", "phase",
    "info", "debug", "warning", "root", "logger", "current", "this", "final", "was", "model", "curve", "log", "mode",
} - {"loss"}  # fmt: skip
OF_A_STEP = {"step", "batch", "batches", "iter", "iteration", "iterations", "steps", "vs", "inner", "minibatch"}
MEANS = {"mean", "avg", "average", "averaged", "epoch"}
SMOOTHED = {"smooth", "smoothed", "smoothing", "ema", "running", "moving"}
NO_LEVEL = {
    "se", "sem", "std", "stderr", "var", "min", "max", "low", "high", "upper", "lower", "ci", "best", "delta", "lowest", "highest",
    "minimum", "maximum", "prev", "previous", "last", "diff", "change", "ratio", "weight", "scale", "coef", "coefficient", "factor",
    "multiplier", "patience", "threshold",
    "tok2vec", "hparam",  # what spaCy hands on to an embedding; TensorBoard's result of a run
}  # fmt: skip
PARTS = frozenset((
    "box", "bbox", "cls", "class", "classification", "obj", "objectness", "dfl", "iou", "giou", "mask", "seg", "kpt", "pose", "rpn",
    "reg", "regression", "loc", "localization", "conf", "confidence", "kl", "kld", "recon", "reconstruction", "aux", "ner",
    "tagger",
    "parser", "mlm", "nsp", "ctc", "att", "attention", "rle", "xy", "wh", "x", "y", "w", "h", "coord", "noobj",
))  # fmt: skip
"""Words of one part of a loss: they may be added up where nobody has logged the sum."""
PLAYERS = frozenset((
    "d", "g", "disc", "gen", "dis", "discriminator", "generator", "critic", "actor", "adversarial", "adv", "gan", "policy", "pi",
    "q", "qf", "qf1", "qf2",
))  # fmt: skip
"""Words of players whose losses depend on one another: neither is a validation of the other, and their sum means nothing."""
OF_A_PLAYER = frozenset(("a", "b", "real", "fake", "gan", "adv"))
"""What follows ``D`` or ``G`` in the name of a player's loss: ``D_A``, ``G_GAN``."""
PAID = frozenset(("reward", "rewards", "return", "returns"))
KNOWN = {*SIDES, *LOSS, *LOSSLIKE, *METRICS, *AS_USUAL, *OF_A_STEP, *SMOOTHED, *NO_LEVEL, "lr", "rate"}
HEADS = ("loss", "verlust", "acc", "accuracy", "error", "err", "logloss", "auc", "f1", "mse", "mae", "rmse", "ppl", "perplexity",
         "iou", "dice")  # fmt: skip
TIMES = re.compile(
    r"(?:^|_)(?:time|sec|secs|seconds|ms|eta|speed|samples?|tokens?|took|elapsed|duration|minutes|hours|runtime|lr|size|count|num|memory|mem|norm)(?:_|$)"
)
SAID = re.compile(r"[:=\s][-+]?\d{0,20}\.\d")  # a number after a name: a line of text, and no name
SCORED = re.compile("score|metric|result|reward|return", re.IGNORECASE)
WHOLE = re.compile(r"-?\d+(?:\.0*)?|nan", re.IGNORECASE)
FEWEST = 3  # values that make a curve, where a rival has as many


@dataclass(frozen=True)
class Name:
    """What a column's name says: of which rows it is, and which quantity.

    Args:
        text: as it stands in the log.
        side: `TRAIN`, `VALID`, `TEST`, or `NOBODY` where it says none.
        what: the quantity, by its usual name: ``loss``, ``accuracy``; empty where no word is one.
        parts: words of the writer's own.
        of_a_step: of single steps, not of an epoch.
        level: a value of the quantity itself, not its spread, its best or its weight.
    """

    text: str
    side: str
    what: str
    parts: tuple[str, ...] = ()
    of_a_step: bool = False
    smoothed: bool = False
    level: bool = True

    @property
    def is_loss(self) -> bool:
        """Whether one of its words is ``loss``."""
        return self.level and self.what == "loss"

    @property
    def cost(self) -> tuple[int, int, int]:
        """How far it is from a plain loss of a whole epoch."""
        return int(self.smoothed), int(self.of_a_step), len(self.parts)

    @property
    def quantity(self) -> tuple[str, tuple[str, ...]]:
        """What two sides must share to be compared."""
        return self.what, self.parts

    @property
    def meant(self) -> tuple[str, tuple[str, tuple[str, ...]], bool]:
        """What two columns of one run must not share: whose quantity it is, and how it was taken."""
        return self.side, self.quantity, self.of_a_step

    @property
    def players(self) -> bool:
        """Whether it is of a player, or what one is paid: ``D_real``, ``mean reward``."""
        return (
            not PAID.isdisjoint(self.parts)
            or self.parts[:1] == ("d",)
            or (len(self.parts) > 1 and self.parts[0] in PLAYERS)
        )

    @property
    def spoken(self) -> str:
        """The quantity in words, such as ``class loss``."""
        return " ".join((*self.parts, self.what))


@lru_cache(maxsize=2**15)  # more than a log may have columns
def parse_name(text: str) -> Name:
    """The parts of a name."""
    words = [] if SAID.search(text) else name_words(text)
    sides = [SIDES[word] for word in words if word in SIDES]
    rest = [word for word in words if word not in SIDES]
    what = ""
    own: list[str] = []
    for word in rest:
        article = word == "los" and len(rest) > 1  # "in Los Angeles"
        if (word in LOSS and not article) or (word == "l" and not what and (sides or word != rest[-1])):  # L_recon
            what, own = "loss", [*own, *([what] if what and what != "loss" else [])]
        elif (found := _quantity(word)) and not what:
            what = found
            own += (
                [word.removeprefix(stem)] if (stem := word.rstrip("0123456789")) != word and word not in METRICS else []
            )
        elif word not in AS_USUAL | OF_A_STEP | SMOOTHED:
            own.append(found or word)
    if not what and len(own) == 2 and own[0] in ("d", "g") and own[1] in OF_A_PLAYER:
        what = "loss"
    return Name(
        text, sides[0] if sides else NOBODY, what, tuple(own), any(word in OF_A_STEP for word in rest),
        any(word in SMOOTHED for word in rest), not any(word in NO_LEVEL for word in rest),
    )  # fmt: skip


def _quantity(word: str) -> str:
    if word in METRICS:
        return METRICS[word]
    if word in LOSSLIKE:
        return word
    if word.endswith("s") and len(word) > 2 and (one := _quantity(word[:-1])):  # val_mses
        return one
    return METRICS.get(word.rstrip("0123456789"), "") if word not in SIDES else ""


def name_words(text: str) -> list[str]:
    """The words of a name, phrases replaced by the word that is usual for them."""
    split = re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-zA-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", text[:200])
    joined = f"_{normalize_name(split)}_"
    for phrase, word in PHRASES.items():
        if phrase in joined:
            joined = joined.replace(f"_{phrase}_", f"_{word}_")
    return [part for word in joined.split("_") if word for part in _unglued(word)]


def _unglued(word: str) -> tuple[str, ...]:
    """``valloss``, ``lossval`` and ``boxloss`` in two; a known word and any other stay."""
    if word in KNOWN or _quantity(word):
        return (word,)
    for head in HEADS:
        before, after = word.removesuffix(head), word.removeprefix(head)
        if before != word and before and (before in KNOWN or head == "loss" or (len(before) == 1 and before in "tv")):
            return (before, head)
        if after != word and (after in SIDES or (head == "loss" and len(after) == 1)):
            return (head, after)
    return (word,)


def boosted_name(side: str, metric: str) -> str:
    """What CatBoost calls a metric of a set of rows, ``learn`` or ``test1``: one that is no metric we know is what it minimizes."""
    known = metric.partition(":")[0]  # AUC:type=Ranking
    return f"{re.sub(r'(?<=[a-z])(?=[0-9])', ' ', side)} {known}{'' if parse_name(known).what else ' loss'}"


@dataclass(frozen=True)
class Guess:
    """What columns were taken for.

    Args:
        taken: our name of each column -> its name in the log.
        metric: the usual name of the metric that was taken.
        parts: ``(of training, of validation)``, None where a side has none: losses whose sum is the loss; ``taken`` has the first.
        unassigned: losses of a side that no word in their names tells.
    """

    taken: dict[str, str]
    metric: str = ""
    higher_is_better: bool = True
    notes: tuple[str, ...] = ()
    parts: tuple[tuple[str | None, str | None], ...] = ()
    unassigned: tuple[str, ...] = ()


def guess(found: Iterable[str] | Mapping[str, Sequence[Any]], metrics_of: str = NOBODY) -> Guess:
    """What each of the columns ``found`` is taken for; metrics without a side are of ``metrics_of``.

    Columns with cells are chosen by how many they have, too: one value is no curve beside a hundred.
    """
    first: dict[str, str] = {}
    for name in found:
        first.setdefault(normalize_name(name), name)
    columns_of = found if isinstance(found, Mapping) else {}
    counts = {name: sum(cell is not None for cell in cells) for name, cells in columns_of.items()}
    names = _first_set(_letters([parse_name(name) for name in first.values()]))
    kept = _behaving(names, columns_of, counts) if counts else names
    stay = {*kept}
    once = [
        name.text
        for name in names
        if name not in stay and name.side in (VALID, TEST) and name.what and counts[name.text]
    ]
    names = kept
    losses = _losses(_beside([name for name in names if normalize_name(name.text) not in OURS], found), columns_of)
    taken, notes = losses.taken, list(losses.notes)
    if once and not any(name.side in (VALID, TEST) for name in names):
        notes.append(f"{listed(map(repr, once), 4)} was looked at once or twice, which is no curve, and was left out.")
    if not taken and first.keys() & {*EPOCHS, *STEPS}:  # one quantity along an axis, whosever it is
        sided = any(name.side and name.what in METRICS.values() for name in names)
        sides = {*_bare(names)}
        bare = [name for name in names if name.level and (name.what in LOSSLIKE or name in sides)]
        bare = [name for name in bare if not (name.what in METRICS or name.of_a_step)] if sided else bare
        # Beside another side's numbers an error is a share of wrong answers.
        alone = all(name.side in (TRAIN, NOBODY) for name in names)
        errors = [name for name in names if alone and name.level and name.what == "error"]
        bare = bare or (errors if not sided or len(errors) == 1 == sum(bool(name.side) for name in names) else [])
        taken = {"train_loss": bare[0].text} if bare else {}
    for ours, aliases in (("epoch", EPOCHS), ("step", STEPS), ("lr", RATES)):
        known = [first[alias] for alias in aliases if alias in first]
        most = max((counts.get(name, 0) for name in known), default=0)
        if known:  # a step that was said twice is none beside a batch of each row
            taken[ours] = next(name for name in known if 4 * counts.get(name, 0) >= most)
    rates = [name for name in first for words in [name.split("_")] if "lr" in words or {"learning", "rate"} <= {*words}]
    taken |= {"lr": first[rates[0]]} if rates and "lr" not in taken else {}
    taken |= {ours: first[ours] for ours in OURS if ours in first}
    if "grad_norm" not in taken and "train_grad_norm" in first:
        taken["grad_norm"] = first["train_grad_norm"]
    metric = ""
    if "train_metric" not in taken and "valid_metric" not in taken:
        if "valid_loss" in taken and parse_name(taken.get("train_loss", "")).side == TRAIN:
            metrics_of = metrics_of or VALID  # who names the sides of losses, and of metrics none, means validation
        if not taken.keys() & {"train_loss", "valid_loss"} and not any(name.side for name in names):
            metrics_of = metrics_of or VALID  # nothing but scores: who trains on a loss takes them of other rows
        columns, metric = _metrics([name for name in names if name.text not in taken.values()], metrics_of)
        taken |= columns
    return Guess(taken, metric, metric not in LOWER_IS_BETTER, tuple(notes), losses.parts, losses.unassigned)


def _behaving(names: Sequence[Name], found: Mapping[str, Sequence[Any]], counts: Mapping[str, int]) -> list[Name]:
    """The names whose cells behave as curves do, whatever they are called.

    They have as many values as make a curve where others do, of training as many as validation; one beside many was looked at once.
    Whole numbers called by a side alone are sizes or hits, unless they fall and nothing else is there; what never changes and is
    not called a loss is a setting, beside others.
    """
    most = {TRAIN: 0, VALID: 0, TEST: 0}
    for name in names:
        most[name.side or TRAIN] = max(most[name.side or TRAIN], counts[name.text] if name.what and name.level else 0)
    looks = most[VALID] or most[TEST] or FEWEST
    least = 2 if max(most.values()) > FEWEST else 0
    fewest = {side: max(least, min(count, FEWEST, looks)) for side, count in most.items()}
    named = any(name.what for name in names)

    def behaves(name: Name) -> bool:
        cells = _values(name, found)
        if (name.what or name.side) and counts[name.text] < fewest[name.side or TRAIN]:
            return False
        if name.side and not (name.what or name.parts) and all(map(WHOLE.fullmatch, cells)):
            return not named and len({*cells}) > 2 and float(cells[-1]) < float(cells[0])
        return True

    kept = [name for name in names if behaves(name)]
    unsided = [name for name in kept if name.what in LOSSLIKE and name.side == NOBODY and counts[name.text] > 1]
    still = {name for name in unsided if len({*_values(name, found)}) == 1}
    moving = [name for name in kept if name not in still]
    return moving if any(name.what for name in moving) else kept


def _first_set(names: list[Name]) -> list[Name]:
    """``validation_0-logloss`` beside ``validation_1-logloss``, which XGBoost was given: by custom, first is training."""
    first = {name.text: re.sub(r"^(validation|eval)_0(?=\W)", r"\1_1", name.text) for name in names}
    if any(name.side == TRAIN for name in names) or not {a for a, b in first.items() if a != b and b in first}:
        return names
    found = [
        parse_name(re.sub(r"^(?:validation|eval)_([01])(?=\W)", lambda s: (TRAIN, VALID)[int(s[1])], name.text))
        for name in names
    ]
    return [replace(new, text=name.text) for new, name in zip(found, names, strict=True)]


def _letters(names: list[Name]) -> list[Name]:
    """``t_loss`` beside ``v_loss``: there t is training and v validation. Beside a loss of nobody v alone is, too."""
    letters = {letter: {n.what for n in names if n.parts == (letter,) and not n.side} for letter in "tv"}
    plain = {name.what for name in names if not (name.parts or name.side)}
    both = letters["v"] & (letters["t"] | plain) - {""}
    sides = {("t",): TRAIN, ("v",): VALID}
    return [
        Name(name.text, sides[name.parts], name.what)
        if name.what in both and name.parts in sides and not name.side
        else name
        for name in names
    ]


def named_side(text: str) -> str:
    """The side that a text names, if it names nothing else; else `NOBODY`."""
    words = name_words(text)
    found = [SIDES[word] for word in words if word in SIDES]
    return found[0] if found and all(word in SIDES or word in AS_USUAL | OF_A_STEP for word in words) else NOBODY


# Losses


def _losses(names: Sequence[Name], cells: Mapping[str, Sequence[Any]]) -> Guess:
    losses = [name for name in names if name.is_loss]
    like = sorted((name for name in names if name.what in LOSSLIKE and name.level), key=lambda n: n.what in METRICS_TOO)
    sided = {name.what for name in like if name.side}
    like = [name for name in like if name.what in sided]
    pair, rivals = _pair(losses)
    notes: list[str] = []
    of_steps = any(name is not None and name.of_a_step for name in pair)
    if None in pair or of_steps or pair[0].quantity != pair[1].quantity:  # type: ignore[union-attr]
        other, theirs = _pair(
            [name for name in like if not (of_steps and (name.of_a_step or name.what in METRICS_TOO))]
        )
        alike = None not in other and other[0].quantity == other[1].quantity  # type: ignore[union-attr]
        if pair == (None, None) or (alike and (None in pair or rivals)):
            pair, rivals = other, theirs
            if chosen := pair[0] or pair[1]:
                notes.append(f"No column is called a loss of both sides; {chosen.spoken} was taken for it.")
    bare = _bare(names)
    if pair == (None, None) and not bare and not any(name.side and name.what for name in names):
        pair = _unknown(names, cells)
        notes += [f"No known quantity is there; '{one.text}' was taken for a loss." for one in pair if one]
    elif pair == (None, None):
        sides = [
            next((name for name in bare if (name.side == TRAIN) == (side == TRAIN)), None) for side in (TRAIN, VALID)
        ]
        pair = (sides[0], sides[1]) if None not in sides else pair
        if pair[0] is not None and pair[1] is not None:
            notes.append(f"No column is called a loss; '{pair[0].text}' and '{pair[1].text}' were taken for it.")
    elif None in pair:
        of_train = pair[0] is None
        others = [name for name in [*like, *bare] if name.side and name.what not in METRICS_TOO]
        spare = next((name for name in others if (name.side == TRAIN) == of_train), None)
        pair = (spare, pair[1]) if of_train else (pair[0], spare or _of_an_evaluation(names, pair[0], cells))
        if not of_train and pair[0] and pair[1] and pair[1].side == NOBODY:
            notes.append(f"'{pair[1].text}' stands with metrics beside '{pair[0].text}', and was taken for validation.")
    train, valid = pair
    if valid is not None and valid.side == TEST:
        notes.append("There is no validation loss; the test loss stands in for it, and is no test any more.")
    players = {word for name in losses for word in name.parts if word in PLAYERS}
    parts = _parts(pair, rivals) if len(players) < 2 else ()
    added = {name for both in parts for name in both}
    for side, chosen in (("training", train), ("validation", valid)):
        near = [
            rival.text for rival in rivals if chosen is not None and rival.side == chosen.side and rival is not chosen
            and rival.cost == chosen.cost and rival.text not in added
        ]  # fmt: skip
        if chosen is not None and near:
            notes.append(f"Several {side} losses: '{chosen.text}' was taken, not {listed(near, 4)}.")
    if parts:
        notes.append("There is no total loss; its parts were added up.")
    if train is not None and valid is not None and train.quantity != valid.quantity:
        notes.append(f"'{train.text}' and '{valid.text}' may not be the same loss.")
    for name in pair:
        if name is not None and name.smoothed:
            notes.append(f"'{name.text}' is smoothed: its turning point lies too late, its noise looks too small.")
    unassigned = tuple(
        name.text for name in losses if name.side == NOBODY and name is not train and name.text not in added
        and (name.parts or (train and train.side and not name.of_a_step))
        and not PARTS.intersection(name.parts) and not PLAYERS.intersection(name.parts) and None in pair
    )  # fmt: skip
    taken = {ours: name.text for ours, name in zip(("train_loss", "valid_loss"), pair, strict=True) if name}
    return Guess(taken, notes=tuple(notes), parts=parts, unassigned=unassigned)


def _beside(names: Sequence[Name], found: Iterable[str] | Mapping[str, Sequence[Any]]) -> list[Name]:
    """Names in their order, but those first that sum up epochs: in the rows of validation, or means that others outnumber."""
    if not isinstance(found, Mapping):
        return [*names]
    many = {name.text: sum(cell is not None for cell in found[name.text]) for name in names if name.is_loss}
    looks = [found[name.text] for name in names if name.side in (VALID, TEST) and name.is_loss]
    rows = {i for i, cell in enumerate(looks[0]) if cell is not None} if looks else set()
    beside = {name.text for name in names if rows and name.side == TRAIN and name.is_loss
              and sum(cell is not None and i in rows for i, cell in enumerate(found[name.text])) == len(rows)}  # fmt: skip
    most: dict[Any, int] = {}
    for name in names:
        kind = name.side, name.quantity
        most[kind] = max(most.get(kind, 0), many.get(name.text, 0))
    means = {
        name.text for name in names if many.get(name.text, 0) >= FEWEST and MEANS.intersection(name_words(name.text))
        and 2 * many[name.text] < most[name.side, name.quantity]
    }  # fmt: skip
    return sorted(names, key=lambda name: (name.text not in means, name.text not in beside))


def _pair(names: Sequence[Name]) -> tuple[tuple[Name | None, Name | None], list[Name]]:
    """One of each side, of the same quantity if there are such, and as plain as can be; the first of equals. And all candidates."""
    train = [name for name in names if name.side == TRAIN]
    valid = [name for name in names if name.side == VALID] or [name for name in names if name.side == TEST]
    train = train or [name for name in names if name.side == NOBODY]
    if train and train[0].side == TRAIN and not {n.quantity for n in train} & {n.quantity for n in valid}:
        wanted = {name.quantity for name in valid}
        others = [name for name in names if name.side == NOBODY and name.quantity in wanted]
        train = others or train
    ours, theirs = _plainest(train), _plainest(valid)
    shared = [(a, theirs[quantity]) for quantity, a in ours.items() if quantity in theirs]
    if not shared:  # train/loss_strong and val/synth/loss_strong
        ends: dict[Any, list[Any]] = {}
        for (what, words), b in theirs.items():
            for first in range(len(words)):
                ends.setdefault((what, words[first:]), []).append(b)
        shared = [(a, b) for quantity, a in ours.items() for b in ends.get(quantity, ())]
    if shared:
        (*_, a), (*_, b) = min(shared, key=lambda pair: (pair[0][0], pair[1][0], pair[0][1]))
        return (a, b), [*train, *valid]
    a, b = min(ours.values(), default=(None,)), min(theirs.values(), default=(None,))
    return (a[-1], b[-1]), [*train, *valid]


def _plainest(names: Sequence[Name]) -> dict[tuple[str, tuple[str, ...]], tuple[Any, ...]]:
    """Of each quantity the plainest name, the first of equals: its cost, its place, and itself."""
    found: dict[tuple[str, tuple[str, ...]], tuple[Any, ...]] = {}
    for place, name in enumerate(names):
        if name.quantity not in found or name.cost < found[name.quantity][0]:
            found[name.quantity] = name.cost, place, name
    return found


def _bare(names: Sequence[Name]) -> list[Name]:
    """Columns that are called by their sides alone, ``learn`` and ``test``; those of validation before those of test."""
    bare = [
        name for name in names if name.side and name.level and not (name.what or name.parts or SCORED.search(name.text))
    ]
    return sorted(bare, key=lambda name: name.side == TEST)


def _of_an_evaluation(names: Sequence[Name], train: Name | None, cells: Mapping[str, Sequence[Any]]) -> Name | None:
    """``loss`` beside ``train_loss`` and metrics that name no side: what an evaluation gave back, with its own names.

    It has a value where training has one: another number of values is of batches, and equal values are training's own.
    """
    metrics = {
        name.side for name in names if name.level and name.what in METRICS.values() and name.what not in LOSSLIKE
    }
    if train is None or metrics != {NOBODY} or train.side != TRAIN:
        return None
    same = [name for name in names if name.is_loss and not name.side and name.cost == (0, 0, 0) == train.cost]
    own, theirs = _values(train, cells), _values(same[0], cells) if same else []
    apart = len(own) == len(theirs) and 2 * sum(a == b for a, b in zip(own, theirs, strict=True)) < len(own)
    return same[0] if same and (apart or not cells) else None


def _unknown(names: Sequence[Name], cells: Mapping[str, Sequence[Any]]) -> tuple[Name | None, Name | None]:
    """The first quantity by a word of the writer's own that both sides have and that training lowers: ``tr_ssl`` and ``va_ssl``."""
    own = [
        name
        for name in names
        if name.parts and name.level and not (name.what or TIMES.search(normalize_name(name.text)))
    ]
    ours = [name for name in own if name.side == TRAIN and _falls(_values(name, cells))]
    theirs = [name for side in (VALID, TEST) for name in own if name.side == side]
    return next(((a, b) for a in ours for b in theirs if a.parts == b.parts), (None, None))


def _values(name: Name, cells: Mapping[str, Sequence[Any]]) -> list[str]:
    return [str(cell) for cell in cells.get(name.text, ()) if cell is not None and str(cell).strip()]


def _falls(values: Sequence[str]) -> bool:
    """Whether the last of them is less than the first, as far as they are known: hits and rewards rise, sizes stay."""
    ends = [float(value.replace(",", ".")) for value in (*values[:1], *values[-1:]) if NUMBER.fullmatch(value)]
    return len(ends) < 2 or ends[1] < ends[0]


def _parts(pair: tuple[Name | None, Name | None], rivals: Sequence[Name]) -> tuple[tuple[str | None, str | None], ...]:
    """The parts of a loss that nobody logged as a whole: losses of equal rank, each called by one word of its own."""
    first = pair[0] or pair[1]
    if first is None or first.what != "loss" or len(first.parts) != 1 or set(first.parts) <= set(LOSSLIKE) - PARTS:
        return ()
    known = PARTS.intersection(first.parts)
    sides = [
        _plainest([n for n in rivals if one is not None and n.side == one.side and n.cost == one.cost]) for one in pair
    ]
    words = [quantity for quantity in (sides[0] or sides[1]) if quantity[0] == "loss" and len(quantity[1]) == 1]
    words = [
        quantity
        for quantity in words
        if not set(quantity[1]) <= set(LOSSLIKE) - PARTS and not quantity[1][0].isdecimal()
    ]
    if pair[0] is not None and pair[1] is not None:
        words = [quantity for quantity in words if quantity in sides[1]]
    if len(words) < 2 or not (known or first.side):
        return ()
    found = [tuple(side[q][-1].text if q in side else None for side in sides) for q in words]
    return tuple(sorted(found, key=lambda both: both != tuple(n and n.text for n in pair)))  # type: ignore[arg-type]


# Metrics


def _metrics(names: Sequence[Name], unsided: str) -> tuple[dict[str, str], str]:
    """The metric that people look at first among those that validation has, and the same of training."""
    for metric in dict.fromkeys(METRICS.values()):
        mine = sorted((name for name in names if name.what == metric and name.level), key=lambda name: name.cost)
        for side in (VALID, TEST):
            valid = next((name for name in mine if (name.side or unsided) == side), None)
            if valid is not None:
                same = [name for name in mine if name.parts == valid.parts and name is not valid]
                train = next((name for side in (TRAIN, NOBODY) for name in same if name.side == side), None)
                return {"valid_metric": valid.text} | ({"train_metric": train.text} if train else {}), metric
    return {}, ""
