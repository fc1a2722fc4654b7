/**
 * Text inside of markup.
 *
 * @module
 */

/** `text` without what XML 1.0 cannot hold, escaped or not: control characters and halves of letters. */
export function printable(text: string): string {
  // deno-lint-ignore no-control-regex
  return text.toWellFormed().replace(/[\x00-\x08\x0b\x0c\x0e-\x1f\ufffe\uffff]/g, "\ufffd");
}

/** `text` as it must stand in XML and HTML, between tags and in quoted attributes. */
export function escapeMarkup(text: string): string {
  return printable(text)
    .replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;").replaceAll("'", "&#39;");
}
