-- People, organisations, projects and the proofs that a caller is who it claims to be.
-- Soft ends (ended_at, deleted_at, revoked_at) keep history readable; every "at most one live" rule is a partial
-- unique index, so that no interleaving of transactions can break it.

-- Rows that a transaction locks before it recounts a rule over many rows.
CREATE TABLE identity_guards (
  name text PRIMARY KEY
);
INSERT INTO identity_guards (name) VALUES ('platform_superadmins'), ('token_signing_keys');

CREATE TABLE tenants (
  id uuid PRIMARY KEY,
  type text NOT NULL CONSTRAINT tenants_type_known CHECK (type IN ('personal', 'enterprise')),
  name text NOT NULL CONSTRAINT tenants_name_length CHECK (length(name) BETWEEN 1 AND 254),
  slug text COLLATE "C" NOT NULL CONSTRAINT tenants_slug_form CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  deleted_at timestamptz,
  CONSTRAINT tenants_slug_unique UNIQUE (slug)
);
CREATE INDEX tenants_by_creation ON tenants (created_at DESC, id DESC) WHERE deleted_at IS NULL;

CREATE TABLE departments (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  display_name text NOT NULL,
  slug text COLLATE "C" NOT NULL,
  is_default boolean NOT NULL DEFAULT false,
  lifecycle_state text NOT NULL DEFAULT 'active'
    CONSTRAINT departments_state_known CHECK (lifecycle_state IN ('active', 'disabled')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT departments_slug_unique UNIQUE (tenant_id, slug),
  -- target of the composite foreign key that keeps a project and its department in one tenant
  CONSTRAINT departments_tenant_id_key UNIQUE (tenant_id, id)
);
CREATE UNIQUE INDEX departments_one_default ON departments (tenant_id) WHERE is_default;

CREATE TABLE users (
  id uuid PRIMARY KEY,
  username text NOT NULL,
  -- NFKC, trimmed, lower case: two spellings of one name are one user
  username_norm text COLLATE "C" NOT NULL,
  password_hash text,
  email text,
  email_verified boolean NOT NULL DEFAULT false,
  role text NOT NULL DEFAULT 'user' CONSTRAINT users_role_known CHECK (role IN ('user', 'admin')),
  -- 'users_role' until the first platform binding was ever written; from then on role only mirrors the bindings, so
  -- that revoking the last one cannot bring an old admin back
  platform_role_source text NOT NULL DEFAULT 'users_role'
    CONSTRAINT users_platform_role_source_known CHECK (platform_role_source IN ('users_role', 'bindings')),
  display_name text,
  theme_preference text,
  default_project_id uuid,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  deleted_at timestamptz,
  CONSTRAINT users_username_unique UNIQUE (username_norm)
);
CREATE INDEX users_by_creation ON users (created_at DESC, id DESC) WHERE deleted_at IS NULL;
-- implicit superadmins are few among many users; counting them must not read the table
CREATE INDEX users_implicit_admins ON users (id)
  WHERE role = 'admin' AND platform_role_source = 'users_role' AND deleted_at IS NULL;

CREATE TABLE tenant_memberships (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  user_id uuid NOT NULL REFERENCES users (id),
  role text NOT NULL
    CONSTRAINT tenant_memberships_role_known CHECK (role IN ('owner', 'admin', 'member', 'billing_viewer')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  end_reason text
);
-- one home tenant a user
CREATE UNIQUE INDEX tenant_memberships_one_home ON tenant_memberships (user_id) WHERE ended_at IS NULL;
CREATE INDEX tenant_memberships_of_tenant ON tenant_memberships (tenant_id, created_at DESC, id DESC)
  WHERE ended_at IS NULL;
CREATE INDEX tenant_memberships_owners ON tenant_memberships (tenant_id) WHERE ended_at IS NULL AND role = 'owner';

CREATE TABLE projects (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  department_id uuid NOT NULL,
  name text NOT NULL CONSTRAINT projects_name_length CHECK (length(name) BETWEEN 1 AND 120),
  slug text COLLATE "C" NOT NULL CONSTRAINT projects_slug_form CHECK (slug ~ '^[a-z0-9][a-z0-9-]{1,62}$'),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  deleted_at timestamptz,
  CONSTRAINT projects_tenant_id_key UNIQUE (tenant_id, id),
  CONSTRAINT projects_department_of_tenant FOREIGN KEY (tenant_id, department_id) REFERENCES departments (tenant_id, id)
);
CREATE UNIQUE INDEX projects_slug_unique ON projects (tenant_id, slug) WHERE deleted_at IS NULL;
CREATE INDEX projects_of_tenant ON projects (tenant_id, created_at DESC, id DESC) WHERE deleted_at IS NULL;

ALTER TABLE users ADD CONSTRAINT users_default_project
  FOREIGN KEY (default_project_id) REFERENCES projects (id);

CREATE TABLE project_memberships (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  project_id uuid NOT NULL,
  user_id uuid NOT NULL REFERENCES users (id),
  role text NOT NULL
    CONSTRAINT project_memberships_role_known CHECK (role IN ('owner', 'admin', 'member', 'viewer')),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at timestamptz,
  end_reason text,
  CONSTRAINT project_memberships_project_of_tenant
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id)
);
CREATE UNIQUE INDEX project_memberships_one_role ON project_memberships (project_id, user_id) WHERE ended_at IS NULL;
CREATE INDEX project_memberships_of_user ON project_memberships (user_id, project_id) WHERE ended_at IS NULL;

CREATE TABLE platform_role_bindings (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users (id),
  role text NOT NULL CONSTRAINT platform_role_bindings_role_known
    CHECK (role IN ('platform_superadmin', 'platform_ops', 'platform_user')),
  -- null where the platform itself bound it at its first start or when it wrote down an implicit role
  bound_by uuid REFERENCES users (id),
  bound_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  revoked_at timestamptz,
  revoked_by uuid REFERENCES users (id)
);
CREATE UNIQUE INDEX platform_role_bindings_once ON platform_role_bindings (user_id, role) WHERE revoked_at IS NULL;
CREATE INDEX platform_role_bindings_superadmins ON platform_role_bindings (user_id)
  WHERE revoked_at IS NULL AND role = 'platform_superadmin';

-- Who an outside identity provider says a person is. Subjects are unique per issuer, compared exactly.
CREATE TABLE identity_links (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users (id),
  provider_type text NOT NULL CONSTRAINT identity_links_provider_type_known CHECK (provider_type IN ('oidc', 'saml')),
  provider_name text,
  issuer text COLLATE "C" NOT NULL,
  subject text COLLATE "C" NOT NULL,
  email text,
  email_verified boolean NOT NULL DEFAULT false,
  state text NOT NULL DEFAULT 'active'
    CONSTRAINT identity_links_state_known CHECK (state IN ('active', 'pending_conflict', 'revoked')),
  is_primary boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE UNIQUE INDEX identity_links_subject_once ON identity_links (issuer, subject) WHERE state = 'active';
CREATE INDEX identity_links_of_user ON identity_links (user_id);

CREATE TABLE sessions (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users (id),
  tenant_id uuid REFERENCES tenants (id),
  auth_provider text NOT NULL,
  amr text[] NOT NULL,
  acr text,
  auth_time timestamptz NOT NULL,
  ip text,
  user_agent text,
  created_at timestamptz NOT NULL,
  last_seen_at timestamptz NOT NULL,
  -- absolute end; the idle end follows from last_seen_at
  expires_at timestamptz NOT NULL,
  revoked_at timestamptz,
  revoke_reason text
) WITH (fillfactor = 90);
CREATE INDEX sessions_of_user ON sessions (user_id, created_at DESC, id DESC);
CREATE INDEX sessions_live_of_user ON sessions (user_id) WHERE revoked_at IS NULL;

CREATE TABLE refresh_tokens (
  id uuid PRIMARY KEY,
  session_id uuid NOT NULL REFERENCES sessions (id),
  token_hash bytea NOT NULL CONSTRAINT refresh_tokens_hash_length CHECK (octet_length(token_hash) = 32),
  parent_id uuid REFERENCES refresh_tokens (id),
  issued_at timestamptz NOT NULL,
  used_at timestamptz,
  -- the successor in the clear exists only sealed, and only for the seconds in which two tabs may race
  successor_sealed text,
  CONSTRAINT refresh_tokens_hash_unique UNIQUE (token_hash),
  CONSTRAINT refresh_tokens_one_successor UNIQUE (parent_id)
);
CREATE INDEX refresh_tokens_of_session ON refresh_tokens (session_id);
CREATE INDEX refresh_tokens_sealed ON refresh_tokens (used_at) WHERE successor_sealed IS NOT NULL;

-- Failed proofs of identity, counted in fixed windows that all processes share.
CREATE TABLE authentication_attempts (
  bucket text COLLATE "C" NOT NULL,
  window_start timestamptz NOT NULL,
  attempts integer NOT NULL CONSTRAINT authentication_attempts_not_negative CHECK (attempts >= 0),
  PRIMARY KEY (bucket, window_start)
) WITH (fillfactor = 70);
CREATE INDEX authentication_attempts_age ON authentication_attempts (window_start);

-- One audited denial an actor, action and minute: a flood of refusals must not become a flood of rows.
CREATE TABLE denial_marks (
  actor text COLLATE "C" NOT NULL,
  action text COLLATE "C" NOT NULL,
  minute timestamptz NOT NULL,
  PRIMARY KEY (actor, action, minute)
);
CREATE INDEX denial_marks_age ON denial_marks (minute);

CREATE TABLE service_accounts (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL,
  project_id uuid NOT NULL,
  name text NOT NULL,
  slug text COLLATE "C" NOT NULL,
  description text,
  purpose text NOT NULL
    CONSTRAINT service_accounts_purpose_known CHECK (purpose IN ('operator', 'controller', 'automation')),
  state text NOT NULL DEFAULT 'active'
    CONSTRAINT service_accounts_state_known CHECK (state IN ('active', 'disabled', 'deleted')),
  created_by_user_id uuid NOT NULL REFERENCES users (id),
  created_at timestamptz NOT NULL,
  disabled_at timestamptz,
  deleted_at timestamptz,
  CONSTRAINT service_accounts_project_of_tenant
    FOREIGN KEY (tenant_id, project_id) REFERENCES projects (tenant_id, id),
  CONSTRAINT service_accounts_deleted_has_time CHECK ((state = 'deleted') = (deleted_at IS NOT NULL))
);
CREATE UNIQUE INDEX service_accounts_slug_unique ON service_accounts (project_id, slug) WHERE state <> 'deleted';
CREATE INDEX service_accounts_of_project ON service_accounts (project_id, created_at DESC, id DESC);

CREATE TABLE service_account_keys (
  -- public half of the credential, part of every token request
  key_id text COLLATE "C" PRIMARY KEY,
  service_account_id uuid NOT NULL REFERENCES service_accounts (id),
  -- SHA-256 of a 256-bit random secret: nothing to guess, so nothing to slow down
  secret_hash bytea NOT NULL CONSTRAINT service_account_keys_hash_length CHECK (octet_length(secret_hash) = 32),
  created_at timestamptz NOT NULL,
  revoked_at timestamptz,
  last_used_at timestamptz
);
CREATE UNIQUE INDEX service_account_keys_one_live ON service_account_keys (service_account_id) WHERE revoked_at IS NULL;
CREATE INDEX service_account_keys_of_account ON service_account_keys (service_account_id, created_at DESC);

-- Which key vouches for a machine's access token; a token whose key is revoked is refused at once.
CREATE TABLE machine_tokens (
  jti uuid PRIMARY KEY,
  key_id text COLLATE "C" NOT NULL REFERENCES service_account_keys (key_id),
  expires_at timestamptz NOT NULL
);
CREATE INDEX machine_tokens_age ON machine_tokens (expires_at);

CREATE TABLE ssh_keys (
  id uuid PRIMARY KEY,
  owner_scope text NOT NULL CONSTRAINT ssh_keys_owner_scope_known CHECK (owner_scope IN ('user', 'project')),
  user_id uuid REFERENCES users (id),
  project_id uuid REFERENCES projects (id),
  created_by_user_id uuid REFERENCES users (id),
  created_by_service_account_id uuid REFERENCES service_accounts (id),
  name text NOT NULL CONSTRAINT ssh_keys_name_length CHECK (length(name) BETWEEN 1 AND 64),
  -- re-encoded by us from the parsed key: type, blob and a harmless comment, never the text that was sent
  public_key text NOT NULL CONSTRAINT ssh_keys_one_line CHECK (public_key !~ '[\r\n]'),
  fingerprint text COLLATE "C" NOT NULL,
  is_default boolean NOT NULL DEFAULT false,
  last_used_at timestamptz,
  created_at timestamptz NOT NULL,
  revoked_at timestamptz,
  CONSTRAINT ssh_keys_one_owner CHECK (
    (owner_scope = 'user' AND user_id IS NOT NULL AND project_id IS NULL)
    OR (owner_scope = 'project' AND project_id IS NOT NULL AND user_id IS NULL)
  ),
  CONSTRAINT ssh_keys_default_is_personal CHECK (NOT is_default OR owner_scope = 'user'),
  CONSTRAINT ssh_keys_default_is_live CHECK (NOT is_default OR revoked_at IS NULL)
);
CREATE UNIQUE INDEX ssh_keys_once_a_user ON ssh_keys (user_id, fingerprint)
  WHERE revoked_at IS NULL AND owner_scope = 'user';
CREATE UNIQUE INDEX ssh_keys_once_a_project ON ssh_keys (project_id, fingerprint)
  WHERE revoked_at IS NULL AND owner_scope = 'project';
CREATE UNIQUE INDEX ssh_keys_one_default ON ssh_keys (user_id) WHERE is_default AND revoked_at IS NULL;
CREATE INDEX ssh_keys_of_user ON ssh_keys (user_id, created_at DESC, id DESC) WHERE owner_scope = 'user';
CREATE INDEX ssh_keys_of_project ON ssh_keys (project_id, created_at DESC, id DESC) WHERE owner_scope = 'project';

-- The account that a person gets on GPU hosts: allocated once, never given to anyone else. Above every id that a host
-- may use for itself, 65534 and 65535 among them.
CREATE SEQUENCE posix_uids AS integer MINVALUE 100000 START WITH 100000 MAXVALUE 2000000000 NO CYCLE;
CREATE TABLE posix_identities (
  user_id uuid PRIMARY KEY REFERENCES users (id),
  username text COLLATE "C" NOT NULL CONSTRAINT posix_identities_username_form
    CHECK (username ~ '^[a-z_][a-z0-9_-]{0,30}$'),
  uid integer NOT NULL DEFAULT nextval('posix_uids'),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  CONSTRAINT posix_identities_username_unique UNIQUE (username),
  CONSTRAINT posix_identities_uid_unique UNIQUE (uid)
);
