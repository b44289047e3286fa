import type { errorCodes } from './generated/error-codes.js';
import type { components, operations } from './generated/openapi.js';
import type { OperationDefaults, operationIds } from './generated/operation-ids.js';

/** A named schema of the contract as a type. */
export type Schema<Name extends keyof components['schemas']> = components['schemas'][Name];

/** The parts of the product, each with the operations of one contract file. */
export type Domain = 'identity' | 'compute' | 'fleet' | 'apps' | 'finance' | 'storage' | 'platform';

/**
 * Id of the operation that carries a behaviour. Other spellings of its path fold into it: the spelling without `v3/`
 * where the contract states it, else the one with it.
 */
export type OperationId = (typeof operationIds)[number];

/** The closed list of codes that an error answer may carry. */
export type ErrorCode = (typeof errorCodes)[number];

/** One spelling of an operation. */
export interface OperationRoute {
  /** In the router's notation: `/api/v1/projects/:project_id`, a final `*` for a value that may contain slashes. */
  readonly path: string;
  /** As the served document writes it: `/api/v1/projects/{project_id}`. */
  readonly openapiPath: string;
  /** The operationId of this spelling in the served document. */
  readonly operationId: string;
  /** False for a spelling that the derivation added. */
  readonly documented: boolean;
}

/** What the edge must know about an operation before any handler runs. */
export interface OperationDefinition {
  readonly operationId: OperationId;
  readonly domain: Domain;
  readonly method: 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE';
  readonly routes: readonly OperationRoute[];
  /** The scheme the contract names; `none` is no promise that the operation is public. */
  readonly security: 'bearer' | 'node-bearer' | 'none';
  readonly body: 'required' | 'optional' | 'none';
  readonly bodyContentTypes: readonly string[];
  /** X-Project-ID. */
  readonly projectHeader: 'required' | 'optional' | 'none';
  /** X-Tenant-ID. */
  readonly tenantHeader: 'required' | 'optional' | 'none';
  /** Required on eleven commands, accepted on every other one, without meaning on reads. */
  readonly idempotencyKey: 'required' | 'accepted' | 'none';
  readonly successStatuses: readonly number[];
  readonly responseContentTypes: Readonly<Record<number, readonly string[]>>;
  /** True where the 200 carries X-Read-Model-Cache. */
  readonly readModelCacheHeader: boolean;
  readonly summary: string;
}

type Simplify<T> = { [Key in keyof T]: T[Key] };
type Empty = Record<never, never>;
type OrEmpty<T> = [NonNullable<T>] extends [never] ? Empty : NonNullable<T>;
type Filled<T, Names> = Simplify<
  T & { [Key in keyof T as Key extends Names ? Key : never]-?: Exclude<T[Key], undefined> }
>;
type DefaultsOf<Id, Part extends 'query' | 'body'> = Id extends keyof OperationDefaults
  ? OperationDefaults[Id][Part]
  : never;

/** Path parameters as the handler sees them. */
export type PathParameters<Id extends OperationId> = Simplify<OrEmpty<operations[Id]['parameters']['path']>>;

/** Query parameters as the handler sees them: a parameter with a default is always there. */
export type QueryParameters<Id extends OperationId> = Filled<
  OrEmpty<operations[Id]['parameters']['query']>,
  DefaultsOf<Id, 'query'>
>;

/** Query parameters as a caller sends them. */
export type QueryInput<Id extends OperationId> = Simplify<OrEmpty<operations[Id]['parameters']['query']>>;

type ContentOf<Body> = Body extends { content: infer Content } ? Content : never;
type JsonOf<Content> = Content extends { 'application/json': infer Json }
  ? Json
  : Content extends { 'application/x-www-form-urlencoded': infer Form }
    ? Form
    : Content extends { 'application/x-ndjson': infer Lines }
      ? Lines
      : unknown;

type BodyProperty<Id extends OperationId> = operations[Id]['requestBody' & keyof operations[Id]];
type ParsedBody<Id extends OperationId> = [ContentOf<NonNullable<BodyProperty<Id>>>] extends [never]
  ? undefined
  : JsonOf<ContentOf<NonNullable<BodyProperty<Id>>>>;
type AbsentBody<Id extends OperationId> = undefined extends BodyProperty<Id> ? undefined : never;

/**
 * The body as the handler sees it, defaults filled in; `undefined` where the operation takes none or none was sent,
 * `unknown` where it is no structured data (a file, a stream).
 */
export type RequestBody<Id extends OperationId> = ParsedBody<Id> | AbsentBody<Id>;

type Loosened<T, Names> = T extends object
  ? Simplify<
      { [Key in keyof T as Key extends Names ? never : Key]: T[Key] } & {
        [Key in keyof T as Key extends Names ? Key : never]?: T[Key];
      }
    >
  : T;

/** The body as a caller sends it: members with a default may be left out. */
export type BodyInput<Id extends OperationId> = [DefaultsOf<Id, 'body'>] extends [never]
  ? RequestBody<Id>
  : Loosened<ParsedBody<Id>, DefaultsOf<Id, 'body'>> | AbsentBody<Id>;

type SuccessStatus = 200 | 201 | 202 | 204;
type ResponseContent<Response> = Response extends { content: infer Content } ? Content : never;
type ResponseBody<Response> = [NonNullable<ResponseContent<Response>>] extends [never]
  ? undefined
  : NonNullable<ResponseContent<Response>> extends { 'application/json': infer Json }
    ? Json
    : unknown;

/**
 * What a handler answers when all went well: one member a success status, `body` undefined where the status has no
 * content and unknown where the content is not JSON.
 */
export type SuccessResponse<Id extends OperationId> = {
  [Status in keyof operations[Id]['responses']]: Status extends SuccessStatus
    ? { status: Status; body: ResponseBody<operations[Id]['responses'][Status]> }
    : never;
}[keyof operations[Id]['responses']];
