-- A claim of a slot names one that exists, on its own node.
ALTER TABLE placement_claims ADD CONSTRAINT placement_claims_slot_on_node
  FOREIGN KEY (slot_id, node_id) REFERENCES gpuaas_node_resource_slots (id, node_id);
