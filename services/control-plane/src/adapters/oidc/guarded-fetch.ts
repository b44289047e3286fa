import { type LookupAddress, lookup } from 'node:dns';
import { type ClientRequest, request as httpRequest, type IncomingMessage } from 'node:http';
import { request as httpsRequest } from 'node:https';
import { BlockList, isIP, type LookupFunction } from 'node:net';

export interface FetchGuard {
  /** development: plain HTTP and this machine itself may be asked */
  readonly allowsPlainHttp: boolean;
}

interface OutgoingRequest {
  readonly method: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: unknown;
  readonly signal?: AbortSignal;
}

const MAXIMUM_RESPONSE_BYTES = 1_048_576;
const TIMEOUT_MILLISECONDS = 10_000;

/** Where nobody's identity provider lives, and cloud hosts keep their own credentials. */
const NEVER = new BlockList();
NEVER.addSubnet('0.0.0.0', 8, 'ipv4');
NEVER.addSubnet('169.254.0.0', 16, 'ipv4');
NEVER.addAddress('100.100.100.200', 'ipv4');
NEVER.addSubnet('192.0.0.0', 24, 'ipv4');
NEVER.addSubnet('224.0.0.0', 3, 'ipv4');
NEVER.addAddress('::', 'ipv6');
NEVER.addSubnet('64:ff9b::', 96, 'ipv6');
NEVER.addAddress('fd00:ec2::254', 'ipv6');
NEVER.addSubnet('fe80::', 10, 'ipv6');
NEVER.addSubnet('ff00::', 8, 'ipv6');

const THIS_MACHINE = new BlockList();
THIS_MACHINE.addSubnet('127.0.0.0', 8, 'ipv4');
THIS_MACHINE.addAddress('::1', 'ipv6');

export class ForbiddenTarget extends Error {}

/** Whether an address may be asked: never link-local, metadata or multicast, and this machine only in development. */
export function isForbiddenAddress(address: string, { allowsPlainHttp }: FetchGuard): boolean {
  const family = isIP(address);
  if (family === 0) return true;
  const type = family === 4 ? 'ipv4' : 'ipv6';
  return NEVER.check(address, type) || (!allowsPlainHttp && THIS_MACHINE.check(address, type));
}

/**
 * A fetch for addresses that come from outside: https alone (http in development), no redirects, one mebibyte, ten
 * seconds. The address is judged where the connection is made, so that a name cannot change its meaning in between.
 */
export function createGuardedFetch(guard: FetchGuard) {
  const guardedLookup: LookupFunction = (hostname, options, callback) => {
    lookup(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
      if (error) return callback(error, '', 0);
      const [first] = addresses;
      if (!first || addresses.some(({ address }) => isForbiddenAddress(address, guard))) {
        return callback(new ForbiddenTarget(`${hostname} leads to an address that may not be asked`), '', 0);
      }
      return options.all === true ? callback(null, addresses) : callback(null, first.address, first.family);
    });
  };

  return async (target: string, options: OutgoingRequest): Promise<Response> => {
    const url = new URL(target);
    const isPlain = url.protocol === 'http:';
    if (url.protocol !== 'https:' && !(isPlain && guard.allowsPlainHttp)) {
      throw new ForbiddenTarget(`${url.protocol} may not be used to ask an identity provider`);
    }
    const host = url.hostname.replace(/^\[(.*)\]$/, '$1');
    if (isIP(host) !== 0 && isForbiddenAddress(host, guard)) {
      throw new ForbiddenTarget(`${host} may not be asked`);
    }
    const body = textOf(options.body);
    const signals = [AbortSignal.timeout(TIMEOUT_MILLISECONDS), ...(options.signal ? [options.signal] : [])];
    return new Promise<Response>((resolve, reject) => {
      const outgoing: ClientRequest = (isPlain ? httpRequest : httpsRequest)(
        url,
        {
          method: options.method,
          headers: { ...options.headers, ...(body !== null && { 'content-length': Buffer.byteLength(body) }) },
          lookup: guardedLookup,
          signal: AbortSignal.any(signals),
          agent: false,
        },
        (incoming) => {
          collect(incoming).then(resolve, (error: unknown) => {
            outgoing.destroy();
            reject(error);
          });
        },
      );
      outgoing.once('error', reject);
      outgoing.end(body ?? undefined);
    });
  };
}

async function collect(incoming: IncomingMessage): Promise<Response> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of incoming) {
    const bytes = Buffer.from(chunk);
    size += bytes.length;
    if (size > MAXIMUM_RESPONSE_BYTES) throw new Error('an identity provider answered with too much');
    chunks.push(bytes);
  }
  const headers = new Headers();
  for (const [name, value] of Object.entries(incoming.headersDistinct)) {
    for (const each of value ?? []) headers.append(name, each);
  }
  const status = incoming.statusCode ?? 0;
  if (status < 200 || status > 599) throw new Error('an identity provider answered without a status');
  const hasNoBody = status === 204 || status === 205 || status === 304;
  return new Response(hasNoBody ? null : Buffer.concat(chunks), { status, headers });
}

function textOf(body: unknown): string | null {
  if (body === undefined || body === null) return null;
  if (typeof body === 'string') return body;
  if (body instanceof URLSearchParams) return body.toString();
  throw new TypeError('only text can be sent to an identity provider');
}
