import { X509Certificate } from 'node:crypto';
import type { Schema } from '@gpuaas/contract';
import { sha256Hex } from '@gpuaas/kernel';
import { badRequest } from '../../../spine/refusal.js';
import { HOST_LAYOUT, parseBaseUrl } from '../rules/bootstrap-script.js';
import type { FleetServices } from '../services.js';

/** What a host must be told to install the agent and to trust this control plane. */
export interface TrustMaterial {
  readonly apiUrl: string;
  readonly terminalApiUrl: string;
  readonly caBundlePem: string | null;
  readonly nodeCaBundlePem: string;
  readonly signingKeys: string;
  readonly trustBundleVersion: string;
}

/** Gathers it; refuses (400) an address that cannot safely stand in a script. */
export async function trustMaterial(
  services: FleetServices,
  wish: { readonly runtimeApiUrl?: string | undefined; readonly terminalApiUrl?: string | undefined } = {},
): Promise<TrustMaterial> {
  const { settings } = services;
  const nodeCaBundlePem = await services.certificateAuthority.caBundlePem();
  const signingKeys = await services.signer.trustedKeys();
  const caBundlePem = settings.apiCaBundlePem;
  return {
    apiUrl: address(wish.runtimeApiUrl, settings.nodeApiUrl(), 'runtime_api_url'),
    terminalApiUrl: address(wish.terminalApiUrl, settings.terminalApiUrl(), 'terminal_api_url'),
    caBundlePem,
    nodeCaBundlePem,
    signingKeys,
    trustBundleVersion: sha256Hex([caBundlePem ?? '', nodeCaBundlePem, signingKeys].join('\n')).slice(0, 16),
  };
}

/** The reference by which the package of this digest is known. */
export const packageReference = (digest: string): string => `gpuaas/node-agent@sha256:${digest}`;

/** What an operator needs to enrol a host by hand. */
export function bootstrapBundle(material: TrustMaterial, digest: string): Schema<'NodeBootstrapBundle'> {
  return {
    api_url: material.apiUrl,
    task_signing_pubkeys: material.signingKeys,
    ca_bundle_pem: material.caBundlePem,
    ca_fingerprint_sha256: material.caBundlePem === null ? null : fingerprint(material.caBundlePem),
    trust_bundle_version: material.trustBundleVersion,
    ca_bundle_path: HOST_LAYOUT.caBundlePath,
    node_cert_ca_bundle_path: HOST_LAYOUT.nodeCertCaBundlePath,
    cert_path: HOST_LAYOUT.identityPath,
    key_path: HOST_LAYOUT.identityPath,
    package: {
      architecture: 'amd64',
      available_architectures: ['amd64', 'arm64'],
      oci_ref: packageReference(digest),
      digest: `sha256:${digest}`,
      pull_delivery_mode: 'manual',
      install_root: HOST_LAYOUT.installRoot,
      env_file_path: HOST_LAYOUT.envFilePath,
      systemd_unit_name: HOST_LAYOUT.systemdUnitName,
      install_entrypoint: HOST_LAYOUT.binaryPath,
      env_template_path: HOST_LAYOUT.envFilePath,
      service_unit_path: HOST_LAYOUT.serviceUnitPath,
      binary_path: HOST_LAYOUT.binaryPath,
      install_container_runtime: false,
      container_runtime_package: 'containerd',
    },
  };
}

/** What an operator needs to give an installed agent a new identity. */
export function recoveryBundle(material: TrustMaterial): Schema<'NodeReenrollmentBundle'> {
  return {
    api_url: material.apiUrl,
    terminal_api_url: material.terminalApiUrl,
    trust_bundle_version: material.trustBundleVersion,
    env_file_path: HOST_LAYOUT.envFilePath,
    cert_path: HOST_LAYOUT.identityPath,
    key_path: HOST_LAYOUT.identityPath,
    node_cert_ca_bundle_path: HOST_LAYOUT.nodeCertCaBundlePath,
    restart_command: `systemctl restart ${HOST_LAYOUT.systemdUnitName}`,
  };
}

function address(wished: string | undefined, fallback: string, parameter: string): string {
  const parsed = parseBaseUrl(wished ?? fallback);
  if (parsed.ok) return parsed.url;
  if (wished === undefined)
    throw new Error(`the site's own address ${JSON.stringify(fallback)} is not a plain base URL`);
  throw badRequest(
    'url_not_plain',
    `/query/${parameter}`,
    'must be http or https with a host and a plain path, no more',
  );
}

/** SHA-256 over the DER of the first anchor, lower-case hex. */
function fingerprint(pem: string): string {
  return new X509Certificate(pem).fingerprint256.replaceAll(':', '').toLowerCase();
}
