import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { repository } from './harness/programs.js';
import { type BenchmarkResult, type Measure, meetsAim, readResults, resultsDirectory } from './harness/results.js';

const results = await readResults();
const file = path.join(resultsDirectory, '..', 'RESULTS.md');
await writeFile(file, reportOf(results));
process.stdout.write(`${results.length} results, written to ${path.relative(repository, file)}\n`);

function reportOf(all: readonly BenchmarkResult[]): string {
  return `# Benchmark results

Written by \`npm run bench:report\` from \`benchmarks/results/*.json\`. Every value is the median of its rounds; the
rounds stand in the file. Run one again with \`npm run bench:<name>\`; \`-- --help\` shows what can be varied.
Only ratios of one run compare: absolute times follow what else the machine was doing, and each section says how it was
run. A load before the run above the number of cores says that others were using the machine too.

| benchmark | measure | value | aim | |
|---|---|---|---|---|
${all.flatMap((result) => result.measures.map((each) => `| [${result.name}](#${result.name}) ${rowOf(each)}`)).join('\n')}

${all.map(sectionOf).join('\n')}`;
}

function rowOf(measured: Measure): string {
  const met = meetsAim(measured);
  const verdict = met === null ? '' : met ? 'met' : '**missed**';
  return `| ${measured.title} | ${valueText(measured)} | ${aimOf(measured)} | ${verdict} |`;
}

function valueText({ value, unit }: Measure): string {
  return [value, unit].filter((part) => part !== '').join(' ');
}

function aimOf({ aim }: Measure): string {
  if (aim === null) return '';
  return `${aim.kind === 'at_least' ? '≥' : '≤'} ${aim.value}`;
}

function sectionOf(result: BenchmarkResult): string {
  const { machine } = result;
  const parameters = Object.entries(result.parameters).map(([name, value]) => `${name} ${value}`);
  return `## ${result.name}

${result.title}. ${result.method}

Commit \`${result.commit}\`, ${result.measuredAt}, ${result.tookSeconds} s; ${machine.processor}, ${machine.cores} cores,
${machine.memoryGibibytes} GiB, ${machine.system}, Node ${machine.node}, ${machine.syncMilliseconds} ms for a synced write;
load before the run ${machine.loadBefore};
${parameters.join(', ')}.

${result.measures.map(detailOf).join('\n')}
`;
}

function detailOf(measured: Measure): string {
  const details = Object.entries(measured.details).map(([name, value]) => `${name} ${value}`);
  const rounds = measured.rounds.length > 1 ? [`rounds ${measured.rounds.join(', ')}`] : [];
  return `- ${measured.title}: **${valueText(measured)}**${[...details, ...rounds].map((text, index) => (index === 0 ? ` (${text}` : `; ${text}`)).join('')}${details.length + rounds.length > 0 ? ')' : ''}`;
}
