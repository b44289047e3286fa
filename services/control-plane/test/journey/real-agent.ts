import { existsSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ComputeSite } from '../compute/site-with-hosts.js';
import { type Program, startCommand } from '../harness/program.js';
import { until } from '../harness/waiting.js';

const PROGRAM = fileURLToPath(new URL('../../../node-agent/dist/main.js', import.meta.url));

export interface AgentPlace {
  readonly nodeId: string;
  /** everything the agent writes lies below; others must be able to pass through it to their homes */
  readonly directory: string;
  readonly sshPort: number;
}

/** Starts the built agent as the driver of this very machine, enrolled as the node, and waits until it is in service. */
export async function startRealAgent(site: ComputeSite, place: AgentPlace): Promise<Program> {
  if (!existsSync(PROGRAM)) throw new Error(`${PROGRAM} is not there: run \`npm run build\``);
  const issued = await site.asOperator('POST', `/api/v1/admin/nodes/${place.nodeId}/enrollment-token`, {});
  if (issued.status !== 201) throw new Error(`no enrolment token: ${JSON.stringify(issued.body)}`);
  const bundle = issued.body.bootstrap_bundle;
  const file = (name: string) => join(place.directory, name);
  await mkdir(file('home'), { mode: 0o755 });
  await writeFile(file('ca-bundle.pem'), bundle.ca_bundle_pem);
  await writeFile(file('enrollment-token'), issued.body.enrollment_token, { mode: 0o600 });

  const agent = startCommand(process.execPath, [PROGRAM, '--host', 'linux'], {
    PATH: process.env.PATH,
    GPUAAS_API_URL: bundle.api_url,
    GPUAAS_NODE_ID: place.nodeId,
    GPUAAS_ENROLLMENT_TOKEN_FILE: file('enrollment-token'),
    GPUAAS_CA_BUNDLE_PATH: file('ca-bundle.pem'),
    GPUAAS_NODE_CERT_CA_BUNDLE_PATH: file('ca-bundle.pem'),
    GPUAAS_TASK_SIGNING_PUBKEYS: bundle.task_signing_pubkeys,
    GPUAAS_STATE_DIR: file('state'),
    GPUAAS_HOME_ROOT: file('home'),
    GPUAAS_RUNTIME_DIR: file('runtime'),
    GPUAAS_SSH_HOST: '127.0.0.1',
    GPUAAS_SSH_PORT: String(place.sshPort),
    // A test that goes wrong must not restart the machine that it runs on.
    GPUAAS_REBOOT_COMMAND: 'false',
  });
  await untilInService(site, place.nodeId, agent);
  return agent;
}

/** Waits until the node is active; fails with what the agent said when the agent ends before. */
export async function untilInService(site: ComputeSite, nodeId: string, agent: Program): Promise<void> {
  let ended = false;
  void agent.ended.then(() => {
    ended = true;
  });
  await until(
    async () => {
      if (ended) throw new Error(`the agent ended: ${agent.output()}`);
      const listed = await site.asOperator('GET', '/api/v1/admin/nodes');
      return listed.body.items.some(
        (node: { id: string; status: string }) => node.id === nodeId && node.status === 'active',
      );
    },
    { timeoutMilliseconds: 60_000, what: `node ${nodeId} to be active` },
  );
}
