// Asks a node by the Vercel AI SDK and prints what came back: decide.mjs URL KEY

import { experimental_decide as decide } from "ai";
import { synaptoroute } from "./synaptoroute.mjs";

const [url, apiKey] = process.argv.slice(2);
const model = synaptoroute({ url, apiKey });
const criteria = { "small-model": null, "large-model": "code", none: null };
const tier = { type: "choice", instructions: "Which model?", criteria };

async function failureOf(options) {
  try {
    await decide({ model, maxRetries: 0, ...options });
  } catch (error) {
    return [error.name, error.statusCode ?? null];
  }
  return null;
}

const questions = { tier, again: { type: "choice", criteria: { billing: null, weather: null } } };
const { answers, usage, providerMetadata } = await decide({
  model,
  state: "Tell me a joke",
  questions,
});
console.log(
  JSON.stringify({
    choice: answers.tier.choice,
    probabilities: answers.tier.probabilities,
    others: Object.keys(answers),
    inputTokens: usage.inputTokens,
    confidence: providerMetadata.synaptoroute.confidence.tier,
    empty: await failureOf({ state: " ", questions: { tier } }),
    unsupported: await failureOf({ state: "x", questions: { q: { type: "boolean" } } }),
    wrongKey: await failureOf({
      model: synaptoroute({ url, apiKey: "wrong" }),
      state: "x",
      questions: { tier },
    }),
  }),
);
