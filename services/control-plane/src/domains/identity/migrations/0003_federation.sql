-- Sign-in at an organisation's own identity provider, or at one that the platform itself trusts.

CREATE TABLE federation_providers (
  id uuid PRIMARY KEY,
  -- null: the platform's own broker, for people without an organisation
  tenant_id uuid REFERENCES tenants (id),
  provider_type text NOT NULL DEFAULT 'oidc'
    CONSTRAINT federation_providers_type_known CHECK (provider_type IN ('oidc')),
  name text NOT NULL CONSTRAINT federation_providers_name_length CHECK (length(name) BETWEEN 1 AND 128),
  enabled boolean NOT NULL,
  -- compared exactly with what the provider says of itself
  issuer text COLLATE "C" NOT NULL,
  client_id text NOT NULL,
  -- null: a public client, which PKCE alone protects
  client_secret_ref uuid REFERENCES custody_secrets (id),
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT federation_providers_name_unique UNIQUE NULLS NOT DISTINCT (tenant_id, name),
  CONSTRAINT federation_providers_tenant_id_key UNIQUE (tenant_id, id)
);

-- Which organisation people with an address of a domain belong to; routes only where the domain was proven.
CREATE TABLE federation_domain_bindings (
  id uuid PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES tenants (id),
  domain text COLLATE "C" NOT NULL
    CONSTRAINT federation_domain_bindings_form CHECK (domain = lower(domain) AND length(domain) BETWEEN 3 AND 253),
  provider_id uuid NOT NULL,
  verification_state text NOT NULL
    CONSTRAINT federation_domain_bindings_state_known CHECK (verification_state IN ('pending', 'verified', 'failed')),
  dns_token text NOT NULL,
  created_at timestamptz NOT NULL,
  updated_at timestamptz NOT NULL,
  CONSTRAINT federation_domain_bindings_once UNIQUE (tenant_id, domain),
  -- a domain never leads to the provider of another organisation
  CONSTRAINT federation_domain_bindings_provider_of_tenant
    FOREIGN KEY (tenant_id, provider_id) REFERENCES federation_providers (tenant_id, id)
);
CREATE UNIQUE INDEX federation_domain_bindings_verified ON federation_domain_bindings (domain)
  WHERE verification_state = 'verified';

-- One row a sign-in that was begun: what must come back with the person, once.
CREATE TABLE auth_states (
  id uuid PRIMARY KEY,
  state_hash bytea NOT NULL CONSTRAINT auth_states_once UNIQUE,
  kind text NOT NULL CONSTRAINT auth_states_kind_known CHECK (kind IN ('oidc')),
  tenant_id uuid REFERENCES tenants (id),
  provider_id uuid NOT NULL REFERENCES federation_providers (id),
  redirect_uri text NOT NULL,
  code_challenge text NOT NULL,
  nonce text NOT NULL,
  action text,
  created_at timestamptz NOT NULL,
  expires_at timestamptz NOT NULL,
  consumed_at timestamptz
);
CREATE INDEX auth_states_age ON auth_states (expires_at);

-- A stranger who shows up again with an address that is somebody's leaves one row, not one a try.
CREATE UNIQUE INDEX identity_links_conflict_once ON identity_links (issuer, subject, user_id)
  WHERE state = 'pending_conflict';
-- who else has this address
CREATE INDEX users_by_email ON users (lower(email)) WHERE email IS NOT NULL;
