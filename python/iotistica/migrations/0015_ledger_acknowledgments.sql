-- A loss stands in the ledger for good. Once somebody has looked into it, it is no longer news.
ALTER TABLE ledger_losses
    ADD COLUMN acknowledged_at timestamptz,
    ADD COLUMN acknowledged_by text,
    ADD COLUMN acknowledgment text;
