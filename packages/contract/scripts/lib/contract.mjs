import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parse } from 'yaml';
import { derive } from '../derivation/index.mjs';
import { loadContract } from './load.mjs';

/** Where the contract and what is generated from it lie. */
export const packageDirectory = join(dirname(fileURLToPath(import.meta.url)), '../..');
const contractDirectory = join(packageDirectory, '../../contract');
export const openapiDirectory = join(contractDirectory, 'openapi');
export const correctionsFile = join(contractDirectory, 'corrections.yaml');
export const summaryFile = join(contractDirectory, 'derivation.summary.md');
export const generatedDirectory = join(packageDirectory, 'generated');
export const sourceDirectory = join(packageDirectory, 'src/generated');
export const clientDirectory = join(packageDirectory, '../sdk/src/generated');

/** Loads the contract and derives the corrected document. Throws when a correction meets nothing. */
export function deriveContract() {
  const source = loadContract(openapiDirectory);
  const overlay = parse(readFileSync(correctionsFile, 'utf8'));
  const derived = derive(source, overlay);
  if (derived.unmatched.length > 0)
    throw new Error(`corrections without a target:\n  ${derived.unmatched.join('\n  ')}`);
  return { source, overlay, ...derived };
}
