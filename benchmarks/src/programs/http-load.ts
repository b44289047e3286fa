import { setTimeout as delay } from 'node:timers/promises';
import autocannon from 'autocannon';
import { announceReady } from '../harness/programs.js';
import { quantile } from '../harness/statistics.js';
import { HttpConnection } from '../load/http-connection.js';
import type { LoadOutcome, LoadRequest } from '../load/http-load.js';

/** Sends what it is told to and reports; every latency is kept, so that the percentiles are those of all answers. */
async function send(request: LoadRequest): Promise<LoadOutcome> {
  let connection = 0;
  let refusal = '';
  const latencies: number[] = [];
  const options: autocannon.Options = {
    url: request.url,
    method: request.method,
    connections: request.connections,
    duration: request.seconds,
    timeout: 30,
    ...(request.body !== undefined && { body: request.body }),
    setupClient(client) {
      client.setHeaders({
        ...(request.body !== undefined && { 'content-type': 'application/json' }),
        ...request.headers[connection % request.headers.length],
      });
      connection += 1;
      let body: Buffer | null = null;
      client.on('body', (chunk) => {
        body = chunk;
      });
      client.on('response', (status) => {
        if (status < 200 || status > 299) refusal = `${status} ${body?.toString().slice(0, 300)}`;
      });
    },
  };
  const result = await new Promise<autocannon.Result>((resolve, reject) => {
    const instance = autocannon(options, (error: unknown, finished) => (error ? reject(error) : resolve(finished)));
    instance.on('response', (_client, _status, _bytes, milliseconds) => void latencies.push(milliseconds));
  });
  if (result.errors + result.timeouts + result.non2xx > 0 || latencies.length === 0) {
    const { errors, timeouts, non2xx } = result;
    return { problem: `${non2xx} answers were no success (${refusal}), ${errors} failed, ${timeouts} came too late` };
  }
  return {
    requestsPerSecond: latencies.length / ((result.finish.getTime() - result.start.getTime()) / 1000),
    answered: latencies.length,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

/**
 * Sends requests evenly over time, whichever connection is free; the time of one counts from when it was due, so that
 * a server that falls behind is not spared the questions.
 */
async function sendPaced(request: LoadRequest, perSecond: number): Promise<LoadOutcome> {
  const latencies: number[] = [];
  const started = performance.now();
  const total = Math.round(request.seconds * perSecond);
  let next = 0;
  let refusal: string | null = null;
  await Promise.all(
    Array.from({ length: request.connections }, async (_, index) => {
      const connection = new HttpConnection(request.url);
      const { pathname } = new URL(request.url);
      while (next < total && refusal === null) {
        const due = started + (next * 1000) / perSecond;
        next += 1;
        await delay(Math.max(0, due - performance.now()));
        const headers = request.headers[index % request.headers.length] ?? {};
        const answer = await connection.request(request.method, pathname, headers, request.body);
        latencies.push(performance.now() - due);
        if (answer.status < 200 || answer.status > 299) refusal = `${answer.status} ${answer.body.slice(0, 300)}`;
      }
      connection.close();
    }),
  );
  if (refusal !== null) return { problem: `an answer was no success: ${refusal}` };
  return {
    requestsPerSecond: (latencies.length * 1000) / (performance.now() - started),
    answered: latencies.length,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
  };
}

process.on('message', (message: unknown) => {
  if (!isLoad(message)) return;
  const { perSecond } = message.load;
  (perSecond === undefined ? send(message.load) : sendPaced(message.load, perSecond)).then(
    (outcome) => process.send?.({ outcome }),
    (error: unknown) => process.send?.({ outcome: { problem: String(error) } }),
  );
});

function isLoad(message: unknown): message is { readonly load: LoadRequest } {
  return typeof message === 'object' && message !== null && 'load' in message;
}

process.on('SIGTERM', () => process.exit(0));
announceReady(true);
