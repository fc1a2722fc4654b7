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
