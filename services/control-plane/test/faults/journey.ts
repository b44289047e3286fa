import { randomUUID } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { sql } from 'kysely';
import type { Answer } from '../harness/site.js';
import { type ProcessSite, SKU, signUp, type Tenant } from './process-site.js';
import type { Random } from './random.js';
import { requestText } from './raw-http.js';

/** What the callers were told: whatever the platform holds must be explained by it, and by nothing else. */
export interface Told {
  /** idempotency key of each launch that was answered 201 → the allocations of the answer */
  readonly launches: Map<string, readonly string[]>;
  /** keys of launches that were refused for want of room */
  readonly refusals: string[];
  /** allocation → how often a release was accepted */
  readonly releases: Map<string, number>;
  readonly restarts: Map<string, number>;
  readonly keyChanges: Map<string, number>;
  /** user → what was credited, and how often */
  readonly credits: Map<string, { minor: bigint; count: number }>;
  readonly sshKeys: { made: number; revoked: number };
}

export const nothingTold = (): Told => ({
  launches: new Map(),
  refusals: [],
  releases: new Map(),
  restarts: new Map(),
  keyChanges: new Map(),
  credits: new Map(),
  sshKeys: { made: 0, revoked: 0 },
});

export interface JourneyParts {
  readonly site: ProcessSite;
  readonly random: Random;
  readonly told: Told;
  /** Called as each thing of the journey is about to be asked for, and as it was answered. */
  happened(what: string): void;
}

const POLL_MILLISECONDS = 40;
const REFUSED_PAUSE_MILLISECONDS = 150;
const STATUS_MILLISECONDS = 120_000;
const CREDIT_MINOR = 5_000_000;

let keyNumber = 0;

/** A well-formed public key that nobody else has. */
function publicKey(): string {
  keyNumber += 1;
  const blob = Buffer.alloc(4 + 11 + 4 + 32);
  blob.writeUInt32BE(11, 0);
  blob.write('ssh-ed25519', 4);
  blob.writeUInt32BE(32, 15);
  blob.writeUInt32BE(keyNumber, 19);
  return `ssh-ed25519 ${blob.toString('base64')}`;
}

/** One customer, who signs up, pays in, and launches and releases again and again until told to stop. */
export async function liveAsTenant(parts: JourneyParts, stopped: () => boolean): Promise<void> {
  const { site, happened } = parts;
  happened('sign up');
  const tenant = await signUp(site);
  const customer = new Customer(parts, tenant);
  await customer.payIn();
  while (!stopped()) await customer.travel();
}

/** A launch as it goes over the wire, for a test that sends it itself; the connection is kept as every client keeps it. */
export function launchText(tenant: Tenant, key: string): string {
  const headers = {
    connection: 'keep-alive',
    authorization: `Bearer ${tenant.token}`,
    'x-project-id': tenant.projectId,
    'idempotency-key': key,
  };
  return requestText('POST', '/api/v1/allocations', headers, LAUNCH);
}

const LAUNCH = { scheduler_type: 'bare_metal', scheduler_request: { sku: SKU } };

/** What one tenant does; every command carries a key of its own and is sent until it is answered. */
export class Customer {
  readonly #parts: JourneyParts;
  readonly #tenant: Tenant;

  constructor(parts: JourneyParts, tenant: Tenant) {
    this.#parts = parts;
    this.#tenant = tenant;
  }

  async payIn(): Promise<void> {
    const { site, told, happened } = this.#parts;
    happened('credit');
    const answer = await site.asOperator({
      method: 'POST',
      path: `/api/v1/admin/users/${this.#tenant.userId}/balance`,
      body: { direction: 'credit', amount_minor: CREDIT_MINOR, currency: 'USD', reason: 'prepaid' },
      key: randomUUID(),
    });
    expectStatus(answer, 200);
    const before = told.credits.get(this.#tenant.userId) ?? { minor: 0n, count: 0 };
    told.credits.set(this.#tenant.userId, { minor: before.minor + BigInt(CREDIT_MINOR), count: before.count + 1 });
    happened('credited');
  }

  /** From a key to an allocation and back to nothing, with detours. */
  async travel(): Promise<void> {
    const { random } = this.#parts;
    if (random.chance(0.2)) await this.payIn();
    const sshKeyId = await this.makeKey();
    const id = await this.launch(sshKeyId);
    // Sometimes somebody changes their mind before anything runs.
    if (!random.chance(0.15)) {
      await this.untilStatus(id, 'active');
      if (random.chance(0.3)) await this.restart(id);
      if (random.chance(0.4)) await this.changeKeys(id, sshKeyId);
    }
    await this.release(id);
    await this.untilStatus(id, 'released');
    await this.revokeKey(sshKeyId);
  }

  async makeKey(): Promise<string> {
    const answer = await this.#command('POST', '/api/v1/ssh-keys', { name: 'key', public_key: publicKey() });
    expectStatus(answer, 201);
    this.#parts.told.sshKeys.made += 1;
    return answer.body.key.id;
  }

  async revokeKey(id: string): Promise<void> {
    expectStatus(await this.#command('DELETE', `/api/v1/ssh-keys/${id}`), 200, 204);
    this.#parts.told.sshKeys.revoked += 1;
  }

  /** Asks, each time under a new key, until there is room. */
  async launch(sshKeyId: string): Promise<string> {
    const { site, told, happened } = this.#parts;
    const body = { ...LAUNCH, ssh_key_ids: [sshKeyId] };
    const deadline = performance.now() + STATUS_MILLISECONDS;
    happened('launch');
    for (;;) {
      const key = randomUUID();
      const answer = await this.#send('POST', '/api/v1/allocations', body, key);
      if (answer.status === 201) {
        happened('launched');
        told.launches.set(
          key,
          answer.body.allocations.map((allocation: { id: string }) => allocation.id),
        );
        return answer.body.allocation.id;
      }
      if (answer.status !== 409 || answer.body.code !== 'sku_unavailable') expectStatus(answer, 201);
      told.refusals.push(key);
      if (performance.now() > deadline) throw new Error(`no host came free: ${JSON.stringify(await findHosts(site))}`);
      await delay(REFUSED_PAUSE_MILLISECONDS);
    }
  }

  async restart(id: string): Promise<void> {
    expectStatus(await this.#command('POST', `/api/v1/allocations/${id}/restart`), 202);
    count(this.#parts.told.restarts, id);
    await this.untilStatus(id, 'active');
  }

  /** A second key, and the first one revoked while the host still has it. */
  async changeKeys(id: string, firstKeyId: string): Promise<void> {
    const second = await this.makeKey();
    await this.setKeys(id, [firstKeyId, second]);
    if (this.#parts.random.chance(0.7)) await this.revokeKey(second);
  }

  async setKeys(id: string, keyIds: readonly string[]): Promise<void> {
    expectStatus(await this.#command('PUT', `/api/v1/allocations/${id}/ssh-keys`, { ssh_key_ids: keyIds }), 200);
    count(this.#parts.told.keyChanges, id);
  }

  async release(id: string): Promise<void> {
    expectStatus(await this.#command('POST', `/api/v1/allocations/${id}/release`), 202);
    count(this.#parts.told.releases, id);
  }

  async untilStatus(id: string, status: string): Promise<void> {
    const deadline = performance.now() + STATUS_MILLISECONDS;
    for (;;) {
      const answer = await this.#send('GET', `/api/v1/allocations/${id}`);
      expectStatus(answer, 200);
      if (answer.body.status === status) break;
      if (performance.now() > deadline) {
        const found = await factsAbout(this.#parts.site, id);
        throw new Error(`${id} is ${answer.body.status} and never became ${status}:\n${found}`);
      }
      await delay(POLL_MILLISECONDS);
    }
    this.#parts.happened(status);
  }

  async #command(method: string, path: string, body?: unknown): Promise<Answer> {
    this.#parts.happened(`${method} ${path}`);
    const answer = await this.#send(method, path, body, randomUUID());
    this.#parts.happened(`${answer.status}`);
    return answer;
  }

  #send(method: string, path: string, body?: unknown, key?: string): Promise<Answer> {
    return this.#parts.site.call({
      method,
      path,
      token: this.#tenant.token,
      project: this.#tenant.projectId,
      ...(body !== undefined && { body }),
      ...(key !== undefined && { key }),
    });
  }
}

async function findHosts(site: ProcessSite): Promise<unknown> {
  return site.db.selectFrom('nodes').select(['id', 'status', 'open_claims']).execute();
}

/** What whoever has to find out why an allocation does not move wants to see first. */
async function factsAbout(site: ProcessSite, id: string): Promise<string> {
  const { rows } = await sql<{ fact: string; node_id: string }>`
    SELECT n.id AS node_id, to_jsonb(h) || jsonb_build_object('node', n.status, 'tasks', (
      SELECT jsonb_agg(to_jsonb(t) - '{params_sealed,output_sealed}'::text[] ORDER BY t.issued_at)
      FROM node_tasks t WHERE t.node_id = n.id AND (t.subject_id = a.id::text OR t.status IN ('queued', 'dispatched'))
    )) AS fact
    FROM allocations a JOIN nodes n ON n.id = a.node_id LEFT JOIN node_heartbeats h ON h.node_id = n.id
    WHERE a.id = ${id}`.execute(site.db);
  const host = site.hosts.find(({ nodeId }) => nodeId === rows[0]?.node_id);
  return `${JSON.stringify(rows[0]?.fact)}\n${host?.agent.output.split('\n').slice(-30).join('\n')}`;
}

function count(counts: Map<string, number>, id: string): void {
  counts.set(id, (counts.get(id) ?? 0) + 1);
}

export function expectStatus(answer: Answer, ...wanted: number[]): void {
  if (wanted.includes(answer.status)) return;
  throw new Error(`answered ${answer.status} instead of ${wanted.join(' or ')}: ${JSON.stringify(answer.body)}`);
}
