import { type KeyObject, sign, verify } from 'node:crypto';
import { canonicalJson } from '@gpuaas/kernel';
import { type TaskEnvelope, taskEnvelope, type UnsignedTask } from './messages.js';
import { parseTaskParams } from './parse.js';
import { SIGNING_KEY_ID, type SigningKeys } from './signing-keys.js';
import type { NodeTaskParams } from './task-types.js';

/** Why an agent does not run a task that it was given. The first eight come from the envelope itself. */
export type RejectionReason =
  | 'malformed_task'
  | 'unknown_signing_key'
  | 'bad_signature'
  | 'wrong_node'
  | 'expired'
  | 'unknown_task_type'
  | 'invalid_params'
  | 'unsupported_by_this_host';

/** The reasons that speak against the sender and not against the task: several in a row are a case for an operator. */
export const SIGNATURE_REJECTIONS: readonly RejectionReason[] = [
  'malformed_task',
  'unknown_signing_key',
  'bad_signature',
];

export type TaskVerification =
  | { ok: true; envelope: TaskEnvelope; task: NodeTaskParams }
  /** `taskId` is there when the envelope names one; `authentic` when the signature itself is good. */
  | { ok: false; reason: RejectionReason; message: string; taskId: string | null; authentic: boolean };

/**
 * Signs a task: Ed25519 over the canonical JSON of all its fields, written as `kid.base64url`.
 * Throws a TypeError for a key id that cannot stand in a signature.
 */
export function signTask(task: UnsignedTask, signer: { keyId: string; privateKey: KeyObject }): TaskEnvelope {
  if (!SIGNING_KEY_ID.test(signer.keyId)) throw new TypeError(`key id ${JSON.stringify(signer.keyId)} is not valid`);
  const unsigned: UnsignedTask = {
    task_id: task.task_id,
    task_type: task.task_type,
    node_id: task.node_id,
    correlation_id: task.correlation_id,
    issued_at: task.issued_at,
    expires_at: task.expires_at,
    params: task.params,
  };
  const signature = sign(null, Buffer.from(canonicalJson(unsigned)), signer.privateKey).toString('base64url');
  return { ...unsigned, signature: `${signer.keyId}.${signature}` };
}

/**
 * Decides whether a host may run what it received: well-formed, signed by a known key, meant for this node, not
 * expired, of a known type, with params of that type, in this order. `received` is the parsed JSON as it came.
 */
export function verifyTask(
  received: unknown,
  keys: SigningKeys,
  host: { nodeId: string; now: Date },
): TaskVerification {
  const shape = taskEnvelope.safeParse(received);
  if (!shape.success) {
    const message = shape.error.issues[0]
      ? `${shape.error.issues[0].path.join('.')}: ${shape.error.issues[0].message}`
      : '';
    return refuse('malformed_task', message, taskIdOf(received), false);
  }
  const envelope = shape.data;
  const no = (reason: RejectionReason, message: string, authentic: boolean) =>
    refuse(reason, message, envelope.task_id, authentic);

  const dot = envelope.signature.indexOf('.');
  const key = keys.get(envelope.signature.slice(0, dot));
  if (dot < 1 || key === undefined)
    return no('unknown_signing_key', 'the signature names no key that this host trusts', false);
  if (!isSignedBy(key, received, envelope.signature.slice(dot + 1))) {
    return no('bad_signature', 'the signature does not fit the task', false);
  }
  if (envelope.node_id !== host.nodeId) return no('wrong_node', 'the task is meant for another node', true);
  if (Date.parse(envelope.expires_at) <= host.now.getTime()) {
    return no('expired', `the task expired at ${envelope.expires_at}`, true);
  }
  const parsed = parseTaskParams(envelope.task_type, envelope.params);
  if (parsed.ok) return { ok: true, envelope, task: parsed.value };
  return no(
    parsed.reason === 'unknown_type' ? 'unknown_task_type' : 'invalid_params',
    parsed.problems.join('; '),
    true,
  );
}

function isSignedBy(key: KeyObject, received: unknown, encoded: string): boolean {
  const signature = Buffer.from(encoded, 'base64url');
  if (signature.toString('base64url') !== encoded) return false;
  if (typeof received !== 'object' || received === null) return false;
  // The bytes that came are what was signed: a parsed copy could have lost a key such as __proto__.
  const unsigned = Object.fromEntries(Object.entries(received).filter(([name]) => name !== 'signature'));
  return verify(null, Buffer.from(canonicalJson(unsigned)), key, signature);
}

function taskIdOf(received: unknown): string | null {
  const named = taskEnvelope.pick({ task_id: true }).loose().safeParse(received);
  return named.success ? named.data.task_id : null;
}

function refuse(reason: RejectionReason, message: string, taskId: string | null, authentic: boolean): TaskVerification {
  return { ok: false, reason, message, taskId, authentic };
}
