import { sha256Hex } from '@gpuaas/kernel';
import { MAX_PROGRESS_BYTES } from '@gpuaas/node-protocol';
import { z } from 'zod';
import {
  type CallContext,
  command,
  exchange,
  type OperationHandlers,
  query,
  type Reader,
  type Tx,
} from '../../../spine/operation.js';
import { Refusal, refuse } from '../../../spine/refusal.js';
import { inTransaction } from '../../../spine/transaction.js';
import { renderBootstrapScript, type ScriptInputs } from '../rules/bootstrap-script.js';
import { type BootstrapUse, mayBootstrap } from '../rules/enrollment.js';
import { advanceNode } from '../rules/node-state.js';
import type { FleetServices } from '../services.js';
import { lockNodeIfThere } from '../store/nodes.js';
import { findToken, type TokenRow } from '../store/tokens.js';

/** What a host fetches and reports at its first boot, with the token in the path as its only proof. */
export function bootstrapOperations(services: FleetServices): OperationHandlers {
  const { agentPackage, life, registryCredential } = services;

  /** The first sign of life of a host: somebody has run the script. */
  const noteContact = async (tx: Tx, ctx: CallContext, token: TokenRow): Promise<void> => {
    const node = await lockNodeIfThere(tx, token.nodeId);
    if (node === null) throw refuse('node_not_found');
    const step = advanceNode(node.status, 'first_contact');
    if (step.ok) await life.move(tx, hostContext(ctx, token), node, step.to, 'first_contact');
  };

  const script = command<'nodeBootstrapScript'>(async ({ tx, ctx, path, query: asked }) => {
    const token = await usableToken(tx, ctx, path.bootstrap_token, 'fetch');
    await noteContact(tx, ctx, token);
    const inputs = scriptInputs.parse(token.scriptInputs);
    // The contract gives the parameter a default, so an absent one cannot be told from `manual`: both mean the mode
    // that the script was issued in.
    const mode = asked.mode === 'cloud_init' ? 'cloud_init' : inputs.mode;
    const content = renderBootstrapScript({ ...inputs, mode }, path.bootstrap_token);
    return { status: 200, contentType: 'text/plain; charset=utf-8', content, headers: NOT_TO_BE_KEPT };
  });

  const packageDownload = exchange<'nodeBootstrapPackage'>(async ({ ctx, path }) => {
    // First: a package that is not there must not count as a contact.
    await agentPackage.describe();
    await inTransaction(services.database, async (tx) => {
      const token = await usableToken(tx, ctx, path.bootstrap_token, 'fetch');
      await noteContact(tx, ctx, token);
    });
    const { stream, bytes } = await agentPackage.content();
    return {
      status: 200,
      contentType: 'application/gzip',
      content: stream,
      headers: { ...NOT_TO_BE_KEPT, 'content-length': String(bytes) },
    };
  });

  const credential = query<'nodeBootstrapRegistryCredential'>(async ({ db, ctx, path }) => {
    await usableToken(db, ctx, path.bootstrap_token, 'fetch');
    const found = await registryCredential();
    if (found === null) return { status: 204, body: undefined };
    return { status: 200, body: found, headers: NOT_TO_BE_KEPT };
  });

  const progress = command<'nodeBootstrapProgress'>(async ({ tx, ctx, path, body }) => {
    if (Buffer.byteLength(JSON.stringify(body)) > MAX_PROGRESS_BYTES) {
      throw new Refusal('invalid_request', {
        status: 413,
        message: `body: is larger than ${MAX_PROGRESS_BYTES} bytes`,
        details: { reason: 'body_too_large', maximum_bytes: MAX_PROGRESS_BYTES },
      });
    }
    const token = await usableToken(tx, ctx, path.bootstrap_token, 'report');
    await noteContact(tx, ctx, token);
    ctx.log.info({ node_id: token.nodeId, phase: body.phase, state: body.state }, 'a first boot reported');
    // Progress belongs to an onboarding; a node that an operator brings by hand has none.
    return { status: 202, body: { recorded: false, onboarding_id: null } };
  });

  return {
    nodeBootstrapScript: script,
    nodeBootstrapPackage: packageDownload,
    nodeBootstrapRegistryCredential: credential,
    nodeBootstrapProgress: progress,
  };
}

/** Scripts hold a token, and the rest is good only for its holder. */
const NOT_TO_BE_KEPT = { 'cache-control': 'no-store' } as const;

/** What enrollment-tokens.ts stored; parsed because the database forgets types. */
const scriptInputs: z.ZodType<ScriptInputs> = z.object({
  mode: z.enum(['manual', 'cloud_init']),
  nodeId: z.string(),
  apiUrl: z.string(),
  terminalApiUrl: z.string(),
  caBundlePem: z.string().nullable(),
  nodeCaBundlePem: z.string(),
  signingKeys: z.string(),
  trustBundleVersion: z.string(),
  packageDigest: z.string(),
});

/** The bootstrap token of the path. Unknown, expired, revoked and used up are one 401; a node that has left is a 404. */
async function usableToken(reader: Reader, ctx: CallContext, secret: string, use: BootstrapUse): Promise<TokenRow> {
  const token = await findToken(reader, sha256Hex(secret));
  if (token === null || token.kind !== 'bootstrap') throw refuse('token_invalid');
  if (token.nodeGone) throw refuse('node_not_found');
  if (!mayBootstrap(token, use, ctx.clock.now())) throw refuse('token_invalid');
  return token;
}

/** The host acts in its own name, though it has no certificate to prove it yet. */
function hostContext(ctx: CallContext, token: TokenRow): CallContext {
  return {
    ...ctx,
    principal: { kind: 'node', nodeId: token.nodeId, authentication: 'internal_token', certificateSerial: null },
  };
}
