// Holds a session, runs cells in it, and shows what they say while they say it.
"use strict";

const $ = (id) => document.getElementById(id);
const [form, code, output, run, stop, state, problem, upload, files] =
  ["form", "code", "output", "run", "stop", "state", "error", "upload", "files"].map($);
const GONE = "The service can't be reached. Is it running still?";
const JSON_TYPE = { "Content-Type": "application/json" };

let session = null;
let current = null; // the cell that runs: {abort, block, ended}

function show(kind, text) { state.dataset.state = kind; state.textContent = text; }
function fail(text) { problem.textContent = text; problem.hidden = !text; }

// A program's control characters are written out: they must not act on anybody's page.
const controls = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const plain = (text) => text.replace(/\r\n/g, "\n").replace(controls, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);

function add(element) {
  const below = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  current.block.append(element);
  if (below) output.scrollTop = output.scrollHeight; // whoever scrolled up to read is left alone
}

function print(kind, text) {
  const last = current.block.lastElementChild;
  if (last?.className === kind && (kind === "stdout" || kind === "stderr")) {
    last.firstChild.appendData(plain(text));
    return;
  }
  const part = document.createElement("pre");
  part.className = kind;
  part.append(document.createTextNode(plain(text)));
  add(part);
}

const events = {
  output({ stream, text }) { print(stream, text); },
  result({ text }) { print("result", text); },
  error({ traceback }) { print("trace", traceback); },
  picture({ name, kind, data }) {
    const picture = document.createElement("img");
    picture.alt = plain(name);
    picture.src = `data:${kind};base64,${data}`;
    add(picture);
  },
  done({ ok, seconds, variables_lost }) {
    current.ended = true;
    show(ok ? "good" : "bad", `${ok ? "Done" : "Not done"} after ${seconds.toFixed(2)} s${variables_lost ? ": the variables are gone" : ""}`);
  },
};

async function* received(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    let end;
    while ((end = text.indexOf("\n\n")) >= 0) {
      const [name, data] = text.slice(0, end).split("\n");
      text = text.slice(end + 2);
      yield [name.slice("event: ".length), JSON.parse(data.slice("data: ".length))];
    }
  }
}

async function checked(answer) {
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: `The service answered ${answer.status}.` }));
  throw new Error(error);
}
const explain = (error) => fail(error instanceof TypeError ? GONE : error.message);

async function start() {
  if (current || run.disabled || !code.value.trim()) return;
  const block = document.createElement("div");
  block.className = "cell";
  current = { abort: new AbortController(), block, ended: false };
  const said = document.createElement("pre");
  said.className = "code";
  said.textContent = code.value;
  block.append(said);
  output.append(block);
  output.scrollTop = output.scrollHeight;
  fail("");
  run.disabled = true;
  stop.disabled = false;
  show("running", "Running");
  try {
    const answer = await checked(await fetch(`/sessions/${session}/run`, {
      method: "POST", headers: JSON_TYPE, body: JSON.stringify({ code: code.value }), signal: current.abort.signal,
    }));
    for await (const [name, fields] of received(answer.body)) events[name]?.(fields);
    if (!current.ended) throw new Error("The session has ended. Reload the page for a new one.");
    list();
  } catch (error) {
    show("bad", "Not done");
    explain(error);
  } finally {
    current = null;
    run.disabled = false;
    stop.disabled = true;
  }
}

async function halt() {
  if (!current) return;
  try { await fetch(`/sessions/${session}/interrupt`, { method: "POST", headers: JSON_TYPE }); } catch { current?.abort.abort(); }
}

async function list() {
  const told = await (await checked(await fetch(`/sessions/${session}/files`))).json();
  files.replaceChildren(...told.files.map((name) => {
    const link = document.createElement("a");
    link.href = `/sessions/${session}/files/${encodeURIComponent(name)}`;
    link.download = name;
    link.textContent = plain(name);
    const item = document.createElement("li");
    item.append(link);
    return item;
  }));
}

upload.addEventListener("change", async () => {
  const [file] = upload.files;
  if (!file) return;
  fail("");
  try {
    await checked(await fetch(`/sessions/${session}/files/${encodeURIComponent(file.name)}`, { method: "PUT", body: file }));
    await list();
  } catch (error) { explain(error); }
  upload.value = "";
});

form.addEventListener("submit", (event) => { event.preventDefault(); start(); });
stop.addEventListener("click", halt);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); }
  if (event.key === "Escape" && current) { event.preventDefault(); halt(); }
});
// A page that is left ends its session; should this not arrive, the session ends when it has been idle.
addEventListener("pagehide", () => { if (session) fetch(`/sessions/${session}`, { method: "DELETE", keepalive: true }); });

(async () => {
  try {
    const told = await (await checked(await fetch("/sessions", { method: "POST", headers: JSON_TYPE }))).json();
    session = told.id;
    run.disabled = upload.disabled = false;
    show("idle", `Ready: a cell may take ${told.timeout} s`);
  } catch (error) { show("bad", "No session"); explain(error); }
})();
