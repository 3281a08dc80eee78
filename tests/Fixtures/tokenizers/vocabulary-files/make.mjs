// What transformers' tokenizer classes make of vocab.json and merges.txt. Each class's pipeline is set up here as
// transformers 5 sets it up, and run by the tokenizers library: npm i tokenizers@0.23.2; node make.mjs ../tiny-base/tokenizer.json golden.json
import { createRequire } from 'module';
import fs from 'fs';
const { Tokenizer } = createRequire(import.meta.url)('tokenizers');
const { vocab, merges } = JSON.parse(fs.readFileSync(process.argv[2], 'utf8')).model;
const count = Object.keys(vocab).length;
const texts = ['Hello world', ' Hello  world 12345', '', "I'LL don't\r\n\r\n x", 'é vs e\u0301', '日本語 😀👩\u200d👧', 'a<|end|>b <|end|> c', 'x <mask> y', '<|special|>  [plain] </s>', '\u0000\t\u00a0٣٤'];
const token = (id, content, more = {}) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more });
const byteLevel = (prefix, regex = true) => ({ type: 'ByteLevel', add_prefix_space: prefix, trim_offsets: true, use_regex: regex });
const qwen = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
const around = (content, id) => ({ type: 'TemplateProcessing', single: [{ SpecialToken: { id: content, type_id: 0 } }, { Sequence: { id: 'A', type_id: 0 } }], pair: [{ Sequence: { id: 'A', type_id: 0 } }, { Sequence: { id: 'B', type_id: 1 } }], special_tokens: { [content]: { id: content, ids: [id], tokens: [content] } } });
const cases = {
  gpt2: {
    files: { 'tokenizer_config.json': { tokenizer_class: 'GPT2Tokenizer', add_prefix_space: false, eos_token: '<|end|>', bos_token: '<|end|>', unk_token: '<|end|>' } },
    added: [token(count, '<|end|>')], pre: byteLevel(false),
  },
  opt_with_old_files: {
    // As facebook/opt: a class in tokenizer_config.json, tokens as objects in special_tokens_map.json.
    files: {
      'tokenizer_config.json': { tokenizer_class: 'GPT2Tokenizer', add_prefix_space: false, add_bos_token: true, unk_token: { __type: 'AddedToken', content: '</s>', single_word: false, lstrip: false, rstrip: false, normalized: true }, bos_token: { __type: 'AddedToken', content: '</s>', single_word: false, lstrip: false, rstrip: false, normalized: true }, eos_token: { __type: 'AddedToken', content: '</s>', single_word: false, lstrip: false, rstrip: false, normalized: true } },
      'special_tokens_map.json': { pad_token: '<|special|>' },
      'added_tokens.json': { '<|special|>': count + 1, '</s>': count, '[plain]': count + 2 },
    },
    added: [token(count, '</s>'), token(count + 1, '<|special|>'), token(count + 2, '[plain]', { special: false, normalized: true })],
    pre: byteLevel(false), post: around('</s>', count),
  },
  qwen2: {
    files: { 'tokenizer_config.json': { tokenizer_class: 'Qwen2Tokenizer', bos_token: null, eos_token: '<|end|>', pad_token: '<|end|>', unk_token: null, additional_special_tokens: ['<|special|>'], added_tokens_decoder: { [count]: token(count, '<|end|>'), [count + 1]: token(count + 1, '<|special|>', { rstrip: true }), [count + 2]: token(count + 2, '[plain]', { special: false }) } } },
    added: [token(count, '<|end|>'), token(count + 1, '<|special|>', { rstrip: true }), token(count + 2, '[plain]', { special: false })],
    norm: { type: 'NFC' },
    pre: { type: 'Sequence', pretokenizers: [{ type: 'Split', pattern: { Regex: qwen }, behavior: 'Isolated', invert: false }, byteLevel(false, false)] },
  },
  neox_by_model_type: {
    files: { 'config.json': { model_type: 'gpt_neox' }, 'special_tokens_map.json': { bos_token: '<|end|>', eos_token: '<|end|>', unk_token: '<|end|>', pad_token: '<|end|>' } },
    added: [token(count, '<|end|>')], norm: { type: 'NFC' }, pre: byteLevel(false),
  },
  roberta: {
    files: { 'tokenizer_config.json': { tokenizer_class: 'RobertaTokenizerFast', add_prefix_space: true } },
    added: [token(count, '<s>'), token(count + 1, '</s>'), token(count + 2, '<unk>'), token(count + 3, '<pad>'), token(count + 4, '<mask>', { lstrip: true })],
    pre: byteLevel(true), post: { type: 'RobertaProcessing', sep: ['</s>', count + 1], cls: ['<s>', count], trim_offsets: true, add_prefix_space: true },
  },
};
const golden = {};
for (const [name, c] of Object.entries(cases)) {
  const taken = c.added.filter(t => !(t.content in vocab));
  if (taken.length !== c.added.length) throw new Error(name + ': a token is in the vocabulary');
  const tokenizer = Tokenizer.fromString(JSON.stringify({ version: '1.0', truncation: null, padding: null, added_tokens: c.added, normalizer: c.norm ?? null, pre_tokenizer: c.pre, post_processor: c.post ?? null, decoder: byteLevel(true), model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: '', end_of_word_suffix: '', fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab, merges } }));
  const rows = [];
  for (const text of texts) {
    const ids = (await tokenizer.encode(text, null, { addSpecialTokens: false })).getIds();
    rows.push({ text, ids, ids_with_special: (await tokenizer.encode(text)).getIds(), decoded: ids.length ? await tokenizer.decode(ids, false) : '' });
  }
  golden[name] = { files: c.files, rows };
}
fs.writeFileSync(process.argv[3], JSON.stringify(golden, null, 1) + '\n');
