"""x, y: what a model learns from, and the splits that keep it honest.

reading: files and frames · columns: what a column holds · tables: a table made ready, with its warnings ·
encoding: a table as numbers, learned on training rows only · splits: rows held out · images: image sets in ``.npz``.
"""
