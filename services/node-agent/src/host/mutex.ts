/** Runs pieces of work one after the other, in the order in which they were asked for. */
export class Mutex {
  #turn: Promise<unknown> = Promise.resolve();

  run<Value>(work: () => Promise<Value>): Promise<Value> {
    const mine = this.#turn.then(work);
    this.#turn = mine.catch(() => undefined);
    return mine;
  }
}
