// The history in a DNG's XMP: add an event and the source type to a packet, all other bytes of it stay.
// It follows paramisp_cli/formats/xmp.py and provenance.py.

import { json } from "./python.js";

const RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#", MM = "http://ns.adobe.com/xap/1.0/mm/";
const EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#";
const IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/";
const ALTERED = "http://cv.iptc.org/newscodes/digitalsourcetype/algorithmicallyEnhanced";
const PHOTOGRAPHS = new Set([
  "", "digitalCapture", "computationalCapture", "negativeFilm", "positiveFilm", "print", "humanEdits",
  "minorHumanEdits",
]);
const EMPTY =
  '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n' +
  `<rdf:RDF xmlns:rdf="${RDF}">\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>`;
const CONTAINERS = ["Seq", "Bag", "Alt"].map((name) => `${RDF} ${name}`);

/** Return [packet (bytes), notices] of a DNG made of a picture with this packet (bytes or null). */
export function unprocessed(packet, software, facts) {
  let content = packet;
  try {
    const text = packet ? decoded(packet) : EMPTY, found = read(text);
    const replaced = found.sourceTypes.every((value) => PHOTOGRAPHS.has(term(value)));
    const all = found.sourceTypes.length && replaced ? { ...facts, digital_source_type: found.sourceTypes[0] } : facts;
    return [merged(text, found, eventOf(software, all), replaced ? ALTERED : null), []];
  } catch (error) {
    if (!(error instanceof XmpError)) throw error;
    content = merged(EMPTY, read(EMPTY), eventOf(software, facts), ALTERED);
    return [content, [`${error.message}: left out of the DNG, which tells only of its own making`]];
  }
}

class XmpError extends Error {}

const term = (value) => value.trim().replace(/\/+$/, "").replaceAll(":", "/").split("/").at(-1);

function decoded(packet) {
  let end = packet.length;
  while (end && packet[end - 1] === 0) end -= 1;
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(packet.subarray(0, end));
  } catch {
    throw new XmpError("its XMP is not well-formed XML (not UTF-8)");
  }
}

const escaped = (text) => text.replaceAll("&", "&amp;").replaceAll(">", "&gt;").replaceAll("<", "&lt;");

function quoted(text) {
  const inner = escaped(text).replaceAll("\n", "&#10;").replaceAll("\r", "&#13;").replaceAll("\t", "&#9;");
  if (!inner.includes('"')) return `"${inner}"`;
  return inner.includes("'") ? `"${inner.replaceAll('"', "&quot;")}"` : `'${inner}'`;
}

function eventOf(software, facts) {
  const values = { action: "converted", softwareAgent: software, parameters: json(facts) };
  const inside = Object.entries(values).map(([name, value]) => `<stEvt:${name}>${escaped(value)}</stEvt:${name}>`);
  return `<rdf:li rdf:parseType="Resource" xmlns:rdf="${RDF}" xmlns:stEvt="${EVENT}">${inside.join("")}</rdf:li>`;
}

function merged(text, found, entry, sourceType) {
  const edits = [];
  let properties = "";
  if (found.container) {
    edits.push(inserted(text, found.container, entry));
  } else {
    properties += `<xmpMM:History><rdf:Seq>${entry}</rdf:Seq></xmpMM:History>\n`;
    edits.push(...found.emptyHistories.map((cut) => [...cut, ""]));
  }
  if (sourceType !== null) {
    properties += `<Iptc4xmpExt:DigitalSourceType>${escaped(sourceType)}</Iptc4xmpExt:DigitalSourceType>\n`;
    edits.push(...found.cuts.map((cut) => [...cut, ""]));
  }
  if (properties) {
    edits.push(inserted(text, found.root,
      `<rdf:Description rdf:about=${quoted(found.about)} xmlns:rdf="${RDF}" xmlns:xmpMM="${MM}"\n` +
      ` xmlns:Iptc4xmpExt="${IPTC}">\n${properties}</rdf:Description>\n`));
  }
  let result = text;
  for (const [first, end, replacement] of edits.sort((a, b) => b[0] - a[0] || b[1] - a[1])) {
    result = result.slice(0, first) + replacement + result.slice(end);
  }
  const after = read(result);
  if (after.events !== found.events + 1 || (sourceType !== null && after.sourceTypes.join() !== sourceType)) {
    throw new XmpError("its XMP is written in an unknown way");
  }
  return new TextEncoder().encode(result);
}

/** Return the edit that puts `text` last into an element, which may be an empty-element tag. */
function inserted(source, [start, end], text) {
  if (start !== end) return [end, end, text];
  const tag = /^<(?:[^>"']|"[^"]*"|'[^']*')*>/.exec(source.slice(start))[0], name = /^<([^\s/>]+)/.exec(tag)[1];
  return [start, start + tag.length, `${tag.slice(0, -2).trimEnd()}>${text}</${name}>`];
}

// --- reading ---------------------------------------------------------------------------------------------------------

const TOKEN = new RegExp([
  /<!--[^]*?-->|<\?[^]*?\?>|<!\[CDATA\[[^]*?\]\]>|<!DOCTYPE/, // comment, instruction, characters, document type
  /<\/([^\s>]+)\s*>/, // end tag: name
  /<([^\s/>!?]+)((?:[^>"']|"[^"]*"|'[^']*')*?)(\/?)>/, // start tag: name, attributes, "/"
  /[^<]+/,
].map((pattern) => pattern.source).join("|"), "gy");
const ATTRIBUTE = /\s+([^\s=]+)\s*=\s*(?:"([^"<]*)"|'([^'<]*)')/gy;
const ENTITIES = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'" };

function unescaped(text) {
  return text.replace(/&([^;\s]*);?/g, (whole, name) => {
    if (!whole.endsWith(";")) throw new XmpError("its XMP is not well-formed XML (a lone &)");
    const code = /^#(?:x([0-9a-fA-F]+)|([0-9]+))$/.exec(name);
    if (code) return String.fromCodePoint(code[1] ? parseInt(code[1], 16) : Number(code[2]));
    if (!(name in ENTITIES)) throw new XmpError(`its XMP is not well-formed XML (the entity ${name})`);
    return ENTITIES[name];
  });
}

/** Read a packet: places of its parts that matter, as in xmp.py. A place counts UTF-16 units. */
function read(text) {
  const found = { sourceTypes: [], events: 0, about: "", root: null, container: null, cuts: [], emptyHistories: [] };
  const open = []; // {name, qualified, start, spaces, text, resource}
  let depth = 0, at = 0, hasRoot = false; // depth of rdf:RDF, counted from 1
  const bad = (reason) => new XmpError(`its XMP is not well-formed XML (${reason})`);
  const expanded = (qualified, spaces, isAttribute) => {
    const [prefix, local] = qualified.includes(":") ? qualified.split(":") : ["", qualified];
    if (prefix === "xml") return `http://www.w3.org/XML/1998/namespace ${local}`;
    if (!prefix) return isAttribute || !spaces[""] ? local : `${spaces[""]} ${local}`;
    if (!spaces[prefix]) throw bad(`unbound prefix ${prefix}`);
    return `${spaces[prefix]} ${local}`;
  };
  const names = () => (depth ? open.slice(depth, depth + 4).map((element) => element.name) : []);
  const inEvent = (inner) => inner.length === 4 && inner[1] === `${MM} History` && CONTAINERS.includes(inner[2]) &&
    inner[3] === `${RDF} li`;

  const start = (qualified, attributes, place) => {
    const spaces = { ...(open.at(-1)?.spaces ?? {}) }, plain = [];
    for (const [name, value, first, end] of attributes) {
      if (name === "xmlns") spaces[""] = value;
      else if (name.startsWith("xmlns:")) spaces[name.slice(6)] = value;
      else plain.push([name, value, first, end]);
    }
    const values = new Map(plain.map(([name, value]) => [expanded(name, spaces, true), value]));
    if (values.size !== plain.length) throw bad("an attribute twice");
    const element = { name: expanded(qualified, spaces, false), qualified, start: place, spaces, text: "" };
    element.resource = values.get(`${RDF} resource`) ?? "";
    if (!open.length && hasRoot) throw bad("two roots");
    hasRoot = true;
    open.push(element);
    if (element.name === `${RDF} RDF` && !depth) {
      depth = open.length;
      return;
    }
    if (depth && open.length === depth + 1) {
      found.about ||= values.get(`${RDF} about`) ?? "";
      if (values.has(`${IPTC} DigitalSourceType`)) {
        found.sourceTypes.push(values.get(`${IPTC} DigitalSourceType`));
        for (const [name, , first, end] of plain) {
          if (/(^|:)DigitalSourceType$/.test(name)) found.cuts.push([first, end]);
        }
      }
    }
  };

  const end = (qualified, place, after) => {
    const inner = names(), element = open.pop(), level = open.length + 1 - depth;
    if (!element || element.qualified !== qualified) throw bad(`the end of ${qualified}`);
    if (depth && level > 3) {
      if (level === 4 && inEvent(inner)) found.events += 1;
      return;
    }
    if (depth && level === 0 && !found.root) {
      found.root = [element.start, place];
      depth = 0;
    }
    if (!depth) return;
    if (level === 2 && element.name === `${IPTC} DigitalSourceType`) {
      found.sourceTypes.push(element.text.trim() || element.resource);
      found.cuts.push([element.start, after]);
    } else if (level === 2 && element.name === `${MM} History` && !found.container) {
      found.emptyHistories.push([element.start, after]);
    } else if (level === 3 && inner[1] === `${MM} History` && CONTAINERS.includes(element.name) && !found.container) {
      found.container = [element.start, place];
    }
  };

  while (at < text.length) {
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (!match) throw bad(`at character ${at}`);
    const [token, closing, opening, inside, empty] = match, next = at + token.length;
    if (token === "<!DOCTYPE") throw new XmpError("its XMP has a document type declaration");
    if (closing !== undefined) end(closing, at, next);
    else if (opening !== undefined) {
      const attributes = [], from = at + 1 + opening.length;
      ATTRIBUTE.lastIndex = 0;
      let last = 0;
      for (let part; (part = ATTRIBUTE.exec(inside)); last = ATTRIBUTE.lastIndex) {
        const value = unescaped(part[2] ?? part[3]).replace(/[\t\n\r]/g, " ");
        attributes.push([part[1], value, from + part.index, from + ATTRIBUTE.lastIndex]);
      }
      if (inside.slice(last).trim()) throw bad(`the tag ${opening}`);
      start(opening, attributes, at);
      if (empty) end(opening, at, next);
    } else if (!token.startsWith("<")) {
      const content = unescaped(token);
      if (!open.length && content.replace(/^\ufeff/, "").trim()) throw bad("text outside the root");
      if (open.length) open.at(-1).text += content;
    } else if (token.startsWith("<![CDATA[") && open.length) open.at(-1).text += token.slice(9, -3);
    at = next;
  }
  if (open.length || !hasRoot) throw bad("it is cut short");
  if (!found.root) throw new XmpError("its XMP holds no rdf:RDF");
  return found;
}
