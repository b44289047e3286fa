import { randomBytes } from 'node:crypto';
import pg from 'pg';
import { afterAll, beforeAll, expect, inject, it } from 'vitest';
import { migrate } from '../../src/spine/migrations.js';
import { migrateWorkflowEngine } from '../../src/spine/workflow-engine.js';

const name = `test_${randomBytes(8).toString('hex')}`;
const onServer = async (statement: string): Promise<void> => {
  const client = new pg.Client({ connectionString: inject('testServerUrl') });
  await client.connect();
  await client.query(statement).finally(() => client.end());
};
beforeAll(() => onServer(`CREATE DATABASE ${name}`));
afterAll(() => onServer(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`));

it('is made by one of the control planes that start together on an empty database, while the others wait', async () => {
  const url = new URL(inject('testServerUrl'));
  url.pathname = `/${name}`;
  const start = async () => {
    const applied = await migrate(url.href);
    await migrateWorkflowEngine(url.href);
    return applied.length > 0;
  };
  const made = await Promise.all([start(), start(), start(), start()]);
  expect(made.filter((first) => first)).toHaveLength(1);
});
