-- Money: a double-entry journal inside, a wallet per person and currency outside, metering and rating between them.
--
-- Owners (tenant, user, project, allocation) are plain uuids without foreign keys: financial history outlives what it
-- speaks of and must never stand in the way of deleting it. All amounts are int64 minor units of one ISO 4217 currency;
-- no two currencies are ever added.

-- ---------------------------------------------------------------------------------------------------------------------
-- Journal
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE journal_txns (
  id uuid PRIMARY KEY,
  kind text NOT NULL,
  -- one business fact, one entry: `usage:<rating key>`, `payment:<session>`, `adjust:<audit row>`
  idempotency_key text NOT NULL CONSTRAINT journal_txns_once UNIQUE,
  currency text NOT NULL CONSTRAINT journal_txns_currency CHECK (currency ~ '^[A-Z]{3}$'),
  reference_type text NOT NULL,
  reference_id text NOT NULL,
  correlation_id text NOT NULL,
  actor text NOT NULL,
  created_at timestamptz(3) NOT NULL,
  -- the target of postings' foreign key: a posting in another currency than its entry cannot be written
  CONSTRAINT journal_txns_one_currency UNIQUE (id, currency)
);

CREATE TABLE postings (
  id uuid PRIMARY KEY,
  txn_id uuid NOT NULL,
  -- wallet: what a customer may spend. revenue:usage: charged usage. credits_granted: given or taken back by the
  -- operator without a payment. tax_payable: owed to an authority. clearing:stripe: held for us by the payment
  -- provider. refunds_in_flight: taken from a wallet, not yet confirmed by the provider. suspense: received, unmatched.
  -- A list, not a table: every posting would lock the same few rows of it.
  account_code text NOT NULL CONSTRAINT postings_account_known CHECK (account_code IN (
    'wallet', 'revenue:usage', 'credits_granted', 'tax_payable', 'clearing:stripe', 'refunds_in_flight', 'suspense')),
  tenant_id uuid,
  user_id uuid,
  project_id uuid,
  -- sign as the holder of the account sees it: + is more money in a wallet
  amount_minor bigint NOT NULL CONSTRAINT postings_not_zero CHECK (amount_minor <> 0),
  currency text NOT NULL,
  entry_type text NOT NULL,
  created_at timestamptz(3) NOT NULL,
  CONSTRAINT postings_one_currency FOREIGN KEY (txn_id, currency) REFERENCES journal_txns (id, currency),
  CONSTRAINT postings_wallet_has_owner
    CHECK (account_code <> 'wallet' OR (tenant_id IS NOT NULL AND user_id IS NOT NULL))
);
CREATE INDEX postings_txn ON postings (txn_id);

-- Deferred to the commit, when an entry has all its legs; the entry itself is checked too, so that none is without legs.
CREATE FUNCTION require_balanced_journal() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
  entry uuid;
  legs bigint;
  total numeric;
BEGIN
  IF TG_TABLE_NAME = 'journal_txns' THEN entry := NEW.id; ELSE entry := NEW.txn_id; END IF;
  SELECT count(*), coalesce(sum(amount_minor), 0) INTO legs, total FROM postings WHERE txn_id = entry;
  IF legs < 2 OR total <> 0 THEN
    RAISE EXCEPTION 'journal entry % has % postings that sum to %', entry, legs, total
      USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'journal_balanced';
  END IF;
  RETURN NULL;
END $$;

CREATE CONSTRAINT TRIGGER journal_txns_balanced AFTER INSERT ON journal_txns
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION require_balanced_journal();
CREATE CONSTRAINT TRIGGER postings_balanced AFTER INSERT ON postings
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION require_balanced_journal();

REVOKE UPDATE, DELETE, TRUNCATE ON journal_txns, postings FROM gpuaas_app;
CREATE TRIGGER journal_txns_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal_txns
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER postings_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON postings
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- ---------------------------------------------------------------------------------------------------------------------
-- Wallets
-- ---------------------------------------------------------------------------------------------------------------------

-- A tenant without a row has the site's defaults: default currency only, one wallet a person, no credit.
CREATE TABLE billing_accounts (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL CONSTRAINT billing_accounts_one_a_tenant UNIQUE,
  default_currency text NOT NULL DEFAULT 'USD' CHECK (default_currency ~ '^[A-Z]{3}$'),
  supported_currencies text[] NOT NULL DEFAULT '{USD}',
  -- whose money counts when one person launches: `user` only theirs, `tenant` every wallet of the tenant
  wallet_scope text NOT NULL DEFAULT 'user' CHECK (wallet_scope IN ('user', 'tenant')),
  -- how far below zero one wallet (scope user) or all of them together (scope tenant) may go, in the default currency
  credit_limit_minor bigint NOT NULL DEFAULT 0 CHECK (credit_limit_minor BETWEEN 0 AND 1000000000000),
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  CONSTRAINT billing_accounts_default_supported CHECK (default_currency = ANY (supported_currencies))
);

-- The sum of a wallet's postings, changed in the transaction that posts: its row lock orders everything that spends.
CREATE TABLE wallet_balances (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  -- within what a JSON number carries exactly
  balance_minor bigint NOT NULL DEFAULT 0
    CONSTRAINT wallet_balances_range CHECK (balance_minor BETWEEN -9007199254740991 AND 9007199254740991),
  created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (tenant_id, user_id, currency)
) WITH (fillfactor = 70);
CREATE INDEX wallet_balances_user ON wallet_balances (user_id);

-- The first hour of a launch that is not yet rated; one an allocation.
CREATE TABLE wallet_holds (
  allocation_id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  project_id uuid NOT NULL,
  currency text NOT NULL,
  amount_minor bigint NOT NULL CHECK (amount_minor > 0),
  created_at timestamptz(3) NOT NULL
);
CREATE INDEX wallet_holds_wallet ON wallet_holds (tenant_id, currency, user_id) INCLUDE (amount_minor);

-- ---------------------------------------------------------------------------------------------------------------------
-- Metering and rating
-- ---------------------------------------------------------------------------------------------------------------------

CREATE TABLE price_versions (
  id uuid PRIMARY KEY,
  sku text NOT NULL,
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  billing_unit text NOT NULL,
  unit_price_minor bigint NOT NULL CHECK (unit_price_minor >= 0),
  effective_from timestamptz(3) NOT NULL,
  created_at timestamptz(3) NOT NULL
);
CREATE INDEX price_versions_latest ON price_versions (sku, currency, billing_unit, effective_from DESC, id DESC);
REVOKE UPDATE, DELETE, TRUNCATE ON price_versions FROM gpuaas_app;
CREATE TRIGGER price_versions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON price_versions
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One stretch of billable time of one resource at one price. Times carry whole milliseconds: the rating rule counts
-- them, and a finer time would be rounded differently here and in the program.
CREATE TABLE usage_records (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  project_id uuid NOT NULL,
  -- who pays; for a service account the person who owns it
  user_id uuid NOT NULL,
  usage_source text NOT NULL CHECK (usage_source IN ('allocation', 'app_runtime')),
  allocation_id uuid,
  app_instance_id uuid,
  sku text,
  usage_unit text NOT NULL
    CHECK (usage_unit IN ('gpu_hour', 'node_hour', 'vcpu_hour', 'app_runtime_hour', 'request', 'job_hour')),
  units bigint NOT NULL CHECK (units BETWEEN 0 AND 1000000),
  unit_price_minor bigint NOT NULL CHECK (unit_price_minor BETWEEN 0 AND 1000000000),
  currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
  pricing_source text NOT NULL CHECK (pricing_source IN ('sku_list_price', 'pricing_plan')),
  pricing_plan_id uuid,
  pricing_plan_version text,
  pricing_snapshot jsonb NOT NULL,
  control_plane_component boolean NOT NULL DEFAULT false,
  operating_mode text CHECK (operating_mode IN ('tenant_dedicated', 'platform_managed')),
  control_plane_scope text CHECK (control_plane_scope IN ('project', 'tenant', 'platform')),
  runtime_backend text CHECK (runtime_backend IN ('k8s', 'rke2', 'slurm', 'ray', 'bare_metal')),
  start_time timestamptz(3) NOT NULL,
  end_time timestamptz(3),
  last_billed_at timestamptz(3),
  -- what the rated lines sum to
  rated_minor bigint NOT NULL DEFAULT 0 CHECK (rated_minor >= 0),
  -- when the rater looks next; null once the record is closed and rated to its end
  next_rate_at timestamptz(3),
  correlation_id text NOT NULL,
  created_at timestamptz(3) NOT NULL,
  CONSTRAINT usage_records_source CHECK (
    (usage_source = 'allocation' AND allocation_id IS NOT NULL AND app_instance_id IS NULL)
    OR (usage_source = 'app_runtime' AND app_instance_id IS NOT NULL AND allocation_id IS NULL)),
  CONSTRAINT usage_records_operating_mode CHECK (
    operating_mode IS NULL OR control_plane_scope IS NULL
    OR (operating_mode = 'platform_managed') = (control_plane_scope = 'platform')),
  CONSTRAINT usage_records_order CHECK (end_time >= start_time),
  CONSTRAINT usage_records_billed_within CHECK (
    last_billed_at >= start_time AND (end_time IS NULL OR last_billed_at <= end_time)),
  CONSTRAINT usage_records_due CHECK (
    (next_rate_at IS NULL) = (end_time IS NOT NULL AND coalesce(last_billed_at, start_time) = end_time)),
  CONSTRAINT usage_records_allocation_disjoint EXCLUDE USING gist
    (allocation_id WITH =, tstzrange(start_time, end_time) WITH &&) WHERE (allocation_id IS NOT NULL),
  CONSTRAINT usage_records_app_disjoint EXCLUDE USING gist
    (app_instance_id WITH =, tstzrange(start_time, end_time) WITH &&) WHERE (app_instance_id IS NOT NULL)
) WITH (fillfactor = 80);
CREATE UNIQUE INDEX usage_records_allocation_open ON usage_records (allocation_id) WHERE end_time IS NULL;
CREATE UNIQUE INDEX usage_records_app_open ON usage_records (app_instance_id) WHERE end_time IS NULL;
CREATE INDEX usage_records_allocation ON usage_records (allocation_id, start_time DESC);
CREATE INDEX usage_records_rating_due ON usage_records (next_rate_at) WHERE next_rate_at IS NOT NULL;
-- the funds gate: what is used and not yet charged
CREATE INDEX usage_records_accruing ON usage_records (tenant_id, currency, user_id) WHERE next_rate_at IS NOT NULL;
CREATE INDEX usage_records_tenant ON usage_records (tenant_id, start_time DESC, id DESC);
CREATE INDEX usage_records_user ON usage_records (tenant_id, user_id, start_time DESC, id DESC);
CREATE INDEX usage_records_project ON usage_records (project_id, start_time DESC, id DESC);

-- What a record says about who used what at which price holds for ever; only its end and its rating move, and forwards.
CREATE FUNCTION keep_usage_facts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.id, NEW.tenant_id, NEW.project_id, NEW.user_id, NEW.usage_source, NEW.allocation_id, NEW.app_instance_id,
      NEW.sku, NEW.usage_unit, NEW.units, NEW.unit_price_minor, NEW.currency, NEW.pricing_source, NEW.pricing_plan_id,
      NEW.pricing_plan_version, NEW.pricing_snapshot, NEW.start_time)
     IS DISTINCT FROM
     (OLD.id, OLD.tenant_id, OLD.project_id, OLD.user_id, OLD.usage_source, OLD.allocation_id, OLD.app_instance_id,
      OLD.sku, OLD.usage_unit, OLD.units, OLD.unit_price_minor, OLD.currency, OLD.pricing_source, OLD.pricing_plan_id,
      OLD.pricing_plan_version, OLD.pricing_snapshot, OLD.start_time)
     OR (OLD.end_time IS NOT NULL AND NEW.end_time IS DISTINCT FROM OLD.end_time)
     OR (OLD.last_billed_at IS NOT NULL AND (NEW.last_billed_at IS NULL OR NEW.last_billed_at < OLD.last_billed_at))
  THEN
    RAISE EXCEPTION 'usage record % keeps its facts', OLD.id
      USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'usage_records_facts';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER usage_records_facts BEFORE UPDATE ON usage_records FOR EACH ROW EXECUTE FUNCTION keep_usage_facts();
REVOKE DELETE, TRUNCATE ON usage_records FROM gpuaas_app;
CREATE TRIGGER usage_records_kept BEFORE DELETE OR TRUNCATE ON usage_records
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- One window of a record. Price, quantity and rule are those of the record, which keeps its facts.
CREATE TABLE rated_usage_lines (
  id uuid PRIMARY KEY,
  usage_record_id uuid NOT NULL REFERENCES usage_records (id),
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  project_id uuid NOT NULL,
  bill_from timestamptz(3) NOT NULL,
  bill_to timestamptz(3) NOT NULL,
  unit_quantity_millis bigint NOT NULL CHECK (unit_quantity_millis >= 0),
  amount_minor bigint NOT NULL CHECK (amount_minor >= 0),
  currency text NOT NULL,
  rating_key text NOT NULL CONSTRAINT rated_usage_lines_once UNIQUE,
  -- the wallet's side of the charge; null where the amount is zero
  ledger_entry_id uuid REFERENCES postings (id),
  invoice_line_id uuid,
  invoice_id uuid,
  created_at timestamptz(3) NOT NULL,
  CONSTRAINT rated_usage_lines_order CHECK (bill_from < bill_to),
  CONSTRAINT rated_usage_lines_charged CHECK ((amount_minor = 0) = (ledger_entry_id IS NULL)),
  CONSTRAINT rated_usage_lines_disjoint EXCLUDE USING gist
    (usage_record_id WITH =, tstzrange(bill_from, bill_to) WITH &&)
);
CREATE INDEX rated_usage_lines_record ON rated_usage_lines (usage_record_id, created_at DESC, id DESC);
CREATE INDEX rated_usage_lines_tenant ON rated_usage_lines (tenant_id, created_at DESC, id DESC);
CREATE INDEX rated_usage_lines_user ON rated_usage_lines (tenant_id, user_id, created_at DESC, id DESC);

-- Append-only but for the invoice, which is set once.
CREATE FUNCTION keep_rated_line() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (to_jsonb(NEW) - '{invoice_id,invoice_line_id}'::text[]) IS DISTINCT FROM
     (to_jsonb(OLD) - '{invoice_id,invoice_line_id}'::text[])
     OR (OLD.invoice_line_id IS NOT NULL AND NEW.invoice_line_id IS DISTINCT FROM OLD.invoice_line_id)
     OR (OLD.invoice_id IS NOT NULL AND NEW.invoice_id IS DISTINCT FROM OLD.invoice_id)
  THEN
    RAISE EXCEPTION 'rated usage line % is append-only', OLD.id
      USING ERRCODE = 'integrity_constraint_violation', CONSTRAINT = 'rated_usage_lines_facts';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER rated_usage_lines_facts BEFORE UPDATE ON rated_usage_lines
  FOR EACH ROW EXECUTE FUNCTION keep_rated_line();
REVOKE UPDATE, DELETE, TRUNCATE ON rated_usage_lines FROM gpuaas_app;
GRANT UPDATE (invoice_line_id, invoice_id) ON rated_usage_lines TO gpuaas_app;
CREATE TRIGGER rated_usage_lines_kept BEFORE DELETE OR TRUNCATE ON rated_usage_lines
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The rating rule once more, for reads that sort or sum in the database. It equals rules/rating.ts; a test holds both
-- to each other.
CREATE FUNCTION elapsed_milliseconds(from_time timestamptz, to_time timestamptz) RETURNS bigint
  LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT CASE WHEN to_time <= from_time THEN 0
    ELSE ((extract(epoch FROM to_time) - extract(epoch FROM from_time)) * 1000)::bigint END
$$;
CREATE FUNCTION usage_cost_minor(unit_price_minor bigint, units bigint, milliseconds bigint) RETURNS bigint
  LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT div(2 * unit_price_minor::numeric * units * milliseconds + 3600000, 7200000)::bigint
$$;

-- ---------------------------------------------------------------------------------------------------------------------
-- Restrictions and posture
-- ---------------------------------------------------------------------------------------------------------------------

-- What bars a scope from new spending. Each source has its own row and touches no other's.
CREATE TABLE financial_restrictions (
  id uuid PRIMARY KEY,
  scope_type text NOT NULL CHECK (scope_type IN ('tenant', 'project', 'user')),
  scope_id uuid NOT NULL,
  source text NOT NULL CHECK (source IN ('operator', 'depletion', 'chargeback')),
  state text NOT NULL CHECK (state IN ('healthy', 'at_risk', 'restricted', 'suspended', 'collections_hold')),
  reason text NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  correlation_id text NOT NULL,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  CONSTRAINT financial_restrictions_one_a_source UNIQUE (scope_type, scope_id, source)
);

CREATE TABLE restriction_history (
  id uuid PRIMARY KEY,
  restriction_id uuid NOT NULL REFERENCES financial_restrictions (id),
  -- null for the first entry
  from_state text,
  to_state text NOT NULL,
  reason text NOT NULL,
  metadata jsonb NOT NULL DEFAULT '{}',
  actor text NOT NULL,
  correlation_id text NOT NULL,
  created_at timestamptz(3) NOT NULL
);
CREATE INDEX restriction_history_restriction ON restriction_history (restriction_id, created_at DESC, id DESC);
REVOKE DELETE, TRUNCATE ON financial_restrictions FROM gpuaas_app;
REVOKE UPDATE, DELETE, TRUNCATE ON restriction_history FROM gpuaas_app;
CREATE TRIGGER restriction_history_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON restriction_history
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- How far a wallet is from running dry, as the last sweep or the last credit saw it.
CREATE TABLE wallet_postures (
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  currency text NOT NULL,
  posture text NOT NULL CHECK (posture IN ('healthy', 'low_balance', 'auto_release_pending', 'depleted')),
  -- since when; the window of "one warning a transition"
  since timestamptz(3) NOT NULL,
  projected_depletion_at timestamptz(3),
  -- when the release of what runs on this wallet was last asked for in this depletion
  release_requested_at timestamptz(3),
  updated_at timestamptz(3) NOT NULL,
  PRIMARY KEY (tenant_id, user_id, currency)
);
-- only wallets that are not well need a second look when nothing runs any more
CREATE INDEX wallet_postures_unwell ON wallet_postures (tenant_id, currency) WHERE posture <> 'healthy';
CREATE INDEX wallet_postures_user ON wallet_postures (user_id);

CREATE TABLE posture_transitions (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  user_id uuid NOT NULL,
  currency text NOT NULL,
  from_posture text NOT NULL,
  to_posture text NOT NULL,
  selected_action text NOT NULL CHECK (selected_action IN ('', 'restrict', 'force_release')),
  available_minor bigint NOT NULL,
  burn_minor_per_hour bigint NOT NULL,
  projected_depletion_at timestamptz(3),
  correlation_id text NOT NULL,
  created_at timestamptz(3) NOT NULL
);
CREATE INDEX posture_transitions_wallet ON posture_transitions (tenant_id, user_id, created_at DESC, id DESC);
REVOKE UPDATE, DELETE, TRUNCATE ON posture_transitions FROM gpuaas_app;
CREATE TRIGGER posture_transitions_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON posture_transitions
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
