"""Rows to begin with, for somebody who has not brought any: real digits of scikit-learn's, made harder, and nothing is downloaded.

Of all 1,797 digits a plain network already reads nearly every one, so that a search has nothing to gain. Here 600 are known, and
each has 64 columns of noise beside its 64 pixels: few rows, and many features of which half are useless. The network can learn the
noise by heart, so both summands of the error are at stake. ``docs/results.md`` has the candidates that were tried.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from wellposed.core.errors import require

KNOWN, NOISE = 600, 64
VALID = 0.5
"""Of the known rows: with fewer to validate on, the choice between recipes is chance."""
ABOUT = (
    f"No data were given, so this is a study of scikit-learn's handwritten digits: {KNOWN} to learn and choose from, the others "
    f"for the final comparison. To make it harder, each has {NOISE} columns of noise beside its 64 pixels."
)


def noisy_digits() -> tuple[Any, Any]:
    """The known rows and the untouched ones, each as a frame with the column ``target``; always the same."""
    pd = require("pandas", "tables")
    require("sklearn", "tables")
    from sklearn.datasets import load_digits

    digits = load_digits(as_frame=True).frame.sample(frac=1, random_state=0, ignore_index=True)
    noise = np.random.default_rng(0).integers(0, 17, (NOISE, len(digits))).T.astype(float)
    frame = digits.join(pd.DataFrame(noise, columns=[f"noise_{column}" for column in range(NOISE)]))
    frame["target"] = [f"digit {label}" for label in frame["target"]]
    return frame[:KNOWN], frame[KNOWN:]
