// A decision model of the Vercel AI SDK (7 or later) that asks a node.
//
//     import { experimental_decide as decide } from "ai";
//     import { synaptoroute } from "./synaptoroute.mjs";
//
//     const { answers } = await decide({
//       model: synaptoroute({ url: "http://node-1:8080", apiKey: "sr_..." }),
//       state: "I was charged twice",
//       questions: { intent: { type: "choice", criteria: { billing: null, "sign-in": null } } },
//     });
//     answers.intent.choice; // "billing"

import { APICallError } from "@ai-sdk/provider";

export function synaptoroute({ url, apiKey, model = "default", fetch = globalThis.fetch }) {
  return {
    specificationVersion: "v4",
    provider: "synaptoroute",
    modelId: model,
    supportedQuestionTypes: ["choice"],

    async doDecide({ state, questions, abortSignal, headers }) {
      const target = new URL("/v1/systemone", url).href;
      const body = { model, state, questions };
      const response = await fetch(target, {
        method: "POST",
        headers: {
          "Content-Type": "application/json",
          ...(apiKey && { Authorization: `Bearer ${apiKey}` }),
          ...headers,
        },
        body: JSON.stringify(body),
        signal: abortSignal,
      });
      const document = await response.json();
      if (!response.ok) {
        throw new APICallError({
          message: document.detail ?? `a node answered ${response.status}`,
          url: target,
          requestBodyValues: body,
          statusCode: response.status,
          responseHeaders: Object.fromEntries(response.headers),
          data: document,
        });
      }
      const answers = Object.entries(document.answers).map(([id, answer]) => [
        id,
        { type: "choice", choice: answer.choice, probabilities: answer.probabilities },
      ]);
      const confidence = Object.entries(document.answers).map(([id, answer]) => [
        id,
        answer.confidence,
      ]);
      return {
        answers: Object.fromEntries(answers),
        usage: {
          inputTokens: document.usage.input_tokens,
          outputTokens: document.usage.output_tokens,
        },
        warnings: [],
        providerMetadata: { synaptoroute: { confidence: Object.fromEntries(confidence) } },
        response: { modelId: document.model },
      };
    },
  };
}
