"use strict";

// A talk with an instruction model, in memory as long as the page is open.
let turns = []; // {role, content} as OpenAI's interface has them
const setTalk = notices("talk-status", "talk-error");

function showTurns() {
  at("no-talk").hidden = turns.length > 0;
  at("talk-example").hidden = turns.length > 0 || Boolean(at("message").value);
  at("turns").replaceChildren(
    ...turns.map(({ role, content }) => {
      const item = made("li", "", made("b", say(role === "user" ? "you" : "it")), made("p", content));
      item.className = role;
      if (role === "assistant") item.append(copyButton(() => content));
      return item;
    }),
  );
}

const setTalking = (controller) => setRunning(controller, "send", "stop", "turns");

async function send() {
  const message = at("message").value.trim();
  if (running) return;
  if (!message) {
    setTalk([], ["needed", [say("message")]]);
    return at("message").focus();
  }
  const controller = new AbortController();
  turns.push({ role: "user", content: message });
  at("message").value = "";
  at("message").focus();
  setTalking(controller);
  setTalk(["waiting"]);
  showTurns();
  try {
    await reply(controller.signal);
  } catch (failure) {
    // What was not answered can be said again.
    while (turns.length && turns.at(-1).role !== "user") turns.pop();
    at("message").value = turns.pop()?.content ?? "";
    if (controller.signal.aborted) setTalk(["cancelled"]);
    else setTalk([], failureOf(failure));
  } finally {
    setTalking(null);
    showTurns();
  }
}

// Appends the model's turn to the talk, as it comes.
async function reply(signal) {
  const request = { messages: [...turns], stream: true, stream_options: { include_usage: true }, ...model() };
  const response = await answered("POST", "v1/chat/completions", request, { headers: headers(), signal });
  const turn = { role: "assistant", content: "" };
  turns.push(turn);
  let usage = null, prompts = [];
  try {
    for await (const { content } of serverEvents(response.body)) {
      if (content.error) throw content.error;
      turn.content += content.choices[0]?.delta?.content ?? "";
      if (content.usage) ({ usage, prompts } = content);
      at("turns").lastElementChild?.className === "assistant" ? (at("turns").lastElementChild.children[1].textContent = turn.content) : showTurns();
    }
  } catch (failure) {
    throw failure.status ? failure : { broken: true };
  }
  if (!usage) throw { broken: true };
  const lines = [turn.content ? ["done", usage.completion_tokens] : "nothing"];
  if (prompts[0]?.source_cut) lines.push("talkCut");
  if (prompts[0]?.unknown_characters.length) lines.push(["unknown", prompts[0].unknown_characters.join(" ")]);
  setTalk(lines);
}

at("chat-form").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("message").addEventListener("input", showTurns);
at("talk-example").addEventListener("click", () => {
  at("message").value = EXAMPLE.message;
  showTurns();
  at("send").focus();
});
at("stop").addEventListener("click", () => running?.abort());
at("new-talk").addEventListener("click", () => {
  running?.abort();
  turns = [];
  setTalk([]);
  showTurns();
  at("message").focus();
});
document.addEventListener("language", showTurns);
SUBMIT.chat = send;
