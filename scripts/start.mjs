// `npm start`: installs, builds, and runs the whole platform on this machine: the control plane with its database and
// broker, and a simulated site whose hosts run the real node agent. Ctrl-C stops all of it.
import { spawn } from 'node:child_process';
import { join, resolve } from 'node:path';
import { ensureBuilt, ensureInstalled, requireNode, root } from './prepare.mjs';

requireNode();
ensureInstalled();
ensureBuilt();

const environment = { GPUAAS_LOG_LEVEL: 'warn', ...process.env };
environment.GPUAAS_DATA_DIR = resolve(root, environment.GPUAAS_DATA_DIR || join('.data', 'gpuaas'));
const production = environment.GPUAAS_ENV === 'production';
const wantedNodes = Number(environment.GPUAAS_SIMULATED_NODES || (production ? 0 : 8));

const programs = [];
let stopping = false;

/** Starts one program of ours in its own process group, so that Ctrl-C reaches it through us and in order. */
function start(name, script, extra = {}) {
  const child = spawn(process.execPath, [join(root, script)], {
    cwd: root,
    env: { ...environment, ...extra },
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    detached: true,
  });
  const program = {
    name,
    child,
    exited: new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal }))),
  };
  programs.push(program);
  program.exited.then(({ code, signal }) => {
    if (stopping) return;
    if (code !== 0) console.error(`${name} stopped (${signal ?? `exit ${code}`})`);
    stop(code ?? 1);
  });
  return child;
}

const readiness = (child) =>
  new Promise((resolve) => child.on('message', (message) => message?.ready && resolve(message.ready)));

/** Last started, first stopped; each gets time to finish what it holds. */
async function stop(code) {
  if (stopping) return;
  stopping = true;
  for (const { child, exited } of programs.reverse()) {
    child.kill('SIGTERM');
    const patience = setTimeout(() => child.kill('SIGKILL'), 20_000);
    await exited;
    clearTimeout(patience);
  }
  process.exit(code);
}
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop(0));

const platform = await readiness(start('control plane', 'services/control-plane/dist/main.js'));
// A process that serves no API leaves the hosts to one that does.
const simulatedNodes = platform.nodeUrl === null ? 0 : wantedNodes;
if (simulatedNodes > 0) {
  await readiness(
    start('simulated site', 'simulators/site/dist/main.js', {
      GPUAAS_API_URL: platform.apiUrl,
      GPUAAS_NODE_API_URL: platform.nodeUrl,
      GPUAAS_OPERATOR_USERNAME: platform.username,
      // Chosen by whoever starts us, or kept in a file; never both.
      ...(platform.passwordFile === null
        ? { GPUAAS_OPERATOR_PASSWORD: platform.password }
        : { GPUAAS_OPERATOR_PASSWORD_FILE: platform.passwordFile }),
      GPUAAS_SITE_DIR: join(environment.GPUAAS_DATA_DIR, 'simulated-site'),
      GPUAAS_SIMULATED_NODES: String(simulatedNodes),
    }),
  );
}

const { apiUrl, username, password, passwordFile } = platform;
const kept = passwordFile === null ? ['as GPUAAS_ADMIN_PASSWORD has it'] : [password, `(kept in ${passwordFile})`];
const secret = passwordFile === null ? '$GPUAAS_ADMIN_PASSWORD' : `$(cat ${passwordFile})`;
const credentials = `{\\"username\\":\\"${username}\\",\\"password\\":\\"${secret}\\"}`;
console.log(
  platform.nodeUrl === null
    ? `\nGPUaaS is ready: ${environment.GPUAAS_ROLES}. Ctrl-C stops it.\n`
    : `
GPUaaS is ready.

  address    ${apiUrl}
  reference  ${apiUrl}/docs
  operator   ${username}
  password   ${kept.join('\n             ')}
${simulatedNodes > 0 ? `  hosts      ${simulatedNodes} simulated, 8 × H200 each\n` : ''}
Try:

  curl -s ${apiUrl}/api/v1/healthz
  curl -s ${apiUrl}/api/v1/auth/personal/login -H 'content-type: application/json' -d "${credentials}"
  npm run demo

Ctrl-C stops everything; the data stays in ${environment.GPUAAS_DATA_DIR}.
`,
);
