import { operationsOf, resolve } from '../lib/document.mjs';

/** Commands whose repetition without a key would do harm that nobody notices: paths without the `v3/` segment. */
const REQUIRED = new Set([
  'POST /api/v1/storage',
  'POST /api/v1/launch/compute',
  'POST /api/v1/launch/apps/{app_slug}',
  'POST /api/v1/platform/lifecycle/nodes/{node_id}/cordon',
  'POST /api/v1/platform/lifecycle/nodes/{node_id}/drain',
  'POST /api/v1/platform/lifecycle/nodes/{node_id}/resume-scheduling',
  'POST /api/v1/platform/lifecycle/nodes/{node_id}/refresh-inventory',
  'POST /api/v1/platform/ops/signals/{signal_key}/acknowledge',
  'POST /api/v1/platform/lifecycle/onboarding',
  'POST /api/v1/platform/config/provider-capacity-inventory',
  'POST /api/v1/platform/config/provider-resources',
]);

const OPTIONAL_KEY = { $ref: '#/components/parameters/IdempotencyKey' };
const REQUIRED_KEY = { $ref: '#/components/parameters/RequiredIdempotencyKey' };

/** Every mutation accepts Idempotency-Key; exactly eleven demand it. */
export const idempotencyKey = {
  id: 'N8',
  title: 'every mutation accepts Idempotency-Key, eleven demand it',
  apply(document) {
    const changes = [];
    const changedFacts = [];
    const result = structuredClone(document);
    result.components.parameters.RequiredIdempotencyKey = {
      ...structuredClone(result.components.parameters.IdempotencyKey),
      required: true,
    };
    for (const { path, method, operation } of operationsOf(result)) {
      if (method === 'get') continue;
      const place = `${method.toUpperCase()} ${path}`;
      const entry = REQUIRED.has(place.replace('/api/v1/v3/', '/api/v1/')) ? REQUIRED_KEY : OPTIONAL_KEY;
      operation.parameters ??= [];
      const at = operation.parameters.findIndex((node) => resolve(result, node).name === 'Idempotency-Key');
      if (at >= 0 && operation.parameters[at].$ref === entry.$ref) continue;
      changes.push(place);
      if (at < 0) operation.parameters.push({ ...entry });
      else operation.parameters[at] = { ...entry };
      if (entry === REQUIRED_KEY) changedFacts.push(`${place} header Idempotency-Key: required true`);
    }
    return { document: result, changes, changedFacts };
  },
};
