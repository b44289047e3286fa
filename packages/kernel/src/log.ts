import { type Logger, pino } from 'pino';
import { errorChain } from './errors.js';
import { redactText } from './redactor.js';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * A JSON logger on standard output (or `destination`). Every line carries `program`;
 * secrets in known places and in messages are replaced before they leave the process.
 */
export function createLogger(options: {
  program: string;
  level: LogLevel;
  destination?: { write(line: string): void };
}): Logger {
  return pino(
    {
      level: options.level,
      base: { program: options.program },
      timestamp: pino.stdTimeFunctions.isoTime,
      redact: {
        paths: [
          'password',
          'token',
          'secret',
          'authorization',
          '*.password',
          '*.token',
          '*.secret',
          '*.authorization',
          'req.headers.authorization',
          'req.headers.cookie',
        ],
        censor: '[redacted]',
      },
      serializers: { err: errorFacts },
      formatters: { level: (label) => ({ level: label }) },
      hooks: {
        logMethod(args, method) {
          const safe = args.map((argument) => (typeof argument === 'string' ? redactText(argument) : argument));
          method.apply(this, safe as Parameters<typeof method>);
        },
      },
    },
    ...(options.destination ? [options.destination] : []),
  );
}

/**
 * What a line says of an error: its words and where it came from, causes included. Whatever else a library hangs on it
 * stays out: a database driver hangs the whole connection there, with the secret that cancels its queries.
 */
function errorFacts(error: unknown): unknown {
  if (!(error instanceof Error)) return error;
  const code =
    'code' in error && (typeof error.code === 'string' || typeof error.code === 'number') ? error.code : null;
  return {
    type: error.name,
    message: redactText(errorChain(error)),
    ...(code !== null && { code }),
    ...(error.stack !== undefined && { stack: redactText(error.stack) }),
  };
}
