-- Agents whose keys, rights or names have changed, by the transaction that did it: processes that
-- remember keys ask for what is newer than their last look (store/agent_keys.py), so a look costs
-- the same however many they remember. The agent may be gone, so nothing refers to it.

CREATE TABLE agent_key_changes (
    agent_uuid uuid PRIMARY KEY,
    changed_at timestamptz NOT NULL DEFAULT now(),
    changed_by_transaction xid8 NOT NULL DEFAULT pg_current_xact_id()
);

CREATE INDEX agent_key_changes_transaction ON agent_key_changes (changed_by_transaction);

CREATE FUNCTION note_agent_key_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO agent_key_changes (agent_uuid) VALUES (OLD.uuid)
    ON CONFLICT (agent_uuid) DO UPDATE
    SET changed_at = now(), changed_by_transaction = pg_current_xact_id();
    RETURN NULL;
END
$$;

CREATE TRIGGER agents_key_changed
AFTER UPDATE OF uuid, tenant_id, name, is_active, device_api_key_hash, device_public_key, pop_verified
ON agents FOR EACH ROW
WHEN ((OLD.uuid, OLD.tenant_id, OLD.name, OLD.is_active, OLD.device_api_key_hash,
       OLD.device_public_key, OLD.pop_verified)
    IS DISTINCT FROM
      (NEW.uuid, NEW.tenant_id, NEW.name, NEW.is_active, NEW.device_api_key_hash,
       NEW.device_public_key, NEW.pop_verified))
EXECUTE FUNCTION note_agent_key_change();

CREATE TRIGGER agents_key_gone
AFTER DELETE ON agents FOR EACH ROW
EXECUTE FUNCTION note_agent_key_change();
