/**
 * Where relative paths of tasks begin.
 *
 * @module
 */

/** The working folder, or the root when there is none any more, or it may not be seen. */
export function currentFolder(): string {
  try {
    return Deno.cwd();
  } catch {
    return "/";
  }
}
