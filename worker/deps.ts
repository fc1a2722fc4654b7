/**
 * Third-party modules of the worker's entrypoint. Nothing here is loaded by an idle worker with default flags.
 *
 * @module
 */
export {
  configure,
  getJsonLinesFormatter,
  getLogger,
  getTextFormatter,
  type LogRecord,
} from "npm:@logtape/logtape@2.4.2";
