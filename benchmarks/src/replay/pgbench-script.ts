import type { Parameter, Piece, Plan, PlannedStatement } from './plan.js';

export interface PgbenchScript {
  readonly text: string;
  /** how many it is for */
  readonly clients: number;
}

/** pgbench 15 writes past its own memory when a script has 128 commands or more. */
const MOST_COMMANDS = 110;

/**
 * The statements of the plans for pgbench's simple protocol, one client a plan, in as many scripts as pgbench needs.
 * Values that a statement returns go through \gset, fresh ids are made of pgbench's random numbers, times of the
 * server's clock.
 */
export function pgbenchScripts(plans: readonly Plan[]): PgbenchScript[] {
  const scripts: { branches: string[][] }[] = [];
  for (const plan of plans) {
    const lines = linesOf(plan);
    const last = scripts.at(-1);
    const commands = (last?.branches ?? []).reduce((sum, branch) => sum + branch.length + 1, 0);
    if (last && commands + lines.length + 1 <= MOST_COMMANDS) last.branches.push(lines);
    else scripts.push({ branches: [lines] });
  }
  return scripts.map(({ branches }) => {
    const text = branches.map((lines, client) =>
      [`${client === 0 ? '\\if' : '\\elif'} :client_id = ${client}`, ...lines].join('\n'),
    );
    return { text: `${[...text, '\\endif'].join('\n')}\n`, clients: branches.length };
  });
}

function linesOf(plan: Plan): string[] {
  const used = new Set(
    plan.statements.flatMap(({ parameters }) =>
      parameters.flatMap((parameter) =>
        (parameter ?? []).flatMap((piece) => (piece.kind === 'result' ? [piece.statement] : [])),
      ),
    ),
  );
  return [
    ...Array.from({ length: plan.freshUuids }, (_, number) => [
      `\\set fresh${number}a random(10000000, 99999999)`,
      `\\set fresh${number}b random(100000000000, 999999999999)`,
    ]).flat(),
    ...plan.statements.flatMap((statement, index) => [
      ...randomNumbersOf(statement, index),
      used.has(index) ? `${sqlOf(statement, index)} \\gset s${index}_` : `${sqlOf(statement, index)};`,
    ]),
  ];
}

function randomNumbersOf(statement: PlannedStatement, index: number): string[] {
  return statement.parameters.flatMap((parameter, position) =>
    (parameter ?? []).flatMap((piece) =>
      piece.kind === 'random_integer' ? [`\\set random${index}_${position} random(0, ${piece.below - 1})`] : [],
    ),
  );
}

function sqlOf(statement: PlannedStatement, index: number): string {
  return statement.text
    .replaceAll(/\$(\d+)/g, (_match, position: string) => {
      const at = Number(position) - 1;
      return literal(statement.parameters[at], `:random${index}_${at}`);
    })
    .trim()
    .replace(/;$/, '');
}

function literal(parameter: Parameter | undefined, randomNumber: string): string {
  if (parameter === undefined) throw new Error('a statement names more parameters than it was given');
  if (parameter === null) return 'NULL';
  const [only] = parameter;
  if (parameter.length === 1 && only?.kind === 'time') {
    return `(clock_timestamp() + interval '${Math.round(only.offsetMilliseconds)} milliseconds')`;
  }
  const text = parameter.map((piece) => textOf(piece, randomNumber)).join('');
  // Two colons are a cast to pgbench, and what follows is then no variable: the text is put together by the server.
  return text.includes('::') ? `('${text.replaceAll('::', ":' || ':")}')` : `'${text}'`;
}

function textOf(piece: Piece, randomNumber: string): string {
  switch (piece.kind) {
    case 'text':
      return piece.text.replaceAll("'", "''");
    case 'fresh_uuid':
      return `:fresh${piece.number}a-0000-4000-8000-:fresh${piece.number}b`;
    case 'result':
      if (piece.row !== 0) throw new Error('pgbench keeps the first row alone');
      return `:s${piece.statement}_${piece.column}`;
    case 'random_integer':
      return randomNumber;
    case 'time':
      // Inside a document, where the server's clock cannot be asked: any time of the right form will do.
      return new Date(Date.now() + piece.offsetMilliseconds).toISOString();
  }
}
