import { errorCodes as generatedErrorCodes } from './generated/error-codes.js';
import { operationTable } from './generated/operation-table.js';
import type { ErrorCode, OperationDefinition, OperationId } from './operation.js';

export { loadOpenApiDocument, type OpenApiDocument } from './document.js';
export type { components, operations, paths } from './generated/openapi.js';
export type {
  BodyInput,
  Domain,
  ErrorCode,
  OperationDefinition,
  OperationId,
  OperationRoute,
  PathParameters,
  QueryInput,
  QueryParameters,
  RequestBody,
  Schema,
  SuccessResponse,
} from './operation.js';
export { type OperationValidators, type ParameterInput, type ValidationIssue, validatorsFor } from './validators.js';
export { operationTable };

/** The operation table by id. */
export const operationById: ReadonlyMap<OperationId, OperationDefinition> = new Map(
  operationTable.map((definition) => [definition.operationId, definition]),
);

/** Every code an error answer may carry. */
export const errorCodes: readonly ErrorCode[] = generatedErrorCodes;

/** Narrows a string, for example one read from a file, to the id of an operation. */
export function isOperationId(value: string): value is OperationId {
  const ids: ReadonlyMap<string, OperationDefinition> = operationById;
  return ids.has(value);
}
