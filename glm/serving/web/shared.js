"use strict";

// What the pages share: texts in two languages, a memory in the browser, requests and streams. Each page has its own
// TEXTS = { zh: {key: text or function}, en: … }.
const at = (id) => document.getElementById(id);

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

let language = stored("language", null);
if (!["zh", "en"].includes(language)) language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";

function say(key, ...values) {
  const text = TEXTS[language][key] ?? "";
  return typeof text === "function" ? text(...values) : text;
}

// Writes the language's texts where the page has places for them.
function writeTexts() {
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = `GLM – ${say("title")}`;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  at("language").textContent = say("language");
  at("language").lang = language === "zh" ? "en" : "zh-CN";
}

function made(tag, text, ...children) {
  const element = document.createElement(tag);
  element.textContent = text;
  element.append(...children);
  return element;
}

function quietButton(key, action) {
  const button = made("button", say(key));
  button.type = "button";
  button.className = "quiet";
  button.addEventListener("click", () => action(button));
  return button;
}

// A button that copies what text() gives.
function copyButton(text) {
  return quietButton("copy", async (button) => {
    try {
      await navigator.clipboard.writeText(text());
      button.textContent = say("copied");
    } catch {
      button.textContent = say("notCopied");
    }
    setTimeout(() => (button.textContent = say("copy")), 2000);
  });
}

// What the server answers; throws {status, message}, or what fetch does. headers: further ones.
async function answered(method, path, content, { headers = {}, signal } = {}) {
  const request = { method, headers: { "Content-Type": "application/json", ...headers }, signal };
  if (content) request.body = JSON.stringify(content);
  const response = await fetch(path, request);
  if (!response.ok) throw (await response.json().catch(() => ({}))).error ?? { status: response.status, message: "" };
  return response;
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
      // What has no data is a comment, which keeps the connection alive; [DONE] is the end of OpenAI's streams.
      if (fields.data && fields.data !== "[DONE]") yield { event: fields.event, content: JSON.parse(fields.data) };
    }
  }
}
