"""Key compaction: the dictionaries of agents (reference section 2)."""

from iotistica.dictionaries.delta import Delta, Gap, extend, read_delta
from iotistica.dictionaries.dictionary import Dictionary, Held, Wanted, read_dictionary

__all__ = [
    "Delta",
    "Dictionary",
    "Gap",
    "Held",
    "Wanted",
    "extend",
    "read_delta",
    "read_dictionary",
]
