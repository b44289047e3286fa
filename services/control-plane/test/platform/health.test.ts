import { sql } from 'kysely';
import { describe, expect, it } from 'vitest';
import { openDatabase } from '../../src/spine/database.js';
import { startTestSite } from '../harness/site.js';

describe('GET /healthz', () => {
  it('needs no token and says ok only while the database has what this program works with', async () => {
    const site = await startTestSite({ roles: ['api'] });
    try {
      const probe = () => site.call({ path: '/api/v1/healthz' });
      expect(await probe()).toMatchObject({ status: 200, body: { ok: true } });
      const owner = openDatabase({ url: site.databaseUrl, poolSize: 1 });
      await sql`UPDATE schema_migrations SET checksum = 'another program' WHERE name = 'spine/0001_spine'`.execute(
        owner,
      );
      expect(await probe()).toMatchObject({
        status: 503,
        body: { code: 'service_unavailable', details: { reason: 'migrations_pending' } },
      });
      // The table that commands cannot do without is gone for whoever asks.
      await sql`REVOKE SELECT ON schema_migrations FROM gpuaas_app`.execute(owner);
      expect((await probe()).status).toBe(503);
      await owner.destroy();
    } finally {
      await site.stop();
    }
  });
});
