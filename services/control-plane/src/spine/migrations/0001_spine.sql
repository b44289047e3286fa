-- What every domain stands on: the role the application works as, and the tables of the spine.
-- Migrations run as the owner of the database; the application connects as the same login and gives up its
-- rights with `SET ROLE gpuaas_app`, so that grants hold for it as well.

CREATE EXTENSION IF NOT EXISTS btree_gist;

-- Roles belong to the whole cluster: several databases of one cluster may be migrated at the same moment.
DO $$
BEGIN
  BEGIN
    CREATE ROLE gpuaas_app NOLOGIN;
  EXCEPTION WHEN duplicate_object OR unique_violation THEN
    NULL;
  END;
  -- A superuser may take any role; an ordinary owner has to be a member first.
  IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
    EXECUTE format('GRANT gpuaas_app TO %I', current_user);
  END IF;
END
$$;

GRANT USAGE ON SCHEMA public TO gpuaas_app;
-- The probe of readiness compares it with the program's own list.
GRANT SELECT ON schema_migrations TO gpuaas_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO gpuaas_app;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT USAGE, SELECT ON SEQUENCES TO gpuaas_app;

-- The second lock on append-only tables; the first is the missing grant. It also stops the owner.
CREATE FUNCTION refuse_change() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'table % is append-only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

-- Times that a list is sorted by are kept to the millisecond: that is what a program's clock value can carry, and a
-- cursor made from one must name its row exactly.

-- Audit --------------------------------------------------------------------------------------------------------

CREATE TABLE audit_logs (
  id uuid NOT NULL,
  -- The end of the statement, not the start of the transaction: a long transaction must not date its row back.
  occurred_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  actor_kind text NOT NULL,
  actor_id uuid,
  actor_name text NOT NULL,
  actor_role text NOT NULL CONSTRAINT audit_logs_actor_role_known
    CHECK (actor_role IN ('user', 'admin', 'service_account', 'system')),
  action text NOT NULL,
  target_type text NOT NULL,
  target_id text,
  target_user_id uuid,
  tenant_id uuid,
  project_id uuid,
  result text NOT NULL CONSTRAINT audit_logs_result_known CHECK (result IN ('success', 'failure')),
  request_id text NOT NULL,
  correlation_id text NOT NULL,
  trace_id text NOT NULL,
  actor_ip text,
  user_agent text,
  metadata jsonb NOT NULL DEFAULT '{}',
  CONSTRAINT audit_logs_pkey PRIMARY KEY (id, occurred_at)
) PARTITION BY RANGE (occurred_at);

-- Each list of the contract is one of these indexes read from its end: everything, one person's, a project's, a
-- tenant's, and the same narrowed by action or by correlation.
CREATE INDEX audit_logs_by_time ON audit_logs (occurred_at DESC, id DESC);
CREATE INDEX audit_logs_by_actor ON audit_logs (actor_id, occurred_at DESC, id DESC) WHERE actor_id IS NOT NULL;
CREATE INDEX audit_logs_by_target_user ON audit_logs (target_user_id, occurred_at DESC, id DESC)
  WHERE target_user_id IS NOT NULL;
CREATE INDEX audit_logs_by_project ON audit_logs (project_id, occurred_at DESC, id DESC) WHERE project_id IS NOT NULL;
CREATE INDEX audit_logs_by_tenant ON audit_logs (tenant_id, occurred_at DESC, id DESC) WHERE tenant_id IS NOT NULL;
-- `action` is filtered by prefix, which an index serves only under byte order.
CREATE INDEX audit_logs_by_action ON audit_logs (action text_pattern_ops, occurred_at DESC, id DESC);
CREATE INDEX audit_logs_by_correlation ON audit_logs (correlation_id, occurred_at DESC, id DESC);
CREATE INDEX audit_logs_by_target ON audit_logs (target_type, target_id, occurred_at DESC, id DESC);

CREATE TABLE audit_logs_default PARTITION OF audit_logs DEFAULT;

REVOKE UPDATE, DELETE, TRUNCATE ON audit_logs FROM gpuaas_app;
REVOKE ALL ON audit_logs_default FROM gpuaas_app;
CREATE TRIGGER audit_logs_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_logs
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_logs_default_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_logs_default
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Makes the partitions of this month and of `months_ahead` more; returns the names of the new ones. A month that
-- already has rows in the default partition stays there: rows of an append-only table are not moved.
-- Runs as the owner, because the application's role may not change the schema.
CREATE FUNCTION ensure_audit_partitions(months_ahead integer) RETURNS text[]
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
  month_start timestamptz;
  month_end timestamptz;
  partition_name text;
  made text[] := '{}';
BEGIN
  -- Two workers may come at once; the second waits and then finds everything there.
  PERFORM pg_advisory_xact_lock(hashtextextended('ensure_audit_partitions', 0));
  FOR step IN 0..LEAST(GREATEST(months_ahead, 0), 24) LOOP
    month_start := (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + make_interval(months => step)) AT TIME ZONE 'UTC';
    month_end := (date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + make_interval(months => step + 1)) AT TIME ZONE 'UTC';
    partition_name := 'audit_logs_' || to_char(month_start AT TIME ZONE 'UTC', 'YYYY_MM');
    CONTINUE WHEN to_regclass('public.' || partition_name) IS NOT NULL;
    CONTINUE WHEN EXISTS (
      SELECT FROM audit_logs_default WHERE occurred_at >= month_start AND occurred_at < month_end
    );
    EXECUTE format('CREATE TABLE %I PARTITION OF audit_logs FOR VALUES FROM (%L) TO (%L)',
      partition_name, month_start, month_end);
    EXECUTE format('REVOKE ALL ON %I FROM gpuaas_app', partition_name);
    EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I '
      'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', partition_name);
    made := made || partition_name;
  END LOOP;
  RETURN made;
END
$$;
REVOKE ALL ON FUNCTION ensure_audit_partitions(integer) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION ensure_audit_partitions(integer) TO gpuaas_app;
SELECT ensure_audit_partitions(3);

-- Outbox, inbox, dead letters ----------------------------------------------------------------------------------

CREATE TABLE outbox_events (
  id uuid PRIMARY KEY,
  -- Order of writing. Two events of one aggregate are written under the aggregate's lock, so for them it is also
  -- the order of their commits.
  seq bigint NOT NULL GENERATED ALWAYS AS IDENTITY,
  event_type text NOT NULL,
  version integer NOT NULL DEFAULT 1,
  aggregate_type text NOT NULL,
  aggregate_id text NOT NULL,
  payload jsonb NOT NULL,
  correlation_id text NOT NULL,
  request_id text NOT NULL,
  trace_id text NOT NULL,
  status text NOT NULL DEFAULT 'pending' CONSTRAINT outbox_events_status_known
    CHECK (status IN ('pending', 'publishing', 'published', 'failed', 'discarded')),
  -- Failed attempts since the event was written or requeued, and since it was written.
  retry_count integer NOT NULL DEFAULT 0,
  attempts_total integer NOT NULL DEFAULT 0,
  -- Null: at once. Set after a failed attempt.
  next_attempt_at timestamptz,
  -- Who is publishing it, and until when others believe that. A relay that died loses its claim by time.
  claimed_by uuid,
  claimed_until timestamptz,
  last_attempted_at timestamptz(3),
  error text,
  occurred_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  published_at timestamptz(3),
  CONSTRAINT outbox_events_claim_while_publishing
    CHECK ((status = 'publishing') = (claimed_by IS NOT NULL AND claimed_until IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.05);

-- The relay reads only these: small however long the history is, and what waits for its next attempt is not read
-- again at every round.
CREATE INDEX outbox_events_fresh ON outbox_events (seq) WHERE status = 'pending' AND next_attempt_at IS NULL;
CREATE INDEX outbox_events_waiting ON outbox_events (next_attempt_at)
  WHERE status = 'pending' AND next_attempt_at IS NOT NULL;
CREATE INDEX outbox_events_claimed ON outbox_events (claimed_until) WHERE status = 'publishing';
CREATE INDEX outbox_events_undelivered_by_aggregate ON outbox_events (aggregate_type, aggregate_id, seq)
  WHERE status IN ('pending', 'publishing');
CREATE INDEX outbox_events_failed ON outbox_events (occurred_at DESC, id DESC) WHERE status = 'failed';
CREATE INDEX outbox_events_by_correlation ON outbox_events (correlation_id, occurred_at DESC, id DESC);
CREATE INDEX outbox_events_published ON outbox_events (published_at) WHERE status = 'published';

-- One row says: this consumer has had its effect of this event. Written in the transaction of the effect.
CREATE TABLE inbox (
  consumer text NOT NULL,
  event_id uuid NOT NULL,
  handled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT inbox_pkey PRIMARY KEY (event_id, consumer)
);
CREATE INDEX inbox_by_time ON inbox (handled_at);

CREATE TABLE dead_letters (
  stream_seq bigint PRIMARY KEY GENERATED ALWAYS AS IDENTITY,
  subject text NOT NULL,
  original_topic text,
  event_id uuid NOT NULL,
  consumer text NOT NULL,
  event_type text,
  correlation_id text,
  payload jsonb NOT NULL,
  error text NOT NULL,
  state text NOT NULL DEFAULT 'dead' CONSTRAINT dead_letters_state_known
    CHECK (state IN ('dead', 'requeued', 'discarded')),
  occurred_at timestamptz(3),
  created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  decided_at timestamptz(3),
  decided_by uuid,
  CONSTRAINT dead_letters_decided CHECK ((state = 'dead') = (decided_at IS NULL))
);
-- An event that fails again after a requeue gets a new row with a new number; it is never dead twice at once.
CREATE UNIQUE INDEX dead_letters_once ON dead_letters (event_id, consumer) WHERE state = 'dead';
CREATE INDEX dead_letters_by_event ON dead_letters (event_id);
CREATE INDEX dead_letters_open ON dead_letters (stream_seq DESC) WHERE state = 'dead';
CREATE INDEX dead_letters_open_by_subject ON dead_letters (subject text_pattern_ops, stream_seq DESC) WHERE state = 'dead';
CREATE INDEX dead_letters_by_correlation ON dead_letters (correlation_id);

-- Idempotency --------------------------------------------------------------------------------------------------

CREATE TABLE idempotency_keys (
  principal text NOT NULL,
  -- The canonical operation: both spellings of a twin share a key.
  operation text NOT NULL,
  -- The project or tenant that the request names, else the empty string.
  context text NOT NULL DEFAULT '',
  key text NOT NULL,
  body_hash text NOT NULL,
  -- Null while the command runs; the row is invisible to others until the command commits, and both come together.
  status smallint,
  -- The answer as it was sent (json, not jsonb: keys keep their order), or sealed where it holds a one-time secret.
  response json,
  sealed_response text,
  -- A sealed answer is replayed only until then; afterwards the key is still taken.
  sealed_until timestamptz,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  CONSTRAINT idempotency_keys_pkey PRIMARY KEY (principal, operation, context, key)
);
CREATE INDEX idempotency_keys_expiry ON idempotency_keys (expires_at);

-- Secrets and keys ---------------------------------------------------------------------------------------------

CREATE TABLE custody_secrets (
  id uuid PRIMARY KEY,
  purpose text NOT NULL,
  key_id text NOT NULL,
  -- nonce, ciphertext and tag; null once destroyed
  sealed bytea,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  destroyed_at timestamptz,
  CONSTRAINT custody_secrets_destroyed_is_empty CHECK ((sealed IS NULL) = (destroyed_at IS NOT NULL))
);
CREATE INDEX custody_secrets_by_key ON custody_secrets (key_id) WHERE destroyed_at IS NULL;

CREATE TABLE signing_keys (
  key_id text PRIMARY KEY,
  -- what it signs: `access_token`, `node_task`, `node_certificate`, `cursor` …
  purpose text NOT NULL,
  algorithm text NOT NULL,
  public_jwk jsonb,
  certificate_pem text,
  -- the private key (PKCS #8) in the custody's inline form
  private_sealed text NOT NULL,
  status text NOT NULL CONSTRAINT signing_keys_status_known
    CHECK (status IN ('staged', 'active', 'grace', 'retired', 'revoked')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  activated_at timestamptz,
  retired_at timestamptz
);
CREATE UNIQUE INDEX signing_keys_one_active ON signing_keys (purpose) WHERE status = 'active';

-- Policy -------------------------------------------------------------------------------------------------------

CREATE TABLE policy_definitions (
  key text PRIMARY KEY,
  value_type text NOT NULL CONSTRAINT policy_definitions_type_known
    CHECK (value_type IN ('integer', 'boolean', 'string')),
  default_value jsonb NOT NULL,
  minimum bigint,
  maximum bigint,
  allowed_values text[],
  description text NOT NULL,
  CONSTRAINT policy_definitions_bounds CHECK (minimum IS NULL OR maximum IS NULL OR minimum <= maximum)
);

CREATE TABLE policy_values (
  key text NOT NULL REFERENCES policy_definitions (key),
  scope text NOT NULL CONSTRAINT policy_values_scope_known
    CHECK (scope IN ('global', 'plan', 'tenant', 'project', 'user')),
  -- empty for the global scope
  scope_id text NOT NULL DEFAULT '',
  value jsonb NOT NULL,
  -- what narrower scopes may not exceed; numbers only
  ceiling bigint,
  updated_at timestamptz NOT NULL,
  updated_by uuid,
  CONSTRAINT policy_values_pkey PRIMARY KEY (key, scope, scope_id),
  CONSTRAINT policy_values_global_has_no_id CHECK ((scope = 'global') = (scope_id = ''))
);

-- Processes and their work -------------------------------------------------------------------------------------

-- Every role of every process reports itself, also when several roles share one process.
CREATE TABLE component_heartbeats (
  component text NOT NULL,
  instance_id text NOT NULL,
  status text NOT NULL CONSTRAINT component_heartbeats_status_known
    CHECK (status IN ('healthy', 'degraded', 'unhealthy')),
  application_version text NOT NULL,
  detail jsonb NOT NULL DEFAULT '{}',
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  checked_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT component_heartbeats_pkey PRIMARY KEY (component, instance_id)
);
CREATE INDEX component_heartbeats_by_time ON component_heartbeats (checked_at);

-- A process that runs workflows. One that stops reporting is declared dead once, and its work is taken over.
CREATE TABLE workflow_executors (
  executor_id text PRIMARY KEY,
  application_version text NOT NULL,
  started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  beat_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  stopped_at timestamptz
);

-- The product's own record of each workflow; the engine keeps the steps.
CREATE TABLE workflow_runs (
  workflow_id text PRIMARY KEY,
  -- the registered name, e.g. `fleet.drain-node`
  name text NOT NULL,
  -- engine id of the newest run of this workflow; a rerun from a step makes a new one
  run_id text,
  family text NOT NULL CONSTRAINT workflow_runs_family_known CHECK (family IN (
    'provisioning', 'maas_onboarding', 'maas_decommission', 'node_agent_lifecycle', 'app_runtime', 'reconciliation',
    'unknown')),
  status text NOT NULL DEFAULT 'pending' CONSTRAINT workflow_runs_status_known CHECK (status IN (
    'pending', 'running', 'compensating', 'completed', 'reconciled', 'failed_retryable',
    'failed_manual_intervention', 'cancelled', 'timed_out', 'terminated')),
  resource_type text NOT NULL,
  summary text NOT NULL DEFAULT '',
  error text,
  tenant_id uuid,
  project_id uuid,
  actor_user_id uuid,
  allocation_id uuid,
  node_id uuid,
  site_id uuid,
  correlation_id text,
  created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  started_at timestamptz(3),
  updated_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  closed_at timestamptz(3)
) WITH (fillfactor = 80);
CREATE INDEX workflow_runs_by_time ON workflow_runs (created_at DESC, workflow_id DESC);
CREATE INDEX workflow_runs_by_family ON workflow_runs (family, created_at DESC, workflow_id DESC);
CREATE INDEX workflow_runs_by_tenant ON workflow_runs (tenant_id, created_at DESC) WHERE tenant_id IS NOT NULL;
CREATE INDEX workflow_runs_by_project ON workflow_runs (project_id, created_at DESC) WHERE project_id IS NOT NULL;
CREATE INDEX workflow_runs_by_allocation ON workflow_runs (allocation_id, created_at DESC) WHERE allocation_id IS NOT NULL;
CREATE INDEX workflow_runs_by_node ON workflow_runs (node_id, created_at DESC) WHERE node_id IS NOT NULL;
CREATE INDEX workflow_runs_by_actor ON workflow_runs (actor_user_id, created_at DESC) WHERE actor_user_id IS NOT NULL;
CREATE INDEX workflow_runs_by_correlation ON workflow_runs (correlation_id, created_at DESC)
  WHERE correlation_id IS NOT NULL;
CREATE INDEX workflow_runs_by_run ON workflow_runs (run_id) WHERE run_id IS NOT NULL;
CREATE INDEX workflow_runs_open ON workflow_runs (updated_at)
  WHERE status IN ('pending', 'running', 'compensating', 'failed_retryable');

-- When each periodic job last ran, and who holds it now. Held by a lease, so that any worker may take over.
CREATE TABLE periodic_jobs (
  name text PRIMARY KEY,
  every_milliseconds bigint NOT NULL,
  next_run_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  claimed_by text,
  claimed_until timestamptz,
  last_started_at timestamptz,
  last_finished_at timestamptz,
  last_error text,
  consecutive_failures integer NOT NULL DEFAULT 0
);
