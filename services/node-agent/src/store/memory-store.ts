import type { AppendLog, StateStore } from './state-store.js';

/**
 * Keeps everything in memory: for many agents in one process, where none has to outlive it.
 * A second agent that is given the same store finds what the first one left.
 */
export function createMemoryStore(): StateStore {
  const texts = new Map<string, string>();

  const openLog = (name: string): AppendLog => {
    const content = texts.get(name) ?? '';
    return {
      content,
      size: () => texts.get(name)?.length ?? 0,
      append: async (text) => void texts.set(name, (texts.get(name) ?? '') + text),
      rewrite: async (text) => void texts.set(name, text),
      close: async () => undefined,
    };
  };

  return {
    read: async (name) => texts.get(name) ?? null,
    write: async (name, text) => void texts.set(name, text),
    rename: async (from, to) => {
      const text = texts.get(from);
      if (text === undefined) throw new Error(`${from} does not exist`);
      texts.set(to, text);
      texts.delete(from);
    },
    remove: async (name) => void texts.delete(name),
    openLog: async (name) => openLog(name),
    purge: async () => texts.clear(),
    close: async () => undefined,
  };
}
