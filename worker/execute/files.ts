/**
 * How an executor reaches the folder that it shares with its worker. Two ways with one face: Deno's own calls, which
 * need permission for the folder; and libc's, opened while `ffi` was still granted, which need none afterwards (and
 * reach `/dev/shm`, which Deno opens only for processes that may do everything).
 *
 * @module
 */
import { DaskError } from "../../protocol/errors.ts";
import type { LedgerFile } from "./ledger.ts";

/** Files of the shared folder, by full path. */
export interface SharedFiles {
  /** The bytes of a whole file, `byteLength` of them, aligned; the reader may write to them without changing the file. */
  read(path: string, byteLength: number): Uint8Array<ArrayBuffer>;
  /** Writes a new file; `false` (and no file) when there is no room. */
  write(path: string, bytes: Uint8Array): boolean;
  /** Opens a ledger that the worker made. */
  openLedger(path: string): LedgerFile;
}

/** Through Deno's calls. */
export const denoFiles: SharedFiles = {
  read(path, byteLength) {
    using file = Deno.openSync(path, { read: true });
    const bytes = new Uint8Array(byteLength);
    for (let at = 0; at < byteLength;) {
      const count = file.readSync(bytes.subarray(at));
      if (count === null) throw shorter(path, byteLength, at);
      at += count;
    }
    return bytes;
  },
  write(path, bytes) {
    let file: Deno.FsFile;
    try {
      file = Deno.openSync(path, { write: true, createNew: true, mode: 0o600 });
    } catch {
      return false;
    }
    try {
      for (let at = 0; at < bytes.byteLength;) at += file.writeSync(bytes.subarray(at));
      return true;
    } catch {
      Deno.removeSync(path);
      return false;
    } finally {
      file.close();
    }
  },
  openLedger: openLedgerFile,
};

/** Opens (or, with `create`, makes) a ledger file with Deno's calls. */
export function openLedgerFile(path: string, create = false): LedgerFile {
  // Two descriptors: an append moves the offset of the one that it goes through.
  const writer = Deno.openSync(path, { append: true, create, mode: 0o600 });
  const reader = Deno.openSync(path, { read: true });
  let position = 0;
  return {
    append: (record) => void writer.writeSync(record),
    read(offset, into) {
      if (offset !== position) reader.seekSync(offset, Deno.SeekMode.Start);
      const count = reader.readSync(into) ?? 0;
      position = offset + count;
      return count;
    },
    close() {
      writer.close();
      reader.close();
    },
  };
}

const SYMBOLS = {
  prctl: { parameters: ["i32", "u64", "u64", "u64", "u64"], result: "i32" },
  open: { parameters: ["buffer", "i32", "u32"], result: "i32" },
  close: { parameters: ["i32"], result: "i32" },
  pread: { parameters: ["i32", "buffer", "usize", "i64"], result: "isize" },
  write: { parameters: ["i32", "buffer", "usize"], result: "isize" },
  unlink: { parameters: ["buffer"], result: "i32" },
  memset: { parameters: ["buffer", "i32", "usize"], result: "usize" },
  mmap: { parameters: ["usize", "usize", "i32", "i32", "i32", "i64"], result: "usize" },
} as const;

const O_WRONLY = 0o1, O_RDWR = 0o2, O_CREAT = 0o100, O_EXCL = 0o200, O_APPEND = 0o2000, O_CLOEXEC = 0o2000000;
const PR_SET_PDEATHSIG = 1, SIGKILL = 9n;
const PROT_READ_WRITE = 3, MAP_PRIVATE_FIXED = 0x12;
const PAGE_BYTES = 4096;
/** glibc gives every allocation above 32 MiB a mapping of its own, whose data begins this far into a page. */
const OWN_MAPPING_BYTES = 33 << 20, OWN_MAPPING_OFFSET = 16n;
/** Linux moves at most 2^31 − 4096 bytes in one call. */
const TRANSFER_BYTES_MAX = 1 << 30;

/** What libc gives an executor. Whoever holds it can reach any file of the user: never hand it to user code. */
export interface Libc {
  readonly files: SharedFiles;
  /** Asks the kernel to end this process when the one that started it ends. Says whether it agreed. */
  dieWithParent(): boolean;
}

/** Opens libc; needs `ffi`. Linux only. The functions stay callable after `ffi` was revoked. */
export function openLibc(): Libc {
  const { symbols: libc } = Deno.dlopen("libc.so.6", SYMBOLS);
  const encoder = new TextEncoder();
  const name = (path: string) => encoder.encode(path + "\0");
  const open = (path: string, flags: number) => {
    const fd = libc.open(name(path), flags | O_CLOEXEC, 0o600);
    if (fd < 0) throw new DaskError(`Cannot open ${path} in the folder shared with the worker`);
    return fd;
  };
  /**
   * Puts the file's pages in the place of a fresh buffer's, privately: nothing is copied but the pages that are written
   * to. The buffer stays an ordinary one: when it is collected, `free` gives back the whole mapping. That holds only for
   * allocations that are mappings of their own, so anything else is left alone (null).
   */
  const map = (fd: number, byteLength: number): Uint8Array<ArrayBuffer> | null => {
    // A page that the file does not have would end the process when it is touched.
    if (BigInt(libc.pread(fd, new Uint8Array(1), 1n, BigInt(byteLength - 1))) !== 1n) return null;
    const room = new Uint8Array(byteLength + 2 * PAGE_BYTES);
    const begin = BigInt(libc.memset(room, 0, 0n));
    const page = BigInt(PAGE_BYTES);
    if (begin % page !== OWN_MAPPING_OFFSET) return null;
    const at = begin - OWN_MAPPING_OFFSET + page;
    const bytes = (BigInt(byteLength) + page - 1n) / page * page;
    if (BigInt(libc.mmap(at, bytes, PROT_READ_WRITE, MAP_PRIVATE_FIXED, fd, 0n)) !== at) return null;
    return room.subarray(Number(at - begin), Number(at - begin) + byteLength);
  };
  const files: SharedFiles = {
    read(path, byteLength) {
      const fd = open(path, 0);
      try {
        const mapped = byteLength >= OWN_MAPPING_BYTES ? map(fd, byteLength) : null;
        if (mapped !== null) return mapped;
        const bytes = new Uint8Array(byteLength);
        for (let at = 0; at < byteLength;) {
          const part = bytes.subarray(at, at + TRANSFER_BYTES_MAX);
          const count = Number(libc.pread(fd, part, BigInt(part.byteLength), BigInt(at)));
          if (count <= 0) throw shorter(path, byteLength, at);
          at += count;
        }
        return bytes;
      } finally {
        libc.close(fd);
      }
    },
    write(path, bytes) {
      let fd: number;
      try {
        fd = open(path, O_WRONLY | O_CREAT | O_EXCL);
      } catch {
        return false;
      }
      let at = 0;
      while (at < bytes.byteLength) {
        const part = bytes.subarray(at, at + TRANSFER_BYTES_MAX);
        const count = Number(libc.write(fd, part as Uint8Array<ArrayBuffer>, BigInt(part.byteLength)));
        if (count <= 0) break;
        at += count;
      }
      libc.close(fd);
      if (at < bytes.byteLength) libc.unlink(name(path));
      return at === bytes.byteLength;
    },
    openLedger(path) {
      const fd = open(path, O_RDWR | O_APPEND);
      return {
        append(record) {
          const bytes = BigInt(record.byteLength);
          if (libc.write(fd, record as Uint8Array<ArrayBuffer>, bytes) !== bytes) {
            throw new DaskError(`Cannot write to ${path}`);
          }
        },
        read: (offset, into) =>
          Math.max(
            0,
            Number(libc.pread(fd, into as Uint8Array<ArrayBuffer>, BigInt(into.byteLength), BigInt(offset))),
          ),
        close: () => void libc.close(fd),
      };
    },
  };
  return { files, dieWithParent: () => libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0n, 0n, 0n) === 0 };
}

function shorter(path: string, expected: number, got: number): DaskError {
  return new DaskError(`Cannot read ${path}: expected ${expected} bytes, got ${got}`);
}
