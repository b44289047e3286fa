-- Images of guests that hosts have and have verified. A host that keeps such a store starts guests from nothing else.
CREATE TABLE node_image_cache (
  node_id uuid NOT NULL REFERENCES nodes (id) ON DELETE CASCADE,
  -- sha256:<hex>
  digest text NOT NULL,
  image_ref text NOT NULL,
  verified_at timestamptz(3) NOT NULL,
  PRIMARY KEY (node_id, digest)
);

-- Whether the host keeps a store at all; one that does not fetches and verifies what each launch names.
ALTER TABLE node_facts ADD COLUMN keeps_images boolean NOT NULL
  GENERATED ALWAYS AS (coalesce(jsonb_typeof(topology -> 'images') = 'array', false)) STORED;
