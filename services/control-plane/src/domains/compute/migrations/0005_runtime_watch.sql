-- Since when somebody has been listening to hosts without a pause. A silence that nobody could have heard the end of
-- says nothing about a host.
CREATE TABLE runtime_watch (
  only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
  since timestamptz(3) NOT NULL,
  until timestamptz(3) NOT NULL CHECK (until >= since)
);
