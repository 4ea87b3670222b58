-- Brokers that agents are told to use (reference section 7). No password, and no private key: agents
-- prove themselves by accounts of their own, and whoever tests a broker brings the password.
CREATE TABLE mqtt_broker_config (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    protocol text NOT NULL CHECK (protocol IN ('mqtt', 'mqtts', 'ws', 'wss')),
    host text NOT NULL,
    port integer NOT NULL CHECK (port BETWEEN 1 AND 65535),
    username text,
    use_tls boolean NOT NULL,
    ca_cert text,
    verify_certificate boolean NOT NULL,
    client_id_prefix text NOT NULL,
    keep_alive integer NOT NULL,
    clean_session boolean NOT NULL,
    reconnect_period integer NOT NULL,
    connect_timeout integer NOT NULL,
    is_active boolean NOT NULL,
    is_default boolean NOT NULL,
    broker_type text NOT NULL,
    extra_config jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    last_connected_at timestamptz,
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id)
);

CREATE UNIQUE INDEX mqtt_broker_config_default ON mqtt_broker_config (tenant_id) WHERE is_default;

-- The broker that an agent was told last, if it is one of these; a broker in use is not removed.
ALTER TABLE agents
    ADD COLUMN mqtt_broker_id bigint,
    ADD FOREIGN KEY (tenant_id, mqtt_broker_id) REFERENCES mqtt_broker_config (tenant_id, id);

CREATE INDEX agents_mqtt_broker ON agents (tenant_id, mqtt_broker_id)
    WHERE mqtt_broker_id IS NOT NULL;
