/**
 * Which task of a graph goes first when several could: depth first towards results, so that few values live at once.
 * The scheduler breaks ties by these numbers; lower runs sooner.
 *
 * Two rules. From an output backwards, the dependency whose subtree needs most room is computed first, as a compiler
 * orders an expression by its register needs (Sethi and Ullman). And whatever can run and is the last to need some
 * value runs at once: it frees at least as much as it makes.
 *
 * @module
 */
import { assert } from "../base/assert.ts";

/**
 * Numbers tasks 0, 1, 2 … in the order in which one machine should run them. `dependencies[i]` are the indexes of what
 * task `i` needs, each once. Takes time in proportion to the edges, and sorts each task's dependencies.
 */
export function order(dependencies: readonly (readonly number[])[]): Int32Array {
  const count = dependencies.length;
  const { start, dependents } = invert(dependencies);
  const sorted = byNeed(dependencies, start, dependents);

  const priorities = new Int32Array(count).fill(-1);
  let next = 0;
  /** Dependencies not run yet. */
  const missing = Int32Array.from(dependencies, (list) => list.length);
  /** Dependents not run yet, and the exclusive or of their indexes: when one is left, that is its index. */
  const waiting = new Int32Array(count);
  const waitingXor = new Int32Array(count);
  for (let i = 0; i < count; i++) {
    waiting[i] = start[i + 1]! - start[i]!;
    for (let at = start[i]!; at < start[i + 1]!; at++) waitingXor[i]! ^= dependents[at]!;
  }

  /** Tasks that may free something by running now. */
  const freeing: number[] = [];
  const run = (task: number): void => {
    priorities[task] = next++;
    for (const dependency of dependencies[task]!) {
      waitingXor[dependency]! ^= task;
      if (--waiting[dependency]! === 1) freeing.push(waitingXor[dependency]!);
    }
    for (let at = start[task]!; at < start[task + 1]!; at++) {
      const dependent = dependents[at]!;
      if (--missing[dependent]! === 0 && dependencies[dependent]!.some((i) => waiting[i] === 1)) {
        freeing.push(dependent);
      }
    }
  };
  const settle = (): void => {
    for (let task = freeing.pop(); task !== undefined; task = freeing.pop()) {
      if (missing[task] === 0 && priorities[task]! < 0) run(task);
    }
  };

  const path: number[] = [];
  const place = new Int32Array(count);
  for (let output = 0; output < count; output++) {
    if (start[output] !== start[output + 1] || priorities[output]! >= 0) continue;
    path.push(output);
    while (path.length > 0) {
      const task = path[path.length - 1]!;
      const before = sorted[task]!;
      while (place[task]! < before.length && priorities[before[place[task]!]!]! >= 0) place[task]!++;
      if (place[task]! < before.length) {
        path.push(before[place[task]!]!);
        continue;
      }
      path.pop();
      if (priorities[task]! >= 0) continue;
      run(task);
      settle();
    }
  }
  assert(next === count, "A graph to be ordered has a cycle");
  return priorities;
}

/** The dependents of all tasks in one array: those of `i` stand from `start[i]` to `start[i + 1]`. */
function invert(dependencies: readonly (readonly number[])[]): { start: Int32Array; dependents: Int32Array } {
  const start = new Int32Array(dependencies.length + 1);
  for (const list of dependencies) for (const dependency of list) start[dependency + 1]!++;
  for (let i = 0; i < dependencies.length; i++) start[i + 1]! += start[i]!;
  const filled = start.slice();
  const dependents = new Int32Array(start[dependencies.length]!);
  for (let i = 0; i < dependencies.length; i++) {
    for (const dependency of dependencies[i]!) dependents[filled[dependency]!++] = i;
  }
  return { start, dependents };
}

/** Each task's dependencies, most needy first; ties keep their order. */
function byNeed(
  dependencies: readonly (readonly number[])[],
  start: Int32Array,
  dependents: Int32Array,
): (readonly number[])[] {
  const count = dependencies.length;
  const sorted: (readonly number[])[] = new Array(count);
  const need = new Int32Array(count);
  const missing = Int32Array.from(dependencies, (list) => list.length);
  const ready: number[] = [];
  for (let i = count - 1; i >= 0; i--) if (missing[i] === 0) ready.push(i);
  for (let task = ready.pop(); task !== undefined; task = ready.pop()) {
    const list = dependencies[task]!;
    const by = list.length > 1 ? list.slice().sort((a, b) => need[b]! - need[a]!) : list;
    sorted[task] = by;
    let most = 1;
    for (let i = 0; i < by.length; i++) most = Math.max(most, need[by[i]!]! + i);
    need[task] = most;
    for (let at = start[task]!; at < start[task + 1]!; at++) {
      if (--missing[dependents[at]!]! === 0) ready.push(dependents[at]!);
    }
  }
  return sorted;
}
