import autocannon from 'autocannon';
import { announceReady } from '../harness/programs.js';
import { quantile } from '../harness/statistics.js';
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

process.on('message', (message: unknown) => {
  if (!isLoad(message)) return;
  send(message.load).then(
    (outcome) => process.send?.({ outcome }),
    (error: unknown) => process.send?.({ outcome: { problem: String(error) } }),
  );
});

function isLoad(message: unknown): message is { readonly load: LoadRequest } {
  return typeof message === 'object' && message !== null && 'load' in message;
}

process.on('SIGTERM', () => process.exit(0));
announceReady(true);
