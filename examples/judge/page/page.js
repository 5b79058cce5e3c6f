// Sends submissions, and shows what comes of all of them while it comes.
"use strict";

const $ = (id) => document.getElementById(id);
const [form, problem, language, source, button, state, problemError, said, rows] =
  ["form", "problem", "language", "source", "submit", "state", "error", "said", "rows"].map($);

let problems = {}, examples = {};
let mine = null; // {number, key}: the submission that was sent last

function show(kind, text) {
  state.dataset.state = kind;
  state.textContent = text;
}

function fail(text) {
  problemError.textContent = text;
  problemError.hidden = !text;
}

// What a compiler says may quote a guest's control characters: they are written out, and act on nobody's page.
const controls = /[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const plain = (text) => text.replace(controls, (char) => `\\u${char.charCodeAt(0).toString(16).padStart(4, "0")}`);

const time = (value) => value ? `${value.toFixed(2)} s` : "";
const size = (value) => value ? `${(value / 2 ** 20).toFixed(1)} MiB` : "";

function row(it) {
  let line = $(`s${it.number}`);
  if (!line) {
    line = document.createElement("tr");
    line.id = `s${it.number}`;
    for (let at = 0; at < 7; at++) line.append(document.createElement("td"));
    rows.prepend(line);
  }
  const verdict = it.verdict ?? { waiting: "waits", judging: "…", failed: "not judged" }[it.state];
  const cells = [it.number, problems[it.problem]?.title ?? it.problem, it.language, verdict, it.tests.length || "", time(it.seconds), size(it.memory)];
  cells.forEach((text, at) => { line.children[at].textContent = text; });
  line.children[3].className = it.verdict ? (it.verdict === "AC" ? "good" : "bad") : "";
  line.children[3].title = it.words ?? "";
  line.classList.toggle("mine", it.number === mine?.number);
}

async function look(it) {
  if (it.number !== mine?.number) return;
  const passed = `${it.tests.length} test${it.tests.length === 1 ? "" : "s"}`;
  if (it.state === "waiting") show("waiting", "Waits for its turn");
  if (it.state === "judging") show("running", it.tests.length ? `Judging: ${passed}` : "Compiling");
  if (it.state !== "done" && it.state !== "failed") return;
  show(it.verdict === "AC" ? "good" : "bad", it.verdict ? `${it.verdict}: ${it.words}` : "Not judged");
  try {
    const detail = await (await fetch(`/submissions/${mine.number}?key=${encodeURIComponent(mine.key)}`)).json();
    said.textContent = plain(detail.said ?? "");
    said.hidden = !detail.said;
  } catch { fail("The service can't be reached. Is it running still?"); }
}

const latest = {};
function watch() {
  const events = new EventSource("/events"); // it comes back by itself after a lost connection
  events.onmessage = ({ data }) => {
    const it = JSON.parse(data);
    latest[it.number] = it;
    row(it);
    look(it);
  };
  events.onerror = () => { fail("The connection is lost. Trying again…"); };
  events.onopen = () => { fail(""); };
}

async function submit() {
  if (button.disabled) return;
  fail("");
  said.hidden = true;
  button.disabled = true;
  try {
    const answer = await fetch("/submissions", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ problem: problem.value, language: language.value, source: source.value }),
    });
    const told = await answer.json().catch(() => ({ error: `The service answered ${answer.status}.` }));
    if (!answer.ok) throw new Error(told.error);
    mine = told;
    for (const line of rows.querySelectorAll(".mine")) line.classList.remove("mine");
    show("waiting", "Waits for its turn");
    const known = latest[mine.number]; // it may have been quicker than the answer
    if (known) { row(known); look(known); }
  } catch (error) {
    show("bad", "Not submitted");
    fail(error instanceof TypeError ? "The service can't be reached. Is it running still?" : error.message);
  } finally {
    button.disabled = false;
  }
}

form.addEventListener("submit", (event) => { event.preventDefault(); submit(); });
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); submit(); }
});

function choose() {
  const it = problems[problem.value];
  for (const part of ["statement", "example", "answer", "bounds"]) $(part).textContent = it[part];
}
problem.addEventListener("change", choose);
language.addEventListener("change", () => {
  if (!source.value.trim() || Object.values(examples).includes(source.value)) source.value = examples[language.value];
});

(async () => {
  try {
    const about = await (await fetch("/about")).json();
    problems = Object.fromEntries(about.problems.map((it) => [it.id, it]));
    examples = Object.fromEntries(about.languages.map((it) => [it.id, it.example]));
    problem.replaceChildren(...about.problems.map(({ id, title }) => new Option(title, id)));
    language.replaceChildren(...about.languages.map(({ id, name }) => new Option(name, id)));
    problem.value = "sum" in problems ? "sum" : about.problems[0].id;
    choose();
    source.value = examples[language.value];
    button.disabled = false;
    watch();
  } catch {
    fail("The service can't be reached. Is it running still?");
  }
})();
