// Greedy continuation by llama.cpp: node generate.mjs '{"model": FILE, "adapter": FILE?, "prompt": [ids] | TEXT, "tokens": N}'
// prints one JSON object {"prompt": [ids], "tokens": [ids], "text": ..., "milliseconds": ...}.
// One process a model: a fault inside llama.cpp ends the process, not the tests.
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const request = JSON.parse(process.argv[2]);
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: request.threads ?? 1});
const model = await llama.loadModel({modelPath: request.model});
// Half-precision keys and values would hide small differences behind their own rounding.
const context = await model.createContext({
    contextSize: request.context ?? 256,
    threads: request.threads ?? 1,
    lora: request.adapter == null ? undefined : {adapters: [{filePath: request.adapter, scale: request.scale ?? 1}]},
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32"
});
const sequence = context.getSequence();
const prompt = Array.isArray(request.prompt) ? request.prompt : model.tokenize(request.prompt, true);
const tokens = [];
const start = performance.now();
for await (const token of sequence.evaluate(prompt, {temperature: 0, yieldEogToken: true})) {
    tokens.push(token);
    if (tokens.length >= request.tokens)
        break;
}
const milliseconds = performance.now() - start;
console.log(JSON.stringify({prompt, tokens, text: model.detokenize(tokens), milliseconds}));
await llama.dispose();
