/**
 * The data store that workers and clients share: payloads by key, large frames in files.
 *
 * @module
 */
export { type SpillOptions, startStore, type StoreOptions } from "./actor.ts";
export {
  type AllocatorOptions,
  FILE_BYTES_MIN,
  FOLDER_PREFIX,
  type OpenFile,
  storeAllocator,
  storeLinker,
} from "./disk.ts";
export { filesIn, type StoreCalls, type Stored } from "./messages.ts";
