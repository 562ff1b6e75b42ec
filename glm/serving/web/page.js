"use strict";

// Everything the page says, in both languages.
const TEXTS = {
  zh: {
    title: "问题生成",
    language: "English",
    context: "上下文",
    answer: "答案",
    ask: "生成问题",
    cancel: "取消",
    question: "问题",
    history: "历史记录",
    clear: "清空",
    empty: "还没有记录。生成的问题会保存在这个浏览器里。",
    again: "再用一次",
    waiting: "等待中……",
    writing: "正在生成……",
    done: (tokens) => `完成，${tokens} 个 token。`,
    cut: (tokens) => `上下文太长，模型只读了答案附近的部分，提示词共 ${tokens} 个 token（服务的 --src_length）。`,
    unknown: (characters) => `模型不认识这些字符：${characters}`,
    nothing: "模型没有写出任何文字。",
    cancelled: "已取消。",
    cleared: "历史记录已清空。",
    needContext: "请填写上下文。",
    needAnswer: "请填写答案。",
    unreachable: "连不上服务器。请确认它在运行，然后再试一次。",
    broken: "连接中断，问题没有写完。请再试一次。",
    413: "内容太长，请缩短。",
    422: "服务器不接受这个输入。",
    429: "服务器正忙，请稍后再试。",
    503: "服务器还没有准备好，或正在停止。请稍后再试。",
    504: "等待太久，服务器放弃了这个请求。请再试一次。",
    other: (status) => `服务器报告了错误 ${status}。`,
  },
  en: {
    title: "Question generation",
    language: "中文",
    context: "Context",
    answer: "Answer",
    ask: "Ask",
    cancel: "Cancel",
    question: "Question",
    history: "History",
    clear: "Clear",
    empty: "Nothing yet. Questions are kept in this browser.",
    again: "Use again",
    waiting: "Waiting…",
    writing: "Writing…",
    done: (tokens) => `Done, ${tokens} token${tokens === 1 ? "" : "s"}.`,
    cut: (tokens) => `Of this long context the model has read the part around the answer, ${tokens} tokens in all (the server's --src_length).`,
    unknown: (characters) => `The model does not know these characters: ${characters}`,
    nothing: "The model wrote no text.",
    cancelled: "Cancelled.",
    cleared: "The history is empty now.",
    needContext: "Please fill in the context.",
    needAnswer: "Please fill in the answer.",
    unreachable: "The server cannot be reached. Make sure that it runs, then try again.",
    broken: "The connection broke before the question was complete. Please try again.",
    413: "This is too long; please shorten it.",
    422: "The server does not accept this input.",
    429: "The server is busy; please try again in a moment.",
    503: "The server is not ready yet, or it is stopping; please try again later.",
    504: "This took too long, and the server gave it up; please try again.",
    other: (status) => `The server reports error ${status}.`,
  },
};
const KEPT = 50;
const at = (id) => document.getElementById(id);

let language = stored("language", null);
if (!Object.hasOwn(TEXTS, language)) language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
let entries = stored("history", []);
if (!Array.isArray(entries)) entries = [];
let running = null; // AbortController of the request under way
let status = [], error = ["", []]; // what they say: keys of TEXTS with their arguments

function stored(key, otherwise) {
  try {
    return JSON.parse(localStorage.getItem(key)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function store(key, value) {
  try {
    localStorage.setItem(key, JSON.stringify(value));
  } catch {
    // No room, or not allowed: the page works without a memory.
  }
}

function say(key, ...values) {
  const text = TEXTS[language][key] ?? "";
  return typeof text === "function" ? text(...values) : text;
}

// lines: each a key, or a list of a key and its arguments.
function setStatus(...lines) {
  status = lines;
  at("status").textContent = lines.map((line) => say(...[line].flat())).join("\n");
}

// detail: what the server says, which is English in both languages.
function setError(key, values = [], detail = "") {
  error = [key, values, detail];
  at("error").hidden = !key;
  at("error").textContent = key ? [say(key, ...values), detail].filter(Boolean).join("\n") : "";
}

function showLanguage() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = `GLM – ${say("title")}`;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  at("language").textContent = say("language");
  at("language").lang = language === "zh" ? "en" : "zh-CN";
  setStatus(...status);
  setError(...error);
  showEntries();
}

function made(tag, text) {
  const element = document.createElement(tag);
  element.textContent = text;
  return element;
}

function showEntries() {
  at("empty").hidden = entries.length > 0;
  at("clear").disabled = entries.length === 0;
  at("entries").replaceChildren(...entries.map(entryElement));
}

function entryElement(entry) {
  const item = document.createElement("li"), again = made("button", say("again"));
  const facts = document.createElement("dl"), details = document.createElement("details");
  facts.append(made("dt", say("answer")), made("dd", entry.answer));
  details.append(made("summary", say("context")), made("p", entry.context));
  again.type = "button";
  again.className = "quiet";
  again.addEventListener("click", () => {
    at("context").value = entry.context;
    at("answer").value = entry.answer;
    at("context").focus();
  });
  item.append(made("p", entry.question), facts, details, again);
  return item;
}

function remember(entry) {
  entries = [entry, ...entries].slice(0, KEPT);
  store("history", entries);
  showEntries();
}

// The name of the first field that is empty, or null; marks it and says so.
function missingField() {
  let missing = null;
  for (const id of ["answer", "context"]) {
    const empty = !at(id).value.trim();
    at(id).setAttribute("aria-invalid", String(empty));
    if (empty) missing = id;
  }
  return missing;
}

function setRunning(controller) {
  running = controller;
  at("ask").disabled = controller !== null;
  at("cancel").disabled = controller === null;
  at("question").setAttribute("aria-busy", String(controller !== null));
}

async function ask() {
  if (running) return;
  const missing = missingField();
  setError(missing && { context: "needContext", answer: "needAnswer" }[missing]);
  if (missing) return at(missing).focus();
  const prompt = { context: at("context").value, answer: at("answer").value };
  // A button that is disabled loses the focus; who came by keyboard is to stay where the next question is written.
  if (document.activeElement === at("ask")) at("answer").focus();
  const controller = new AbortController();
  setRunning(controller);
  at("question").textContent = "";
  setStatus("waiting");
  try {
    const answer = await streamed(prompt, controller.signal);
    at("question").textContent = answer.prediction;
    setStatus(answer.prediction ? ["done", answer.tokens] : "nothing", ...lost(answer));
    remember({ ...prompt, question: answer.prediction });
  } catch (failure) {
    if (controller.signal.aborted) setStatus("cancelled");
    else fail(failure);
  } finally {
    if (document.activeElement === at("cancel")) at("answer").focus();
    setRunning(null);
  }
}

// What the model has not read of a prompt, for setStatus.
function lost(answer) {
  const lines = [];
  if (answer.source_cut) lines.push(["cut", answer.source_tokens]);
  if (answer.unknown_characters.length) lines.push(["unknown", answer.unknown_characters.join(" ")]);
  return lines;
}

function fail(failure) {
  setStatus();
  if (!failure.status) return setError(failure.broken ? "broken" : "unreachable");
  const known = Object.hasOwn(TEXTS[language], failure.status);
  setError(known ? String(failure.status) : "other", [failure.status], failure.message);
}

// The final answer to a prompt, whose pieces are shown as they come. Throws {status, message}, {broken}, or what fetch does.
async function streamed(prompt, signal) {
  const request = { ...prompt, stream: true };
  const headers = { "Content-Type": "application/json" };
  const response = await fetch("generate", { method: "POST", headers, body: JSON.stringify(request), signal });
  if (!response.ok) throw (await response.json().catch(() => ({}))).error ?? { status: response.status, message: "" };
  try {
    for await (const { event, content } of serverEvents(response.body)) {
      if (event === "done") return content;
      if (event === "error") throw content.error;
      setStatus("writing");
      at("question").append(content.text);
    }
  } catch (failure) {
    throw failure.status ? failure : { broken: true };
  }
  throw { broken: true };
}

// The events of a stream of bytes, each with its JSON.
async function* serverEvents(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    text += value;
    for (let end = text.indexOf("\n\n"); end >= 0; end = text.indexOf("\n\n")) {
      const fields = Object.fromEntries(text.slice(0, end).split("\n").map((line) => line.split(/: (.*)/s)));
      text = text.slice(end + 2);
      // What has no data is a comment, which keeps the connection alive.
      if (fields.data) yield { event: fields.event, content: JSON.parse(fields.data) };
    }
  }
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("cancel").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  entries = [];
  store("history", entries);
  showEntries();
  setStatus("cleared");
  at("context").focus();
});
at("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  store("language", language);
  showLanguage();
});
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Escape and Enter belong to the input method while it composes
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    ask();
  } else if (event.key === "Escape") {
    running?.abort();
  }
});
showLanguage();
