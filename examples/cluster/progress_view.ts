/**
 * Shows how far work has come: a bar that is drawn over on a terminal, a line per tenth elsewhere.
 *
 * @module
 */

/** Shows counts as they grow. */
export interface ProgressView {
  show(done: number, total: number): void;
  /** Leaves the last state standing. */
  end(): void;
}

/** A view on `stream`: a bar when it is a terminal, lines otherwise. */
export function progressView(
  stream: { isTerminal(): boolean; writeSync(bytes: Uint8Array): number },
): ProgressView {
  const write = (text: string) => stream.writeSync(new TextEncoder().encode(text));
  if (stream.isTerminal()) {
    return {
      show(done, total) {
        const width = Math.max(10, Math.min(50, Deno.consoleSize().columns - 20));
        const filled = Math.round((width * done) / Math.max(1, total));
        write(`\r[${"#".repeat(filled)}${".".repeat(width - filled)}] ${done}/${total} ops`);
      },
      end: () => write("\n"),
    };
  }
  let told = -1;
  return {
    show(done, total) {
      const tenth = Math.floor((10 * done) / Math.max(1, total));
      if (tenth === told) return;
      told = tenth;
      write(`${done}/${total} ops\n`);
    },
    end: () => {},
  };
}
