import { applyOverlay } from '../lib/overlay.mjs';
import { responseDescriptions } from './descriptions.mjs';
import { idempotencyKey } from './idempotency-key.mjs';
import { mergeAllOf } from './merge-all-of.mjs';
import { nullability } from './nullability.mjs';
import { paging } from './paging.mjs';
import { readModelGaps } from './read-model-gaps.mjs';
import { spellings } from './spellings.mjs';
import { standardErrors } from './standard-errors.mjs';

/**
 * The general rules, in their order. Schemas come first, so that the single corrections meet them in their final
 * idiom; operations follow; spellings are last, so that an added spelling inherits all that was repaired.
 */
const SCHEMA_RULES = [readModelGaps, mergeAllOf, nullability];
const OPERATION_RULES = [standardErrors, idempotencyKey, paging, spellings, responseDescriptions];

/**
 * Derives the corrected document from the facts of the contract. Pure, and idempotent: deriving from the result
 * gives the result.
 *
 * Returns the document; one report a rule (`id`, `title`, `changes`: the places it touched); `unmatched`, the
 * targets of corrections that met nothing (empty for the contract itself, since a correction that repairs nothing is
 * a mistake); and `changedFacts`, each statement of the contract that now reads differently, with its reason.
 */
export function derive(source, overlay) {
  const reports = [];
  const changedFacts = [];
  let document = source;
  const run = (rule) => {
    const outcome = rule.apply(document);
    document = outcome.document;
    reports.push({ id: rule.id, title: rule.title, changes: outcome.changes });
    for (const target of outcome.changedFacts ?? []) changedFacts.push({ target, reason: rule.title });
  };
  SCHEMA_RULES.forEach(run);
  const corrected = applyOverlay(document, overlay);
  document = corrected.document;
  for (const action of overlay.actions)
    for (const target of action['x-changed-facts'] ?? []) changedFacts.push({ target, reason: action.description });
  OPERATION_RULES.forEach(run);
  return { document, reports, unmatched: corrected.unmatched, changedFacts };
}
