import { operationTable, validatorsFor } from '@gpuaas/contract';
import { describe, expect, it } from 'vitest';
import { exampleRequest } from './example-requests.js';

describe('an example request', () => {
  it('passes the validation of its operation in every spelling, so that it reaches the policy', () => {
    const refused: unknown[] = [];
    for (const definition of operationTable) {
      const validators = validatorsFor(definition.operationId);
      for (const route of definition.routes) {
        const example = exampleRequest(definition, route, {});
        const parameters = validators.parameters({
          path: example.pathParameters,
          query: example.query,
          headers: example.headers,
        });
        if (!parameters.ok) refused.push([definition.operationId, route.openapiPath, parameters.issues]);
        if (example.headers['content-type'] !== 'application/json') continue;
        const body = validators.body(example.body);
        if (!body.ok) refused.push([definition.operationId, route.openapiPath, body.issues]);
      }
    }
    expect(refused).toEqual([]);
  });
});
