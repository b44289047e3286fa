import type { BenchmarkRun } from '../harness/benchmark.js';
import { type Program, startProgram } from '../harness/programs.js';
import { programFile } from '../harness/site.js';

/** One kind of request; connection n sends the headers `n modulo their number`. */
export interface LoadRequest {
  readonly url: string;
  readonly method: 'GET' | 'POST';
  readonly headers: readonly Readonly<Record<string, string>>[];
  readonly body?: string;
  readonly connections: number;
  readonly seconds: number;
  /** requests that are sent a second; as many as the connections can where absent */
  readonly perSecond?: number;
}

export interface LoadResult {
  readonly requestsPerSecond: number;
  readonly answered: number;
  readonly p50: number;
  readonly p99: number;
}

/** A process that sends HTTP requests, so that a measured program does not share its thread with its clients. */
export interface HttpLoad {
  /** Throws where a single answer was no 2xx, or a connection failed. */
  send(request: LoadRequest): Promise<LoadResult>;
}

export async function startHttpLoad(run: BenchmarkRun): Promise<HttpLoad> {
  const program: Program = startProgram({ script: programFile('programs/http-load.js') });
  run.cleanUp(() => program.stop());
  await program.ready;
  return {
    async send(request) {
      const answer = await program.ask({ load: { ...request, headers: [...request.headers] } }, (message) =>
        isOutcome(message) ? message.outcome : undefined,
      );
      if ('problem' in answer) throw new Error(`${request.method} ${request.url}: ${answer.problem}`);
      return answer;
    },
  };
}

export type LoadOutcome = LoadResult | { readonly problem: string };

function isOutcome(message: unknown): message is { readonly outcome: LoadOutcome } {
  return typeof message === 'object' && message !== null && 'outcome' in message;
}
