"""The curves that people already have, read into named columns: a small file a format.

Readers (`delimited`, `documents`, `prose`, `tensorboard`, `folders`, `objects`) give a `Log`: columns as their writer left them.
`names` guesses which column is what, `cells` makes numbers of cells, `points` one row an epoch or an evaluation, and
`reading` puts it together.
"""

from wellposed.logs.log import Array, Log, Reading, Table
from wellposed.logs.sources import Reader, read, read_all, read_each

__all__ = ["Array", "Log", "Reader", "Reading", "Table", "read", "read_all", "read_each"]
