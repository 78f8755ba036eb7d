"""Of a budget in minutes, by which share of it each stage ends. See ADR 6 and 12.

References and probes have shares of the whole; those of the other stages are of what is left then, so that a slow start takes from
all of them alike. The confirmation takes what is left between finalists and ablation, since its models are the ones that are kept.
"""

from __future__ import annotations

REFERENCES = 0.08
PROBES = 0.04
"""What finding out the pace may take."""
RATES = 0.25
"""Until then the baseline may look beyond the border of its rates."""
SEARCH, SEARCH_LATEST = 0.48, 0.68
FINALISTS = 0.12
"""Of the finalists, from where the search ended."""
CONFIRMATION = 0.84
ABLATION = 0.92
"""The error budgets have what is left then."""
LATEST = 1.05
"""Where a confirmation run is cut at the latest."""
GRACE = 0.08
"""What the confirmation has in any case: a search that overran must not leave a study without its look."""
HASTE = 0.8
"""Share of the time left that a lot is planned to take, so that a slow moment does not cut it."""
