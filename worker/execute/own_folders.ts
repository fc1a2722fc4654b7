/**
 * Where this package lies, for whoever lets task code import it.
 *
 * @module
 */
const FACE = new URL("../../mod.ts", import.meta.url).href;
/** Folders with modules that `mod.ts` reaches. */
const FOLDERS = ["actors", "base", "client", "cluster", "comm", "config", "dispatch", "protocol", "worker"];

/** Files and folders that must be readable for that; none when the package was loaded from elsewhere. */
export function ownFolders(): string[] {
  if (!FACE.startsWith("file:")) return [];
  const root = decodeURIComponent(new URL("../../", import.meta.url).pathname);
  return [`${root}mod.ts`, ...FOLDERS.map((folder) => `${root}${folder}`)];
}
