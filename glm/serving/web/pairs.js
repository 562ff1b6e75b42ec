"use strict";

// Pairs of a passage: answers are proposed within it, asked about, and the questions answered back.
const CANDIDATES = 6, LONGEST_ANSWER = 24;
let pairs = []; // {answer, question, back}
const setPairs = notices("pairs-status", "pairs-error");

function showPairs() {
  at("pairs-example").hidden = Boolean(at("passage").value);
  at("pairs").replaceChildren(
    ...pairs.map(({ question, answer, back }) => {
      const facts = document.createElement("dl"), sign = back === undefined ? "" : back === answer ? say("held") : say("notHeld", back);
      facts.append(made("dt", say("answer")), made("dd", answer));
      const item = made("li", "", made("p", question ?? ""), facts, made("small", sign));
      item.className = back === answer ? "held" : "";
      return item;
    }),
  );
  const copy = copyButton(() => pairs.map(({ question, answer }) => JSON.stringify({ question, answer })).join("\n"));
  copy.textContent = say("copyPairs");
  at("copy-pairs").replaceChildren(...(pairs.length ? [copy] : []));
}

const setMaking = (controller) => setRunning(controller, "make", "pairs-cancel", "pairs");

async function makePairs() {
  const context = at("passage").value.trim();
  if (running) return;
  pairs = [];
  if (!context) {
    setPairs([], ["needed", [say("passage")]]);
    return at("passage").focus();
  }
  const controller = new AbortController();
  at("passage").focus();
  setMaking(controller);
  try {
    await steps(context, controller.signal);
  } catch (failure) {
    if (controller.signal.aborted) setPairs(["cancelled"]);
    else setPairs([], failureOf(failure));
  } finally {
    setMaking(null);
    showPairs();
  }
}

// What generate_pairs.py does with a passage, in short.
async function steps(context, signal) {
  const asked = async (request) => (await answered("POST", "generate", { ...request, ...model() }, { headers: headers(), signal })).json();
  const bound = { within_source: true, tgt_length: LONGEST_ANSWER };
  setPairs(["proposing"]);
  const proposed = await asked({ context, template: "extract", num_beams: CANDIDATES, num_return_sequences: CANDIDATES, ...bound });
  const answers = [...new Set(proposed.predictions.filter(Boolean))];
  if (!answers.length) return setPairs(["noPairs"]);
  setPairs(["asking"]);
  const questions = await asked({ prompts: answers.map((answer) => ({ context, answer })) });
  pairs = answers.map((answer, i) => ({ answer, question: questions.answers[i].prediction })).filter(({ question }) => question);
  // Of equal questions the first one stays.
  pairs = pairs.filter(({ question }, i) => pairs.findIndex((pair) => pair.question === question) === i);
  showPairs();
  if (!pairs.length) return setPairs(["noPairs"]);
  setPairs(["checking"]);
  const back = await asked({ prompts: pairs.map(({ question }) => ({ question, context })), template: "answer", ...bound });
  pairs = pairs.map((pair, i) => ({ ...pair, back: back.answers[i].prediction }));
  setPairs([["found", pairs.length, pairs.filter(({ answer, back }) => answer === back).length]]);
}

at("pairs-form").addEventListener("submit", (event) => {
  event.preventDefault();
  makePairs();
});
at("passage").addEventListener("input", showPairs);
at("pairs-example").addEventListener("click", () => {
  at("passage").value = EXAMPLE.context;
  showPairs();
  at("make").focus();
});
at("pairs-cancel").addEventListener("click", () => running?.abort());
document.addEventListener("language", showPairs);
SUBMIT.pairs = makePairs;
