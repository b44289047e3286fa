import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { asId } from '@gpuaas/kernel';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { CustodyError, createCustody, custodyKeysFromFile, parseCustodyKeys } from '../../src/spine/custody.js';
import { cloneDatabase, type TestDatabase } from '../harness/database.js';

const KEY = 'a'.repeat(64);
const OTHER_KEY = 'b'.repeat(64);
const custody = createCustody(parseCustodyKeys(KEY));

describe('an inline sealed secret', () => {
  it('opens to what was sealed, under its purpose only', () => {
    fc.assert(
      fc.property(fc.uint8Array(), fc.string(), fc.string(), (secret, purpose, other) => {
        const sealed = custody.sealInline(purpose, secret);
        expect(Buffer.from(custody.openInlineBytes(purpose, sealed))).toEqual(Buffer.from(secret));
        if (other !== purpose) expect(() => custody.openInlineBytes(other, sealed)).toThrow(CustodyError);
      }),
    );
  });

  it('does not open once a single character was changed', () => {
    const sealed = custody.sealInline('test', 'the secret');
    fc.assert(
      fc.property(fc.nat(sealed.length - 1), fc.constantFrom(...'AB01.-_'), (at, character) => {
        const altered = sealed.slice(0, at) + character + sealed.slice(at + 1);
        const bytes = (text: string) => Buffer.from(text.split('.')[2] ?? '', 'base64url');
        // The last base64 character may carry unused bits: the same bytes are the same secret.
        const same = altered.slice(0, 16) === sealed.slice(0, 16) && bytes(altered).equals(bytes(sealed));
        if (!same) expect(() => custody.openInline('test', altered)).toThrow(CustodyError);
      }),
      { numRuns: 500 },
    );
  });

  it('is different each time and tells nothing of its length but the length', () => {
    expect(custody.sealInline('test', 'same')).not.toBe(custody.sealInline('test', 'same'));
    expect(custody.sealInline('test', 'same')).not.toContain('same');
  });

  it('stays readable while its key is kept, and not after', () => {
    const sealed = custody.sealInline('test', 'old');
    const rotated = createCustody(parseCustodyKeys(`${OTHER_KEY}\n${KEY}`));
    expect(rotated.openInline('test', sealed)).toBe('old');
    expect(rotated.sealInline('test', 'new')).not.toContain(sealed.split('.')[1]);
    expect(() => createCustody(parseCustodyKeys(OTHER_KEY)).openInline('test', sealed)).toThrow(/no key/);
  });

  it('derives keys that survive a rotation and differ by purpose', () => {
    const rotated = createCustody(parseCustodyKeys(`${OTHER_KEY}\n${KEY}`));
    expect(rotated.deriveKey('cursor')).toEqual(custody.deriveKey('cursor'));
    expect(custody.deriveKey('cursor')).not.toEqual(custody.deriveKey('other'));
  });
});

describe('a stored secret', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await cloneDatabase();
  });
  afterAll(() => database.drop());

  it('opens under its purpose, and never again once destroyed', async () => {
    const { db } = database;
    const ref = await db.transaction().execute((tx) => custody.seal(tx, 'ssh', 'key material'));
    expect(Buffer.from(await custody.open(db, 'ssh', ref)).toString()).toBe('key material');
    await expect(custody.open(db, 'other', ref)).rejects.toThrow(CustodyError);
    await db.transaction().execute((tx) => custody.destroy(tx, ref));
    await db.transaction().execute((tx) => custody.destroy(tx, ref));
    await expect(custody.open(db, 'ssh', ref)).rejects.toThrow(/destroyed/);
  });

  it('does not open under the reference of another row', async () => {
    const { db } = database;
    const [left, right] = await db
      .transaction()
      .execute(async (tx) => [await custody.seal(tx, 'ssh', 'left'), await custody.seal(tx, 'ssh', 'right')]);
    if (!left || !right) throw new Error('nothing sealed');
    const { sealed } = await db
      .selectFrom('custody_secrets')
      .select('sealed')
      .where('id', '=', left)
      .executeTakeFirstOrThrow();
    await db.updateTable('custody_secrets').set({ sealed }).where('id', '=', right).execute();
    await expect(custody.open(db, 'ssh', right)).rejects.toThrow(/altered/);
  });

  it('is unknown when it was never sealed', async () => {
    await expect(custody.open(database.db, 'ssh', asId('00000000-0000-7000-8000-000000000000'))).rejects.toThrow(
      /no secret/,
    );
  });
});

describe('the key file', () => {
  it('is made once with mode 0600, also when several processes start together', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'custody-'));
    const file = path.join(folder, 'custody.key');
    const all = await Promise.all(Array.from({ length: 8 }, () => custodyKeysFromFile(file)));
    expect(new Set(all.map(([key]) => key.id)).size).toBe(1);
    expect((await stat(file)).mode & 0o777).toBe(0o600);
    expect((await readFile(file, 'utf8')).trim()).toMatch(/^[0-9a-f]{64}$/);
    await rm(folder, { recursive: true });
  });

  it('that cannot be a key is refused instead of replaced', async () => {
    const folder = await mkdtemp(path.join(tmpdir(), 'custody-'));
    const file = path.join(folder, 'custody.key');
    await writeFile(file, 'short\n');
    await expect(custodyKeysFromFile(file)).rejects.toThrow(/64 hex digits/);
    expect(await readFile(file, 'utf8')).toBe('short\n');
    await rm(folder, { recursive: true });
  });
});
