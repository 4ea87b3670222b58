-- Jobs: what agents are told to do once, and how far each of them is (reference sections 1.4, 7).

CREATE TABLE job_templates (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    name text NOT NULL,
    description text NOT NULL DEFAULT '',
    job_document jsonb NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name)
);

CREATE TABLE job_executions (
    job_id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id text NOT NULL REFERENCES tenants (id),
    template_id bigint REFERENCES job_templates (id) ON DELETE SET NULL,
    -- The recurring job that this is one run of.
    parent_job_id uuid REFERENCES job_executions (job_id) ON DELETE CASCADE,
    job_name text NOT NULL,
    job_document jsonb NOT NULL,
    target_type text NOT NULL
        CONSTRAINT job_executions_target_type_is_known
            CHECK (target_type IN ('device', 'group', 'all')),
    target_agents uuid[] NOT NULL DEFAULT '{}',
    -- Who is in a group is decided when the job begins.
    target_group uuid,
    target_filter jsonb,
    execution_type text NOT NULL
        CONSTRAINT job_executions_execution_type_is_known
            CHECK (execution_type IN ('once', 'scheduled', 'recurring')),
    schedule jsonb,
    max_executions integer,
    -- Runs of a recurring job that have begun.
    executions integer NOT NULL DEFAULT 0,
    timeout_minutes integer NOT NULL DEFAULT 60,
    max_retries integer NOT NULL DEFAULT 0,
    retry_delay_seconds integer NOT NULL DEFAULT 60,
    rollout jsonb,
    abort_rules jsonb,
    status text NOT NULL
        CONSTRAINT job_executions_status_is_known
            CHECK (status IN ('SCHEDULED', 'IN_PROGRESS', 'COMPLETED', 'CANCELED', 'ABORTED')),
    reason text,
    next_run_at timestamptz,
    -- Agents up to this one have their rows in agent_job_status.
    fanned_out_to uuid,
    fanned_out boolean NOT NULL DEFAULT false,
    -- When the rollout was last moved on, and the part of an agent that was left then.
    rollout_at timestamptz,
    rollout_credit double precision NOT NULL DEFAULT 0,
    -- How many agents ended how; NULL as long as something may still happen.
    totals jsonb,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL,
    started_at timestamptz,
    completed_at timestamptz
);

CREATE UNIQUE INDEX job_executions_tenant ON job_executions (tenant_id, id);
CREATE INDEX job_executions_unsettled ON job_executions (id) WHERE totals IS NULL;
CREATE INDEX job_executions_template ON job_executions (template_id)
    WHERE template_id IS NOT NULL;
CREATE INDEX job_executions_parent ON job_executions (parent_job_id)
    WHERE parent_job_id IS NOT NULL;

CREATE TABLE agent_job_status (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id uuid NOT NULL REFERENCES job_executions (job_id) ON DELETE CASCADE,
    tenant_id text NOT NULL REFERENCES tenants (id),
    agent_uuid uuid NOT NULL REFERENCES agents (uuid) ON DELETE CASCADE,
    status text NOT NULL
        CONSTRAINT agent_job_status_status_is_known
            CHECK (status IN ('QUEUED', 'IN_PROGRESS', 'SUCCEEDED', 'FAILED', 'TIMED_OUT',
                              'REJECTED', 'CANCELED')),
    -- Attempts; and changes, for agents that update only what they know.
    execution_number integer NOT NULL DEFAULT 1,
    version_number integer NOT NULL DEFAULT 1,
    retries_left integer NOT NULL DEFAULT 0,
    queued_at timestamptz NOT NULL,
    -- From then on the agent may have it; infinity where a rollout has not come to it.
    available_at timestamptz NOT NULL,
    started_at timestamptz,
    timeout_at timestamptz,
    last_updated_at timestamptz NOT NULL,
    completed_at timestamptz,
    exit_code integer,
    stdout text,
    stderr text,
    reason text,
    executed_steps jsonb,
    failed_step text,
    status_details jsonb,
    -- What the agent is to be told and was not yet: it is queued, it was handed out, it is over.
    notice text
        CONSTRAINT agent_job_status_notice_is_known
            CHECK (notice IN ('queued', 'started', 'ended')),
    -- By what the request was known that was handed this.
    client_token text,
    -- Digests of the latest updates, to know those that come again.
    latest_updates text[] NOT NULL DEFAULT '{}',
    UNIQUE (job_id, agent_uuid)
);

CREATE INDEX agent_job_status_agent ON agent_job_status (agent_uuid, id);
CREATE INDEX agent_job_status_queue ON agent_job_status (agent_uuid, id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');
CREATE INDEX agent_job_status_open ON agent_job_status (job_id, id)
    WHERE status IN ('QUEUED', 'IN_PROGRESS');
CREATE INDEX agent_job_status_timeout ON agent_job_status (timeout_at)
    WHERE status = 'IN_PROGRESS';
CREATE INDEX agent_job_status_notice ON agent_job_status (available_at, id)
    WHERE notice IS NOT NULL;
