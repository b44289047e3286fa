import { nodePaths } from '@gpuaas/node-protocol';

/** Where the agent lives on a host, as its package and its unit have it. */
export const HOST_LAYOUT = {
  installRoot: '/opt/gpuaas',
  packageDirectory: '/opt/gpuaas/gpuaas-node-agent',
  binaryPath: '/opt/gpuaas/gpuaas-node-agent/bin/gpuaas-node-agent',
  packagedUnitPath: '/opt/gpuaas/gpuaas-node-agent/systemd/gpuaas-node-agent.service',
  envFilePath: '/etc/gpuaas/node-agent.env',
  systemdUnitName: 'gpuaas-node-agent.service',
  serviceUnitPath: '/etc/systemd/system/gpuaas-node-agent.service',
  stateDirectory: '/var/lib/gpuaas/node-agent',
  tokenPath: '/etc/gpuaas/enrollment-token',
  /** anchors for the server that the agent talks to */
  caBundlePath: '/etc/gpuaas/ca-bundle.pem',
  /** anchors for the node's own certificate; a file of its own, never merged with the other */
  nodeCertCaBundlePath: '/etc/gpuaas/node-ca-bundle.pem',
  /** key and certificate change together, so the agent keeps them in one file */
  identityPath: '/var/lib/gpuaas/node-agent/identity.json',
} as const;

export type ScriptMode = 'manual' | 'cloud_init';

/** All that a first-boot script says, but for the token. Kept with the token, so that the script can be made again. */
export interface ScriptInputs {
  readonly mode: ScriptMode;
  readonly nodeId: string;
  readonly apiUrl: string;
  readonly terminalApiUrl: string;
  /** null where the host's own anchors prove the server */
  readonly caBundlePem: string | null;
  readonly nodeCaBundlePem: string;
  readonly signingKeys: string;
  readonly trustBundleVersion: string;
  /** SHA-256 of the package, lower-case hex */
  readonly packageDigest: string;
}

export type BaseUrl = { readonly ok: true; readonly url: string } | { readonly ok: false };

const PLAIN_BASE = /^https?:\/\/(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?(\/[A-Za-z0-9._~-]+)*$/;

/**
 * Reads an address that will stand in scripts and configuration files: http or https, a host, perhaps a port and a
 * plain path, and nothing else. What passes contains no character with a meaning to a shell.
 */
export function parseBaseUrl(text: string): BaseUrl {
  let parsed: URL;
  try {
    parsed = new URL(text);
  } catch {
    return { ok: false };
  }
  if (parsed.username || parsed.password || parsed.search || parsed.hash) return { ok: false };
  const url = parsed.href.replace(/\/+$/, '');
  return PLAIN_BASE.test(url) ? { ok: true, url } : { ok: false };
}

/** One word of a POSIX shell, whatever the text is. NUL, which no shell can hold, is refused with a TypeError. */
export function shellQuote(text: string): string {
  if (text.includes('\0')) throw new TypeError('a NUL cannot be quoted');
  return `'${text.replaceAll("'", "'\\''")}'`;
}

/** The first-boot script. The same inputs and token give the same bytes, so that its digest can be promised. */
export function renderBootstrapScript(inputs: ScriptInputs, token: string): string {
  const script = renderShellScript(inputs, token);
  if (inputs.mode === 'manual') return script;
  const encoded = Buffer.from(script, 'utf8').toString('base64');
  return `#cloud-config
write_files:
  - path: /var/lib/gpuaas/bootstrap.sh
    owner: root:root
    permissions: '0700'
    encoding: b64
    content: ${encoded}
runcmd:
  - [bash, /var/lib/gpuaas/bootstrap.sh]
`;
}

function renderShellScript(inputs: ScriptInputs, token: string): string {
  const layout = HOST_LAYOUT;
  const secure = inputs.apiUrl.startsWith('https:');
  const environment: readonly (readonly [string, string])[] = [
    ['GPUAAS_ENV', secure ? 'production' : 'development'],
    ['GPUAAS_API_URL', inputs.apiUrl],
    ['GPUAAS_TERMINAL_API_URL', inputs.terminalApiUrl],
    ['GPUAAS_NODE_ID', inputs.nodeId],
    ['GPUAAS_ENROLLMENT_TOKEN_FILE', layout.tokenPath],
    ['GPUAAS_STATE_DIR', layout.stateDirectory],
    ...(inputs.caBundlePem === null ? [] : [['GPUAAS_CA_BUNDLE_PATH', layout.caBundlePath] as const]),
    ['GPUAAS_NODE_CERT_CA_BUNDLE_PATH', layout.nodeCertCaBundlePath],
    ['GPUAAS_TASK_SIGNING_PUBKEYS', inputs.signingKeys],
    ['GPUAAS_TRUST_BUNDLE_VERSION', inputs.trustBundleVersion],
  ];
  const trust = inputs.caBundlePem === null ? '' : ` --cacert ${shellQuote(layout.caBundlePath)}`;
  const url = (path: string) => shellQuote(`${inputs.apiUrl}${path}`);
  return `#!/usr/bin/env bash
# Installs the GPUaaS node agent on this host and enrols the host as one node. Run it once, as root.
# It holds a token: keep it from other eyes and delete it afterwards.
set -euo pipefail
umask 077

fail() { echo "gpuaas: $1" >&2; report failed; exit 1; }
report() {
  curl --silent --show-error --max-time 10${trust} --header 'Content-Type: application/json' \\
    --data "{\\"phase\\":\\"node_bootstrap\\",\\"state\\":\\"$1\\"}" ${url(nodePaths.bootstrapProgress(token))} >/dev/null || true
}

[ "$(id -u)" = 0 ] || { echo 'gpuaas: this script must run as root' >&2; exit 1; }
for program in curl sha256sum tar systemctl node; do
  command -v "$program" >/dev/null || { echo "gpuaas: $program is needed" >&2; exit 1; }
done

install -d -m 0755 /etc/gpuaas ${shellQuote(layout.installRoot)}
install -d -m 0700 ${shellQuote(layout.stateDirectory)}
${inputs.caBundlePem === null ? '' : writeFile(layout.caBundlePath, inputs.caBundlePem, '0644')}${writeFile(layout.nodeCertCaBundlePath, inputs.nodeCaBundlePem, '0644')}${writeFile(layout.tokenPath, `${token}\n`, '0600')}${writeFile(layout.envFilePath, environment.map(([name, value]) => `${name}=${value}\n`).join(''), '0600')}
report started
work="$(mktemp -d ${shellQuote(`${layout.installRoot}/.install-XXXXXX`)})"
trap 'rm -rf "$work"' EXIT
curl --fail --silent --show-error --location --retry 5 --retry-connrefused --max-time 600${trust} \\
  --output "$work/package.tar.gz" ${url(nodePaths.bootstrapPackage(token))}"?arch=$(uname -m)" || fail 'the package could not be fetched'
echo ${shellQuote(`${inputs.packageDigest}  `)}"$work/package.tar.gz" | sha256sum --check --status || fail 'the package is not the one that was promised'
tar --extract --gzip --no-same-owner --file "$work/package.tar.gz" --directory "$work" || fail 'the package could not be unpacked'
rm -rf ${shellQuote(layout.packageDirectory)}
mv "$work/gpuaas-node-agent" ${shellQuote(layout.packageDirectory)}

install -m 0644 ${shellQuote(layout.packagedUnitPath)} ${shellQuote(layout.serviceUnitPath)}
systemctl daemon-reload
systemctl enable ${shellQuote(layout.systemdUnitName)} || fail 'the agent could not be enabled'
systemctl restart ${shellQuote(layout.systemdUnitName)} || fail 'the agent could not be started'
report succeeded
echo 'gpuaas: the node agent is installed and starting'
`;
}

/** Writes a file by a command that cannot be broken by what is in it. */
function writeFile(path: string, content: string, mode: string): string {
  return `printf '%s' ${shellQuote(content)} > ${shellQuote(path)}\nchmod ${mode} ${shellQuote(path)}\n`;
}
