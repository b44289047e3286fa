-- How many slots of a host could be taken, and how many are: a launch reads the few best hosts of this table instead of
-- counting all slots of all hosts. Kept by the slots themselves.
CREATE TABLE node_slice_room (
  node_id uuid NOT NULL REFERENCES nodes (id),
  sku text NOT NULL,
  free integer NOT NULL CONSTRAINT node_slice_room_free_valid CHECK (free >= 0),
  taken integer NOT NULL CONSTRAINT node_slice_room_taken_valid CHECK (taken >= 0),
  -- nobody is there yet: such hosts are opened last
  vacant boolean NOT NULL GENERATED ALWAYS AS (taken = 0) STORED,
  PRIMARY KEY (node_id, sku)
) WITH (fillfactor = 70);
CREATE INDEX node_slice_room_best ON node_slice_room (sku, vacant, free, node_id) WHERE free > 0;

CREATE FUNCTION keep_node_slice_room() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'INSERT' THEN
    UPDATE node_slice_room SET free = free - OLD.schedulable::integer, taken = taken - (OLD.claimed_by IS NOT NULL)::integer
    WHERE node_id = OLD.node_id AND sku = OLD.sku;
  END IF;
  IF TG_OP <> 'DELETE' THEN
    INSERT INTO node_slice_room AS room (node_id, sku, free, taken)
    VALUES (NEW.node_id, NEW.sku, NEW.schedulable::integer, (NEW.claimed_by IS NOT NULL)::integer)
    ON CONFLICT (node_id, sku) DO UPDATE SET free = room.free + excluded.free, taken = room.taken + excluded.taken;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER slots_keep_room AFTER INSERT OR DELETE ON gpuaas_node_resource_slots
  FOR EACH ROW EXECUTE FUNCTION keep_node_slice_room();
-- Most moves of a slot change nothing that is counted.
CREATE TRIGGER slots_keep_room_changed AFTER UPDATE ON gpuaas_node_resource_slots FOR EACH ROW
  WHEN ((OLD.schedulable, OLD.claimed_by IS NULL, OLD.sku) IS DISTINCT FROM (NEW.schedulable, NEW.claimed_by IS NULL, NEW.sku))
  EXECUTE FUNCTION keep_node_slice_room();

INSERT INTO node_slice_room (node_id, sku, free, taken)
  SELECT node_id, sku, count(*) FILTER (WHERE schedulable), count(claimed_by)
  FROM gpuaas_node_resource_slots GROUP BY node_id, sku;

-- What nobody claims, whether or not its host is ready: read when a launch is refused, to say why.
CREATE INDEX slots_unclaimed ON gpuaas_node_resource_slots (sku, node_id) WHERE status = 'available';
