/**
 * The modules of this package as task code imports them. A bundle names them by what they are, not by where they were
 * when it was made; here is where they are now.
 *
 * @module
 */
import { CURRENT_MODULE, PACKAGE_MODULE } from "../../protocol/call.ts";

const FACE = new URL("../../mod.ts", import.meta.url).href;
const CURRENT = new URL("./current.ts", import.meta.url).href;
/** The text of a bundle with our modules named by their URLs. */
export function withOwnModules(text: string): string {
  return text.replaceAll(JSON.stringify(PACKAGE_MODULE), JSON.stringify(FACE))
    .replaceAll(JSON.stringify(CURRENT_MODULE), JSON.stringify(CURRENT));
}
