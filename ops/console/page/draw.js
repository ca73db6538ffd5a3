// Pictures: the ring and the charts. Everything is made of elements and text
// nodes, never of markup, since names come from outside.

const SVG = 'http://www.w3.org/2000/svg';

export function svg(name, attributes = {}, ...children) {
  const e = document.createElementNS(SVG, name);
  for (const [k, v] of Object.entries(attributes)) e.setAttribute(k, v);
  e.append(...children);
  return e;
}

export const color = (i) => `var(--c${i % 8})`;

const at = (radius, part) => {
  const angle = part * 2 * Math.PI - Math.PI / 2;
  return [radius * Math.cos(angle), radius * Math.sin(angle)];
};

const arc = (inner, outer, from, to) => {
  const large = to - from > 0.5 ? 1 : 0;
  const [a, b] = at(outer, from), [c, d] = at(outer, to), [e, f] = at(inner, to), [g, h] = at(inner, from);
  return `M${a} ${b}A${outer} ${outer} 0 ${large} 1 ${c} ${d}L${e} ${f}A${inner} ${inner} 0 ${large} 0 ${g} ${h}Z`;
};

// drawRing draws the arcs, one path for each node, and where a key lives: key
// is {place, replicas} or null. Nodes that are down are pale.
export function drawRing(target, ring, up, key) {
  const paths = ring.nodes.map(() => '');
  let from = 0;
  ring.ends.forEach((end, i) => {
    if (end > from) paths[ring.owner[i]] += arc(84, 108, from, end);
    from = end;
  });
  // What lies behind the last end belongs to the first arc.
  if (ring.ends.length && from < 1) paths[ring.owner[0]] += arc(84, 108, from, 1 - 1e-9);
  if (ring.nodes.length === 1) paths[0] = arc(84, 108, 0, 0.5) + arc(84, 108, 0.5, 1 - 1e-9);
  const parts = ring.nodes.map((id, i) => {
    const chosen = !key || key.replicas.includes(id);
    const p = svg('path', { d: paths[i], 'data-node': id, fill: up[id] ? color(i) : 'var(--line)', stroke: up[id] ? 'none' : 'var(--bad)',
      'stroke-width': 0.4, opacity: chosen ? 1 : 0.25 });
    p.append(svg('title', {}, id));
    return p;
  });
  const down = ring.nodes.filter((id) => !up[id]).length;
  const caption = svg('text', { 'text-anchor': 'middle', y: -4 }, `${ring.nodes.length} nodes`);
  const below = svg('text', { 'text-anchor': 'middle', y: 12, class: down ? 'down' : '' }, down ? `${down} down` : 'all up');
  parts.push(caption, below);
  if (key) {
    const [x1, y1] = at(78, key.place), [x2, y2] = at(120, key.place);
    parts.push(svg('line', { x1, y1, x2, y2, stroke: 'var(--text)', 'stroke-width': 2 }),
      svg('circle', { cx: x2, cy: y2, r: 4, fill: 'var(--text)', id: 'ring-key' }));
  }
  target.replaceChildren(...parts);
}

// drawChart draws lines over the past points. Each line is {name, color,
// values}; a value may be null. Format labels a value.
export function drawChart(target, lines, format) {
  const width = Math.max(target.clientWidth, 100), height = target.clientHeight || 144;
  const left = 52, right = 6, top = 27, bottom = 8;
  target.setAttribute('viewBox', `0 0 ${width} ${height}`);
  const most = Math.max(...lines.flatMap((l) => l.values.map((v) => v ?? 0)), 0);
  const limit = nice(most);
  const points = Math.max(...lines.map((l) => l.values.length), 2);
  const x = (i, n) => left + (width - left - right) * (points - n + i) / (points - 1);
  const y = (v) => height - bottom - (height - top - bottom) * v / limit;
  const parts = [];
  for (const part of [0, 0.5, 1]) {
    const h = y(limit * part);
    parts.push(svg('line', { x1: left, x2: width - right, y1: h, y2: h, class: 'grid' }),
      svg('text', { x: left - 6, y: h + 4, 'text-anchor': 'end' }, format(limit * part)));
  }
  let offset = 0;
  for (const l of lines) {
    let d = '', drawing = false;
    l.values.forEach((v, i) => {
      if (v === null) { drawing = false; return; }
      d += `${drawing ? 'L' : 'M'}${x(i, l.values.length).toFixed(1)} ${y(v).toFixed(1)}`;
      drawing = true;
    });
    parts.push(svg('path', { d, fill: 'none', stroke: l.color, 'stroke-width': 1.6, 'stroke-linejoin': 'round' }),
      svg('rect', { x: offset, y: 3, width: 9, height: 9, rx: 2, fill: l.color }),
      svg('text', { x: offset + 13, y: 12 }, l.name));
    offset += 21 + 5.9 * l.name.length;
  }
  target.replaceChildren(...parts);
}

// drawTrace draws the steps of a read, each over its time: the answer of
// /console/trace.
export function drawTrace(target, a, level, duration) {
  const make = (name, className, ...children) => {
    const e = document.createElement(name);
    if (className) e.className = className;
    e.append(...children);
    return e;
  };
  const outcome = a.error || (a.found ? 'found' : 'absent');
  const end = Math.max(a.end_us, 1);
  const rows = (a.rows || []).map((r) => {
    const bar = make('span', ['bar', r.failed && 'failed', r.open && 'open', r.hedge && 'hedge', r.from_us === r.to_us && 'point'].filter(Boolean).join(' '));
    bar.style.left = `${100 * r.from_us / end}%`;
    bar.style.width = `${100 * (r.to_us - r.from_us) / end}%`;
    const track = make('span', 'track', ...(r.skipped ? [] : [bar]));
    track.setAttribute('aria-hidden', 'true');
    const row = make('li', '', make('span', '', `${r.node} ${r.what}`.trim()), track, make('span', r.failed || r.skipped ? 'bad' : 'dim', r.note));
    row.dataset.what = r.what;
    return row;
  });
  const head = make('p', a.error ? 'bad' : '', `Read at ${level}: ${outcome}, in ${duration(a.took_ms / 1000)}; ` +
    `the line is ${duration(end / 1e6)} long${a.version ? `, this version is ${a.version}` : ''}`);
  target.replaceChildren(head, make('ol', 'trace', ...rows), a.left_out ? `and ${a.left_out} more steps` : '');
}

// nice is the least of 1, 2, 5, 10, … that is not below v.
function nice(v) {
  if (!(v > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(v));
  for (const n of [1, 2, 5, 10]) if (n * unit >= v) return n * unit;
  return 10 * unit;
}
