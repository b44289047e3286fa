import { readFileSync } from 'node:fs';

/** A JSON Schema as it stands in the document. */
export type JsonSchema = { readonly [word: string]: unknown };

export interface ParameterObject {
  readonly name: string;
  readonly in: 'path' | 'query' | 'header' | 'cookie';
  readonly required?: boolean;
  readonly schema: JsonSchema;
}

export interface ContentObject {
  readonly [mediaType: string]: { readonly schema?: JsonSchema };
}

export interface ReferenceObject {
  readonly $ref: string;
}

export interface OperationObject {
  readonly operationId: string;
  readonly parameters?: readonly (ParameterObject | ReferenceObject)[];
  readonly requestBody?: { readonly required?: boolean; readonly content: ContentObject };
  readonly responses: { readonly [status: string]: { readonly content?: ContentObject } | ReferenceObject };
}

/** The parts of the derived document that validation reads. */
export interface OpenApiDocument {
  readonly openapi: string;
  readonly info: { readonly title: string; readonly version: string };
  readonly paths: { readonly [path: string]: { readonly [method: string]: OperationObject } };
  readonly components: {
    readonly parameters: { readonly [name: string]: ParameterObject };
    readonly responses: { readonly [name: string]: { readonly content?: ContentObject } };
    readonly schemas: { readonly [name: string]: JsonSchema };
  };
}

const location = new URL('../generated/openapi.json', import.meta.url);

let loaded: OpenApiDocument | undefined;

/**
 * The corrected document that is served as `/openapi.json`. Read once; callers share it and do not change it.
 * Throws when `npm run contract:build` has not been run.
 */
export function loadOpenApiDocument(): OpenApiDocument {
  loaded ??= JSON.parse(readFileSync(location, 'utf8'));
  if (loaded === undefined) throw new Error('the generated contract document is empty');
  return loaded;
}
