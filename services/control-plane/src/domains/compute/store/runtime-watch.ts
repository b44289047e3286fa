import { sql } from 'kysely';
import type { Reader } from '../../../spine/operation.js';

/** A longer pause between two looks, or no API process for as long, begins the watch anew. */
const LONGEST_PAUSE_SECONDS = 5 * 60;

/**
 * Notes that hosts are being watched at `now` and returns since when they have been, without a pause.
 * The watch begins anew after an outage of the platform itself (its database, its workers or all of its API processes)
 * and after a step of the clock: hosts that could not be heard were not silent.
 */
export async function continueWatch(db: Reader, now: Date): Promise<Date> {
  const { rows } = await sql<{ since: Date }>`
    INSERT INTO runtime_watch AS watch (since, until) VALUES (${now}::timestamptz, ${now}::timestamptz)
    ON CONFLICT (only_row) DO UPDATE SET
      since = CASE
        WHEN excluded.until BETWEEN watch.until AND watch.until + ${LONGEST_PAUSE_SECONDS} * interval '1 second'
          AND EXISTS (SELECT FROM component_heartbeats WHERE component = 'api'
            AND checked_at > clock_timestamp() - ${LONGEST_PAUSE_SECONDS} * interval '1 second')
        THEN watch.since ELSE excluded.since END,
      until = excluded.until
    RETURNING since`.execute(db);
  const [watch] = rows;
  if (watch === undefined) throw new Error('a watch without a row');
  return watch.since;
}
