"""Small SentencePiece models and what the sentencepiece library (0.1.97) makes of some texts.
Usage: make_sentencepiece.py TEXT_FILE OUT_FOLDER   (needs Debian's python3-sentencepiece)"""
import json, os, sys
import sentencepiece as spm

text, out = sys.argv[1:]
CASES = {
    "bpe_bytes": dict(model_type="bpe", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", remove_extra_whitespaces=False, user_defined_symbols=["<tool>", "[X]"]),
    "unigram_nmt": dict(model_type="unigram", vocab_size=400, normalization_rule_name="nmt_nfkc"),
    "unigram_bytes": dict(model_type="unigram", vocab_size=700, byte_fallback=True, normalization_rule_name="identity", add_dummy_prefix=False),
}
TEXTS = ["Hello world", "The old man opened the door.", "", " ", "  two  spaces  ", "a\tb\nc", "naïve café – “quotes”", "ﬁne ½ ㍿ Ａ１", "日本語のテキスト", "emoji 👩‍👩‍👧 🎉", "x <tool> y", "<tool>[X]tail",
         "1234567890", "don't can't", "UPPER lower MiXeD", "trailing ", " leading", "é è", "zero\u200bwidth", "ünïcödé", "    four", "end\n", "\n\n", "a" * 40, "http://example.org/path?x=1&y=2", "▁ literal ▁▁"]
os.makedirs(out, exist_ok=True)
for name, options in CASES.items():
    d = f"{out}/{name}"; os.makedirs(d, exist_ok=True)
    spm.SentencePieceTrainer.train(input=text, model_prefix=f"{d}/tokenizer", hard_vocab_limit=False, minloglevel=2, **options)
    os.remove(f"{d}/tokenizer.vocab")
    sp = spm.SentencePieceProcessor(model_file=f"{d}/tokenizer.model")
    rows = [dict(text=t, ids=sp.encode(t), decoded=sp.decode(sp.encode(t))) for t in TEXTS]
    json.dump(rows, open(f"{d}/golden.json", "w"), ensure_ascii=False, indent=0)
