"use strict";

// Everything the page says, in both languages.
const TEXTS = {
  zh: {
    title: "评审问答对",
    language: "English",
    question: "问题",
    answer: "答案",
    modelAnswer: "模型的回答",
    reason: "原因",
    filter: "显示",
    open: "只看未决定的",
    accept: "接受",
    edit: "修改",
    reject: "拒绝",
    undo: "撤销",
    before: "上一个",
    next: "下一个",
    save: "保存",
    leave: "放弃",
    nothing: "这里没有要评审的问答对了。",
    all: (count) => `全部（${count}）`,
    kept: (count) => `保留的（${count}）`,
    no_question: (count) => `没有问题（${count}）`,
    not_answered: (count) => `答不回来（${count}）`,
    duplicate: (count) => `重复（${count}）`,
    not_chosen: (count) => `没有选中（${count}）`,
    held: "答得回来",
    reasons: { no_question: "没有问题", not_answered: "答不回来", duplicate: "与别的问题重复", not_chosen: "同一段里没有选中" },
    decisions: { accepted: "已接受", edited: "已修改", rejected: "已拒绝" },
    progress: (done, count, file) => `${file}：已决定 ${done} / ${count}`,
    where: (number, name) => `第 ${number} 个，${name}`,
    422: "不能这样保存。",
    507: "没有写下来：磁盘可能满了。腾出空间后再决定一次。",
    unreachable: "连不上服务器。已做的决定都已写下；请确认它在运行，然后再试一次。",
    other: (status) => `服务器报告了错误 ${status}。`,
  },
  en: {
    title: "Reviewing pairs",
    language: "中文",
    question: "Question",
    answer: "Answer",
    modelAnswer: "The model answers",
    reason: "Reason",
    filter: "Show",
    open: "undecided only",
    accept: "Accept",
    edit: "Edit",
    reject: "Reject",
    undo: "Undo",
    before: "Previous",
    next: "Next",
    save: "Save",
    leave: "Leave as it was",
    nothing: "There are no pairs left to review here.",
    all: (count) => `all (${count})`,
    kept: (count) => `kept (${count})`,
    no_question: (count) => `no question (${count})`,
    not_answered: (count) => `not answered back (${count})`,
    duplicate: (count) => `duplicates (${count})`,
    not_chosen: (count) => `not chosen (${count})`,
    held: "answered back",
    reasons: { no_question: "no question", not_answered: "not answered back", duplicate: "asks what another one asks", not_chosen: "others of its passage were chosen" },
    decisions: { accepted: "accepted", edited: "edited", rejected: "rejected" },
    progress: (done, count, file) => `${file}: ${done} of ${count} decided`,
    where: (number, name) => `number ${number}, ${name}`,
    422: "This cannot be saved.",
    507: "Nothing was written: is the disk full? Make room and decide again.",
    unreachable: "The server cannot be reached. All decisions so far are written; make sure that it runs, then try again.",
    other: (status) => `The server reports error ${status}.`,
  },
};
let file = "", states = []; // of all pairs: reason and decision
let shown = null; // the pair that is shown, null where there is none
let decidedHere = []; // numbers of the pairs decided on in this tab, the last one last
let error = null;
let busy = false, turns = 0;

// What the server answers as JSON; throws {status, message}, or what fetch does.
const asked = async (...request) => (await answered(...request)).json();

function setError(failure) {
  error = failure;
  at("error").hidden = !failure;
  if (!failure) return;
  const key = !failure.status ? "unreachable" : Object.hasOwn(TEXTS[language], failure.status) ? String(failure.status) : "other";
  at("error").textContent = [say(key, failure.status), failure.status ? failure.message : ""].filter(Boolean).join("\n");
}

// Whether a pair is to be shown under the filter.
function wanted(number) {
  const { reason, decision } = states[number], filter = at("filter").value || "all";
  if (filter !== "all" && filter !== (reason || "kept")) return false;
  return !at("open").checked || !decision;
}

// The next pair to show from a number on, in a direction, round the end; null if there is none.
function following(number, step) {
  for (let i = 0; i < states.length; i++) {
    const place = (((number + i * step) % states.length) + states.length) % states.length;
    if (wanted(place)) return place;
  }
  return null;
}

async function go(number, step = 1) {
  const place = states.length ? following(number, step) : null, turn = ++turns;
  let pair = shown, failed = null;
  setForm(false);
  try {
    pair = place === null ? null : await asked("GET", `pairs/${place}`);
  } catch (failure) {
    failed = failure;
  }
  // Who has asked for another one since is not shown this one.
  if (turn !== turns) return;
  shown = pair;
  setError(failed);
  show();
}

function show() {
  const decided = states.filter((state) => state.decision).length;
  at("progress").max = Math.max(states.length, 1);
  at("progress").value = decided;
  at("progress-text").textContent = say("progress", decided, states.length, file);
  at("pair").hidden = !shown;
  at("nothing").hidden = Boolean(shown) || !states.length;
  if (!shown) return;
  const { decision, reason } = states[shown.number];
  at("where").textContent = say("where", shown.number + 1, shown.document ?? "");
  at("decision").textContent = decision ? say("decisions")[decision] : "";
  at("decision").dataset.decision = decision ?? "";
  at("question").textContent = shown.question;
  at("answer").textContent = shown.answer;
  at("model-answer").textContent = shown.model_answer ?? "";
  at("reason").textContent = reason ? say("reasons")[reason] ?? reason : say("held");
  at("undo").disabled = !decidedHere.length && !decision;
  showPassage();
}

// The passage with its answer marked; a place counts code points, as Python does.
function showPassage() {
  const characters = [...shown.passage], mark = document.createElement("mark"), length = [...shown.answer].length;
  if (shown.place < 0) return at("passage").replaceChildren(shown.passage);
  mark.textContent = characters.slice(shown.place, shown.place + length).join("");
  at("passage").replaceChildren(characters.slice(0, shown.place).join(""), mark, characters.slice(shown.place + length).join(""));
}

function showFilters() {
  const chosen = at("filter").value || "all", counts = { all: states.length };
  for (const { reason } of states) counts[reason || "kept"] = (counts[reason || "kept"] ?? 0) + 1;
  at("filter").replaceChildren(
    ...Object.keys(counts).map((key) => {
      const option = document.createElement("option");
      option.value = key;
      option.textContent = say(key, counts[key]) || `${key} (${counts[key]})`;
      return option;
    }),
  );
  at("filter").value = Object.hasOwn(counts, chosen) ? chosen : "all";
}

function showLanguage() {
  writeTexts();
  showFilters();
  show();
  setError(error);
}

function setForm(open) {
  at("form").hidden = !open;
  at("actions").hidden = open;
  if (!open) return;
  at("new-question").value = shown.question;
  at("new-answer").value = shown.answer;
  at("new-question").focus();
}

// Ask the server for a change of a pair; whether it was made.
async function change(method, number, content) {
  if (busy) return false;
  busy = true;
  try {
    const pair = await asked(method, `pairs/${number}`, content);
    states[number].decision = pair.decision ?? null;
    setError(null);
    return true;
  } catch (failure) {
    setError(failure);
    return false;
  } finally {
    busy = false;
  }
}

async function decide(decision, more = {}) {
  if (!shown) return;
  const { number } = shown;
  if (!(await change("PUT", number, { decision, ...more }))) return;
  decidedHere.push(number);
  await go(number + 1);
}

async function undo() {
  const number = decidedHere.length ? decidedHere[decidedHere.length - 1] : shown?.number;
  if (number === undefined || !(await change("DELETE", number))) return;
  decidedHere.pop();
  await go(number);
}

at("accept").addEventListener("click", () => decide("accepted"));
at("reject").addEventListener("click", () => decide("rejected"));
at("edit").addEventListener("click", () => shown && setForm(true));
at("undo").addEventListener("click", undo);
at("before").addEventListener("click", () => go((shown?.number ?? 0) - 1, -1));
at("next").addEventListener("click", () => go((shown?.number ?? 0) + 1));
at("leave").addEventListener("click", () => {
  setForm(false);
  setError(null);
  at("edit").focus();
});
at("form").addEventListener("submit", (event) => {
  event.preventDefault();
  decide("edited", { question: at("new-question").value, answer: at("new-answer").value });
});
at("filter").addEventListener("change", () => go(0));
at("open").addEventListener("change", () => go(shown?.number ?? 0));
at("language").addEventListener("click", () => {
  language = language === "zh" ? "en" : "zh";
  store("language", language);
  showLanguage();
});
const KEYS = { a: "accept", e: "edit", r: "reject", u: "undo", arrowleft: "before", arrowright: "next" };
document.addEventListener("keydown", (event) => {
  if (event.isComposing) return; // Escape and Enter belong to the input method while it composes
  const writing = !at("form").hidden;
  if (writing && event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    at("form").requestSubmit();
  } else if (writing && event.key === "Escape") {
    at("leave").click();
  } else if (!writing && !event.ctrlKey && !event.metaKey && !event.altKey && event.target.tagName !== "SELECT") {
    const button = KEYS[event.key.toLowerCase()];
    if (button && !at(button).disabled) {
      event.preventDefault();
      at(button).click();
    }
  }
});

(async () => {
  showLanguage();
  try {
    ({ file, pairs: states } = await asked("GET", "pairs"));
  } catch (failure) {
    return setError(failure);
  }
  showFilters();
  await go(0);
})();
