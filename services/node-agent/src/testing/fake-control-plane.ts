import { generateKeyPairSync, type KeyObject, randomUUID } from 'node:crypto';
import { createServer as createHttpServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createHttpsServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { TLSSocket } from 'node:tls';
import {
  enrollmentRequest,
  formatSigningKeys,
  NODE_HEADERS,
  parseRunningTasks,
  renewalRequest,
  signTask,
  type TaskEnvelope,
  type TaskResultRequest,
  taskResultRequest,
  type UnsignedTask,
} from '@gpuaas/node-protocol';
import { createTestAuthority, requestedKey, type TestAuthority } from './authority.js';

export const NODE_ID = '0197a1b2-0000-7000-8000-00000000000a';

export interface Poll {
  headers: IncomingMessage['headers'];
  serialNumber: string | null;
}

interface Queued {
  envelope: TaskEnvelope;
  state: 'queued' | 'dispatched' | 'done';
  leaseUntil: number;
}

/** Answers in the place of the server: a status with a code, a broken connection, or null for the usual answer. */
export type Interference = { status: number; code?: string; headers?: Record<string, string> } | 'break' | null;

export interface FakeOptions {
  plain?: boolean;
  holdMilliseconds?: number;
  leaseMilliseconds?: number;
  /** Validity of certificates; by default seven days from now. */
  life?: (issued: number) => { notBefore: Date; notAfter: Date };
}

/**
 * The other end of the node protocol, kept to what an agent can see of it: enrolment, mutual TLS, held polls, leases
 * with redelivery, results. One node.
 */
export class FakeControlPlane {
  readonly polls: Poll[] = [];
  readonly results = new Map<string, TaskResultRequest[]>();
  readonly enrollments: string[] = [];
  readonly renewals: string[] = [];
  /** Tokens that enrol; each once, unless the same key asks again. */
  readonly tokens = new Map<string, string | null>([['token-1', null]]);
  /** Serial numbers of certificates that are shut out. */
  readonly revoked = new Set<string>();
  interfere: (operation: 'enroll' | 'renew' | 'wait' | 'result' | 'other', attempt: number) => Interference = () =>
    null;
  answerResult: (taskId: string) => boolean = () => true;
  /** Whether a certificate is let in, by its serial number. */
  welcome: (serialNumber: string) => boolean = () => true;
  /** Polls that are held at this moment. */
  openPolls = 0;
  readonly signer: { keyId: string; privateKey: KeyObject };
  readonly api: TestAuthority;
  readonly nodeCa: TestAuthority;
  readonly #server: Server;
  readonly #options: Required<Pick<FakeOptions, 'holdMilliseconds' | 'leaseMilliseconds'>> & FakeOptions;
  readonly #tasks: Queued[] = [];
  readonly #watchers = new Set<() => void>();
  readonly #counts = new Map<string, number>();
  readonly #bearer = new Map<string, string>();
  #firstPolled = new Set<string>();

  private constructor(server: Server, api: TestAuthority, nodeCa: TestAuthority, options: FakeOptions) {
    this.#server = server;
    this.api = api;
    this.nodeCa = nodeCa;
    this.#options = { holdMilliseconds: 25_000, leaseMilliseconds: 120_000, ...options };
    this.signer = { keyId: 'signer-1', privateKey: generateKeyPairSync('ed25519').privateKey };
    server.on('request', (request, response) => {
      this.#handle(request, response).catch((error: unknown) => {
        response
          .writeHead(500)
          .end(JSON.stringify({ code: 'internal_error', message: String(error), correlation_id: '' }));
      });
    });
  }

  static async start(options: FakeOptions = {}): Promise<FakeControlPlane> {
    const [api, nodeCa] = [await createTestAuthority('api'), await createTestAuthority('nodes')];
    const { certificatePem, keyPem } = await api.issueServer();
    const server = options.plain
      ? createHttpServer()
      : createHttpsServer({
          cert: certificatePem,
          key: keyPem,
          ca: nodeCa.certificatePem,
          requestCert: true,
          rejectUnauthorized: false,
        });
    await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
    return new FakeControlPlane(server, api, nodeCa, options);
  }

  get url(): string {
    const address = this.#server.address();
    const port = isAddress(address) ? address.port : 0;
    return `${this.#options.plain ? 'http' : 'https'}://127.0.0.1:${port}`;
  }

  get signingKeys(): string {
    return formatSigningKeys([[this.signer.keyId, this.signer.privateKey]]);
  }

  /** A signed task that has not been queued. */
  sign(type: string, params: Record<string, unknown>, changes: Partial<UnsignedTask> = {}): TaskEnvelope {
    const unsigned: UnsignedTask = {
      task_id: randomUUID(),
      task_type: type,
      node_id: NODE_ID,
      correlation_id: 'correlation',
      issued_at: new Date().toISOString(),
      expires_at: new Date(Date.now() + 3_600_000).toISOString(),
      params,
      ...changes,
    };
    return signTask(unsigned, this.signer);
  }

  queue(envelope: TaskEnvelope): string {
    this.#tasks.push({ envelope, state: 'queued', leaseUntil: 0 });
    this.#changed();
    return envelope.task_id;
  }

  /** Hands a task out again, whatever became of it. */
  redeliver(taskId: string): void {
    for (const task of this.#tasks) if (task.envelope.task_id === taskId) task.state = 'queued';
    this.#changed();
  }

  /** Hands out everything again, as if no answer to a result had ever been sent. */
  redeliverAll(): void {
    for (const task of this.#tasks) task.state = 'queued';
    this.#changed();
  }

  /** Resolves as soon as the condition holds. */
  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#watchers.add(resolve));
  }

  async resultOf(taskId: string, number = 1): Promise<TaskResultRequest> {
    await this.until(() => (this.results.get(taskId)?.length ?? 0) >= number);
    const result = this.results.get(taskId)?.[number - 1];
    if (result === undefined) throw new Error('there is no such result');
    return result;
  }

  async stop(): Promise<void> {
    this.#server.closeAllConnections();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #changed(): void {
    const watchers = [...this.#watchers];
    this.#watchers.clear();
    for (const wake of watchers) wake();
  }

  async #handle(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = new URL(request.url ?? '/', 'http://x').pathname;
    const operation = operationOf(path);
    const attempt = (this.#counts.get(operation) ?? 0) + 1;
    this.#counts.set(operation, attempt);
    const body = await bodyOf(request);

    const interference = this.interfere(operation, attempt);
    if (interference === 'break') {
      request.socket.destroy();
      this.#changed();
      return;
    }
    if (interference !== null) {
      const code = interference.code ?? 'service_unavailable';
      response.writeHead(interference.status, { 'content-type': 'application/json', ...interference.headers });
      response.end(JSON.stringify({ code, message: 'interference', correlation_id: 'c' }));
      this.#changed();
      return;
    }

    if (operation === 'enroll') return this.#enroll(request, response, body);
    if (operation === 'other') return answer(response, 200, { status: 'ok' });
    const serialNumber = this.#authenticate(request);
    if (serialNumber === null) return refuse(response, 401, 'token_invalid');
    if (operation === 'renew') return this.#renew(response, body);
    if (operation === 'wait') return this.#wait(request, response, serialNumber);
    return this.#result(response, path, body);
  }

  async #enroll(request: IncomingMessage, response: ServerResponse, body: unknown): Promise<void> {
    const { node_id, csr } = enrollmentRequest.parse(body);
    const token = request.headers.authorization?.replace(/^Bearer /, '') ?? '';
    const usedBy = this.tokens.get(token);
    if (usedBy === undefined || (usedBy !== null && usedBy !== requestedKey(csr)))
      return refuse(response, 401, 'token_invalid');
    this.tokens.set(token, requestedKey(csr));
    this.enrollments.push(csr);
    const { certificate, internalToken } = await this.#issue(csr, node_id);
    answer(
      response,
      200,
      { certificate, ca_bundle: this.nodeCa.certificatePem },
      { [NODE_HEADERS.internalToken]: internalToken },
    );
  }

  async #renew(response: ServerResponse, body: unknown): Promise<void> {
    const { csr } = renewalRequest.parse(body);
    this.renewals.push(csr);
    const { certificate, internalToken } = await this.#issue(csr, NODE_ID);
    answer(response, 200, { certificate }, { [NODE_HEADERS.internalToken]: internalToken });
  }

  async #issue(csr: string, nodeId: string): Promise<{ certificate: string; internalToken: string }> {
    const issued = this.enrollments.length + this.renewals.length;
    const certificate = await this.nodeCa.issueClient(csr, nodeId, this.#options.life?.(issued));
    const internalToken = randomUUID();
    this.#bearer.set(internalToken, certificate.serialNumber);
    return { certificate: certificate.toString('pem'), internalToken };
  }

  /** The serial number of the caller's certificate; null when it is nobody that is welcome. */
  #authenticate(request: IncomingMessage): string | null {
    const token = request.headers.authorization?.replace(/^Bearer /, '');
    const serial = this.#options.plain ? this.#bearer.get(token ?? '') : peerSerial(request);
    if (serial === undefined || serial === null || this.revoked.has(serial)) return null;
    return this.welcome(serial) ? serial : null;
  }

  async #wait(request: IncomingMessage, response: ServerResponse, serialNumber: string): Promise<void> {
    this.polls.push({ headers: request.headers, serialNumber });
    if (!this.#firstPolled.has(serialNumber)) {
      // The first poll of a newer certificate ends the older ones.
      for (const older of this.#firstPolled) this.revoked.add(older);
      this.#firstPolled.add(serialNumber);
    }
    const held = parseRunningTasks(header(request, NODE_HEADERS.agentRunningTasks));
    const leaseUntil = Date.now() + this.#options.leaseMilliseconds;
    for (const task of this.#tasks) if (held.includes(task.envelope.task_id)) task.leaseUntil = leaseUntil;
    this.#changed();

    const deadline = Date.now() + this.#options.holdMilliseconds;
    if (request.socket.destroyed) return;
    let gone = false;
    this.openPolls += 1;
    response.on('close', () => {
      gone = true;
      this.openPolls -= 1;
      this.#changed();
    });
    while (!gone) {
      const task = this.#tasks.find(
        (candidate) =>
          candidate.state === 'queued' || (candidate.state === 'dispatched' && candidate.leaseUntil < Date.now()),
      );
      if (task !== undefined) {
        task.state = 'dispatched';
        task.leaseUntil = Date.now() + this.#options.leaseMilliseconds;
        return answer(response, 200, task.envelope);
      }
      if (Date.now() >= deadline) {
        response.writeHead(204).end();
        return;
      }
      await this.#changeOrTick();
    }
  }

  /** Leases and holds run out by themselves, so waiting polls also look now and then. */
  #changeOrTick(): Promise<void> {
    return new Promise((resolve) => {
      const tick = setTimeout(resolve, 25);
      this.#watchers.add(() => {
        clearTimeout(tick);
        resolve();
      });
    });
  }

  #result(response: ServerResponse, path: string, body: unknown): void {
    const taskId = path.split('/').at(-2) ?? '';
    const result = taskResultRequest.parse(body);
    this.results.set(taskId, [...(this.results.get(taskId) ?? []), result]);
    for (const task of this.#tasks) if (task.envelope.task_id === taskId) task.state = 'done';
    answer(response, 200, { ok: this.answerResult(taskId) });
    this.#changed();
  }
}

function operationOf(path: string): 'enroll' | 'renew' | 'wait' | 'result' | 'other' {
  if (path.endsWith('/enroll')) return 'enroll';
  if (path.endsWith('/cert/renew')) return 'renew';
  if (path.endsWith('/tasks/wait')) return 'wait';
  return path.endsWith('/result') ? 'result' : 'other';
}

function peerSerial(request: IncomingMessage): string | null {
  if (!(request.socket instanceof TLSSocket) || !request.socket.authorized) return null;
  return request.socket.getPeerCertificate().serialNumber.toLowerCase();
}

async function bodyOf(request: IncomingMessage): Promise<unknown> {
  const chunks: Buffer[] = [];
  for await (const chunk of request) chunks.push(Buffer.from(chunk));
  const text = Buffer.concat(chunks).toString('utf8');
  return text === '' ? null : JSON.parse(text);
}

function answer(response: ServerResponse, status: number, body: unknown, headers: Record<string, string> = {}): void {
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));
}

function refuse(response: ServerResponse, status: number, code: string): void {
  answer(response, status, { code, message: 'refused', correlation_id: 'c' });
}

function header(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name.toLowerCase()];
  return Array.isArray(value) ? value.join(',') : value;
}

function isAddress(address: string | AddressInfo | null): address is AddressInfo {
  return typeof address === 'object' && address !== null;
}
