/**
 * What comes from peers. The law: one request to a peer at a time, to so many peers at a time, for so many bytes
 * (always at least one key); the most urgent key first, from a holder on our own host when there is one, else from
 * any holder by the seeded generator; a busy peer is left alone until its timer.
 *
 * @module
 */
import { assert } from "../../base/assert.ts";
import type { Address, Key } from "./events.ts";
import { before } from "./heap.ts";
import { type Node, type Peer, sourceOf, type Task } from "./task.ts";
import { dismiss, move, removeHolder } from "./transitions.ts";
import type { World } from "./world.ts";

/** Asks peers for what is in state `fetch`, as far as the limits allow. */
export function fetchMore(world: World): void {
  if (world.status !== "running") return;
  while (world.requests < world.transferPeersMax && world.askable.size > 0) {
    const peer = choosePeer(world);
    if (peer === null) return;
    request(world, peer);
  }
}

/** Of the peers that hold the most urgent key: one on our own host, else any. */
function choosePeer(world: World): Peer | null {
  let best: Peer | null = null;
  let bestNode: Node | null = null;
  let ties = 0;
  for (const peer of world.askable) {
    const node = peer.needed.peek();
    if (node === null) {
      world.askable.delete(peer);
    } else if (best === null || bestNode === null || before(node, bestNode)) {
      best = peer, bestNode = node, ties = 1;
    } else if (!before(bestNode, node)) {
      if (peer.local !== best.local) {
        if (peer.local) best = peer, ties = 1;
      } else if (world.random() * ++ties < 1) best = peer;
    }
  }
  return best;
}

function request(world: World, peer: Peer): void {
  const keys: Key[] = [];
  let bytes = 0;
  for (let node = peer.needed.peek(); node !== null; node = peer.needed.peek()) {
    const { task } = node;
    if (keys.length > 0 && bytes + task.nbytes > world.transferBytesMax) break;
    peer.needed.pop();
    keys.push(task.key);
    bytes += task.nbytes;
    move(world, task, { name: "flight", peer });
  }
  assert(keys.length > 0, "A peer that is asked has something to give");
  peer.request = keys;
  world.requests++;
  world.askable.delete(peer);
  world.emit({ type: "fetch", peer: peer.address, keys });
}

interface Ended {
  readonly peer: Peer;
  readonly keys: readonly Key[];
  /** See {@linkcode Peer.stale}. */
  readonly stale: boolean;
}

/** The request to this peer has come to its end. What it asked for must be looked at by the caller. */
export function endRequest(world: World, address: Address, ended: readonly Key[]): Ended {
  const peer = world.peers.get(address);
  if (peer === undefined || peer.request === null) {
    throw world.bug(`No transfer from ${address} is open`, ended[0] ?? "");
  }
  const { request: keys, stale } = peer;
  if (ended.length !== keys.length || ended[0] !== keys[0]) {
    throw world.bug(`Another transfer from ${address} is open`, ended[0] ?? "");
  }
  peer.request = null;
  peer.stale = false;
  world.requests--;
  world.askable.add(peer);
  return { peer, keys, stale };
}

/** The task that is on its way from this peer: it stays so until the transfer is over. */
export function arriving(world: World, key: Key, peer: Peer): Task {
  const task = world.tasks.get(key);
  if (task === undefined || sourceOf(task) !== peer) {
    throw world.bug(`Asked of ${peer.address} but not expected from there`, key);
  }
  return task;
}

/** Leaves a busy peer alone for a while. */
export function hold(world: World, peer: Peer): void {
  peer.held = true;
  world.askable.delete(peer);
  world.emit({ type: "set-timer", name: `peer-hold ${peer.address}`, at: world.at + world.peerHoldMs });
}

/** The peer may be asked again. */
export function unhold(world: World, address: Address): void {
  const peer = world.peers.get(address);
  if (peer === undefined || !peer.held) return;
  peer.held = false;
  if (peer.request === null) world.askable.add(peer);
  dismiss(world, peer);
}

/** Whether one of the known holders may be asked now or when its transfer ended. */
export function hasPatientHolder(task: Task): boolean {
  if (task.whoHas === null) return false;
  for (const peer of task.whoHas) if (!peer.held) return true;
  return false;
}

/** This peer is gone: it has nothing, and its connections are of no use. */
export function removePeer(world: World, address: Address): void {
  const peer = world.peers.get(address);
  if (peer !== undefined) {
    peer.stale = peer.request !== null;
    for (const task of [...peer.holds]) removeHolder(world, task, peer);
  }
  world.emit({ type: "forget-peer", peer: address });
}
