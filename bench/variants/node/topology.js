/**
 * `servers.txt`: the servers, their addresses, and their neighbors.
 *
 * One line a server, `NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...`; `#` starts a comment. A file
 * with a fault is refused, and every fault in it is reported.
 */

import { readFileSync } from 'node:fs';

const NAME = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
const ADDRESS = /^(?:\[([0-9A-Fa-f:.]+)\]|([^[\]:]+)):([0-9]{1,5})$/;

/** The file can't be used; the message has a line for each fault. */
export class TopologyError extends Error {}

/**
 * @typedef {{ host: string, port: number, text: string }} Address
 * @typedef {{ name: string, clients: Address, peers: Address, neighbors: string[] }} Server
 */

/**
 * Reads and checks a file.
 *
 * @param {string} path
 * @returns {Map<string, Server>} the servers by name
 * @throws {TopologyError}
 */
export function load(path) {
  let text;
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(path));
  } catch (error) {
    throw new TopologyError(`${path}: can't be read: ${error.message}`);
  }
  const servers = new Map();
  const lines = new Map();
  const faults = [];
  for (const [index, line] of text.split('\n').entries()) {
    try {
      const server = parseLine(line);
      if (!server) continue;
      if (servers.has(server.name)) {
        throw new TopologyError(`the name ${server.name} is taken by line ${lines.get(server.name)}`);
      }
      servers.set(server.name, server);
      lines.set(server.name, index + 1);
    } catch (error) {
      if (!(error instanceof TopologyError)) throw error;
      faults.push(`${path}:${index + 1}: ${error.message}`);
    }
  }
  if (faults.length === 0) {
    if (servers.size === 0) faults.push(`${path}: names no server`);
    for (const [name, what] of together(servers)) faults.push(`${path}:${lines.get(name)}: ${what}`);
  }
  if (faults.length > 0) throw new TopologyError(faults.join('\n'));
  return servers;
}

function parseLine(line) {
  const [name, clients, peers, ...neighbors] = line.split('#')[0].split(/\s+/).filter(Boolean);
  if (name === undefined) return undefined;
  if (!NAME.test(name)) {
    throw new TopologyError(`"${name}" is no name: up to 64 letters, digits, '-', '_' and '.'`);
  }
  if (peers === undefined) {
    throw new TopologyError(`${name} lacks an address: NAME CLIENT_ADDRESS PEER_ADDRESS NEIGHBOR...`);
  }
  if (neighbors.includes(name)) throw new TopologyError(`${name} is named as its own neighbor`);
  if (new Set(neighbors).size < neighbors.length) throw new TopologyError(`${name} names a neighbor twice`);
  return { name, clients: parseAddress(clients), peers: parseAddress(peers), neighbors };
}

function parseAddress(text) {
  const match = ADDRESS.exec(text);
  const port = Number(match?.[3]);
  if (!match || port < 1 || port > 65535) {
    throw new TopologyError(`"${text}" is no address: HOST:PORT or [IPV6]:PORT, port 1 to 65535`);
  }
  return { host: match[1] ?? match[2], port, text };
}

/** Faults that only show when the lines are held against each other: names and what is wrong. */
function* together(servers) {
  const taken = new Map();
  for (const { name, clients, peers, neighbors } of servers.values()) {
    for (const { text } of [clients, peers]) {
      if (taken.has(text)) yield [name, `the address ${text} is taken by ${taken.get(text)}`];
      taken.set(text, name);
    }
    for (const neighbor of neighbors) {
      if (!servers.has(neighbor)) {
        yield [name, `${name}'s neighbor ${neighbor} is no server of this file`];
      } else if (!servers.get(neighbor).neighbors.includes(name)) {
        yield [name, `${neighbor} does not name ${name} as its neighbor`];
      }
    }
  }
}
