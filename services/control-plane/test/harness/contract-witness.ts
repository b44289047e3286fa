import { appendFileSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { type OperationDefinition, operationTable, validatorsFor } from '@gpuaas/contract';

interface Pattern {
  readonly definition: OperationDefinition;
  readonly expression: RegExp;
  /** fixed segments; a path that matches several patterns belongs to the one with most */
  readonly fixedSegments: number;
}

const patterns = new Map<string, Pattern[]>();
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

/**
 * Holds a response against the contract and notes that the operation was seen answering so. Throws where the body
 * breaks the contract, so that every HTTP test is a conformance test as well.
 */
export function witness(method: string, path: string, status: number, body: unknown, isJson: boolean): void {
  const definition = operationAt(method, path);
  if (definition === null) return;
  appendFileSync(file, `${JSON.stringify({ operationId: definition.operationId, status })}\n`);
  if (!isJson && status < 400 && body !== undefined) return;
  const verdict = validatorsFor(definition.operationId).response(status, body);
  if (verdict.ok) return;
  throw new Error(
    `${method} ${path} answered ${status} against the contract: ${JSON.stringify(verdict.issues)} in ${JSON.stringify(body)}`,
  );
}
