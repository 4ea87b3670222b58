"""The disk spool: what waits on disk while a server behind us is away."""

from iotistica.spool.segment import Batch, Damage, Kind
from iotistica.spool.spool import Spool, SpoolFull

__all__ = ["Batch", "Damage", "Kind", "Spool", "SpoolFull"]
