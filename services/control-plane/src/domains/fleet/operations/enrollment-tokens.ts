import type { Schema } from '@gpuaas/contract';
import { asId, newId, newSecretToken, sha256Hex } from '@gpuaas/kernel';
import { nodePaths } from '@gpuaas/node-protocol';
import { audit } from '../../../spine/audit.js';
import { type CommandContext, type OperationHandlers, preparedCommand, type Tx } from '../../../spine/operation.js';
import { Refusal } from '../../../spine/refusal.js';
import type { PackageFacts } from '../identity/agent-package.js';
import {
  bootstrapBundle,
  packageReference,
  recoveryBundle,
  type TrustMaterial,
  trustMaterial,
} from '../identity/trust-material.js';
import { renderBootstrapScript, type ScriptInputs } from '../rules/bootstrap-script.js';
import { BOOTSTRAP_TOKEN_SECONDS, ENROLLMENT_TOKEN_SECONDS } from '../rules/enrollment.js';
import {
  decideIssueToken,
  decideReissueEnrollment,
  type LifecycleDecision,
  type NodeFacts,
} from '../rules/lifecycle.js';
import type { FleetServices } from '../services.js';
import { lockNode, type NodeRow, wasEverEnrolled } from '../store/nodes.js';
import { insertToken, revokeOpenTokens } from '../store/tokens.js';

interface IssuedToken {
  readonly node: NodeRow;
  readonly token: string;
  readonly expiresInSeconds: number;
  readonly expiresAt: Date;
}

/** Handing out the one-time secrets with which a host becomes a node. A new one ends those that were not used. */
export function enrollmentTokenOperations(services: FleetServices): OperationHandlers {
  const { agentPackage, life } = services;

  const issue = async (
    tx: Tx,
    ctx: CommandContext,
    nodeId: string,
    wish: {
      readonly kind: 'enrollment' | 'bootstrap';
      readonly action: string;
      readonly decide: (facts: NodeFacts) => LifecycleDecision;
      readonly scriptInputs?: (node: NodeRow) => ScriptInputs;
    },
  ): Promise<IssuedToken> => {
    const now = ctx.clock.now();
    const node = await lockNode(tx, asId(nodeId));
    const everEnrolled = await wasEverEnrolled(tx, node.id);
    const decision = wish.decide({ status: node.status, openClaims: node.openClaims, everEnrolled });
    if (!decision.ok) {
      throw new Refusal(decision.code, {
        status: 409,
        details: { reason: decision.reason, current_status: node.status },
      });
    }
    const expiresInSeconds = wish.kind === 'enrollment' ? ENROLLMENT_TOKEN_SECONDS : BOOTSTRAP_TOKEN_SECONDS;
    const expiresAt = new Date(now.getTime() + expiresInSeconds * 1000);
    const token = newSecretToken();
    await revokeOpenTokens(tx, node.id, now);
    await insertToken(tx, {
      id: newId(),
      nodeId: node.id,
      kind: wish.kind,
      tokenHash: sha256Hex(token),
      scriptInputs: wish.scriptInputs?.(node) ?? null,
      createdAt: now,
      expiresAt,
    });
    await life.move(tx, ctx, node, decision.to, 'issue_token');
    await audit(tx, ctx, {
      action: wish.action,
      targetType: 'node',
      targetId: node.id,
      metadata: { kind: wish.kind, expires_at: expiresAt.toISOString() },
    });
    return { node, token, expiresInSeconds, expiresAt };
  };

  const createToken = preparedCommand<
    'adminCreateNodeEnrollmentToken',
    { material: TrustMaterial; facts: PackageFacts }
  >({
    sealsResponse: true,
    prepare: async () => ({ material: await trustMaterial(services), facts: await agentPackage.describe() }),
    async run({ tx, ctx, path, prepared }) {
      const issued = await issue(tx, ctx, path.node_id, {
        kind: 'enrollment',
        action: 'node.enrollment.token_issue',
        decide: decideIssueToken,
      });
      return {
        status: 201,
        body: {
          ...tokenBody(issued),
          enrollment_token: issued.token,
          bootstrap_bundle: bootstrapBundle(prepared.material, prepared.facts.digest),
        },
      };
    },
  });

  const reissue = preparedCommand<'adminReissueNodeEnrollment', TrustMaterial>({
    sealsResponse: true,
    prepare: () => trustMaterial(services),
    async run({ tx, ctx, path, prepared }) {
      const issued = await issue(tx, ctx, path.node_id, {
        kind: 'enrollment',
        action: 'node.enrollment.reissue',
        decide: decideReissueEnrollment,
      });
      return {
        status: 201,
        body: { ...tokenBody(issued), enrollment_token: issued.token, recovery_bundle: recoveryBundle(prepared) },
      };
    },
  });

  const createScript = preparedCommand<
    'adminCreateNodeBootstrapScript',
    { material: TrustMaterial; facts: PackageFacts }
  >({
    sealsResponse: true,
    async prepare({ query }) {
      const material = await trustMaterial(services, {
        runtimeApiUrl: query.runtime_api_url,
        terminalApiUrl: query.terminal_api_url,
      });
      return { material, facts: await agentPackage.describe() };
    },
    async run({ tx, ctx, path, query, prepared }) {
      const { material, facts } = prepared;
      const inputsFor = (nodeId: string): ScriptInputs => ({
        ...material,
        mode: query.mode,
        nodeId,
        packageDigest: facts.digest,
      });
      const issued = await issue(tx, ctx, path.node_id, {
        kind: 'bootstrap',
        action: 'node.enrollment.bootstrap_script',
        decide: decideIssueToken,
        scriptInputs: (node) => inputsFor(node.id),
      });
      const script = renderBootstrapScript(inputsFor(issued.node.id), issued.token);
      return {
        status: 201,
        body: {
          ...tokenBody(issued),
          bootstrap_token: issued.token,
          mode: query.mode,
          script,
          script_sha256: sha256Hex(script),
          metadata: {
            trust_bundle_version: material.trustBundleVersion,
            package_ref: packageReference(facts.digest),
            package_digest: `sha256:${facts.digest}`,
            package_download_url: `${material.apiUrl}${nodePaths.bootstrapPackage(issued.token)}`,
            runtime_api_url: material.apiUrl,
          },
        },
      };
    },
  });

  return {
    adminCreateNodeEnrollmentToken: createToken,
    adminReissueNodeEnrollment: reissue,
    reissueV3PlatformNodeEnrollment: reissue,
    adminCreateNodeBootstrapScript: createScript,
    createV3PlatformNodeBootstrapScript: createScript,
  };
}

function tokenBody(
  issued: IssuedToken,
): Pick<Schema<'AdminNodeReenrollmentResponse'>, 'node_id' | 'expires_in_seconds' | 'expires_at'> {
  return {
    node_id: issued.node.id,
    expires_in_seconds: issued.expiresInSeconds,
    expires_at: issued.expiresAt.toISOString(),
  };
}
