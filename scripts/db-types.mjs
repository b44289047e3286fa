// Writes the database's types for Kysely from the schema that all migrations together give.
// usage: npm run db:types [-- --check]     --check: fail when the committed file is not current

import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { runnerImport } from 'vite';

const root = fileURLToPath(new URL('..', import.meta.url));
const source = path.join(root, 'services/control-plane/src');
const target = path.join(source, 'spine/database.generated.ts');
const conditions = ['source', 'node', 'default'];

/** Loads a TypeScript module as it lies there, so that the generator needs no build and never reads a stale one. */
async function load(file) {
  const { module } = await runnerImport(path.join(source, file), {
    root,
    configFile: false,
    logLevel: 'error',
    resolve: { conditions },
    ssr: { resolve: { conditions, externalConditions: conditions } },
  });
  return module;
}

async function main() {
  const [{ startEmbeddedPostgres }, { migrate }] = await Promise.all([
    load('adapters/embedded-postgres/index.ts'),
    load('spine/migrations.ts'),
  ]);

  const directory = await mkdtemp(path.join(tmpdir(), 'gpuaas-db-types-'));
  let text;
  try {
    const server = await startEmbeddedPostgres({ directory, durability: 'disposable', sharedBuffersMegabytes: 16 });
    try {
      await migrate(server.url);
      text = await describe(server.url);
    } finally {
      await server.stop();
    }
  } finally {
    await rm(directory, { recursive: true, force: true });
  }

  if (process.argv.includes('--check')) {
    const current = await readFile(target, 'utf8').catch(() => '');
    if (current !== text) {
      console.error('database.generated.ts is not what the migrations give: run `npm run db:types`');
      process.exit(1);
    }
  } else {
    await writeFile(target, text);
    console.log(`wrote ${path.relative(root, target)}`);
  }
}

async function describe(url) {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const columns = await client.query(`
      SELECT c.relname AS table_name, c.relkind = 'v' AS is_view, a.attname AS column_name, a.attnotnull AS not_null,
             t.typname AS type_name, e.typname AS element_name, a.attidentity AS identity, a.attgenerated AS generated,
             a.atthasdef AS has_default,
             coalesce(ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder), '{}')::text[]
               AS labels
      FROM pg_class c
      JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
      JOIN pg_type t ON t.oid = a.atttypid
      LEFT JOIN pg_type e ON e.oid = t.typelem AND t.typcategory = 'A'
      WHERE c.relkind IN ('r', 'p', 'v') AND NOT c.relispartition
      ORDER BY c.relname COLLATE "C", a.attnum`);
    // A column that a check constraint limits to a list of words is a union of those words.
    const checks = await client.query(`
      SELECT c.relname AS table_name, a.attname AS column_name, pg_get_constraintdef(k.oid) AS definition
      FROM pg_constraint k
      JOIN pg_class c ON c.oid = k.conrelid
      JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = 'public'
      JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k.conkey[1]
      WHERE k.contype = 'c' AND array_length(k.conkey, 1) = 1`);
    return render(columns.rows, wordsOf(checks.rows));
  } finally {
    await client.end();
  }
}

function wordsOf(checks) {
  const words = new Map();
  for (const { table_name, column_name, definition } of checks) {
    const match = /^CHECK \(\((\w+) = ANY \(ARRAY\[((?:'[^']*'::text(?:, )?)+)\]\)\)\)$/.exec(definition);
    if (match?.[1] !== column_name) continue;
    words.set(
      `${table_name}.${column_name}`,
      [...match[2].matchAll(/'([^']*)'/g)].map((word) => word[1]),
    );
  }
  return words;
}

const SIMPLE = {
  bool: 'boolean',
  int2: 'number',
  int4: 'number',
  float4: 'number',
  float8: 'number',
  int8: 'Int8',
  numeric: 'Numeric',
  text: 'string',
  varchar: 'string',
  bpchar: 'string',
  name: 'string',
  uuid: 'string',
  inet: 'string',
  cidr: 'string',
  macaddr: 'string',
  date: 'string',
  time: 'string',
  interval: 'unknown',
  tstzrange: 'string',
  timestamp: 'Timestamp',
  timestamptz: 'Timestamp',
  json: 'Json',
  jsonb: 'Json',
  bytea: 'Bytes',
};
/** Types that differ between reading and writing; null has to enter each side of them. */
const SPLIT = new Set(['Int8', 'Numeric', 'Timestamp', 'Json', 'Bytes']);
const ARRAYS = { int8: 'bigint', int2: 'number', int4: 'number', bool: 'boolean', float8: 'number' };

function typeOf(column, words) {
  const union = words.get(`${column.table_name}.${column.column_name}`) ?? column.labels;
  if (union.length > 0)
    return union
      .map((word) => JSON.stringify(word))
      .join(' | ')
      .replaceAll('"', "'");
  if (column.element_name) return `${ARRAYS[column.element_name] ?? 'string'}[]`;
  const simple = SIMPLE[column.type_name];
  if (!simple) throw new Error(`${column.table_name}.${column.column_name}: no type for ${column.type_name}`);
  return simple;
}

function render(columns, words) {
  const tables = new Map();
  for (const column of columns) {
    const type = typeOf(column, words);
    const nullable = !column.not_null && !column.is_view;
    const inner = !nullable ? type : SPLIT.has(type) ? `Nullable${type}` : `${type} | null`;
    const calculated = column.generated !== '' || column.identity === 'a';
    const optional = column.has_default || column.identity === 'd';
    const wrapped = calculated ? `GeneratedAlways<${readType(inner)}>` : optional ? `Generated<${inner}>` : inner;
    const lines = tables.get(column.table_name) ?? [];
    lines.push(`  ${column.column_name}: ${column.is_view ? readType(type) : wrapped};`);
    tables.set(column.table_name, lines);
  }
  const names = [...tables.keys()];
  const interfaces = names.map((name) => `export interface ${pascal(name)} {\n${tables.get(name).join('\n')}\n}\n`);
  const entries = names.map((name) => `  ${name}: ${pascal(name)};`).join('\n');
  return `// Generated by \`npm run db:types\` from the migrations. Do not edit.
import type { ColumnType, GeneratedAlways } from 'kysely';

/** A column that the database fills when an insert leaves it out. */
export type Generated<T> =
  T extends ColumnType<infer S, infer I, infer U> ? ColumnType<S, I | undefined, U> : ColumnType<T, T | undefined, T>;
export type Int8 = ColumnType<bigint, bigint | number, bigint | number>;
export type NullableInt8 = ColumnType<bigint | null, bigint | number | null, bigint | number | null>;
export type Numeric = ColumnType<string, string | bigint, string | bigint>;
export type NullableNumeric = ColumnType<string | null, string | bigint | null, string | bigint | null>;
export type Timestamp = ColumnType<Date, Date, Date>;
export type NullableTimestamp = ColumnType<Date | null, Date | null, Date | null>;
/** Read as the parsed value, written as JSON text. */
export type Json = ColumnType<unknown, string, string>;
export type NullableJson = ColumnType<unknown, string | null, string | null>;
export type Bytes = ColumnType<Buffer, Uint8Array, Uint8Array>;
export type NullableBytes = ColumnType<Buffer | null, Uint8Array | null, Uint8Array | null>;

${interfaces.join('\n')}
export interface Database {
${entries}
}
`;
}

function readType(type) {
  return (
    {
      Int8: 'bigint',
      NullableInt8: 'bigint | null',
      Numeric: 'string',
      NullableNumeric: 'string | null',
      Timestamp: 'Date',
      NullableTimestamp: 'Date | null',
      Json: 'unknown',
      NullableJson: 'unknown',
      Bytes: 'Buffer',
      NullableBytes: 'Buffer | null',
    }[type] ?? type
  );
}

function pascal(name) {
  return name.replace(/(?:^|_)([a-z0-9])/g, (_match, letter) => letter.toUpperCase());
}

await main();
