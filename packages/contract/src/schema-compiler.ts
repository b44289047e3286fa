import { Ajv2020, type AnySchemaObject, type ValidateFunction } from 'ajv/dist/2020.js';
import type { JsonSchema, OpenApiDocument } from './document.js';
import { formats } from './formats.js';

const REFERENCE_PREFIX = '#/components/schemas/';
const FREE_FORM = 'x-free-form';

interface FreeFormLimits {
  readonly bytes: number;
  readonly depth: number;
}

/** Bounds of an object whose members the contract leaves open; `x-max-bytes` of its schema sets another size. */
const FREE_FORM_LIMITS: FreeFormLimits = { bytes: 64 * 1024, depth: 8 };

export interface CompilerOptions {
  /** Requests get defaults filled in and open objects bounded; answers are held to the contract as it stands. */
  readonly direction: 'request' | 'response';
  /** Collects every error instead of stopping at the first: slower, and unbounded on large values. */
  readonly allErrors: boolean;
}

/**
 * Compiles schemas of one document. Components are prepared when first referred to and compiled once, however many
 * operations use them.
 */
export class SchemaCompiler {
  readonly #ajv: Ajv2020;
  readonly #document: OpenApiDocument;
  readonly #direction: CompilerOptions['direction'];
  readonly #known = new Set<string>();

  constructor(document: OpenApiDocument, options: CompilerOptions) {
    this.#document = document;
    this.#direction = options.direction;
    this.#ajv = new Ajv2020({
      allErrors: options.allErrors,
      useDefaults: options.direction === 'request',
      formats,
      // One function a component instead of a copy in each operation.
      inlineRefs: false,
      // The document is audited when it is built.
      strict: false,
      validateSchema: false,
      addUsedSchema: false,
    });
    this.#ajv.addKeyword({
      keyword: FREE_FORM,
      type: 'object',
      errors: false,
      validate: withinLimits,
    });
  }

  /** Compiles a schema of the document as the type that the generated types give it. */
  compile<T>(schema: JsonSchema): ValidateFunction<T> {
    this.#addReferenced(schema);
    return this.#ajv.compile<T>(this.#prepare(schema, true));
  }

  #addReferenced(schema: unknown): void {
    if (schema === null || typeof schema !== 'object') return;
    for (const [word, inner] of Object.entries(schema)) {
      if (word !== '$ref' || typeof inner !== 'string') {
        this.#addReferenced(inner);
        continue;
      }
      const name = inner.slice(REFERENCE_PREFIX.length);
      const component = this.#document.components.schemas[name];
      if (component === undefined) throw new Error(`the contract has no schema ${inner}`);
      if (this.#known.has(name)) continue;
      this.#known.add(name);
      this.#addReferenced(component);
      this.#ajv.addSchema({ ...this.#prepare(component, false), $id: `schema:${name}` });
    }
  }

  /** A copy in the validator's terms; `isRoot` for the outermost schema of a body, whose size the edge limits. */
  #prepare(schema: JsonSchema, isRoot: boolean): AnySchemaObject {
    const prepared: Record<string, unknown> = {};
    for (const [word, value] of Object.entries(schema)) {
      if (word === '$ref' && typeof value === 'string')
        prepared[word] = `schema:${value.slice(REFERENCE_PREFIX.length)}`;
      else if (word === 'properties' && isRecord(value)) prepared[word] = this.#prepareProperties(value, schema);
      else if (Array.isArray(value) && ['allOf', 'anyOf', 'oneOf'].includes(word))
        prepared[word] = value.map((branch) => (isRecord(branch) ? this.#prepare(branch, false) : branch));
      else if (isRecord(value) && ['items', 'additionalProperties', 'not'].includes(word))
        prepared[word] = this.#prepare(value, false);
      else prepared[word] = value;
    }
    if (schema.type === 'integer' && schema.format === undefined) prepared.format = 'int64';
    if (this.#direction === 'request' && !isRoot && isFreeForm(schema))
      prepared[FREE_FORM] = { bytes: schema['x-max-bytes'] ?? FREE_FORM_LIMITS.bytes, depth: FREE_FORM_LIMITS.depth };
    return prepared;
  }

  /** A default on a required property would hide that it is missing. */
  #prepareProperties(properties: Record<string, unknown>, owner: JsonSchema): Record<string, unknown> {
    const required = new Set(Array.isArray(owner.required) ? owner.required : []);
    return Object.fromEntries(
      Object.entries(properties).map(([name, property]) => {
        if (!isRecord(property)) return [name, property];
        const { default: _default, ...rest } = property;
        return [name, this.#prepare(required.has(name) ? rest : property, false)];
      }),
    );
  }
}

function isFreeForm(schema: JsonSchema): boolean {
  const types: unknown[] = [schema.type].flat();
  return types.includes('object') && (schema.additionalProperties === true || schema.properties === undefined);
}

function withinLimits(limits: FreeFormLimits, value: object): boolean {
  return depthWithin(value, limits.depth) && Buffer.byteLength(JSON.stringify(value)) <= limits.bytes;
}

function depthWithin(value: unknown, levels: number): boolean {
  if (value === null || typeof value !== 'object') return true;
  return levels > 0 && Object.values(value).every((inner) => depthWithin(inner, levels - 1));
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return value !== null && typeof value === 'object' && !Array.isArray(value);
}
