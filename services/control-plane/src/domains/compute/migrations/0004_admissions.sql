-- Takes the user's turn to launch and then counts what runs. One call instead of two, and right only because each
-- statement of a volatile function sees what was committed before that statement: the count sees every launch that the
-- lock had to wait for.
CREATE FUNCTION count_allocations_in_turn(launching_user uuid) RETURNS bigint LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtextextended('compute.admission:' || launching_user::text, 0));
  RETURN (SELECT count(*) FROM allocations
    WHERE requested_by_user_id = launching_user AND status NOT IN ('released', 'failed'));
END $$;
