// The same as `serve-batch`, by llama.cpp through node-llama-cpp: sequences of one length side by side, greedy.
//   npm install --ignore-scripts                       (here, or set NODE_LLAMA_CPP to a folder with node_modules)
//   node batch.mjs MODEL.gguf [--parallel 1,8] [--prompt 32] [--tokens 64] [--rounds 3] [--threads 2]
// One JSON object a line, as serve-batch prints them.
import {createRequire} from "node:module";
import path from "node:path";
import {pathToFileURL} from "node:url";

const places = process.env.NODE_LLAMA_CPP ? path.join(path.resolve(process.env.NODE_LLAMA_CPP), "x.mjs") : import.meta.filename;
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(createRequire(places).resolve("node-llama-cpp")));

const [file, ...rest] = process.argv.slice(2);
const option = (name, otherwise) => (rest.includes(`--${name}`) ? rest[rest.indexOf(`--${name}`) + 1] : otherwise);
const counts = option("parallel", "1,8").split(",").map(Number);
const promptLength = Number(option("prompt", 32));
const length = Number(option("tokens", 64));
const rounds = Number(option("rounds", 3));
const threads = Number(option("threads", 2));

const prompt = sequence => Array.from({length: promptLength}, (_, i) => 3 + (((sequence + 1) * 7919 + i * 104729) % 997));

const llama = await getLlama({gpu: false, build: "never", logLevel: LlamaLogLevel.error, maxThreads: threads});
const model = await llama.loadModel({modelPath: file});
for (const count of counts) {
    const contextSize = promptLength + length + 8;
    const context = await model.createContext({contextSize, batchSize: Math.max(512, count * promptLength), sequences: count, threads: {ideal: threads, min: threads}});
    const sequences = Array.from({length: count}, () => context.getSequence());
    let best = {whole: Infinity};
    for (let round = 0; round <= rounds; round++) {
        const start = performance.now();
        const firsts = await Promise.all(sequences.map(async (sequence, i) => {
            await sequence.clearHistory();
            let first = 0;
            let got = 0;
            for await (const _ of sequence.evaluate(prompt(round * 100 + i), {temperature: 0, yieldEogToken: true})) {
                first ||= performance.now() - start;
                if (++got >= length) {
                    break;
                }
            }

            return first;
        }));
        const whole = performance.now() - start;
        if (round > 0 && whole < best.whole) {
            best = {whole, prefill: Math.max(...firsts)};
        }
    }

    const generated = count * length;
    const rate = (tokens, milliseconds) => Number((tokens / milliseconds * 1000).toFixed(1));
    console.log(JSON.stringify({
        parallel: count,
        adapters: 0,
        tokens_per_second: rate(generated, best.whole),
        decode_tokens_per_second: rate(generated - count, best.whole - best.prefill),
        prompt_tokens_per_second: rate(count * promptLength, best.prefill),
        first_token_ms: Math.round(best.prefill)
    }));
    await context.dispose();
}

await llama.dispose();
