"""The audit of the loss ledger: whether what came in is all accounted for (docs/loss-ledger.md)."""
