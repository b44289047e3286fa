import { operationsOf } from '../lib/document.mjs';

/** What may stop any request, by status: the name of the shared response. */
const STANDARD = {
  400: 'BadRequest',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'NotFound',
  409: 'Conflict',
  413: 'PayloadTooLarge',
  415: 'UnsupportedMediaType',
  429: 'TooManyRequests',
  500: 'InternalError',
  503: 'ServiceUnavailable',
};

const ERROR_CONTENT = { 'application/json': { schema: { $ref: '#/components/schemas/ErrorResponse' } } };

/** Every operation may refuse in every standard way; success answers stay as they are. */
export const standardErrors = {
  id: 'N4',
  title: 'every operation names the standard error answers',
  apply(document) {
    const changes = [];
    const result = structuredClone(document);
    for (const name of Object.values(STANDARD))
      result.components.responses[name] ??= { content: structuredClone(ERROR_CONTENT) };
    for (const { path, method, operation } of operationsOf(result)) {
      const anonymous = operation.security?.length === 0;
      for (const [status, name] of Object.entries(STANDARD)) {
        if (operation.responses[status] || (status === '401' && anonymous)) continue;
        operation.responses[status] = { $ref: `#/components/responses/${name}` };
        changes.push(`${method.toUpperCase()} ${path} → ${status}`);
      }
    }
    return { document: result, changes };
  },
};
