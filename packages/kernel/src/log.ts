import { type Logger, pino } from 'pino';
import { errorChain } from './errors.js';
import { redactField, redactText } from './redactor.js';

export type { Logger } from 'pino';

export const LOG_LEVELS = ['trace', 'debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;
export type LogLevel = (typeof LOG_LEVELS)[number];

/**
 * A JSON logger on standard output (or `destination`). Every line carries `program`;
 * secrets in fields, by their name or their form, and in messages are replaced before they leave the process.
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
      serializers: { err: errorFacts },
      formatters: { level: (label) => ({ level: label }), log: safeFields },
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

/** Fields without secrets; errors are left to their serializer. */
function safeFields(fields: Record<string, unknown>): Record<string, unknown> {
  return Object.fromEntries(
    Object.entries(fields).map(([name, value]) => {
      if (value instanceof Error) return [name, name === 'err' ? value : errorFacts(value)];
      return [name, redactField(name, value)];
    }),
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
