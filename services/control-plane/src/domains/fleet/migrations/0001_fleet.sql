-- Hosts, their identities and the tasks they are given.

-- Nodes --------------------------------------------------------------------------------------------------------

CREATE TABLE nodes (
  id uuid PRIMARY KEY,
  host text NOT NULL,
  hostname text,
  port integer NOT NULL CONSTRAINT nodes_port_valid CHECK (port BETWEEN 1 AND 65535),
  ssh_username text NOT NULL,
  sku text NOT NULL,
  gpus_total integer NOT NULL CONSTRAINT nodes_gpus_total_valid CHECK (gpus_total >= 0),
  region_code text NOT NULL,
  onboarding_mode text NOT NULL CONSTRAINT nodes_onboarding_mode_known CHECK (onboarding_mode IN ('manual', 'maas')),
  site_id uuid,
  maas_system_id text,
  status text NOT NULL DEFAULT 'registered' CONSTRAINT nodes_status_known CHECK (status IN (
    'registered', 'bootstrap_issued', 'enrolling', 'active', 'cordoned', 'offline', 'quarantined', 'draining',
    'retired', 'removing')),
  status_changed_at timestamptz(3) NOT NULL,
  -- While draining: why, and whether the host has said that nothing runs on it any more.
  drain_intent text CONSTRAINT nodes_drain_intent_known
    CHECK (drain_intent IN ('maintenance', 'retire', 'agent_upgrade', 'decommission')),
  quiesced_at timestamptz(3),
  -- A fenced node's certificate is good for nothing but its own removal.
  fenced_at timestamptz(3),
  -- Open placement claims, kept by the table that holds the claims. It stands here so that the row a placement locks
  -- carries the fact that it must check: a rival's commit is then seen when the lock is granted.
  open_claims integer NOT NULL DEFAULT 0 CONSTRAINT nodes_open_claims_valid CHECK (open_claims >= 0),
  -- The node is sold in slices and never as a whole.
  slice_mode boolean NOT NULL DEFAULT false,
  -- A place in a fixed random order. Placements start reading at a random point of it, so rivals rarely meet.
  placement_key bigint NOT NULL,
  -- Results in a row that a host refused for the signature of the task.
  signature_rejections integer NOT NULL DEFAULT 0,
  desired_agent_version text,
  desired_delivery_mode text CONSTRAINT nodes_desired_delivery_mode_known
    CHECK (desired_delivery_mode IN ('reimage', 'manual_install', 'rebootstrap')),
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  removed_at timestamptz(3),
  CONSTRAINT nodes_drain_has_intent CHECK ((status = 'draining') = (drain_intent IS NOT NULL))
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.02);

-- A host may come back once its former node is gone.
CREATE UNIQUE INDEX nodes_host_once ON nodes (lower(host)) WHERE removed_at IS NULL;
CREATE UNIQUE INDEX nodes_maas_machine_once ON nodes (site_id, maas_system_id)
  WHERE removed_at IS NULL AND maas_system_id IS NOT NULL;

-- Exactly the nodes that can be sold whole, in placement order: a placement reads a few entries of it, however many
-- nodes there are and however few of them are free.
CREATE INDEX nodes_free ON nodes (sku, placement_key)
  WHERE status = 'active' AND open_claims = 0 AND NOT slice_mode AND removed_at IS NULL;
CREATE INDEX nodes_free_in_region ON nodes (sku, region_code, placement_key)
  WHERE status = 'active' AND open_claims = 0 AND NOT slice_mode AND removed_at IS NULL;

CREATE INDEX nodes_by_time ON nodes (created_at DESC, id DESC) WHERE removed_at IS NULL;
CREATE INDEX nodes_by_status ON nodes (status, created_at DESC, id DESC) WHERE removed_at IS NULL;

-- Written at every poll of every node: narrow, without a second index, so that an update stays on its page.
CREATE TABLE node_heartbeats (
  node_id uuid PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
  last_seen_at timestamptz(3) NOT NULL,
  agent_version text,
  agent_commit text,
  agent_built_at text,
  boot_id text
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.05);

-- What a host reported of itself, or what was tried against it. Null is unknown.
CREATE TABLE node_facts (
  node_id uuid PRIMARY KEY REFERENCES nodes (id) ON DELETE CASCADE,
  kernel text,
  driver_version text,
  cuda_version text,
  os text,
  architecture text,
  memory_mib bigint,
  vcpu_count integer,
  topology jsonb,
  topology_task_id uuid,
  topology_reported_at timestamptz(3),
  port_reachable boolean,
  port_dialled_at timestamptz(3)
);

-- Identities ---------------------------------------------------------------------------------------------------

CREATE TABLE node_tokens (
  id uuid PRIMARY KEY,
  node_id uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
  kind text NOT NULL CONSTRAINT node_tokens_kind_known CHECK (kind IN ('enrollment', 'bootstrap')),
  token_hash text NOT NULL CONSTRAINT node_tokens_hash_once UNIQUE,
  -- What the first-boot script of a bootstrap token is made from, without the token itself.
  script_inputs jsonb,
  created_at timestamptz(3) NOT NULL,
  expires_at timestamptz(3) NOT NULL,
  consumed_at timestamptz(3),
  revoked_at timestamptz(3),
  -- The key that used the token up: only it may repeat the enrolment.
  csr_spki_sha256 text,
  certificate_id uuid,
  CONSTRAINT node_tokens_bootstrap_has_script CHECK ((kind = 'bootstrap') = (script_inputs IS NOT NULL)),
  CONSTRAINT node_tokens_consumed_by CHECK (
    (consumed_at IS NULL AND csr_spki_sha256 IS NULL AND certificate_id IS NULL)
    OR (consumed_at IS NOT NULL AND csr_spki_sha256 IS NOT NULL AND certificate_id IS NOT NULL))
);
-- A node has at most one token that could still enrol it.
CREATE UNIQUE INDEX node_tokens_one_open ON node_tokens (node_id) WHERE consumed_at IS NULL AND revoked_at IS NULL;
CREATE INDEX node_tokens_by_node ON node_tokens (node_id, created_at DESC);

CREATE TABLE node_certificates (
  id uuid PRIMARY KEY,
  node_id uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
  serial_number text NOT NULL CONSTRAINT node_certificates_serial_once UNIQUE,
  -- SHA-256 of the certificate's DER form, lower-case hex: what a TLS session proves.
  fingerprint_sha256 text NOT NULL CONSTRAINT node_certificates_fingerprint_once UNIQUE,
  spki_sha256 text NOT NULL,
  certificate_pem text NOT NULL,
  internal_token_hash text NOT NULL CONSTRAINT node_certificates_internal_token_once UNIQUE,
  issued_by text NOT NULL CONSTRAINT node_certificates_issued_by_known CHECK (issued_by IN ('enrollment', 'renewal')),
  issued_at timestamptz(3) NOT NULL,
  not_before timestamptz(3) NOT NULL,
  not_after timestamptz(3) NOT NULL,
  -- The first poll with it ends the older ones.
  first_used_at timestamptz(3),
  revoked_at timestamptz(3),
  CONSTRAINT node_certificates_validity CHECK (not_before < not_after)
);
CREATE INDEX node_certificates_by_node ON node_certificates (node_id, issued_at DESC);
ALTER TABLE node_tokens ADD CONSTRAINT node_tokens_certificate
  FOREIGN KEY (certificate_id) REFERENCES node_certificates (id);

-- Tasks --------------------------------------------------------------------------------------------------------

CREATE TABLE node_tasks (
  id uuid PRIMARY KEY,
  node_id uuid NOT NULL REFERENCES nodes (id),
  task_type text NOT NULL,
  -- Sealed: params carry keys of tenants and credentials.
  params_sealed text NOT NULL,
  params_hash text NOT NULL,
  -- What the task changes on the host. Tasks with one key run one after the other.
  resource_key text NOT NULL,
  -- 0 for the task in hand; 1 for the one that waits behind it and that a newer request may still replace.
  generation smallint NOT NULL DEFAULT 0 CONSTRAINT node_tasks_generation_known CHECK (generation IN (0, 1)),
  status text NOT NULL DEFAULT 'queued' CONSTRAINT node_tasks_status_known
    CHECK (status IN ('queued', 'dispatched', 'completed', 'failed', 'rejected', 'expired')),
  -- Who asked, and for what: handed to whoever acts on the result.
  operation_id text,
  subject_type text NOT NULL,
  subject_id text NOT NULL,
  correlation_id text NOT NULL,
  request_id text NOT NULL,
  trace_id text NOT NULL,
  attempt integer NOT NULL DEFAULT 0,
  issued_at timestamptz(3) NOT NULL,
  expires_at timestamptz(3) NOT NULL,
  dispatched_at timestamptz(3),
  lease_expires_at timestamptz(3),
  completed_at timestamptz(3),
  error text,
  output_sealed text,
  -- Over status, error, time and output as reported: tells a repeated result from a contradicting one.
  result_hash text,
  CONSTRAINT node_tasks_lease_while_dispatched CHECK ((status = 'dispatched') = (lease_expires_at IS NOT NULL)),
  CONSTRAINT node_tasks_end_has_time
    CHECK ((status IN ('completed', 'failed', 'rejected', 'expired')) = (completed_at IS NOT NULL))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.02);

CREATE UNIQUE INDEX node_tasks_one_live ON node_tasks (node_id, task_type, resource_key, generation)
  WHERE status IN ('queued', 'dispatched');
CREATE INDEX node_tasks_queued ON node_tasks (node_id, issued_at, id) WHERE status = 'queued';
-- Two processes may serve two polls of one node at the same moment: the second loses here and looks again.
CREATE UNIQUE INDEX node_tasks_one_in_hand ON node_tasks (node_id, resource_key) WHERE status = 'dispatched';
CREATE INDEX node_tasks_expiry ON node_tasks (expires_at) WHERE status IN ('queued', 'dispatched');
CREATE INDEX node_tasks_by_node ON node_tasks (node_id, issued_at DESC, id DESC);
CREATE INDEX node_tasks_by_subject ON node_tasks (subject_type, subject_id, issued_at DESC, id DESC);

-- Results that came after the end of their task or that contradict the one that counted.
CREATE TABLE node_task_late_results (
  id uuid PRIMARY KEY,
  task_id uuid NOT NULL REFERENCES node_tasks (id),
  node_id uuid NOT NULL,
  task_status text NOT NULL,
  reported_status text NOT NULL,
  error text,
  output_sealed text NOT NULL,
  result_hash text NOT NULL,
  reported_at timestamptz(3) NOT NULL,
  received_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  -- An agent repeats what it was not answered; one row says it.
  CONSTRAINT node_task_late_results_once UNIQUE (task_id, result_hash)
);
REVOKE UPDATE, DELETE, TRUNCATE ON node_task_late_results FROM gpuaas_app;
CREATE TRIGGER node_task_late_results_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON node_task_late_results
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
