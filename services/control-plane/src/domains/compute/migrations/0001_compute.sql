-- Catalogue: what can be launched and at what price.

CREATE TABLE sku_families (
  family_id text PRIMARY KEY,
  display_name text NOT NULL
);

CREATE TABLE skus (
  sku text PRIMARY KEY CHECK (sku <> ''),
  vendor text NOT NULL,
  display_name text NOT NULL,
  family_id text NOT NULL REFERENCES sku_families (family_id),
  family_version text NOT NULL,
  resource_class text NOT NULL
    CHECK (resource_class IN ('gpu_baremetal', 'gpu_slice', 'cpu_vm', 'cpu_baremetal', 'control_plane')),
  billing_unit text NOT NULL CHECK (billing_unit IN ('gpu_hour', 'node_hour', 'vcpu_hour')),
  scheduling_unit text NOT NULL CHECK (scheduling_unit IN ('node', 'slice', 'vm')),
  vcpu_count integer CHECK (vcpu_count >= 0),
  memory_mib integer CHECK (memory_mib >= 0),
  accelerator_vendor text,
  accelerator_model text,
  accelerator_count integer CHECK (accelerator_count >= 0),
  accelerator_memory_mib integer CHECK (accelerator_memory_mib >= 0),
  allowed_accelerator_counts integer[] NOT NULL DEFAULT '{}' CHECK (0 < ALL (allowed_accelerator_counts)),
  resource_profile jsonb NOT NULL DEFAULT '{}',
  unit_price_minor bigint NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  active boolean NOT NULL DEFAULT true,
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  -- only the platform's own control planes are given away
  CONSTRAINT skus_priced CHECK (unit_price_minor > 0 OR (resource_class = 'control_plane' AND unit_price_minor = 0))
);

-- Every price a SKU ever had. What runs keeps the price it was launched at, so history is never rewritten.
CREATE TABLE sku_prices (
  id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
  sku text NOT NULL REFERENCES skus (sku),
  unit_price_minor bigint NOT NULL,
  currency text NOT NULL,
  billing_unit text NOT NULL,
  effective_from timestamptz(3) NOT NULL,
  created_by_user_id uuid REFERENCES users (id)
);
CREATE INDEX sku_prices_by_sku ON sku_prices (sku, effective_from DESC);
REVOKE UPDATE, DELETE, TRUNCATE ON sku_prices FROM gpuaas_app;
CREATE TRIGGER sku_prices_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON sku_prices
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE TABLE os_images (
  id uuid PRIMARY KEY,
  slug text NOT NULL CONSTRAINT os_images_slug_taken UNIQUE,
  display_name text NOT NULL,
  target text NOT NULL CHECK (target IN ('baremetal', 'vm_slice', 'compute_vm')),
  image_format text NOT NULL CHECK (image_format IN ('raw', 'qcow2', 'iso', 'maas')),
  source_uri text NOT NULL,
  digest_sha256 text NOT NULL CHECK (digest_sha256 ~ '^[a-f0-9]{64}$'),
  default_username text NOT NULL,
  accelerator_vendor text,
  driver_strategy text NOT NULL CHECK (driver_strategy IN ('preinstalled', 'cloud-init', 'none')),
  compatible_skus text[] NOT NULL DEFAULT '{}',
  status text NOT NULL CHECK (status IN ('active', 'disabled', 'deprecated')),
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now()
);
CREATE INDEX os_images_newest ON os_images (created_at DESC, id DESC);

CREATE TABLE runtime_bundles (
  id uuid PRIMARY KEY,
  slug text NOT NULL,
  version text NOT NULL,
  display_name text NOT NULL,
  support_level text NOT NULL CHECK (support_level IN ('supported', 'preview', 'deprecated')),
  status text NOT NULL CHECK (status IN ('active', 'deprecated', 'disabled')),
  install_root text NOT NULL,
  activation_hint text NOT NULL,
  description text NOT NULL,
  compatible_accelerators text[] NOT NULL DEFAULT '{}',
  -- what an activation sets in the runtime's environment
  environment jsonb NOT NULL DEFAULT '{}',
  metadata jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz(3) NOT NULL DEFAULT now(),
  updated_at timestamptz(3) NOT NULL DEFAULT now(),
  UNIQUE (slug, version)
);

-- Allocations: one machine or slice each. Rows are never deleted.

CREATE TABLE allocations (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  project_id uuid NOT NULL REFERENCES projects (id),
  -- whose quota and money it uses; for a service account the person who made it
  requested_by_user_id uuid NOT NULL REFERENCES users (id),
  service_account_id uuid REFERENCES service_accounts (id),
  name text,
  scheduler_type text NOT NULL CHECK (scheduler_type IN ('bare_metal', 'slurm', 'k8s', 'ray')),
  scheduler_request jsonb NOT NULL DEFAULT '{}',
  capacity_shape text CHECK (capacity_shape IN ('baremetal', 'gpu_slice')),
  sku text NOT NULL REFERENCES skus (sku),
  -- the SKU as it was at launch: edits of the catalogue never reach what runs
  sku_snapshot jsonb NOT NULL,
  gpus_total integer NOT NULL CHECK (gpus_total >= 0),
  billing_unit text NOT NULL CHECK (billing_unit IN ('gpu_hour', 'node_hour', 'vcpu_hour')),
  billing_units integer NOT NULL CHECK (billing_units >= 0),
  unit_price_minor bigint NOT NULL,
  currency text NOT NULL,
  region_code text,
  os_image_id uuid REFERENCES os_images (id),
  status text NOT NULL CHECK (status IN ('requested', 'provisioning', 'active', 'restarting', 'restart_failed',
    'releasing', 'released', 'failed', 'release_failed')),
  placement_status text NOT NULL CHECK (placement_status IN ('unplaced', 'pending_capacity', 'reserved', 'provisioning',
    'active', 'releasing', 'released', 'failed')),
  placement_metadata jsonb NOT NULL DEFAULT '{}',
  node_id uuid REFERENCES nodes (id),
  connection_host text,
  connection_hostname text,
  connection_port integer CHECK (connection_port BETWEEN 1 AND 65535),
  username_on_node text NOT NULL,
  uid_on_node integer NOT NULL,
  current_operation_id uuid NOT NULL,
  -- the version of the full key set that the host should have, and the last one that it proved to have
  key_set_version integer NOT NULL DEFAULT 1,
  key_set_applied_version integer,
  key_sync_task_id uuid,
  key_sync_error text,
  key_sync_attempts integer NOT NULL DEFAULT 0,
  provisioning_started_at timestamptz(3),
  active_at timestamptz(3),
  failed_at timestamptz(3),
  failure_reason text,
  restart_failed_at timestamptz(3),
  restart_failed_reason text,
  releasing_at timestamptz(3),
  released_at timestamptz(3),
  release_failed_at timestamptz(3),
  release_failed_reason text,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  CONSTRAINT allocations_released_has_time CHECK ((status = 'released') = (released_at IS NOT NULL)),
  CONSTRAINT allocations_serving_was_active CHECK (status NOT IN ('active', 'restarting', 'restart_failed')
    OR active_at IS NOT NULL),
  CONSTRAINT allocations_reachable_when_active CHECK (status <> 'active' OR connection_host IS NOT NULL),
  CONSTRAINT allocations_scheduler_request_bounded CHECK (octet_length(scheduler_request::text) <= 32768)
);
CREATE INDEX allocations_by_project ON allocations (project_id, created_at DESC, id DESC);
CREATE INDEX allocations_by_project_status ON allocations (project_id, status, created_at DESC, id DESC);
CREATE INDEX allocations_by_tenant ON allocations (tenant_id, created_at DESC, id DESC);
CREATE INDEX allocations_newest ON allocations (created_at DESC, id DESC);
CREATE INDEX allocations_by_status ON allocations (status, created_at DESC, id DESC);
CREATE INDEX allocations_by_user ON allocations (requested_by_user_id, created_at DESC, id DESC);
CREATE INDEX allocations_by_node ON allocations (node_id, created_at DESC, id DESC);
-- what counts against a user's limit; also answers whether a project still runs anything
CREATE INDEX allocations_live_of_user ON allocations (requested_by_user_id) WHERE status NOT IN ('released', 'failed');

-- A promise to change an allocation; its id is the id of the task that a caller can follow.
CREATE TABLE allocation_operations (
  id uuid PRIMARY KEY,
  allocation_id uuid NOT NULL REFERENCES allocations (id),
  kind text NOT NULL CHECK (kind IN ('launch', 'release', 'restart')),
  status text NOT NULL CHECK (status IN ('queued', 'running', 'succeeded', 'failed', 'canceled')),
  -- the status of the allocation before the operation
  previous_status text,
  -- a forced operation goes on where an ordinary one would be refused
  forced boolean NOT NULL DEFAULT false,
  reason text,
  -- node tasks queued for it so far; a lost one is tried again a few times
  attempts integer NOT NULL DEFAULT 0,
  failure_reason text,
  correlation_id text NOT NULL,
  deadline_at timestamptz(3) NOT NULL,
  created_at timestamptz(3) NOT NULL,
  started_at timestamptz(3),
  completed_at timestamptz(3),
  updated_at timestamptz(3) NOT NULL,
  CONSTRAINT allocation_operations_ended_has_time
    CHECK ((status IN ('succeeded', 'failed', 'canceled')) = (completed_at IS NOT NULL))
);
CREATE INDEX allocation_operations_of_allocation ON allocation_operations (allocation_id, created_at DESC, id DESC);
CREATE UNIQUE INDEX allocation_operations_one_open ON allocation_operations (allocation_id)
  WHERE status IN ('queued', 'running');
CREATE INDEX allocation_operations_due ON allocation_operations (deadline_at) WHERE status IN ('queued', 'running');

ALTER TABLE allocations ADD CONSTRAINT allocations_current_operation
  FOREIGN KEY (current_operation_id) REFERENCES allocation_operations (id) DEFERRABLE INITIALLY DEFERRED;

CREATE TABLE allocation_events (
  id uuid PRIMARY KEY,
  allocation_id uuid NOT NULL REFERENCES allocations (id),
  operation_id uuid,
  name text NOT NULL,
  status text NOT NULL CHECK (status IN ('pending', 'running', 'succeeded', 'failed', 'skipped', 'unknown')),
  summary text,
  occurred_at timestamptz(3) NOT NULL
);
CREATE INDEX allocation_events_of_allocation ON allocation_events (allocation_id, occurred_at DESC, id DESC);
REVOKE UPDATE, DELETE, TRUNCATE ON allocation_events FROM gpuaas_app;
CREATE TRIGGER allocation_events_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON allocation_events
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Who occupies what. The rules of occupancy hold here even if all code above is wrong.
CREATE TABLE placement_claims (
  id uuid PRIMARY KEY,
  allocation_id uuid NOT NULL REFERENCES allocations (id),
  node_id uuid NOT NULL REFERENCES nodes (id),
  slot_id uuid,
  kind text NOT NULL CHECK (kind IN ('node_exclusive', 'slot')),
  status text NOT NULL CHECK (status IN ('reserved', 'provisioning', 'active', 'releasing', 'released', 'failed')),
  resource_snapshot jsonb NOT NULL DEFAULT '{}',
  created_at timestamptz(3) NOT NULL,
  released_at timestamptz(3),
  CONSTRAINT placement_claims_slot_named CHECK ((kind = 'slot') = (slot_id IS NOT NULL)),
  -- a failed claim is still open: an unknown runtime occupies its hardware
  CONSTRAINT placement_claims_released_has_time CHECK ((status = 'released') = (released_at IS NOT NULL)),
  CONSTRAINT placement_claims_one_kind_a_node EXCLUDE USING gist (node_id WITH =, kind WITH <>)
    WHERE (released_at IS NULL)
);
CREATE UNIQUE INDEX placement_claims_one_exclusive ON placement_claims (node_id)
  WHERE kind = 'node_exclusive' AND released_at IS NULL;
CREATE UNIQUE INDEX placement_claims_one_a_slot ON placement_claims (slot_id) WHERE released_at IS NULL;
CREATE INDEX placement_claims_of_allocation ON placement_claims (allocation_id);
CREATE INDEX placement_claims_open_on_node ON placement_claims (node_id) WHERE released_at IS NULL;

-- nodes.open_claims lets placement lock and recheck one row: a count over claims beside FOR UPDATE SKIP LOCKED reads a
-- snapshot older than the lock.
CREATE FUNCTION keep_node_open_claims() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND NEW.node_id <> OLD.node_id THEN
    RAISE EXCEPTION 'a placement claim never moves to another node';
  END IF;
  IF TG_OP <> 'INSERT' AND OLD.released_at IS NULL AND (TG_OP = 'DELETE' OR NEW.released_at IS NOT NULL) THEN
    UPDATE nodes SET open_claims = open_claims - 1 WHERE id = OLD.node_id;
  ELSIF TG_OP <> 'DELETE' AND NEW.released_at IS NULL AND (TG_OP = 'INSERT' OR OLD.released_at IS NOT NULL) THEN
    UPDATE nodes SET open_claims = open_claims + 1 WHERE id = NEW.node_id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER placement_claims_keep_open_claims AFTER INSERT OR DELETE OR UPDATE OF released_at, node_id
  ON placement_claims FOR EACH ROW EXECUTE FUNCTION keep_node_open_claims();

-- Keys are copied: what a host was told is a fact of the allocation, also after the key's owner is gone.
CREATE TABLE allocation_ssh_keys (
  allocation_id uuid NOT NULL REFERENCES allocations (id),
  ssh_key_id uuid NOT NULL,
  position integer NOT NULL,
  name text NOT NULL,
  fingerprint text NOT NULL,
  public_key text NOT NULL,
  PRIMARY KEY (allocation_id, ssh_key_id)
);
CREATE INDEX allocation_ssh_keys_by_key ON allocation_ssh_keys (ssh_key_id);

CREATE TABLE allocation_access_grants (
  id uuid PRIMARY KEY,
  allocation_id uuid NOT NULL REFERENCES allocations (id),
  project_id uuid NOT NULL REFERENCES projects (id),
  grantee_user_id uuid NOT NULL REFERENCES users (id),
  grantee_username text NOT NULL,
  ssh_key_id uuid NOT NULL,
  ssh_key_name text NOT NULL,
  ssh_key_fingerprint text NOT NULL,
  ssh_public_key text NOT NULL,
  status text NOT NULL CHECK (status IN ('active', 'revoked')),
  -- the key set that first holds (or no longer holds) the key; in sync once the host has it
  key_set_version integer NOT NULL,
  reason text,
  created_by_user_id uuid REFERENCES users (id),
  created_at timestamptz(3) NOT NULL,
  revoked_by_user_id uuid REFERENCES users (id),
  revoked_at timestamptz(3),
  CONSTRAINT allocation_access_grants_revoked_has_time CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE UNIQUE INDEX allocation_access_grants_one_active ON allocation_access_grants (allocation_id, grantee_user_id)
  WHERE status = 'active';
CREATE INDEX allocation_access_grants_of_allocation ON allocation_access_grants (allocation_id, created_at DESC, id DESC);
CREATE INDEX allocation_access_grants_by_key ON allocation_access_grants (ssh_key_id) WHERE status = 'active';
CREATE INDEX allocation_access_grants_of_grantee ON allocation_access_grants (grantee_user_id, project_id)
  WHERE status = 'active';

CREATE TABLE allocation_runtime_bundles (
  id uuid PRIMARY KEY,
  allocation_id uuid NOT NULL REFERENCES allocations (id),
  project_id uuid NOT NULL REFERENCES projects (id),
  bundle_id uuid NOT NULL REFERENCES runtime_bundles (id),
  status text NOT NULL CHECK (status IN ('pending', 'queued', 'active', 'failed', 'removed')),
  apply_task_id uuid,
  failure_reason text,
  requested_by_user_id uuid REFERENCES users (id),
  requested_at timestamptz(3) NOT NULL,
  applied_at timestamptz(3),
  removed_at timestamptz(3),
  updated_at timestamptz(3) NOT NULL
);
CREATE UNIQUE INDEX allocation_runtime_bundles_one_live ON allocation_runtime_bundles (allocation_id)
  WHERE status IN ('pending', 'queued', 'active');
CREATE INDEX allocation_runtime_bundles_of_allocation
  ON allocation_runtime_bundles (allocation_id, requested_at DESC, id DESC);

-- Every value that the limit of allocations a user was ever set to; the value in force is that of the policy registry.
CREATE TABLE allocation_limit_versions (
  id uuid PRIMARY KEY,
  value integer NOT NULL CHECK (value > 0),
  reason text,
  created_by_user_id uuid REFERENCES users (id),
  correlation_id text,
  created_at timestamptz(3) NOT NULL
);
CREATE INDEX allocation_limit_versions_newest ON allocation_limit_versions (created_at DESC, id DESC);
REVOKE UPDATE, DELETE, TRUNCATE ON allocation_limit_versions FROM gpuaas_app;
CREATE TRIGGER allocation_limit_versions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON allocation_limit_versions
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Groups: launched and released together. Status and counters follow from the members and are stored nowhere.
CREATE TABLE allocation_groups (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  project_id uuid NOT NULL REFERENCES projects (id),
  requested_by_user_id uuid NOT NULL REFERENCES users (id),
  service_account_id uuid REFERENCES service_accounts (id),
  group_kind text NOT NULL CHECK (group_kind IN ('batch', 'cluster', 'app_runtime', 'shared_runtime')),
  display_name text NOT NULL,
  owner_kind text NOT NULL CHECK (owner_kind IN ('user_request', 'app_instance', 'shared_app_runtime')),
  owner_id uuid,
  desired_member_count integer NOT NULL CHECK (desired_member_count > 0),
  required_member_count integer NOT NULL CHECK (required_member_count BETWEEN 0 AND desired_member_count),
  release_requested_at timestamptz(3),
  release_reason text,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL
);
CREATE INDEX allocation_groups_by_project ON allocation_groups (project_id, created_at DESC, id DESC);

CREATE TABLE allocation_group_members (
  id uuid PRIMARY KEY,
  allocation_group_id uuid NOT NULL REFERENCES allocation_groups (id),
  allocation_id uuid NOT NULL CONSTRAINT allocation_group_members_in_one_group UNIQUE REFERENCES allocations (id),
  ordinal integer NOT NULL CHECK (ordinal >= 0),
  member_role text,
  required boolean NOT NULL,
  UNIQUE (allocation_group_id, ordinal)
);
