import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from 'node:http';
import { Agent as HttpsAgent, request as httpsRequest } from 'node:https';
import type { TlsIdentity, Transport, TransportRequest, TransportResponse } from './transport.js';
import { TransportError } from './transport.js';

/** Far above any task; an answer beyond it is not one of ours. */
const MAX_RESPONSE_BYTES = 8 * 1024 * 1024;
const IDLE_SOCKET_MILLISECONDS = 60_000;

/**
 * HTTP/1.1 with kept-alive connections to one origin: mutual TLS for `https:`, plain for `http:` (development).
 * Certificates of the server are always checked; there is no setting that turns it off.
 */
export function createHttpTransport(options: { apiUrl: string; maxSockets?: number }): Transport {
  const origin = new URL(options.apiUrl);
  const encrypted = origin.protocol === 'https:';
  const pool = {
    keepAlive: true,
    maxSockets: options.maxSockets ?? 32,
    timeout: IDLE_SOCKET_MILLISECONDS,
    noDelay: true,
  };
  const plain = new HttpAgent(pool);
  // By identity, so that a connection is never reused under another certificate or other anchors.
  const secure = new Map<TlsIdentity, HttpsAgent>();

  const secureAgent = (identity: TlsIdentity): HttpsAgent => {
    const known = secure.get(identity);
    if (known) return known;
    const agent = new HttpsAgent({
      ...pool,
      minVersion: 'TLSv1.2',
      rejectUnauthorized: true,
      ...(identity.caPem === null ? {} : { ca: identity.caPem }),
      ...(identity.client === null ? {} : { cert: identity.client.certificatePem, key: identity.client.privateKeyPem }),
    });
    secure.set(identity, agent);
    return agent;
  };

  const prefix = origin.pathname.replace(/\/$/, '');

  return {
    encrypted,
    request: (request) =>
      new Promise<TransportResponse>((resolve, reject) => {
        const settings = {
          method: request.method,
          hostname: origin.hostname.replace(/^\[|\]$/g, ''),
          port: origin.port === '' ? undefined : origin.port,
          path: prefix + request.path,
          headers: {
            accept: 'application/json',
            ...(request.body === undefined
              ? {}
              : { 'content-type': 'application/json', 'content-length': String(Buffer.byteLength(request.body)) }),
            ...request.headers,
          },
        };
        const fail = (kind: TransportError['kind'], message: string, cause?: unknown) => {
          cleanUp();
          reject(new TransportError(message, kind, { cause }));
          outgoing.destroy();
        };
        const onResponse = (response: IncomingMessage) =>
          collect(response).then(
            (answer) => {
              cleanUp();
              resolve(answer);
            },
            (cause: unknown) =>
              cause instanceof TransportError
                ? fail(cause.kind, cause.message)
                : fail('connection', 'the answer broke off', cause),
          );
        const outgoing = encrypted
          ? httpsRequest({ ...settings, agent: secureAgent(request.identity) }, onResponse)
          : httpRequest({ ...settings, agent: plain }, onResponse);
        const timeout = setTimeout(() => fail('timeout', 'no answer in time'), request.timeoutMilliseconds);
        const onAbort = () => fail('aborted', 'given up by the caller');
        const cleanUp = () => {
          clearTimeout(timeout);
          request.signal?.removeEventListener('abort', onAbort);
        };
        outgoing.on('error', (cause) => fail('connection', 'no connection to the control plane', cause));
        if (request.signal?.aborted) return onAbort();
        request.signal?.addEventListener('abort', onAbort, { once: true });
        outgoing.end(request.body);
      }),
    release: (identity) => {
      const agent = secure.get(identity);
      secure.delete(identity);
      // What is under way may end; its connection then idles out with the agent that nobody asks any more.
      for (const sockets of Object.values(agent?.freeSockets ?? {}))
        for (const socket of sockets ?? []) socket.destroy();
    },
    close: () => {
      plain.destroy();
      for (const agent of secure.values()) agent.destroy();
      secure.clear();
    },
  };
}

async function collect(response: IncomingMessage): Promise<TransportResponse> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of response) {
    const part = Buffer.from(chunk);
    bytes += part.length;
    if (bytes > MAX_RESPONSE_BYTES) throw new TransportError('the answer is too large', 'oversize');
    chunks.push(part);
  }
  const headers = Object.fromEntries(
    Object.entries(response.headers).flatMap(([name, value]) =>
      value === undefined ? [] : [[name, Array.isArray(value) ? value.join(', ') : value]],
    ),
  );
  return { status: response.statusCode ?? 0, headers, body: Buffer.concat(chunks).toString('utf8') };
}

export type { TransportRequest };
