import { Agent, request as httpRequest } from 'node:http';
import {
  type OperationDefinition,
  type OperationId,
  type OperationRoute,
  operationById,
  operationTable,
  validatorsFor,
} from '@gpuaas/contract';
import { type ExampleRequest, exampleRequest, type NamedValues } from './example-requests.js';

export interface SweepAnswer {
  readonly status: number;
  /** parsed where it is JSON, else text */
  readonly body: unknown;
}

/** One request of the sweep and what came back. */
export interface SweepVisit {
  readonly definition: OperationDefinition;
  readonly route: OperationRoute;
  readonly answer: SweepAnswer;
}

export interface SweepOptions {
  /** `http://127.0.0.1:1234` */
  readonly origin: string;
  readonly token: string | null;
  readonly named: NamedValues;
  /** operations that end what the others need: called after all of them, in this order */
  readonly last?: readonly OperationId[];
  /** requests at a time */
  readonly parallel?: number;
}

/** Calls every operation in every spelling as one caller. */
export async function sweep(options: SweepOptions): Promise<readonly SweepVisit[]> {
  const agent = new Agent({ keepAlive: true, maxSockets: options.parallel ?? 16 });
  const last = options.last ?? [];
  const visit = async (definition: OperationDefinition, route: OperationRoute): Promise<SweepVisit> => {
    const example = exampleRequest(definition, route, options.named);
    return { definition, route, answer: await send(agent, options, definition, example) };
  };
  try {
    const visits = await Promise.all(
      operationTable
        .filter(({ operationId }) => !last.includes(operationId))
        .flatMap((definition) => definition.routes.map((route) => visit(definition, route))),
    );
    for (const operationId of last) {
      const definition = operationById.get(operationId);
      for (const route of definition?.routes ?? []) if (definition) visits.push(await visit(definition, route));
    }
    return visits;
  } finally {
    agent.destroy();
  }
}

/** What is wrong with an answer whatever the caller's rights are; null where nothing is. */
export function malformation({ definition, answer }: SweepVisit): string | null {
  if (answer.status === 500) return '500';
  if (answer.status < 400) return null;
  const verdict = validatorsFor(definition.operationId).response(answer.status, answer.body);
  return verdict.ok ? null : `no well-formed error: ${JSON.stringify(verdict.issues)}`;
}

/** `code` and `details.reason` of an ErrorResponse, as far as they are there. */
export function refusalOf({ body }: SweepAnswer): { code: unknown; reason: unknown } {
  const error = typeof body === 'object' && body !== null ? body : {};
  const details =
    'details' in error && typeof error.details === 'object' && error.details !== null ? error.details : {};
  return { code: 'code' in error ? error.code : undefined, reason: 'reason' in details ? details.reason : undefined };
}

/** `POST /api/v1/v3/things (createThing)`, for messages. */
export function nameOf({ definition, route }: Pick<SweepVisit, 'definition' | 'route'>): string {
  return `${definition.method} ${route.openapiPath} (${definition.operationId})`;
}

function send(
  agent: Agent,
  { origin, token, named }: SweepOptions,
  definition: OperationDefinition,
  example: ExampleRequest,
): Promise<SweepAnswer> {
  const headers: Record<string, string> = { ...example.headers };
  if (token !== null) headers.authorization = `Bearer ${token}`;
  // A spelling may leave out a header that its twin declares; the edge reads it on both.
  for (const [name, declared] of [
    ['x-project-id', definition.projectHeader],
    ['x-tenant-id', definition.tenantHeader],
  ] as const) {
    const value = named[name];
    if (declared !== 'none' && value !== undefined) headers[name] = value;
  }
  const payload = example.body === undefined ? undefined : payloadOf(example.body);
  if (payload !== undefined) headers['content-length'] = String(payload.length);
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      new URL(example.path, origin),
      { method: example.method, headers, agent },
      (incoming) => {
        const chunks: Buffer[] = [];
        incoming.on('data', (chunk: Buffer) => chunks.push(chunk));
        incoming.on('error', reject);
        incoming.on('end', () => {
          const text = Buffer.concat(chunks).toString('utf8');
          const isJson = incoming.headers['content-type']?.startsWith('application/json') === true;
          resolve({ status: incoming.statusCode ?? 0, body: isJson ? JSON.parse(text) : text });
        });
      },
    );
    outgoing.on('error', reject);
    outgoing.end(payload);
  });
}

function payloadOf(body: unknown): Buffer {
  if (Buffer.isBuffer(body)) return body;
  return Buffer.from(typeof body === 'string' ? body : JSON.stringify(body));
}
