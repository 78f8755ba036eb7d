"""The curves that people already have, read into named columns: a small file a format.

Readers (`delimited`, `documents`, `text`, `event_files`, `folders`, `in_memory`) give a `Log`: columns as their writer left them.
`shapes` turns tables of other shapes, `column_names` takes names apart and tells which column is what, `cells` makes numbers of
cells, `points` one row an epoch or an evaluation of each run, and `sources` puts it together.
"""

from wellposed.logs.log import Array, Log, Reading, Table
from wellposed.logs.sources import Reader, read, read_all, read_each

__all__ = ["Array", "Log", "Reader", "Reading", "Table", "read", "read_all", "read_each"]
