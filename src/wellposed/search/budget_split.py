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
SMALL = 0.12
"""Of these, what smaller networks have where they are asked for: so much earlier the confirmation ends."""
ABLATION = 0.92
"""The error budgets have what is left then."""
ERROR_BUDGET, TAKEN_APART = 4.0, 2
"""Seconds below which an error budget would be one of rivals that were hardly trained, and how many runs it takes apart at
least: with fewer there is no interval."""
LATEST, ENDS = 1.0, 1.2
"""Where a confirmation run is cut unless the search overran, and by when all is written, whatever else the machine does."""
WRITING, MOST_WRITING = 2.5, 0.25
"""Seconds in which a machine that does nothing else looks at the last runs, writes all files and draws the page; and the largest
share of a budget that is kept for it there, so that a budget of a few seconds still trains."""
DRAWING = 1.5
"""Of these seconds, what the figures take, and the end of the process."""
SLOWEST = 8.0
"""How many times slower than alone the writing is expected to be at most."""
STARTED = 0.25
"""A study whose start took so large a share goes without references and probes."""
GRACE = 0.08
"""What the confirmation has in any case: a search that overran must not leave a study without its look."""
HASTE = 0.8
"""Share of the time left that a lot is planned to take, so that a slow moment does not cut it."""
