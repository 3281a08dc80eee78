// OpenAI's own client against a running server. Prints "ok NAME" a check; anything else on standard error and exit code 1.
// usage: node client.mjs BASE_URL KEY MODEL
import assert from "node:assert/strict";
import OpenAI from "openai";

const [baseURL, apiKey, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0, timeout: 120_000 });
const messages = [{ role: "user", content: "Say hello." }];
const greedy = { model, messages, temperature: 0, max_tokens: 12 };
const weather = { type: "function", function: { name: "get_weather", description: "The weather of a city.", parameters: { type: "object", properties: { city: { type: "string", maxLength: 12 } }, required: ["city"], additionalProperties: false } } };

const checks = {
  async chat() {
    const answer = await client.chat.completions.create({ ...greedy, logprobs: true, top_logprobs: 2 });
    assert.equal(answer.object, "chat.completion");
    assert.equal(answer.model, model);
    assert.equal(answer.usage.total_tokens, answer.usage.prompt_tokens + answer.usage.completion_tokens);
    assert.equal(answer.choices[0].logprobs.content.length, answer.usage.completion_tokens);
    assert.ok(answer._request_id?.length > 0);
  },
  async streaming() {
    const whole = await client.chat.completions.create(greedy);
    let text = "";
    let usage;
    for await (const chunk of await client.chat.completions.create({ ...greedy, stream: true, stream_options: { include_usage: true } })) {
      text += chunk.choices[0]?.delta?.content ?? "";
      usage = chunk.usage ?? usage;
    }

    assert.equal(text, whole.choices[0].message.content);
    assert.deepEqual(usage, whole.usage);
    const gathered = await client.chat.completions.stream(greedy).finalChatCompletion();
    assert.equal(gathered.choices[0].message.content, text);
  },
  async completions() {
    const answer = await client.completions.create({ model, prompt: ["Once upon", "The river"], max_tokens: 4, temperature: 0, logprobs: 1, echo: true });
    assert.equal(answer.choices.length, 2);
    assert.ok(answer.choices[0].text.startsWith("Once upon"));
  },
  async tools() {
    const forced = { model, messages, temperature: 0, max_tokens: 100, tools: [weather], tool_choice: { type: "function", function: { name: "get_weather" } } };
    const answer = await client.chat.completions.create(forced);
    const call = answer.choices[0].message.tool_calls[0];
    assert.equal(call.function.name, "get_weather");
    assert.deepEqual(Object.keys(JSON.parse(call.function.arguments)), ["city"]);
    const gathered = await client.chat.completions.stream(forced).finalChatCompletion();
    assert.equal(gathered.choices[0].message.tool_calls[0].function.arguments, call.function.arguments);
    const after = await client.chat.completions.create({ ...greedy, tools: [weather], messages: [...messages, answer.choices[0].message, { role: "tool", tool_call_id: call.id, content: "rain" }] });
    assert.equal(after.choices[0].message.role, "assistant");
  },
  async models() {
    const all = await client.models.list();
    assert.ok(all.data.some(m => m.id === model));
    assert.equal((await client.models.retrieve(model)).id, model);
  },
  async errors() {
    await assert.rejects(client.chat.completions.create({ ...greedy, model: "nobody" }), e => e instanceof OpenAI.NotFoundError && e.code === "model_not_found");
    await assert.rejects(client.chat.completions.create({ ...greedy, temperature: -1 }), e => e instanceof OpenAI.BadRequestError && e.param === "temperature");
    await assert.rejects(new OpenAI({ baseURL, apiKey: "wrong", maxRetries: 0 }).models.list(), e => e instanceof OpenAI.AuthenticationError && e.code === "invalid_api_key");
    await assert.rejects(client.post("/nothing", { body: {} }), e => e instanceof OpenAI.NotFoundError);
  },
  async cancellation() {
    const stream = await client.chat.completions.create({ ...greedy, max_tokens: 400, ignore_eos: true, stream: true });
    let chunks = 0;
    for await (const _ of stream) {
      if (++chunks === 3) {
        stream.controller.abort();
      }
    }

    assert.ok(chunks < 400);
    const leaving = new AbortController();
    const gone = client.chat.completions.create({ ...greedy, max_tokens: 400, ignore_eos: true }, { signal: leaving.signal });
    setTimeout(() => leaving.abort(), 50);
    await assert.rejects(gone, OpenAI.APIUserAbortError);
  },
  async hundred() {
    const expected = (await client.chat.completions.create(greedy)).choices[0].message.content;
    const answers = await Promise.all(Array.from({ length: 100 }, (_, i) => client.chat.completions.create({ ...greedy, max_tokens: 1 + (i % 12) })));
    answers.forEach((a, i) => assert.ok(expected.startsWith(a.choices[0].message.content), `${i}: ${a.choices[0].message.content}`));
  },
  async embeddings() {
    const one = await client.embeddings.create({ model, input: "hello" }).catch(e => (e instanceof OpenAI.NotFoundError && e.code === "unknown_url" ? null : Promise.reject(e)));
    if (one === null) {
      console.log("not there: embeddings");
      return;
    }

    const two = await client.embeddings.create({ model, input: ["hello", "another text"] });
    assert.equal(two.data.length, 2);
    const norm = v => Math.sqrt(v.reduce((s, x) => s + x * x, 0));
    const dot = one.data[0].embedding.reduce((s, x, i) => s + x * two.data[0].embedding[i], 0);
    assert.ok(Math.abs(dot / (norm(one.data[0].embedding) * norm(two.data[0].embedding)) - 1) < 1e-3);
  },
};

for (const [name, check] of Object.entries(checks)) {
  try {
    await check();
    console.log(`ok ${name}`);
  } catch (error) {
    console.error(`${name}: ${error.stack}`);
    process.exitCode = 1;
  }
}
