import { STATUS_CODES } from 'node:http';
import type { Socket } from 'node:net';
import type { Logger } from '@gpuaas/kernel';
import fastify, { type FastifyInstance, type FastifyReply, type FastifyRequest } from 'fastify';
import { Refusal } from '../spine/refusal.js';
import { errorAnswer } from './error-response.js';
import { identifyRequest, identityHeaders } from './request-context.js';

const MAXIMUM_BODY_BYTES = 4 * 1024 * 1024;

/** TLS of the node listener: our certificate, and the authority whose client certificates it believes. */
export interface NodeTls {
  readonly key: string;
  readonly cert: string;
  readonly ca: string;
}

/**
 * A bare HTTP server with the platform's manners: raw bodies up to 4 MiB, every failure an ErrorResponse, nothing
 * written about a request but what the router logs. `trustedProxies` lists addresses whose X-Forwarded-For counts.
 */
export function createHttpServer(options: {
  log: Logger;
  trustedProxies: readonly string[];
  tls?: NodeTls;
}): FastifyInstance {
  const server: FastifyInstance = fastify({
    logger: false,
    bodyLimit: MAXIMUM_BODY_BYTES,
    trustProxy: options.trustedProxies.length > 0 ? [...options.trustedProxies] : false,
    // Held polls last 25 s; a keep-alive shorter than that would close connections under them.
    keepAliveTimeout: 72_000,
    requestTimeout: 120_000,
    forceCloseConnections: 'idle',
    // What still comes over an open connection while others are being answered is served like any other request:
    // everything that it needs is closed later than the listener.
    return503OnClosing: false,
    frameworkErrors: (error, request, reply) => answerFailure(error, request, reply),
    clientErrorHandler: (error, socket) => answerUnreadable(error, socket, options.log),
    routerOptions: { maxParamLength: 2048, ignoreTrailingSlash: false, caseSensitive: true },
    ...(options.tls && {
      https: { ...options.tls, requestCert: true, rejectUnauthorized: false, minVersion: 'TLSv1.2' as const },
    }),
  });

  server.removeAllContentTypeParsers();
  server.addContentTypeParser('*', { parseAs: 'buffer' }, (_request, body, done) => done(null, body));

  server.setNotFoundHandler((request, reply) => {
    const identity = identifyRequest(request.headers);
    const refusal = new Refusal('invalid_request', {
      status: 404,
      details: { reason: 'route_not_found', resource: 'route' },
      message: `no operation answers ${request.method} ${request.url.split('?')[0]?.slice(0, 200)}`,
    });
    const answer = errorAnswer(refusal, identity.correlationId, options.log);
    return reply
      .code(answer.status)
      .headers(identityHeaders(identity))
      .type('application/json; charset=utf-8')
      .send(JSON.stringify(answer.body));
  });

  server.setErrorHandler(answerFailure);
  letGoOnClose(server);
  return server;

  function answerFailure(error: unknown, request: FastifyRequest, reply: FastifyReply): FastifyReply {
    const identity = identifyRequest(request.headers);
    const answer = errorAnswer(transportRefusal(error) ?? error, identity.correlationId, options.log);
    return reply
      .code(answer.status)
      .headers({ ...identityHeaders(identity), ...answer.headers })
      .type('application/json; charset=utf-8')
      .send(JSON.stringify(answer.body));
  }
}

/** Answers what the HTTP parser could not read, and so has no headers to take a request id from, and hangs up. */
function answerUnreadable(error: Error & { readonly code?: string }, socket: Socket, log: Logger): void {
  if (error.code === 'ECONNRESET' || !socket.writable) {
    socket.destroy();
    return;
  }
  const identity = identifyRequest({});
  const refusal = new Refusal('invalid_request', {
    status: UNREADABLE_STATUS.get(error.code ?? '') ?? 400,
    details: { reason: 'request_malformed' },
    message: 'the request is malformed',
  });
  const { status, body } = errorAnswer(refusal, identity.correlationId, log);
  const content = Buffer.from(JSON.stringify(body));
  const headers = {
    ...identityHeaders(identity),
    'content-type': 'application/json; charset=utf-8',
    'content-length': String(content.length),
    connection: 'close',
  };
  const lines = Object.entries(headers).map(([name, value]) => `${name}: ${value}\r\n`);
  socket.end(
    Buffer.concat([Buffer.from(`HTTP/1.1 ${status} ${STATUS_CODES[status]}\r\n${lines.join('')}\r\n`), content]),
  );
}

const UNREADABLE_STATUS: ReadonlyMap<string, number> = new Map([
  ['ERR_HTTP_REQUEST_TIMEOUT', 408],
  ['HPE_HEADER_OVERFLOW', 431],
]);

/**
 * Lets go of the connections that are left once the last answer is out. A server that only stops listening waits for
 * every caller that keeps a connection for later, and for those who connected and never asked: minutes, in which its
 * supervisor loses patience and kills it.
 */
function letGoOnClose(server: FastifyInstance): void {
  const connections = new Set<Socket>();
  let answering = 0;
  let closing = false;
  const letGo = (): void => {
    if (closing && answering === 0) for (const connection of connections) connection.destroySoon();
  };
  server.server.on('connection', (connection: Socket) => {
    if (closing) {
      connection.destroy();
      return;
    }
    connections.add(connection);
    connection.once('close', () => connections.delete(connection));
  });
  server.server.on('request', (_request, response) => {
    answering += 1;
    response.once('close', () => {
      answering -= 1;
      letGo();
    });
  });
  server.addHook('preClose', async () => {
    closing = true;
    letGo();
  });
}

/** What the HTTP layer itself refuses, before a router sees it. */
function transportRefusal(error: unknown): Refusal | null {
  const code = error instanceof Error && 'code' in error ? error.code : undefined;
  switch (code) {
    case 'FST_ERR_CTP_BODY_TOO_LARGE':
      return new Refusal('invalid_request', {
        status: 413,
        message: `body: is larger than ${MAXIMUM_BODY_BYTES} bytes`,
        details: { reason: 'body_too_large', maximum_bytes: MAXIMUM_BODY_BYTES },
      });
    case 'FST_ERR_CTP_INVALID_CONTENT_LENGTH':
    case 'FST_ERR_BAD_URL':
    case 'FST_ERR_MAX_PARAM_LENGTH':
    case 'FST_ERR_CTP_INVALID_MEDIA_TYPE':
    case 'FST_ERR_CTP_EMPTY_TYPE':
    case 'FST_ERR_CTP_EMPTY_JSON_BODY':
      return new Refusal('invalid_request', {
        details: { reason: 'request_malformed' },
        message: 'the request is malformed',
      });
    default:
      return null;
  }
}
