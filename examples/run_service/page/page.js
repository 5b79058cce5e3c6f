// Sends the program, and shows what happens to it while it happens.
"use strict";

const $ = (id) => document.getElementById(id);
const [form, program, stdin, language, output] = ["form", "program", "stdin", "language", "output"].map($);
const [run, stop, copy, state, problem, figures, theme] = ["run", "stop", "copy", "state", "error", "figures", "theme"].map($);

let examples = {};
let current = null; // {id, abort}: the run whose stream is open

// ---- what is kept over a reload, where the browser lets us ----

const kept = {
  get(key) { try { return localStorage.getItem(key); } catch { return null; } },
  set(key, value) { try { localStorage.setItem(key, value); } catch { /* then it is not kept */ } },
};

// ---- showing ----

function show(kind, text) {
  state.dataset.state = kind;
  state.textContent = text;
}

function fail(text) {
  problem.textContent = text;
  problem.hidden = !text;
}

// A program's control characters are written out, as in a program's text: they must not act on anybody's page.
const controls = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const sign = (char) => {
  const code = char.charCodeAt(0).toString(16);
  return code.length > 2 ? `\\u${code.padStart(4, "0")}` : `\\x${code.padStart(2, "0")}`;
};

function print(stream, text) {
  const below = output.scrollHeight - output.scrollTop - output.clientHeight < 40;
  text = text.replace(/\r\n/g, "\n").replace(controls, sign);
  const last = output.lastElementChild;
  if (last && last.className === stream) {
    last.firstChild.appendData(text);
  } else {
    const part = document.createElement("span");
    part.className = stream;
    part.append(document.createTextNode(text));
    output.append(part);
  }
  copy.hidden = false;
  if (below) output.scrollTop = output.scrollHeight; // whoever scrolled up to read is left alone
}

const seconds = (value) => value === null ? "not known" : value < 1 ? `${Math.round(value * 1000)} ms` : `${value.toFixed(2)} s`;
const bytes = (value) => value === null ? "not known" : `${(value / 2 ** 20).toFixed(1)} MiB`;

const events = {
  waiting({ id, others }) {
    current.id = id;
    show("waiting", others ? `Waits for its turn, behind ${others} more` : "Starting");
  },
  started() { show("running", "Running"); },
  output({ stream, text }) { print(stream, text); },
  exit(end) {
    show(end.ok ? "good" : "bad", verdict(end));
    $("wall").textContent = seconds(end.wall);
    $("cpu").textContent = seconds(end.cpu);
    $("memory").textContent = bytes(end.memory);
    figures.hidden = false;
    output.title = end.sentence;
    current.ended = true;
  },
  error({ sentence }) {
    show("bad", "Not run");
    fail(sentence);
    current.ended = true;
  },
};

function verdict({ ok, reason, code, signal }) {
  switch (reason) {
    case "exited": return ok ? "Ended well" : `Ended with status ${code}`;
    case "signaled": return `Died of signal ${signal}`;
    case "timeout": return "Stopped: its time was over";
    case "output_limit": return "Stopped: it printed too much";
    case "oom": return "Stopped: it wanted too much memory";
    case "seccomp": return "Stopped: it made a forbidden system call";
    case "killed": return "Stopped";
    default: return "Lost";
  }
}

// ---- running ----

// The answer is a stream of server-sent events. EventSource can't POST, and would start the program again after a lost connection.
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

async function start() {
  if (current || run.disabled) return;
  current = { id: null, abort: new AbortController(), ended: false };
  fail("");
  output.replaceChildren();
  output.title = "";
  figures.hidden = copy.hidden = true;
  run.disabled = true;
  stop.disabled = false;
  show("waiting", "Starting");
  try {
    const answer = await fetch("/runs", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ language: language.value, program: program.value, stdin: stdin.value }),
      signal: current.abort.signal,
    });
    if (!answer.ok) {
      const { error } = await answer.json().catch(() => ({ error: `The service answered ${answer.status}.` }));
      throw new Error(error);
    }
    for await (const [name, fields] of received(answer.body)) events[name]?.(fields);
    if (!current.ended) throw new Error("The connection was lost, and the program ended with it.");
  } catch (error) {
    if (error.name === "AbortError") {
      show("bad", "Stopped");
    } else {
      show("bad", "Not finished");
      fail(error instanceof TypeError ? "The service can't be reached. Is it running still?" : error.message);
    }
  } finally {
    current = null;
    run.disabled = false;
    stop.disabled = true;
  }
}

async function halt() {
  if (!current) return;
  stop.disabled = true;
  const { id, abort } = current;
  try {
    if (id === null) throw new Error("it has not begun");
    await fetch(`/runs/${id}`, { method: "DELETE" }); // its stream tells how it ended
  } catch {
    abort.abort();
  }
}

// ---- what people do ----

form.addEventListener("submit", (event) => { event.preventDefault(); start(); });
stop.addEventListener("click", halt);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); start(); }
  if (event.key === "Escape" && current) { event.preventDefault(); halt(); }
});

// A page that is left may live on in the browser's cache, with its connection and so its program.
addEventListener("pagehide", () => current?.abort.abort());

// Enter keeps the line's indentation, and adds to it after a colon or a brace. Tab goes on to the next field, as people who use keys expect.
program.addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey || event.shiftKey || event.isComposing) return;
  const line = program.value.slice(0, program.selectionStart).split("\n").pop();
  const indent = line.match(/^[ \t]*/)[0] + (/[:{]\s*$/.test(line) ? (language.value === "python" ? "    " : "\t") : "");
  if (!indent) return;
  event.preventDefault();
  document.execCommand("insertText", false, "\n" + indent); // old, but the one way that undo knows of
});
program.addEventListener("input", () => kept.set("program", program.value));

language.addEventListener("change", () => {
  const isExample = !program.value.trim() || Object.values(examples).includes(program.value);
  if (isExample) program.value = examples[language.value];
  kept.set("language", language.value);
  kept.set("program", program.value);
});

copy.addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(output.textContent);
    copy.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(output); // not allowed here: selected, for Ctrl-C
    copy.textContent = "Selected";
  }
  setTimeout(() => { copy.textContent = "Copy"; }, 1500);
});

const themes = { auto: ["auto", "as the system has them"], light: ["light", "light"], dark: ["dark", "dark"] };
function wear(name) {
  if (!(name in themes)) name = "auto";
  document.documentElement.dataset.theme = name;
  theme.textContent = `Colours: ${themes[name][0]}`;
  theme.setAttribute("aria-label", `Colours: ${themes[name][1]}`);
  kept.set("theme", name);
}
theme.addEventListener("click", () => {
  const names = Object.keys(themes);
  wear(names[(names.indexOf(document.documentElement.dataset.theme) + 1) % names.length]);
});
wear(kept.get("theme") ?? "auto");

(async () => {
  try {
    const about = await (await fetch("/about")).json();
    examples = Object.fromEntries(about.languages.map(({ id, example }) => [id, example]));
    language.replaceChildren(...about.languages.map(({ id, name }) => new Option(name, id)));
    if (kept.get("language") in examples) language.value = kept.get("language");
    program.value = kept.get("program") || examples[language.value];
    $("bounds").textContent = `Each in a container of its own, with at most ${about.bounds.slice(0, -1).join(", ")} and ${about.bounds.at(-1)}.`;
    run.disabled = false;
  } catch {
    fail("The service can't be reached. Is it running still?");
  }
})();
