// What llama.cpp expects next after each token: node probabilities.mjs '{"model": FILE, "ids": [ids]}'
// prints one JSON object {"best": [id after each token], "probability": [of that id]}; one CPU thread, single-precision cache.
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const request = JSON.parse(process.argv[2]);
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: 1});
const model = await llama.loadModel({modelPath: request.model});
const context = await model.createContext({contextSize: 256, threads: 1, experimentalKvCacheKeyType: "F32", experimentalKvCacheValueType: "F32"});
const results = await context.getSequence().controlledEvaluate(request.ids.map((id) => [id, {generateNext: {probabilities: true}}]));
const likeliest = results.map((result) => [...result.next.probabilities.entries()].reduce((a, b) => b[1] > a[1] ? b : a));
console.log(JSON.stringify({best: likeliest.map(([id]) => id), probability: likeliest.map(([, probability]) => probability)}));
await llama.dispose();
