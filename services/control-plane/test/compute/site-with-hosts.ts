import { createLogger } from '@gpuaas/kernel';
import {
  createMemoryStore,
  createNodeAgent,
  createSimulatedHost,
  type NodeAgent,
  type SimulatedFault,
  type SimulatedImage,
} from '@gpuaas/node-agent';
import { type Answer, type Person, type SiteOptions, startTestSite, type TestSite } from '../harness/site.js';
import { until } from '../harness/waiting.js';

export const SKU = 'h200-sxm-baremetal-8g';
const log = createLogger({ program: 'test', level: 'silent' });
const publicKey = (n: number) => {
  const blob = Buffer.alloc(4 + 11 + 4 + 32);
  blob.writeUInt32BE(11, 0);
  blob.write('ssh-ed25519', 4);
  blob.writeUInt32BE(32, 15);
  blob.writeUInt32BE(n, 19);
  return `ssh-ed25519 ${blob.toString('base64')}`;
};

let hosts = 0;
let keys = 0;

export interface HostOptions {
  readonly faults?: readonly SimulatedFault[];
  readonly images?: readonly SimulatedImage[];
  readonly region?: string;
  readonly sku?: string;
}

export interface SimulatedNode {
  readonly nodeId: string;
  readonly agent: NodeAgent;
}

/** A site with hosts that run the real agent, and people who can pay. */
export interface ComputeSite extends TestSite {
  addHost(options?: HostOptions): Promise<SimulatedNode>;
  addHosts(count: number, options?: HostOptions): Promise<SimulatedNode[]>;
  /** A registered host that nobody runs: it was seen just now and will never answer. */
  addSilentHost(options?: HostOptions): Promise<string>;
  /** Someone with a key and money. */
  customer(options?: { readonly amountMinor?: number }): Promise<Person & { readonly keyId: string }>;
  launch(person: Person, body?: Record<string, unknown>, key?: string): Promise<Answer>;
  as(person: Person, method: string, path: string, body?: unknown, key?: string): Promise<Answer>;
  asOperator(method: string, path: string, body?: unknown): Promise<Answer>;
  untilStatus(person: Person, allocationId: string, status: string): Promise<Answer['body']>;
  setLimit(value: number): Promise<void>;
}

export async function startComputeSite(options: SiteOptions = {}): Promise<ComputeSite> {
  const site = await startTestSite(options);
  const agents: NodeAgent[] = [];

  const register = async (given: HostOptions): Promise<string> => {
    hosts += 1;
    const answer = await asOperator('POST', '/api/v1/admin/nodes', {
      host: `host-${hosts}.test`,
      hostname: `host-${hosts}`,
      port: 22,
      sku: given.sku ?? SKU,
      gpus_total: 8,
      region_code: given.region ?? 'region-1',
      onboarding_mode: 'manual',
    });
    if (answer.status !== 201) throw new Error(`registering failed: ${JSON.stringify(answer.body)}`);
    return answer.body.id;
  };

  const addHost = async (given: HostOptions = {}): Promise<SimulatedNode> => {
    const nodeId = await register(given);
    const issued = await asOperator('POST', `/api/v1/admin/nodes/${nodeId}/enrollment-token`, {});
    if (issued.status !== 201) throw new Error(`no enrolment token: ${JSON.stringify(issued.body)}`);
    const bundle = issued.body.bootstrap_bundle;
    const store = createMemoryStore();
    const agent = createNodeAgent(
      {
        nodeId,
        apiUrl: site.nodeUrl,
        enrollmentToken: issued.body.enrollment_token,
        caPem: bundle.ca_bundle_pem ?? null,
        nodeCaPem: bundle.ca_bundle_pem ?? null,
        signingKeys: bundle.task_signing_pubkeys,
        sshEndpoint: { host: '127.0.0.1', port: 22 },
        build: { version: '0.0.0-test', commit: null, builtAt: null },
        shutdownGraceMilliseconds: 500,
      },
      {
        host: createSimulatedHost({
          nodeId,
          store,
          faults: given.faults ?? [],
          ...(given.images && { images: given.images }),
        }),
        store,
        log,
      },
    );
    agents.push(agent);
    await agent.start();
    await until(async () => {
      const node = await site.db.selectFrom('nodes').select('status').where('id', '=', nodeId).executeTakeFirst();
      return node?.status === 'active';
    });
    return { nodeId, agent };
  };

  const as = (person: Person, method: string, path: string, body?: unknown, key?: string) =>
    site.call({
      method,
      path,
      token: person.token,
      project: person.projectId,
      ...(body !== undefined && { body }),
      ...(key !== undefined && { key }),
    });
  const asOperator = async (method: string, path: string, body?: unknown) =>
    site.call({ method, path, token: await site.operator(), ...(body !== undefined && { body }) });

  return {
    ...site,
    addHost,
    addHosts: (count, given) => Promise.all(Array.from({ length: count }, () => addHost(given))),
    addSilentHost: async (given = {}) => {
      const nodeId = await register(given);
      const now = options.clock?.now() ?? new Date();
      await site.db.updateTable('nodes').set({ status: 'active' }).where('id', '=', nodeId).execute();
      await site.db.insertInto('node_heartbeats').values({ node_id: nodeId, last_seen_at: now }).execute();
      return nodeId;
    },
    customer: async ({ amountMinor = 10_000_000 } = {}) => {
      const person = await site.signup();
      if (amountMinor > 0) await site.credit(person, amountMinor);
      keys += 1;
      const key = await site.call({
        method: 'POST',
        path: '/api/v1/ssh-keys',
        token: person.token,
        body: { name: `key ${keys}`, public_key: publicKey(keys) },
      });
      if (key.status !== 201) throw new Error(`no key: ${JSON.stringify(key.body)}`);
      return { ...person, keyId: key.body.key.id };
    },
    as,
    asOperator,
    launch: (person, body = {}, key) =>
      as(person, 'POST', '/api/v1/allocations', { scheduler_type: 'bare_metal', ...body }, key),
    untilStatus: (person, allocationId, status) =>
      until(
        async () => {
          const answer = await as(person, 'GET', `/api/v1/allocations/${allocationId}`);
          return answer.body.status === status ? answer.body : null;
        },
        { what: `${allocationId} to be ${status}` },
      ),
    setLimit: async (value) => {
      const answer = await asOperator('PUT', '/api/v1/admin/allocations/limits/policy', { value });
      if (answer.status !== 200) throw new Error(`the limit was not set: ${JSON.stringify(answer.body)}`);
    },
    stop: async () => {
      await Promise.all(agents.map((agent) => agent.stop()));
      await site.stop();
    },
  };
}
