// The console: reads the stream of states and shows each. Totals become rates
// here, from one state to the next.
import { color, drawChart, drawRing, drawTrace } from '/console/draw.js';

const $ = (id) => document.getElementById(id);
const HISTORY = 300; // states, one a second
const RECENT = 10; // states over which rates and percentiles are taken
const states = [];
let ring = null, key = null, requests = [], token = sessionStorage.getItem('token') || '';

function element(name, attributes = {}, ...children) {
  const e = document.createElement(name);
  for (const [k, v] of Object.entries(attributes)) if (v !== undefined) e.setAttribute(k, v);
  e.append(...children.map((c) => c ?? ''));
  return e;
}

const cell = (text, className) => element('td', className ? { class: className } : {}, text);

function number(n) {
  if (n === null || n === undefined || Number.isNaN(n)) return '–';
  const a = Math.abs(n);
  if (a >= 1e9) return (n / 1e9).toFixed(1) + ' G';
  if (a >= 1e6) return (n / 1e6).toFixed(1) + ' M';
  if (a >= 1e4) return (n / 1e3).toFixed(1) + ' k';
  if (a >= 100 || Number.isInteger(n)) return n.toFixed(0);
  return a >= 10 ? n.toFixed(1) : n.toFixed(2);
}

function duration(seconds) {
  if (seconds === null || seconds === undefined || Number.isNaN(seconds)) return '–';
  if (seconds === 0) return '0';
  if (seconds < 1e-3) return (seconds * 1e6).toFixed(0) + ' µs';
  if (seconds < 1) return (seconds * 1e3).toFixed(seconds < 0.1 ? 1 : 0) + ' ms';
  if (seconds < 120) return seconds.toFixed(1) + ' s';
  if (seconds < 7200) return (seconds / 60).toFixed(0) + ' min';
  if (seconds < 172800) return (seconds / 3600).toFixed(1) + ' h';
  return (seconds / 86400).toFixed(1) + ' d';
}

const sum = (list) => (list || []).reduce((a, b) => a + b, 0);

// rate is how fast a total has grown; read takes it out of a state. A total
// that fell belongs to another life of the process.
function rate(read, over = RECENT, end = states.length - 1) {
  const last = states[end], first = states[Math.max(end - over, 0)];
  if (!last || last === first) return null;
  const grown = read(last) - read(first);
  return grown < 0 ? null : grown / ((last.at - first.at) / 1000);
}

const difference = (a, b) => a.map((v, i) => v - (b?.[i] ?? 0));

// quantile is taken out of counts by bucket, between whose bounds it is
// interpolated. Bounds are in seconds; what is beyond the last counts as it.
function quantile(q, counts, bounds) {
  const all = sum(counts);
  if (!(all > 0)) return null;
  let seen = 0;
  for (let i = 0; i < counts.length; i++) {
    if (seen + counts[i] >= q * all) {
      if (i >= bounds.length) return bounds[bounds.length - 1];
      const low = i ? bounds[i - 1] : 0;
      return low + (bounds[i] - low) * (q * all - seen) / counts[i];
    }
    seen += counts[i];
  }
  return bounds[bounds.length - 1];
}

function quantileAt(q, read, end = states.length - 1, over = RECENT) {
  const last = states[end], first = states[Math.max(end - over, 0)];
  if (!last || last === first || !read(last)) return null;
  return quantile(q, difference(read(last), read(first)), last.bounds);
}

function show(state) {
  if (states.length && (state.incarnation !== states.at(-1).incarnation || state.node_id !== states.at(-1).node_id)) states.length = 0;
  states.push(state);
  if (states.length > HISTORY) states.shift();
  if (state.ring) ring = state.ring;
  if (state.requests) requests = [...state.requests, ...requests].slice(0, 100);
  showHeader(state);
  showTiles(state);
  showCharts();
  showNodes(state);
  showRing();
  showTenants(state);
  showWhole(state);
  if (state.requests) showRequests();
  $('key-form').hidden = !state.shows_keys;
  $('key-off').hidden = state.shows_keys;
}

function showHeader(s) {
  document.title = `PairDB ${s.node_id}`;
  $('node').textContent = s.node_id;
  $('ready').textContent = s.ready ? 'ready' : s.reason;
  $('ready').className = `pill ${s.ready ? 'good' : 'bad'}`;
  $('about').textContent = `${s.version}, up ${duration((s.at - s.started_at) / 1000)}, incarnation ${s.incarnation}`;
  $('dependencies').replaceChildren(...(s.dependencies || []).map((d) => element('span',
    { class: d.state === 'up' ? 'good' : 'bad', title: d.error }, `${d.name} ${d.state === 'up' ? duration(d.latency_ms / 1000) : 'down'}`)));
}

function showTiles(s) {
  $('t-reads').textContent = number(rate((s) => sum(s.reads)));
  $('t-writes').textContent = number(rate((s) => sum(s.writes)));
  $('t-read-p95').textContent = duration(quantileAt(0.95, (s) => s.reads));
  $('t-write-p95').textContent = duration(quantileAt(0.95, (s) => s.writes));
  const failing = rate((s) => s.failed);
  $('t-failed').textContent = number(failing);
  $('t-failed').className = failing > 0 ? 'bad' : '';
  $('t-flight').textContent = number(s.in_flight);
  const hints = sum((s.nodes || []).map((n) => n.hints));
  $('t-hints').textContent = number(hints);
  $('t-hints').className = hints > 0 ? 'warn' : '';
  $('t-conflicts').textContent = number(rate((s) => s.conflicts));
  $('t-repairs').textContent = number(rate((s) => s.repairs));
}

function showCharts() {
  const series = (f) => states.map((_, i) => (i ? f(i) : null));
  drawChart($('throughput'), [
    { name: 'reads/s', color: color(0), values: series((i) => rate((s) => sum(s.reads), 2, i)) },
    { name: 'writes/s', color: color(1), values: series((i) => rate((s) => sum(s.writes), 2, i)) },
    { name: 'failures/s', color: 'var(--bad)', values: series((i) => rate((s) => s.failed, 2, i)) },
  ], number);
  drawChart($('latency'), [
    { name: 'read p50', color: color(2), values: series((i) => quantileAt(0.5, (s) => s.reads, i, 5)) },
    { name: 'read p99', color: color(0), values: series((i) => quantileAt(0.99, (s) => s.reads, i, 5)) },
    { name: 'write p50', color: color(5), values: series((i) => quantileAt(0.5, (s) => s.writes, i, 5)) },
    { name: 'write p99', color: color(1), values: series((i) => quantileAt(0.99, (s) => s.writes, i, 5)) },
  ], duration);
  $('percentiles').tBodies[0].replaceChildren(...[['reads', (s) => s.reads], ['writes', (s) => s.writes]].map(([name, read]) =>
    element('tr', {}, cell(name), ...[0.5, 0.95, 0.99, 0.999].map((q) => cell(duration(quantileAt(q, read)))))));
}

const nodeOf = (state, id) => (state.nodes || []).find((n) => n.id === id);

function showNodes(s) {
  $('nodes').tBodies[0].replaceChildren(...(s.nodes || []).map((n) => {
    const i = ring ? ring.nodes.indexOf(n.id) : -1;
    const name = element('td', { title: `${n.virtual_nodes} virtual nodes` },
      element('span', { class: 'swatch', 'data-color': i < 0 ? '' : i % 8 }), n.id);
    if (i >= 0) name.firstChild.style.background = color(i);
    const state = n.up ? (n.status === 'active' ? 'up' : n.status) : 'down';
    const calls = (s) => sum(nodeOf(s, n.id)?.calls);
    const errors = rate((s) => nodeOf(s, n.id)?.errors ?? 0);
    return element('tr', { 'data-node': n.id, 'data-state': state }, name,
      element('td', { class: n.up ? (state === 'up' ? 'good' : 'warn') : 'bad', title: n.reason }, state),
      cell(n.address), cell(i < 0 ? '–' : (ring.share[i] * 100).toFixed(1) + ' %', 'n'), cell(n.keys || n.disk ? number(n.keys) : '–', 'n'),
      cell(n.disk ? (n.disk * 100).toFixed(1) + ' %' : '–', `n ${n.disk > 0.85 ? 'bad' : ''}`), cell(number(rate(calls)), 'n'),
      cell(number(errors), `n ${errors > 0 ? 'bad' : ''}`), cell(duration(quantileAt(0.95, (s) => nodeOf(s, n.id)?.calls)), 'n'),
      cell(number(n.hints), `n ${n.hints ? 'warn' : ''}`), cell(n.hints ? duration(n.oldest_s) : '–', 'n'),
      cell(number(n.owed), `n ${n.owed ? 'warn' : ''}`));
  }));
}

function showRing() {
  if (!ring) return;
  const up = Object.fromEntries((states.at(-1).nodes || []).map((n) => [n.id, n.up]));
  drawRing($('ring'), ring, up, key);
  $('ring-epoch').textContent = `epoch ${ring.epoch}`;
  $('ring-legend').replaceChildren(...ring.nodes.map((id, i) => {
    const swatch = element('span', { class: 'swatch' });
    swatch.style.background = up[id] ? color(i) : 'var(--line)';
    return element('li', { class: up[id] ? undefined : 'bad' }, swatch, `${id} ${(ring.share[i] * 100).toFixed(1)} %`);
  }));
}

function showTenants(s) {
  const of = (state, id, field) => (state.tenants || []).find((t) => t.id === id)?.[field] ?? 0;
  const rows = (s.tenants || []).map((t) => ({ id: t.id, ...Object.fromEntries(['reads', 'writes', 'failed', 'refused'].map(
    (f) => [f, rate((s) => of(s, t.id, f))])) }));
  rows.sort((a, b) => (b.reads + b.writes) - (a.reads + a.writes) || a.id.localeCompare(b.id));
  const body = rows.slice(0, 15).map((t) => element('tr', {}, element('td', { class: 'wrap' }, t.id), cell(number(t.reads), 'n'), cell(number(t.writes), 'n'),
    cell(number(t.failed), `n ${t.failed > 0 ? 'bad' : ''}`), cell(number(t.refused), `n ${t.refused > 0 ? 'warn' : ''}`)));
  if (!body.length) body.push(element('tr', {}, element('td', { colspan: 5, class: 'dim' }, 'no requests yet')));
  if (rows.length > 15) body.push(element('tr', {}, element('td', { colspan: 5, class: 'dim' }, `and ${rows.length - 15} more`)));
  $('tenants').tBodies[0].replaceChildren(...body);
}

function showWhole(s) {
  const hinted = sum((s.nodes || []).map((n) => n.hint_bytes));
  const rows = [
    ['conflicts found', s.conflicts], ['repairs sent', s.repairs], ['operations without a quorum', s.quorum_failed],
    ['hints replayed', s.hints_replayed], ['hints given up', s.hints_given_up], ['bytes of hints owed', hinted],
    ['ranges owed', sum((s.nodes || []).map((n) => n.owed))],
  ];
  $('whole').tBodies[0].replaceChildren(...rows.map(([name, n]) => element('tr', {}, cell(name), cell(number(n)))));
  const under = s.migrations || [];
  $('migrations').replaceChildren(...(under.length ? under.map((m) => element('div', {},
    `${m.type} ${m.id}: ${number(m.moved)} of ${number(m.keys)} keys`, element('progress', { max: Math.max(m.keys, 1), value: m.moved })))
    : ['none under way']));
}

function showRequests() {
  $('requests').tBodies[0].replaceChildren(...(requests.length ? requests.map((r) => element('tr', {},
    cell(new Date(r.at).toLocaleTimeString()), cell(r.operation), element('td', { class: 'wrap' }, r.tenant), element('td', { class: 'wrap' }, r.key),
    cell(r.code, r.code === 'OK' ? 'warn' : 'bad'), cell(duration(r.took_ms / 1000), 'n'), element('td', { class: 'wrap' }, r.error)))
    : [element('tr', {}, element('td', { colspan: 7, class: 'dim' }, 'none'))]));
}

const headers = (more = {}) => (token ? { Authorization: `Bearer ${token}`, ...more } : more);

// Login is asked for when the process wants a token, or another one.
function askForToken(message) {
  $('login').hidden = false;
  $('main').hidden = true;
  $('login-error').textContent = token ? message : '';
  token = '';
  sessionStorage.removeItem('token');
  $('token').focus();
}

$('login').addEventListener('submit', (event) => {
  event.preventDefault();
  token = $('token').value.trim();
  sessionStorage.setItem('token', token);
  $('token').value = '';
  $('login').hidden = true;
  $('main').hidden = false;
  follow();
});

// ask sends a question about the key of the form.
async function ask(path, more = {}) {
  $('key-error').textContent = '';
  const response = await fetch(path, { method: 'POST', headers: headers({ 'Content-Type': 'application/json' }),
    body: JSON.stringify({ tenant: $('key-tenant').value, key: $('key-key').value, ...more }) });
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

$('key-trace').addEventListener('click', async () => {
  if (!$('key-form').reportValidity()) return;
  try {
    const level = $('key-level').value;
    drawTrace($('trace'), await ask('/console/trace', { consistency: level }), level, duration);
  } catch (error) {
    $('key-error').textContent = error.message;
    $('trace').replaceChildren();
  }
});

$('key-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  try {
    showKey(await ask('/console/key'));
  } catch (error) {
    key = null;
    $('key-error').textContent = error.message;
    $('copies').replaceChildren();
    $('key-where').textContent = '';
  }
  showRing();
});

function showKey(a) {
  key = { place: a.place, replicas: a.replicas.map((r) => r.node) };
  $('key-where').textContent = `token ${a.token}, replication factor ${a.replication_factor}; asked in this order: ` +
    a.replicas.map((r) => (r.standing === 'preferred' ? r.node : `${r.node} (${r.standing})`)).join(', ');
  $('copies').replaceChildren(...a.copies.map((c) => {
    const i = ring ? ring.nodes.indexOf(c.node) : 0;
    const list = element('dl');
    const add = (name, value, className) => value && list.append(element('dt', {}, name), element('dd', className ? { class: className } : {}, value));
    const good = { greatest: 'good', outdated: 'warn', concurrent: 'bad' };
    const names = { greatest: 'the greatest version', outdated: 'outdated', concurrent: 'in conflict, and will be replaced' };
    add('holds', c.error ? 'no answer' : c.held, c.error ? 'bad' : '');
    add('error', c.error, 'bad');
    add('is', names[c.relation], good[c.relation]);
    add('written', c.updated_at);
    add('timestamp', c.timestamp === '0' ? '' : c.timestamp);
    add('by', c.writer);
    add('clock', c.clock);
    add('answered in', duration(c.took_ms / 1000));
    if (c.held === 'value') add('size', `${c.size} bytes${c.binary ? ', in hexadecimal' : ''}`);
    const card = element('div', { class: 'copy', 'data-copy': c.node, 'data-relation': c.relation }, element('h3', {}, c.node), list);
    card.style.borderLeftColor = color(Math.max(i, 0));
    if (c.held === 'value') card.append(element('pre', {}, c.value));
    return card;
  }));
}

// follow reads the stream, and begins again when it ends.
async function follow() {
  for (let pause = 500; ; pause = Math.min(pause * 2, 5000)) {
    try {
      const response = await fetch('/console/events', { headers: headers() });
      if (response.status === 401 || response.status === 403) {
        askForToken((await response.json()).error);
        return;
      }
      if (!response.ok) throw new Error((await response.json()).error);
      const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = '';
      for (;;) {
        const { value, done } = await reader.read();
        if (done) break;
        text += value;
        const events = text.split('\n\n');
        text = events.pop();
        for (const event of events) {
          const data = event.split('\n').find((line) => line.startsWith('data: '));
          if (data) show(JSON.parse(data.slice(6)));
        }
        document.body.classList.remove('stale');
        pause = 500;
      }
    } catch (error) {
      console.warn(error);
    }
    document.body.classList.add('stale');
    $('ready').textContent = 'no connection';
    $('ready').className = 'pill bad';
    await new Promise((resume) => setTimeout(resume, pause));
  }
}

showRequests();
follow();
