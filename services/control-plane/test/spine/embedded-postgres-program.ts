import pg from 'pg';
import { startEmbeddedPostgres } from '../../src/adapters/embedded-postgres/index.js';

// A process that is killed while its server runs.

const server = await startEmbeddedPostgres({ directory: process.env.TEST_DIRECTORY ?? '', sharedBuffersMegabytes: 16 });
const client = new pg.Client({ connectionString: server.url });
await client.connect();
await client.query('CREATE TABLE committed AS SELECT 42 AS answer');
console.log(`server ${server.processId} ${server.url}`);
