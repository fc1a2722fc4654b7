/**
 * Cuts a graph into groups of equal annotations, since the scheduler takes one set of annotations per `update-graph`.
 * The law: the groups, sent one after the other, are each complete without the later ones; and what a later group
 * needs of an earlier one is wanted until the later one has been sent, or the scheduler would not run it.
 *
 * @module
 */
import type { Annotations, Key, SubmittedTask } from "./events.ts";

/** Tasks with equal annotations. */
export interface GraphGroup {
  readonly signature: string;
  readonly annotations: Annotations | null;
  readonly tasks: SubmittedTask[];
  /** Of `tasks`, those that a later group depends on. */
  readonly bridges: Key[];
}

/** The groups of a graph, in the order in which they are to be sent. `tasks` come dependencies first. */
export function groupByAnnotations(tasks: readonly SubmittedTask[]): readonly GraphGroup[] {
  const first = tasks[0];
  if (first === undefined) return [];
  if (tasks.every((task) => task.signature === first.signature)) {
    return [{ signature: first.signature, annotations: first.annotations, tasks: [...tasks], bridges: [] }];
  }
  // A task stands one level above each dependency of other annotations, and never below a dependency.
  const places = new Map<Key, { readonly level: number; readonly group: GraphGroup }>();
  const levels: Map<string, GraphGroup>[] = [];
  const bridged = new Set<Key>();
  for (const task of tasks) {
    let level = 0;
    for (const dependency of task.dependencies) {
      const place = places.get(dependency);
      if (place === undefined) continue;
      const same = place.group.signature === task.signature;
      level = Math.max(level, same ? place.level : place.level + 1);
    }
    while (levels.length <= level) levels.push(new Map());
    const groups = levels[level]!;
    let group = groups.get(task.signature);
    if (group === undefined) {
      group = { signature: task.signature, annotations: task.annotations, tasks: [], bridges: [] };
      groups.set(task.signature, group);
    }
    group.tasks.push(task);
    places.set(task.key, { level, group });
    for (const dependency of task.dependencies) {
      const place = places.get(dependency);
      if (place === undefined || place.group === group || bridged.has(dependency)) continue;
      bridged.add(dependency);
      place.group.bridges.push(dependency);
    }
  }
  return levels.flatMap((groups) => [...groups.values()]);
}

/** What goes into one `update-graph`. */
export interface GraphPart {
  readonly tasks: readonly SubmittedTask[];
  /** Of `tasks`, those that are wanted. */
  readonly keys: readonly Key[];
  /** Of each task, in the order of `tasks`. */
  readonly priorities: readonly number[];
}

/**
 * Cuts a large graph into parts of at most `tasksMax` tasks, so that workers begin with the first while the scheduler
 * still reads the others. The law is that of groups: each part is complete without the later ones, and what a later one
 * needs of an earlier one is wanted. A graph for which that does not hold stays whole. `tasks` come dependencies first.
 */
export function cutGraph(graph: GraphPart, tasksMax: number): readonly GraphPart[] {
  const { tasks, keys, priorities } = graph;
  if (tasks.length <= tasksMax) return [graph];
  const wanted = new Set(keys);
  const places = new Map<Key, number>();
  const parts: { tasks: SubmittedTask[]; keys: Key[]; priorities: number[] }[] = [];
  for (let i = 0; i < tasks.length; i++) {
    const task = tasks[i]!;
    const place = Math.floor(i / tasksMax);
    for (const dependency of task.dependencies) {
      const other = places.get(dependency);
      if (other !== undefined && other !== place && !wanted.has(dependency)) return [graph];
    }
    places.set(task.key, place);
    const part = parts[place] ??= { tasks: [], keys: [], priorities: [] };
    part.tasks.push(task);
    part.priorities.push(priorities[i]!);
    if (wanted.has(task.key)) part.keys.push(task.key);
  }
  return parts;
}
