import { subscribe } from 'node:diagnostics_channel';
import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type OperationDefinition, operationTable, validatorsFor } from '@gpuaas/contract';
import type { FastifyInstance } from 'fastify';

interface Pattern {
  readonly definition: OperationDefinition;
  readonly expression: RegExp;
  /** fixed segments; a path that matches several patterns belongs to the one with most */
  readonly fixedSegments: number;
}

const patterns = new Map<string, Pattern[]>();
const registered = new Map<string, OperationDefinition>();
for (const definition of operationTable) {
  for (const { path } of definition.routes) {
    const segments = path.split('/');
    const expression = segments
      .map((segment) => (segment.startsWith(':') ? '[^/]+' : segment === '*' ? '.*' : segment.replaceAll('.', '\\.')))
      .join('/');
    const list = patterns.get(definition.method) ?? [];
    list.push({
      definition,
      expression: new RegExp(`^${expression}$`),
      fixedSegments: segments.filter((segment) => !segment.startsWith(':') && segment !== '*').length,
    });
    patterns.set(definition.method, list);
    registered.set(`${definition.method} ${path}`, definition);
  }
}

/** The operation that a request reaches; null for paths outside the contract. */
export function operationAt(method: string, path: string): OperationDefinition | null {
  const bare = path.split('?')[0] ?? path;
  const matching = (patterns.get(method) ?? []).filter(({ expression }) => expression.test(bare));
  return matching.sort((left, right) => right.fixedSegments - left.fixedSegments)[0]?.definition ?? null;
}

const directory = join(import.meta.dirname, '..', '..', '..', '..', '.data', 'coverage', 'operations');
mkdirSync(directory, { recursive: true });
const file = join(directory, `${process.pid}-${process.env.VITEST_POOL_ID ?? '0'}.jsonl`);
const noted = new Set<string>();

/** Keeps for `npm run contract:coverage` that the operation was seen answering so; each kind of answer once a process. */
function note({ operationId }: OperationDefinition, status: number): void {
  const line = JSON.stringify({ operationId, status });
  if (noted.has(line)) return;
  noted.add(line);
  appendFileSync(file, `${line}\n`);
}

/** What is wrong with a response by the contract; null where nothing is. `body` is parsed where it is JSON. */
function breach(definition: OperationDefinition, status: number, body: unknown, isJson: boolean): string | null {
  if (!isJson && status < 400 && body !== undefined) return null;
  const verdict = validatorsFor(definition.operationId).response(status, body);
  if (verdict.ok) return null;
  return `answered ${status} against the contract: ${JSON.stringify(verdict.issues)} in ${JSON.stringify(body)}`;
}

/**
 * Holds a response against the contract and notes that the operation was seen answering so. Throws where the body
 * breaks the contract, so that every HTTP test is a conformance test as well.
 */
export function witness(method: string, path: string, status: number, body: unknown, isJson: boolean): void {
  const definition = operationAt(method, path);
  if (definition === null) return;
  note(definition, status);
  const wrong = breach(definition, status, body, isJson);
  if (wrong !== null) throw new Error(`${method} ${path} ${wrong}`);
}

const breaches: string[] = [];

/**
 * Watches every HTTP server that this process creates from now on: whatever it answers, to whomever (a test, a host's
 * agent, a sweep), is noted and held against the contract. What breaks it is in `takeBreaches`.
 */
export function watchServers(): void {
  if (watching) return;
  watching = true;
  subscribe('fastify.initialization', (message) => {
    if (isInitialization(message)) watch(message.fastify);
  });
}
let watching = false;

/** What the watched servers answered against the contract since the last call. */
export function takeBreaches(): readonly string[] {
  return breaches.splice(0);
}

function isInitialization(message: unknown): message is { readonly fastify: FastifyInstance } {
  return typeof message === 'object' && message !== null && 'fastify' in message;
}

function watch(server: FastifyInstance): void {
  server.addHook('onSend', async (request, reply, payload) => {
    const definition = registered.get(`${request.method} ${request.routeOptions.url}`);
    if (definition === undefined) return;
    const isJson = String(reply.getHeader('content-type') ?? '').startsWith('application/json');
    note(definition, reply.statusCode);
    if (typeof payload !== 'string' && payload !== undefined) return;
    const wrong = breach(definition, reply.statusCode, isJson && payload ? JSON.parse(payload) : payload, isJson);
    if (wrong !== null) breaches.push(`${request.method} ${request.url} ${wrong}`);
  });
}
