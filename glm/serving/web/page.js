"use strict";

// Everything the page says, in both languages.
const TEXTS = {
  zh: {
    title: "问题生成",
    titles: { ask: "问题生成", chat: "对话", pairs: "问答对" },
    kinds: { ask: "提问", chat: "对话", pairs: "问答对" },
    language: "English",
    model: "模型",
    key: "密钥",
    context: "上下文",
    answer: "答案",
    question: "问题",
    ask: "生成问题",
    cancel: "取消",
    count: "几个",
    example: "填入例子",
    copy: "复制",
    copied: "已复制",
    notCopied: "无法复制",
    history: "历史记录",
    clear: "清空",
    empty: "还没有记录。生成的问题会保存在这个浏览器里。",
    again: "再用一次",
    waiting: "等待中……",
    writing: "正在生成……",
    done: (tokens) => `完成，${tokens} 个 token。`,
    cut: (tokens) => `上下文太长，模型只读了答案附近的部分，提示词共 ${tokens} 个 token（服务的 --src_length）。`,
    unknown: (characters) => `模型不认识这些字符：${characters}`,
    notThere: "上下文里没有这个答案，问题可能问不到它。",
    nothing: "模型没有写出任何文字。",
    cancelled: "已取消。",
    cleared: "历史记录已清空。",
    needed: (name) => `请填写${name}。`,
    unreachable: "连不上服务器。请确认它在运行，然后再试一次。",
    broken: "连接中断，没有写完。请再试一次。",
    401: "这个服务需要密钥，请在上面填写。",
    413: "内容太长，请缩短。",
    422: "服务器不接受这个输入。",
    429: "服务器正忙，请稍后再试。",
    503: "服务器还没有准备好，或正在停止。请稍后再试。",
    504: "等待太久，服务器放弃了这个请求。请再试一次。",
    other: (status) => `服务器报告了错误 ${status}。`,
    tooLong: (count, most) => `内容太长，请缩短：有 ${count} 个字符，最多 ${most} 个。`,
    noRoom: "答案太长，模型放不下，请缩短答案。",
    noWords: "这段文章里没有模型认识的词，找不出答案。",
    talk: "对话",
    newTalk: "新对话",
    noTalk: "还没有对话。说点什么吧。",
    message: "消息",
    send: "发送",
    you: "你",
    it: "模型",
    talkCut: "对话太长，模型没有读到最早的几轮。",
    passage: "文章",
    make: "生成问答对",
    pairs: "问答对",
    proposing: "正在寻找答案……",
    asking: "正在提问……",
    checking: "正在核对……",
    noPairs: "没有找到可以提问的答案。",
    found: (count, held) => `${count} 对，其中 ${held} 对模型自己答得回来。`,
    held: "答得回来",
    notHeld: (answer) => `模型答成“${answer}”`,
    copyPairs: "全部复制",
  },
  en: {
    title: "Question generation",
    titles: { ask: "Question generation", chat: "Chat", pairs: "Question–answer pairs" },
    kinds: { ask: "Ask", chat: "Chat", pairs: "Pairs" },
    language: "中文",
    model: "Model",
    key: "Key",
    context: "Context",
    answer: "Answer",
    question: "Question",
    ask: "Ask",
    cancel: "Cancel",
    count: "How many",
    example: "Fill in an example",
    copy: "Copy",
    copied: "Copied",
    notCopied: "Cannot copy",
    history: "History",
    clear: "Clear",
    empty: "Nothing yet. Questions are kept in this browser.",
    again: "Use again",
    waiting: "Waiting…",
    writing: "Writing…",
    done: (tokens) => `Done, ${tokens} token${tokens === 1 ? "" : "s"}.`,
    cut: (tokens) => `Of this long context the model has read the part around the answer, ${tokens} tokens in all (the server's --src_length).`,
    unknown: (characters) => `The model does not know these characters: ${characters}`,
    notThere: "The answer is not in the context; the question may not ask for it.",
    nothing: "The model wrote no text.",
    cancelled: "Cancelled.",
    cleared: "The history is empty now.",
    needed: (name) => `Please fill in: ${name}.`,
    unreachable: "The server cannot be reached. Make sure that it runs, then try again.",
    broken: "The connection broke before all was written. Please try again.",
    401: "This server asks for a key; please fill it in above.",
    413: "This is too long; please shorten it.",
    422: "The server does not accept this input.",
    429: "The server is busy; please try again in a moment.",
    503: "The server is not ready yet, or it is stopping; please try again later.",
    504: "This took too long, and the server gave it up; please try again.",
    other: (status) => `The server reports error ${status}.`,
    tooLong: (count, most) => `This is too long; please shorten it: ${count} characters, at most ${most} are allowed.`,
    noRoom: "The answer is too long for the model; please shorten it.",
    noWords: "The model knows no word of this passage, so that it finds no answers.",
    talk: "Chat",
    newTalk: "New chat",
    noTalk: "Nothing yet. Say something.",
    message: "Message",
    send: "Send",
    you: "You",
    it: "Model",
    talkCut: "The chat is too long: the model has not read its first turns.",
    passage: "Passage",
    make: "Make pairs",
    pairs: "Pairs",
    proposing: "Looking for answers…",
    asking: "Asking…",
    checking: "Checking…",
    noPairs: "Nothing was found to ask about.",
    found: (count, held) => `${count} pair${count === 1 ? "" : "s"}, of which the model answers ${held} back.`,
    held: "answered back",
    notHeld: (answer) => `the model answers “${answer}”`,
    copyPairs: "Copy all",
  },
};
const EXAMPLE = {
  context: "云栖湖位于青岚山脚下，湖面海拔一千二百米。每年四月到六月，湖边的湿地是观鸟的好去处，沿湖步道全长九公里。",
  answer: "四月到六月",
  message: "写一首关于春天的短诗。",
};
const KEPT = 50;

let entries = stored("history", []);
if (!Array.isArray(entries)) entries = [];
let running = null; // AbortController of the request under way
let kind = "ask", about = { kinds: ["ask"], fields: null, key: false, models: [] };

// Headers of requests: the key, where the server asks for one.
const headers = () => (about.key && at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {});
// The model that requests name, where there are several.
const model = () => (about.models.length > 1 ? { model: at("model").value } : {});

// What is told of a request, in the language that is chosen: lines of a status, each a key or a list of a key and its
// arguments, and an error, as tellError() takes it. Gives a function that sets both; null leaves one as it is.
function notices(statusId, errorId) {
  let lines = [], error = ["", []];
  const show = () => {
    at(statusId).textContent = lines.map((line) => say(...[line].flat())).join("\n");
    tellError(at(errorId), error);
  };
  document.addEventListener("language", show);
  return (newLines, newError = ["", []]) => {
    [lines, error] = [newLines ?? lines, newError ?? error];
    show();
  };
}

// detail: what the server says, which is English in both languages.
function tellError(place, [key, values, detail]) {
  place.hidden = !key;
  place.textContent = key ? [say(key, ...values), detail].filter(Boolean).join("\n") : "";
}

// What the server says of programs' requests, and what that means to whoever reads the page.
const MEANINGS = [
  [/has (\d+) characters; at most (\d+)/, "tooLong"],
  [/even without its context/, "noRoom"],
  [/has no words that the vocabulary can spell|can spell no text/, "noWords"],
];

// What to tell of a failed request, as tellError() takes it.
function failureOf(failure) {
  if (!failure.status) return [failure.broken ? "broken" : "unreachable", [], ""];
  for (const [pattern, key] of MEANINGS) {
    const found = pattern.exec(failure.message);
    if (found) return [key, found.slice(1), ""];
  }
  // OpenAI's interface has one status for all mistakes.
  const known = failure.status === 400 ? 422 : failure.status;
  if (Object.hasOwn(TEXTS[language], known)) return [String(known), [], known === 422 ? failure.message : ""];
  return ["other", [failure.status], failure.message];
}

// Fields of a prompt: the context's and the answer's, or those of the model's own prompt.
const fields = () => [...at("fields").querySelectorAll("textarea, input")];
const labelOf = (field) => field.labels[0].textContent;

function showFields(names) {
  if (!names) return;
  at("fields").replaceChildren(
    ...names.flatMap((name) => {
      const label = made("label", name), field = document.createElement("textarea");
      [label.htmlFor, field.id, field.rows] = [name, name, 3];
      field.setAttribute("aria-describedby", "error");
      return [label, field];
    }),
  );
}

function showLanguage() {
  writeTexts();
  document.title = `GLM – ${say("titles")[kind]}`;
  document.querySelector("h1").textContent = say("titles")[kind];
  showKinds();
  showEntries();
  showExample();
  document.dispatchEvent(new Event("language"));
}

function showKinds() {
  at("kinds").hidden = about.kinds.length < 2;
  at("kinds").replaceChildren(
    ...about.kinds.map((name) => {
      const button = made("button", say("kinds")[name]);
      button.type = "button";
      button.className = "quiet";
      button.id = `kind-${name}`;
      button.setAttribute("aria-pressed", String(name === kind));
      button.addEventListener("click", () => choose(name));
      return button;
    }),
  );
}

function choose(name) {
  running?.abort();
  kind = name;
  for (const part of document.querySelectorAll("[data-kind]")) part.hidden = part.dataset.kind !== kind;
  store("kind", kind);
  showLanguage();
  at(`kind-${kind}`)?.focus();
}

function showExample() {
  at("example").hidden = Boolean(about.fields) || fields().some((field) => field.value);
}

function showEntries() {
  at("empty").hidden = entries.length > 0;
  at("clear").disabled = entries.length === 0;
  at("entries").replaceChildren(...entries.map(entryElement));
}

function entryElement(entry) {
  const item = document.createElement("li"), facts = document.createElement("dl");
  const details = document.createElement("details");
  facts.append(made("dt", say("answer")), made("dd", entry.answer));
  details.append(made("summary", say("context")), made("p", entry.context));
  const again = quietButton("again", () => {
    for (const name of ["context", "answer"]) if (at(name)) at(name).value = entry[name];
    showExample();
    fields()[0].focus();
  });
  item.append(made("p", entry.question), facts, details, again, " ", copyButton(() => entry.question));
  return item;
}

function remember(entry) {
  entries = [entry, ...entries].slice(0, KEPT);
  store("history", entries);
  showEntries();
}

// The first field that is empty, or undefined; marks those that are.
function missingField() {
  for (const field of fields()) field.setAttribute("aria-invalid", String(!field.value.trim()));
  return fields().find((field) => !field.value.trim());
}

const setNotices = notices("status", "error");

// Whether a request is under way, for its buttons and its result; controller: its AbortController, or null.
function setRunning(controller, start = "ask", stop = "cancel", result = "question") {
  running = controller;
  at(start).disabled = controller !== null;
  at(stop).disabled = controller === null;
  at(result).setAttribute("aria-busy", String(controller !== null));
}

async function ask() {
  if (running) return;
  const missing = missingField();
  if (missing) {
    setNotices(null, ["needed", [labelOf(missing)]]);
    return missing.focus();
  }
  const prompt = Object.fromEntries(fields().map((field) => [field.id, field.value])), last = fields().at(-1);
  // A button that is disabled loses the focus; who came by keyboard is to stay where the next question is written.
  if (document.activeElement === at("ask")) last.focus();
  const controller = new AbortController(), count = Number(at("count").value);
  setRunning(controller);
  showAnswers([""]);
  setNotices(["waiting"]);
  try {
    const several = count > 1 ? { num_beams: Math.max(count, 4), num_return_sequences: count } : {};
    const answer = await streamed({ ...prompt, ...several, ...model() }, controller.signal);
    showAnswers(answer.predictions ?? [answer.prediction]);
    setNotices([answer.prediction ? ["done", answer.tokens] : "nothing", ...lost(answer, prompt)]);
    if (!about.fields) remember({ ...prompt, question: answer.prediction });
  } catch (failure) {
    if (controller.signal.aborted) setNotices(["cancelled"]);
    else setNotices([], failureOf(failure));
  } finally {
    if (document.activeElement === at("cancel")) last.focus();
    setRunning(null);
  }
}

function showAnswers([best, ...others]) {
  at("question").textContent = best;
  at("others").replaceChildren(...others.map((text) => made("li", "", made("p", text), copyButton(() => text))));
  at("copy-question").replaceChildren(...(best ? [copyButton(() => best)] : []));
}

// What the model has not read of a prompt, and what it cannot find there, as lines of a status.
function lost(answer, prompt) {
  const lines = [];
  if (answer.source_cut) lines.push(["cut", answer.source_tokens]);
  if (answer.unknown_characters.length) lines.push(["unknown", answer.unknown_characters.join(" ")]);
  if (!about.fields && !prompt.context.includes(prompt.answer.trim())) lines.push("notThere");
  return lines;
}

// The final answer to a prompt, whose pieces are shown as they come. Throws {status, message}, {broken}, or what fetch does.
async function streamed(prompt, signal) {
  const response = await answered("POST", "generate", { ...prompt, stream: true }, { headers: headers(), signal });
  try {
    for await (const { event, content } of serverEvents(response.body)) {
      if (event === "done") return content;
      if (event === "error") throw content.error;
      setNotices(["writing"]);
      if (!content.sequence) at("question").append(content.text);
    }
  } catch (failure) {
    throw failure.status ? failure : { broken: true };
  }
  throw { broken: true };
}

function showAbout() {
  showFields(about.fields);
  at("settings").hidden = !about.key && about.models.length < 2;
  at("key-field").hidden = !about.key;
  at("model-field").hidden = about.models.length < 2;
  at("model").replaceChildren(...about.models.map((name) => made("option", name)));
  const before = stored("kind", null);
  kind = about.kinds.includes(before) ? before : about.kinds[0];
  for (const part of document.querySelectorAll("[data-kind]")) part.hidden = part.dataset.kind !== kind;
}

at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
at("form").addEventListener("input", showExample);
at("example").addEventListener("click", () => {
  for (const name of ["context", "answer"]) at(name).value = EXAMPLE[name];
  showExample();
  at("ask").focus();
});
at("cancel").addEventListener("click", () => running?.abort());
at("clear").addEventListener("click", () => {
  entries = [];
  store("history", entries);
  showEntries();
  setNotices(["cleared"], null);
  fields()[0].focus();
});
at("settings").addEventListener("submit", (event) => event.preventDefault());
at("key").addEventListener("change", () => sessionStorage.setItem("key", at("key").value));
at("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  store("language", language);
  showLanguage();
});
// What Ctrl+Enter does, by what is shown; chat.js and pairs.js add theirs.
const SUBMIT = { ask };
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Escape and Enter belong to the input method while it composes
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    SUBMIT[kind]();
  } else if (event.key === "Escape") {
    running?.abort();
  }
});

document.addEventListener("DOMContentLoaded", async () => {
  showLanguage();
  at("key").value = sessionStorage.getItem("key") ?? "";
  try {
    about = await (await answered("GET", "page.json")).json();
  } catch {
    // Whoever asks will be told.
  }
  showAbout();
  showLanguage();
  document.body.dataset.ready = "true";
});
