-- Slots: the parts in which a host is sold, one GPU with its disk and its virtual function each.

CREATE TABLE gpuaas_node_resource_slots (
  id uuid PRIMARY KEY,
  node_id uuid NOT NULL REFERENCES nodes (id),
  parent_slot_id uuid REFERENCES gpuaas_node_resource_slots (id),
  slot_index integer NOT NULL CONSTRAINT slots_index_valid CHECK (slot_index >= 0),
  status text NOT NULL CONSTRAINT slots_status_known CHECK (status IN (
    'available', 'reserved', 'provisioning', 'active', 'releasing', 'cleanup', 'cleanup_blocked', 'failed', 'disabled')),
  capacity_shape text NOT NULL
    CONSTRAINT slots_capacity_shape_known CHECK (capacity_shape IN ('baremetal', 'gpu_slice')),
  -- What the slot is sold as: said by its metadata, or what its node is sold as.
  sku text NOT NULL,
  sharing_model text CONSTRAINT slots_sharing_model_known CHECK (sharing_model IN ('exclusive_device')),
  profile_name text,
  accelerator_vendor text,
  accelerator_model text,
  gpu_index integer,
  gpu_uuid text,
  pci_address text,
  numa_node integer,
  nvme_device text,
  nvme_wwn text,
  fabric_kind text CONSTRAINT slots_fabric_kind_known CHECK (fabric_kind IN ('ib', 'roce', 'ethernet')),
  fabric_device text,
  vcpu_count integer,
  memory_mib integer,
  gpu_memory_mib integer,
  compute_milli integer,
  max_claims integer,
  mac_address text,
  private_ip text,
  health_state text,
  health_detail jsonb NOT NULL DEFAULT '{}',
  capacity_metadata jsonb NOT NULL DEFAULT '{}',
  fabric_vf_pci_address text,
  -- Slots of two groups never serve one guest.
  topology_group text GENERATED ALWAYS AS (capacity_metadata ->> 'topology_group') STORED,
  -- Everything that a guest needs was declared and seen on the host; decided when an operator declares the slot.
  approved boolean NOT NULL,
  -- Whose it is; from the reservation until nothing is left on it.
  claimed_by uuid,
  schedulable boolean NOT NULL GENERATED ALWAYS AS (
    coalesce(status = 'available' AND approved AND health_state = 'healthy', false)) STORED,
  created_at timestamptz(3) NOT NULL,
  updated_at timestamptz(3) NOT NULL,
  CONSTRAINT slots_index_once UNIQUE (node_id, slot_index),
  -- what a claim of a slot points to
  CONSTRAINT slots_on_node UNIQUE (id, node_id),
  -- One device is never in two slots. Checked at the end of a statement, so that one may swap devices.
  CONSTRAINT slots_gpu_uuid_once UNIQUE (node_id, gpu_uuid) DEFERRABLE,
  CONSTRAINT slots_pci_address_once UNIQUE (node_id, pci_address) DEFERRABLE,
  CONSTRAINT slots_nvme_device_once UNIQUE (node_id, nvme_device) DEFERRABLE,
  CONSTRAINT slots_nvme_wwn_once UNIQUE (node_id, nvme_wwn) DEFERRABLE,
  CONSTRAINT slots_fabric_vf_once UNIQUE (node_id, fabric_vf_pci_address) DEFERRABLE,
  CONSTRAINT slots_mac_address_once UNIQUE (node_id, mac_address) DEFERRABLE,
  CONSTRAINT slots_private_ip_once UNIQUE (node_id, private_ip) DEFERRABLE,
  CONSTRAINT slots_moving_is_claimed CHECK (status NOT IN ('provisioning', 'releasing') OR claimed_by IS NOT NULL),
  CONSTRAINT slots_claimed_is_taken CHECK (claimed_by IS NULL
    OR status IN ('reserved', 'provisioning', 'active', 'releasing', 'cleanup_blocked'))
) WITH (fillfactor = 70);

-- Exactly what a launch of slices can take, host by host.
CREATE INDEX slots_free ON gpuaas_node_resource_slots (sku, node_id, topology_group, numa_node) WHERE schedulable;

-- Whether a host's own report bars slices. Without a report it is not known that it can carry any.
ALTER TABLE node_facts ADD COLUMN carries_slices boolean NOT NULL
  GENERATED ALWAYS AS (coalesce(topology -> 'blockers' = '[]'::jsonb, false)) STORED;
