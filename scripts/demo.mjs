// `npm run demo`: against a running `npm start`, the first ten minutes of README.md: someone signs up, is credited, adds
// a key, launches a host, sees what it costs and gives it back. Every call is shown as curl would make it.
import { generateKeyPairSync, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { root } from './prepare.mjs';

const WAIT_SECONDS = 60;
const POLL_MILLISECONDS = 500;

const environment = process.env;
const address = (environment.GPUAAS_API_URL ?? environment.GPUAAS_PUBLIC_URL ?? localAddress()).replace(/\/+$/, '');
const api = `${address}/api/v1`;
/** A refusal, or something that never came: shown without a stack, since the demo itself is fine. */
class Unfinished extends Error {}

let tenant;
let launchedId;
try {
  await demo();
} catch (error) {
  if (!(error instanceof Unfinished)) throw error;
  console.error(`\nThe demo could not go on: ${error.message}`);
  process.exitCode = 1;
} finally {
  if (launchedId !== undefined) await giveBack();
}

async function demo() {
  console.log(`api=${api}`);
  await call('Is it there?', { path: '/healthz', shows: (body) => body });

  step('As a tenant: sign up');
  const username = `demo-${randomBytes(4).toString('hex')}`;
  const password = randomBytes(12).toString('base64url');
  const session = await call('An account of one’s own, with a tenant and a project', {
    method: 'POST',
    path: '/auth/personal/signup',
    body: { username, password },
    hides: [password],
    shows: ({ user }) => ({ user_id: user.id, project_id: user.project_id }),
  });
  tenant = { token: session.access_token, name: 'token', project: session.user.project_id };
  const skus = await call('What is for sale', {
    path: '/skus',
    as: tenant,
    shows: ({ items }) =>
      Object.fromEntries(items.map((item) => [item.sku, `${moneyOf(item.unit_price)} per ${item.billing_unit}`])),
  });

  step('As the operator: see the fleet, fund the tenant');
  const login = operatorLogin();
  const operator = {
    name: 'operator',
    token: (
      await call('The operator signs in', {
        method: 'POST',
        path: '/auth/personal/login',
        body: login,
        hides: [login.password],
        shows: (body) => ({ expires_in_seconds: body.expires_in_seconds }),
      })
    ).access_token,
  };
  const { items: nodes } = await call('The hosts', {
    path: '/admin/nodes?page_size=100',
    as: operator,
    shows: ({ items }) => countBy(items, ({ sku, status }) => `${sku} ${status}`),
  });
  const sku = nodes.find(({ status, in_use: inUse }) => status === 'active' && !inUse)?.sku;
  if (sku === undefined) throw new Unfinished('no host is active and free');
  if (!skus.items.some((item) => item.sku === sku)) throw new Unfinished(`hosts are of ${sku}, which is not for sale`);
  await call('Money for the tenant', {
    method: 'POST',
    path: `/admin/users/${session.user.id}/balance`,
    as: operator,
    key: `demo-credit-${username}`,
    body: { direction: 'credit', amount_minor: 1_000_000, currency: 'USD', reason: 'demo' },
    shows: (body) => body,
  });

  step('As the tenant: add a key, launch a host');
  const { key } = await call('A public key', {
    method: 'POST',
    path: '/ssh-keys',
    as: tenant,
    body: { name: 'demo', public_key: newPublicKey() },
    shows: (body) => ({ id: body.key.id, fingerprint: body.key.fingerprint }),
  });
  const { allocation } = await call('A whole host', {
    method: 'POST',
    path: '/allocations',
    as: tenant,
    project: true,
    key: `demo-launch-${username}`,
    body: { scheduler_type: 'bare_metal', ssh_key_ids: [key.id], scheduler_request: { sku } },
    shows: (body) => ({ id: body.allocation.id, status: body.allocation.status }),
  });
  launchedId = allocation.id;
  const started = performance.now();
  const active = await untilStatus('active');
  const seconds = ((performance.now() - started) / 1000).toFixed(1);

  step('What it costs, and back');
  await call('What runs is metered', {
    path: '/billing/usage',
    as: tenant,
    shows: ({ items }) =>
      items.map((item) => ({ allocation_id: item.allocation_id, sku: item.sku, start_time: item.start_time })),
  });
  await call('It is given back', {
    method: 'POST',
    path: `/allocations/${launchedId}/release`,
    as: tenant,
    project: true,
    shows: (body) => ({ status: body.allocation.status }),
  });
  await untilStatus('released');
  launchedId = undefined;
  const balance = await call('What is left', { path: '/billing/balance', as: tenant, shows: (body) => body });

  const { host, port, username_on_node: account } = active.connection;
  console.log(`
Done. ${username} launched a host of ${sku}, had it after ${seconds} s as
  ssh -p ${port} ${account}@${host}
and gave it back; the balance is ${moneyOf(balance.balance)}.`);
}

/** One call: shown, made, and its outcome shown. Anything but a 2xx ends the demo. */
async function call(what, { method = 'GET', path, as, project = false, key, body, hides = [], shows }) {
  const headers = {};
  if (as) headers.authorization = `Bearer ${as.token}`;
  if (project) headers['x-project-id'] = as.project;
  if (body) headers['content-type'] = 'application/json';
  if (key) headers['idempotency-key'] = key;
  console.log(`\n# ${what}\n${curl({ method, path, headers, as, body, hides })}`);

  const { status, ok, answer } = await send(path, { method, headers, body: body && JSON.stringify(body) });
  if (!ok) console.log(`→ ${status} ${JSON.stringify(answer)}`);
  accept(`${method} ${path}`, { status, ok, answer });
  console.log(`→ ${status} ${JSON.stringify(shows(answer))}`);
  return answer;
}

async function send(path, request) {
  let response;
  try {
    response = await fetch(`${api}${path}`, request);
  } catch (error) {
    const cause = error.cause?.code ?? error.message;
    throw new Unfinished(`nothing answers at ${address} (${cause}); run \`npm start\` in another terminal`);
  }
  const text = await response.text();
  const isJson = response.headers.get('content-type')?.startsWith('application/json');
  return { status: response.status, ok: response.ok, answer: isJson ? JSON.parse(text) : text };
}

function accept(what, { status, ok, answer }) {
  if (!ok) throw new Unfinished(`${what} answered ${status} ${answer.code ?? ''}: ${answer.message ?? answer}`);
}

/** Polls the allocation; shown once, however often it is asked. */
async function untilStatus(status) {
  const path = `/allocations/${launchedId}`;
  const headers = { authorization: `Bearer ${tenant.token}`, 'x-project-id': tenant.project };
  console.log(`\n# Until it is ${status}\n${curl({ method: 'GET', path, headers, as: tenant, hides: [] })}`);
  const deadline = performance.now() + WAIT_SECONDS * 1000;
  let seen = '';
  for (;;) {
    const polled = await send(path, { headers });
    accept(`GET ${path}`, polled);
    const allocation = polled.answer;
    if (allocation.status !== seen)
      console.log(`→ ${allocation.status} ${JSON.stringify(allocation.connection ?? null)}`);
    seen = allocation.status;
    if (seen === status) return allocation;
    if (seen === 'failed' || seen === 'release_failed') {
      throw new Unfinished(`the allocation is ${seen}: ${JSON.stringify(allocation.error ?? allocation)}`);
    }
    if (performance.now() > deadline) throw new Unfinished(`after ${WAIT_SECONDS} s the allocation is still ${seen}`);
    await delay(POLL_MILLISECONDS);
  }
}

/** A host that a failed demo still holds costs money. */
async function giveBack() {
  const headers = { authorization: `Bearer ${tenant.token}`, 'x-project-id': tenant.project };
  const answer = await fetch(`${api}/allocations/${launchedId}/release`, { method: 'POST', headers }).catch(() => null);
  console.error(answer?.ok ? 'The host that it had launched is being released.' : `${launchedId} was not released.`);
}

function curl({ method, path, headers, as, body, hides }) {
  const parts = [`curl -s${method === 'GET' ? '' : ` -X ${method}`} "$api${path}"`];
  for (const [name, value] of Object.entries(headers)) {
    parts.push(`-H ${name === 'authorization' ? `"authorization: Bearer $${as.name}"` : `'${name}: ${value}'`}`);
  }
  if (body) {
    const text = hides.reduce((shown, secret) => shown.replaceAll(secret, '…'), JSON.stringify(body));
    parts.push(`-d '${text}'`);
  }
  return parts.join(' \\\n  ');
}

function step(title) {
  console.log(`\n── ${title} ${'─'.repeat(Math.max(0, 70 - title.length))}`);
}

function localAddress() {
  const host = environment.GPUAAS_HOST || '127.0.0.1';
  const reachable = host === '0.0.0.0' || host === '::' ? '127.0.0.1' : host.includes(':') ? `[${host}]` : host;
  return `http://${reachable}:${environment.GPUAAS_PORT || 8090}`;
}

function operatorLogin() {
  const username = environment.GPUAAS_ADMIN_USERNAME || 'operator';
  if (environment.GPUAAS_ADMIN_PASSWORD) return { username, password: environment.GPUAAS_ADMIN_PASSWORD };
  const file = join(resolve(root, environment.GPUAAS_DATA_DIR || '.data/gpuaas'), 'operator.password');
  if (!existsSync(file)) {
    throw new Unfinished(`there is no ${file}; set GPUAAS_DATA_DIR as \`npm start\` has it, or GPUAAS_ADMIN_PASSWORD`);
  }
  return { username, password: readFileSync(file, 'utf8').trim() };
}

/** A fresh ed25519 key as a line of OpenSSH. Nobody keeps the private half: the demo logs in nowhere. */
function newPublicKey() {
  const { publicKey } = generateKeyPairSync('ed25519');
  const bytes = Buffer.from(publicKey.export({ format: 'jwk' }).x, 'base64url');
  const field = (content) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(content.length);
    return Buffer.concat([length, content]);
  };
  const blob = Buffer.concat([field(Buffer.from('ssh-ed25519')), field(bytes)]);
  return `ssh-ed25519 ${blob.toString('base64')} demo`;
}

function countBy(items, nameOf) {
  const counts = {};
  for (const item of items) counts[nameOf(item)] = (counts[nameOf(item)] ?? 0) + 1;
  return counts;
}

function moneyOf(money) {
  return `${(money.amount_minor / 100).toFixed(2)} ${money.currency}`;
}
