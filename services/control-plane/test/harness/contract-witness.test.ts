import { createLogger } from '@gpuaas/kernel';
import { afterEach, expect, it } from 'vitest';
import { createHttpServer } from '../../src/edge/server.js';
import { operationAt, takeBreaches, watchServers } from './contract-witness.js';

afterEach(() => void takeBreaches());

const log = createLogger({ program: 'test', level: 'silent' });

it('finds what a server answers against the contract, whoever asked', async () => {
  watchServers();
  const server = createHttpServer({ log, trustedProxies: [] });
  server.get('/api/v1/users/me', async (_request, reply) => reply.code(404).send({ error: 'no such thing' }));
  await server.inject('/api/v1/users/me');
  expect(takeBreaches()).toEqual([expect.stringContaining('GET /api/v1/users/me answered 404 against the contract')]);
  await server.close();
});

it('has nothing against paths outside the contract', async () => {
  watchServers();
  const server = createHttpServer({ log, trustedProxies: [] });
  server.get('/elsewhere', async () => ({ anything: 'goes' }));
  await server.inject('/elsewhere');
  expect(takeBreaches()).toEqual([]);
  await server.close();
});

it('tells a fixed path from one with a parameter in the same place', () => {
  expect(operationAt('GET', '/api/v1/allocations/limits?page_size=1')?.operationId).not.toBe(
    operationAt('GET', '/api/v1/allocations/018f0000-0000-7000-8000-000000000001')?.operationId,
  );
});
