/**
 * Text inside of markup.
 *
 * @module
 */

/** `text` as it must stand in XML and HTML, between tags and in quoted attributes. */
export function escapeMarkup(text: string): string {
  return text
    // What XML 1.0 cannot hold at all, escaped or not.
    // deno-lint-ignore no-control-regex
    .replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]|[\ud800-\udbff](?![\udc00-\udfff])/g, "\ufffd")
    .replace(/(?<![\ud800-\udbff])[\udc00-\udfff]/g, "\ufffd")
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;").replaceAll("'", "&#39;");
}
