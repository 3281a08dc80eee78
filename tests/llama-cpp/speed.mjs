// Decoding speed of llama.cpp on the CPU: node speed.mjs '{"model": FILE, "threads": 2, "tokens": 64, "repeats": 3}'
// prints one JSON object {"tokensPerSecond": best of the repeats, "milliseconds": [of each], "library": "..."}.
// The first token, with which the prompt is evaluated, is not in the time; keys and values are as llama.cpp has them by default.
import {getLlama, LlamaLogLevel} from "node-llama-cpp";

const request = JSON.parse(process.argv[2]);
const threads = request.threads ?? 2;
const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads});
const model = await llama.loadModel({modelPath: request.model});
const milliseconds = [];
for (let repeat = 0; repeat < (request.repeats ?? 3); repeat++) {
    const context = await model.createContext({contextSize: 512, threads});
    let count = 0;
    let start = 0;
    for await (const token of context.getSequence().evaluate([1, 2, 3, 4], {temperature: 0, yieldEogToken: true})) {
        start = count === 0 ? performance.now() : start;
        if (count++ >= request.tokens)
            break;
    }
    milliseconds.push(performance.now() - start);
    await context.dispose();
}
console.log(JSON.stringify({tokensPerSecond: 1000 * request.tokens / Math.min(...milliseconds), milliseconds, systemInfo: llama.systemInfo}));
await llama.dispose();
