"""Dead letters once more: what each would insert, inserts, or still lacks."""

from iotistica.redrive.explained import explained
from iotistica.redrive.proof import Fault, Proof, Result, Totals
from iotistica.redrive.redrive import Families, Redrive, Step

__all__ = ["Families", "Fault", "Proof", "Redrive", "Result", "Step", "Totals", "explained"]
